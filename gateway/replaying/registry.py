"""What a replay asks of the registry, without a daemon."""

from __future__ import annotations

import apsw

from gateway.model import DeviceBinding
from gateway.registry.directory import Snapshot
from gateway.registry.fields import normalize_key


class SnapshotDirectory:
    """Implements ``ports.Directory``: the registry as of one version."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def device(self, device_id: str) -> DeviceBinding | None:
        return self._snapshot.devices.get(device_id)

    def device_by_key(self, key: str) -> DeviceBinding | None:
        keys = self._snapshot.keys
        return self._snapshot.devices.get(keys.get(key) or keys.get(normalize_key(key)) or "")


def person_at(connection: apsw.Connection, device_id: str, at_us: int) -> str:
    """To whom a device belonged at a time; "" for nobody."""
    row = connection.execute(
        "SELECT person_id FROM binding WHERE device_id = ? AND from_us <= ? AND (to_us IS NULL OR to_us > ?)"
        " ORDER BY from_us DESC LIMIT 1",
        (device_id, at_us, at_us),
    ).fetchone()
    return "" if row is None else str(row[0])
