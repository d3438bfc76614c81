"""A warehouse's list: devices entered with their tokens and claim codes, a few rows in each transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import apsw
from msgspec import Struct

from gateway.errors import ConflictError
from gateway.model import Actor
from gateway.provisioning import claims
from gateway.registry.changes import begin, fetch
from gateway.registry.csvio import Row
from gateway.registry.devices import SPEC, insert_device

CHUNK: Final = 100
"""Rows in one transaction: the daemon's writer waits some 20 ms for it, not seconds."""


class Stocked(Struct, frozen=True):
    """One device of the list. ``token`` is "" for a device that was there before."""

    device_id: str
    model: str
    token: str
    code: str


def chunks(rows: Sequence[Row], size: int = CHUNK) -> Iterator[Sequence[Row]]:
    return (rows[start : start + size] for start in range(0, len(rows), size))


def conflicts(connection: apsw.Connection, rows: Sequence[Row]) -> list[str]:
    """What would refuse rows: devices that are somebody's or retired, identities that are taken. Reads only."""
    found = []
    for row in rows:
        known = fetch(connection, SPEC, row.row_id)
        if known is not None and known["state"] == "retired":
            found.append(f"line {row.line}: device {row.row_id!r} is retired")
        for kind, key in row.values.items():
            taken = connection.execute(
                "SELECT device_id FROM device_key WHERE kind = ? AND shown = ? AND device_id <> ?",
                (kind, key, row.row_id),
            ).fetchone()
            if taken is not None:
                found.append(f"line {row.line}, {kind}: this identity belongs to device {taken[0]!r}")
    return found


def take_in(
    connection: apsw.Connection, rows: Sequence[Row], *, valid_days: int, at_us: int, actor: Actor
) -> list[Stocked]:
    """Enter one chunk's devices (those that are there stay as they are) and give each a new claim code.

    In the caller's transaction. Raises ConflictError and UsageError.
    """
    expires_us = claims.expiry(valid_days, at_us)
    change = begin(connection, at_us=at_us, actor=actor, bulk=True)
    done = []
    for row in rows:
        known = fetch(connection, SPEC, row.row_id)
        if known is not None and known["state"] == "retired":
            raise ConflictError(f"line {row.line}: device {row.row_id!r} is retired")
        token = "" if known is not None else insert_device(connection, row.row_id, row.values, change)
        claims.revoke(connection, row.row_id, at_us=at_us)
        code = claims.store(connection, row.row_id, expires_us, at_us=at_us)
        change.record(connection, "device.claim_code", f"device/{row.row_id}", after={"days": valid_days})
        model = known["model"] if known is not None else row.values["model"]
        done.append(Stocked(row.row_id, str(model or row.values["profile"]), token, code))
    change.end(connection)
    return done
