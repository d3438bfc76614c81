"""Claim codes: they let an installer take one device into service, once, while they last."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any, Final

import apsw

from gateway import audit
from gateway.clock import US_PER_S, iso
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Actor
from gateway.provisioning.codes import new_code
from gateway.registry.changes import existing
from gateway.registry.devices import SPEC
from gateway.registry.site_secret import site_secret

DAY_US: Final = 86_400 * US_PER_S
DEFAULT_DAYS: Final = 90
LONGEST_DAYS: Final = 730
_PURPOSE: Final = "claim-code"


def issue(
    connection: apsw.Connection, device_id: str, *, valid_days: int = DEFAULT_DAYS, at_us: int, actor: Actor
) -> str:
    """A new claim code of a device, to be shown or printed this once; the earlier ones end.

    Raises NotFoundError, UsageError, ConflictError (retired).
    """
    row = existing(connection, SPEC, device_id)
    if row["state"] == "retired":
        raise ConflictError(f"device {device_id!r} is retired")
    expires_us = expiry(valid_days, at_us)
    ended = revoke(connection, device_id, at_us=at_us)
    code = store(connection, device_id, expires_us, at_us=at_us)
    audit.append(
        connection, at_us=at_us, actor=actor, action="device.claim_code", subject=f"device/{device_id}",
        after={"expires_at": iso(expires_us), "ended": ended},
    )  # fmt: skip
    return code


def expiry(valid_days: int, at_us: int) -> int:
    """Raises UsageError."""
    if not 1 <= valid_days <= LONGEST_DAYS:
        raise UsageError(f"a claim code is valid for 1 to {LONGEST_DAYS} days")
    return at_us + valid_days * DAY_US


def store(connection: apsw.Connection, device_id: str, expires_us: int, *, at_us: int) -> str:
    """Make and keep a code; the caller records it."""
    code = new_code()
    connection.execute(
        "INSERT INTO claim_code (digest, device_id, created_at_us, expires_at_us) VALUES (?, ?, ?, ?)",
        (_digest(connection, code), device_id, at_us, expires_us),
    )
    return code


def revoke(connection: apsw.Connection, device_id: str, *, at_us: int) -> int:
    """End a device's unused codes; how many there were. The caller records it."""
    connection.execute(
        "UPDATE claim_code SET revoked_at_us = ? WHERE device_id = ? AND used_at_us IS NULL AND revoked_at_us IS NULL",
        (at_us, device_id),
    )
    return connection.changes()


def redeem(connection: apsw.Connection, code: str, *, link_id: str, at_us: int, actor: Actor) -> str:
    """Use a code up; the id of its device. The same link may present it again: its first answer may have been lost.

    Raises NotFoundError (no such code), ConflictError (used by somebody else, expired, revoked, device retired).
    """
    digest = _digest(connection, code)
    row = connection.execute(
        "SELECT c.device_id, c.expires_at_us, c.used_at_us, c.used_by, c.revoked_at_us, d.state FROM claim_code c"
        " JOIN device d ON d.id = c.device_id WHERE c.digest = ?",
        (digest,),
    ).fetchone()
    if row is None:
        raise NotFoundError("there is no such code")
    device_id, expires_us, used_us, by, revoked_us, state = row
    if revoked_us is not None or state == "retired":
        raise ConflictError("this code is no longer in force")
    if used_us is not None:
        if by == link_id:
            return str(device_id)
        raise ConflictError("this code was used before")
    if at_us >= expires_us:
        raise ConflictError("this code has expired")
    connection.execute("UPDATE claim_code SET used_at_us = ?, used_by = ? WHERE digest = ?", (at_us, link_id, digest))
    audit.append(
        connection, at_us=at_us, actor=actor, action="device.claimed", subject=f"device/{device_id}",
        after={"link": link_id},
    )  # fmt: skip
    return str(device_id)


def used_by(connection: apsw.Connection, device_id: str, link_id: str) -> bool:
    """Whether this installer's link claimed the device."""
    row = connection.execute(
        "SELECT 1 FROM claim_code WHERE device_id = ? AND used_by = ?", (device_id, link_id)
    ).fetchone()
    return row is not None


def codes_of(connection: apsw.Connection, device_id: str) -> list[Mapping[str, Any]]:
    """A device's codes without the codes themselves, oldest first."""
    found = connection.execute(
        "SELECT created_at_us, expires_at_us, used_at_us, used_by, revoked_at_us FROM claim_code WHERE device_id = ?"
        " ORDER BY created_at_us",
        (device_id,),
    )
    return [
        {
            "created_at": iso(created),
            "expires_at": iso(expires),
            "used_at": None if used is None else iso(used),
            "used_by": by,
            "revoked_at": None if revoked is None else iso(revoked),
        }
        for created, expires, used, by, revoked in found
    ]


def _digest(connection: apsw.Connection, code: str) -> bytes:
    """Keyed, because 60 bits could be tried out by who holds a copy of the file's table alone."""
    return hmac.new(site_secret(connection, _PURPOSE), code.encode(), hashlib.sha256).digest()
