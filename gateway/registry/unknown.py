"""Devices that send frames and are not in the registry: noticed, listed, and claimed later."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import apsw
from msgspec import Struct

from gateway.clock import iso
from gateway.errors import ConflictError, NotFoundError
from gateway.model import Actor, Committed
from gateway.ports import Store
from gateway.registry.changes import fetch, rows
from gateway.registry.devices import KEY_KINDS, SPEC, add_device, keys_of, update_device
from gateway.registry.fields import normalize_key

MAX_KEPT: Final = 10_000
MAX_PENDING: Final = 2_000
MAX_KEY_LENGTH: Final = 128


class Sighting(Struct):
    """Frames of one unknown device since the last flush."""

    transport: str
    codec: str
    first_seen_us: int
    last_seen_us: int
    frames: int
    first_seq: int
    last_seq: int


class UnknownDevices:
    """A ``ports.CommittedListener`` that collects who is unknown; ``flush`` now and then writes that down.

    Between flushes at most MAX_PENDING devices are remembered, in the table the MAX_KEPT seen last; the frames
    themselves are in the journal in any case.
    """

    def __init__(self) -> None:
        self._pending: dict[str, Sighting] = {}
        self.overlooked = 0
        """Frames of devices that did not fit into memory."""

    def __call__(self, committed: Committed) -> None:
        for seq, record in enumerate(committed.records, start=committed.first_seq):
            if record.device_id or not record.device_key:
                continue
            key = record.device_key[:MAX_KEY_LENGTH]
            seen = self._pending.get(key)
            if seen is not None:
                seen.frames += 1
                seen.last_seen_us, seen.last_seq = record.received_at_us, seq
            elif len(self._pending) < MAX_PENDING:
                at_us = record.received_at_us
                self._pending[key] = Sighting(record.transport, record.codec, at_us, at_us, 1, seq, seq)
            else:
                self.overlooked += 1

    async def flush(self, store: Store) -> int:
        """Write what was seen since the last flush; return how many devices that were. Raises StorageError.

        What could not be written is tried again with the next flush.
        """
        pending, self._pending = self._pending, {}
        if not pending:
            return 0
        try:
            await store.write(lambda connection: note_unknown(connection, pending))
        except BaseException:
            for key, seen in pending.items():
                later = self._pending.get(key)
                if later is not None:
                    seen.frames += later.frames
                    seen.last_seen_us, seen.last_seq = later.last_seen_us, later.last_seq
                self._pending[key] = seen
            raise
        return len(pending)


def note_unknown(connection: apsw.Connection, seen: Mapping[str, Sighting]) -> None:
    """Add sightings to the table, and forget those beyond MAX_KEPT that were seen longest ago."""
    connection.executemany(
        "INSERT INTO unknown_device (device_key, transport, codec, first_seen_us, last_seen_us, frames, first_seq,"
        " last_seq) VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (device_key) DO UPDATE SET"
        " transport = excluded.transport, codec = excluded.codec, last_seen_us = excluded.last_seen_us,"
        " frames = frames + excluded.frames, last_seq = excluded.last_seq",
        [
            (key, s.transport, s.codec, s.first_seen_us, s.last_seen_us, s.frames, s.first_seq, s.last_seq)
            for key, s in seen.items()
        ],
    )
    connection.execute(
        "DELETE FROM unknown_device WHERE device_key IN"
        " (SELECT device_key FROM unknown_device ORDER BY last_seen_us DESC, device_key LIMIT -1 OFFSET ?)",
        (MAX_KEPT,),
    )


def list_unknown(
    connection: apsw.Connection, *, include_claimed: bool = False, limit: int = 1000
) -> list[dict[str, Any]]:
    """Unknown devices, the one seen last first."""
    found = rows(
        connection,
        "SELECT * FROM unknown_device WHERE claimed_by IS NULL OR ? ORDER BY last_seen_us DESC, device_key LIMIT ?",
        (int(include_claimed), limit),
    )
    return [_view(row) for row in found]


def claim(
    connection: apsw.Connection,
    key: str,
    device_id: str,
    values: Mapping[str, Any],
    *,
    kind: str = "other_key",
    known_profiles: Collection[str],
    at_us: int,
    actor: Actor,
) -> tuple[dict[str, Any], str]:
    """Make an unknown device known: as a new device of these values, or as a further identity of one that exists.

    Returns what was seen of it, with ``claimed_by``, and the token of a new device ("" for an existing one).
    Raises NotFoundError, FieldsError, ConflictError.
    """
    row = next(rows(connection, "SELECT * FROM unknown_device WHERE device_key = ?", (key,)), None)
    if row is None:
        raise NotFoundError(f"no unknown device {key!r} was seen")
    if row["claimed_by"] is not None:
        raise ConflictError(f"{key!r} was claimed by device {row['claimed_by']!r}")
    if kind not in KEY_KINDS:
        raise NotFoundError(f"no kind of identity {kind!r}: there are {', '.join(KEY_KINDS)}")
    token = ""
    given = dict(values)
    if normalize_key(key) != normalize_key(device_id):  # a device that calls itself by its id needs no other identity
        given[kind] = key
    if fetch(connection, SPEC, device_id) is None:
        _, token = add_device(connection, device_id, given, known_profiles=known_profiles, at_us=at_us, actor=actor)
    else:
        taken = keys_of(connection, device_id).get(kind)
        if taken is not None and kind in given:
            raise ConflictError(f"device {device_id!r} has the {kind} {taken!r} already: claim by another kind")
        update_device(connection, device_id, given, known_profiles=known_profiles, at_us=at_us, actor=actor)
    connection.execute("UPDATE unknown_device SET claimed_by = ? WHERE device_key = ?", (device_id, key))
    return _view(row | {"claimed_by": device_id}), token


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "device_key": row["device_key"],
        "transport": row["transport"],
        "codec": row["codec"],
        "frames": row["frames"],
        "first_seen_at": iso(row["first_seen_us"]),
        "last_seen_at": iso(row["last_seen_us"]),
        "first_seq": row["first_seq"],
        "last_seq": row["last_seq"],
        "claimed_by": row["claimed_by"],
    }
