"""Device tokens: issued once, stored as digests, revoked in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import apsw

from gateway.errors import ConflictError, NotFoundError
from gateway.model import Actor
from gateway.registry.changes import Change, begin
from gateway.security import digest_of, new_token


def issue_token(connection: apsw.Connection, device_id: str, *, at_us: int, actor: Actor, grace_s: int = 0) -> str:
    """A new token for a device, to be shown once. The earlier ones end at once, or after ``grace_s`` seconds.

    Raises NotFoundError, and ConflictError for a retired device.
    """
    row = connection.execute("SELECT state FROM device WHERE id = ?", (device_id,)).fetchone()
    if row is None:
        raise NotFoundError(f"no device {device_id!r}")
    if row[0] == "retired":
        raise ConflictError(f"device {device_id!r} is retired: resume it first")
    change = begin(connection, at_us=at_us, actor=actor)
    return add_token(connection, device_id, change, grace_s=grace_s)


def add_token(connection: apsw.Connection, device_id: str, change: Change, *, grace_s: int = 0) -> str:
    """As ``issue_token``, within a change that has begun."""
    revoke_tokens(connection, device_id, at_us=change.at_us, grace_s=grace_s)
    token = store_token(connection, device_id, at_us=change.at_us)
    touch_device(connection, device_id, change, "device.credentials", {"grace_s": grace_s})
    return token


def store_token(connection: apsw.Connection, device_id: str, *, at_us: int) -> str:
    """Make a token; the caller records it. The earlier ones stay as they are."""
    token = new_token()
    connection.execute(
        "INSERT INTO credential (device_id, digest, created_at_us) VALUES (?, ?, ?)",
        (device_id, digest_of(token), at_us),
    )
    return token


def revoke_tokens(connection: apsw.Connection, device_id: str, *, at_us: int, grace_s: int = 0) -> None:
    """End a device's tokens. A grace never lengthens the life of one that was about to end."""
    column = "expires_at_us" if grace_s > 0 else "revoked_at_us"
    end_us = at_us + grace_s * 1_000_000
    connection.execute(
        f"UPDATE credential SET {column} = min(coalesce({column}, ?), ?)"  # noqa: S608 - one of two names
        " WHERE device_id = ? AND revoked_at_us IS NULL",
        (end_us, end_us, device_id),
    )


def touch_device(
    connection: apsw.Connection, device_id: str, change: Change, action: str, after: Mapping[str, Any]
) -> None:
    """Count a device's version up for a change that is kept in another table."""
    row = connection.execute(
        "UPDATE device SET version = version + 1, updated_at_us = ?, changed = ? WHERE id = ? RETURNING version",
        (change.at_us, change.number, device_id),
    ).fetchone()
    assert row is not None
    change.record(connection, action, f"device/{device_id}", version=int(row[0]), after=after)
