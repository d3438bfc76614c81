"""Which messages of a device have been seen. In memory; the journal is what it is rebuilt from.

A resend is the same number *and* the same content, within the newest ``WINDOW`` numbers of its boot: a device that
starts to count anew without saying so must not have its press taken for an old one.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from gateway.model import Record

WINDOW: Final = 1024  # numbers remembered per device and boot, 4 bytes each, while the process lives
SAVED: Final = 64  # of these, the newest are saved
BOOTS: Final = 3
KEYS: Final = 64
KEY_LIFE_US: Final = 600 * 1_000_000
NAMED: Final = "key:"
"""How a record's dedup_key begins when it is not ``seq`` or ``boot:seq``."""

_CONTENT: Final = msgspec.msgpack.Encoder()


def digest_of(record: Record) -> int:
    """A non-zero 32-bit hash of what a record says, the same however its frame was packed and whenever it came."""
    reading = record.reading
    if reading is None:
        return zlib.crc32((record.fault or "").encode()) or 1
    said_at_us = reading.observed_at_us if reading.observed_at_us != record.received_at_us else 0
    return zlib.crc32(_CONTENT.encode((said_at_us, reading.measurements, reading.signals, reading.unknown))) or 1


def content_key(payload: bytes, part: int) -> str:
    """What names a frame that names itself by nothing: used only when its transport says that it delivers again."""
    return f"={zlib.crc32(payload):08x}/{part}"


class _Numbers:
    """A ring of content hashes by sequence number; 0 is "not seen"."""

    __slots__ = ("high", "ring")

    def __init__(self) -> None:
        self.high = -1
        self.ring = array("I", bytes(4 * WINDOW))

    def seen(self, seq: int, digest: int) -> bool:
        high = self.high
        ring = self.ring
        if seq > high:
            if seq - high >= WINDOW or high < 0:
                self.ring = ring = array("I", bytes(4 * WINDOW))
            else:
                for skipped in range(high + 1, seq):
                    ring[skipped % WINDOW] = 0
            self.high = seq
        elif seq <= high - WINDOW:  # far behind: the device counts anew
            self.ring = ring = array("I", bytes(4 * WINDOW))
            self.high = seq
        elif ring[seq % WINDOW] == digest:
            return True
        ring[seq % WINDOW] = digest
        return False

    def forget(self, seq: int, digest: int) -> None:
        if self.high - WINDOW < seq <= self.high and self.ring[seq % WINDOW] == digest:
            self.ring[seq % WINDOW] = 0


class _Saved(msgspec.Struct, array_like=True):
    boots: list[tuple[int, int, list[int]]]  # boot, high, hashes of the newest SAVED numbers, oldest first
    keys: list[tuple[str, int]]


class _Device:
    __slots__ = ("boots", "keys")

    def __init__(self) -> None:
        self.boots: dict[int, _Numbers] = {}
        self.keys: dict[str, int] = {}


class Marks:
    """Duplicates by (device, boot, seq) or by (device, key). ``digest`` is a non-zero 32-bit hash of the content."""

    def __init__(self) -> None:
        self._devices: dict[str, _Device] = {}
        self._dirty: set[str] = set()
        self.forgotten = 0
        """How often something was remembered that did not become durable."""

    def seen_number(self, device_key: str, boot: int, seq: int, digest: int) -> bool:
        """Whether this is a resend; remembers it otherwise."""
        device = self._devices.get(device_key)
        if device is None:
            device = self._devices[device_key] = _Device()
        numbers = device.boots.get(boot)
        if numbers is None:
            if len(device.boots) >= BOOTS:
                del device.boots[next(iter(device.boots))]
            numbers = device.boots[boot] = _Numbers()
        if numbers.seen(seq, digest):
            return True
        self._dirty.add(device_key)
        return False

    def seen_key(self, device_key: str, key: str, now_us: int) -> bool:
        """Whether this key came within the last ten minutes; remembers it otherwise. At most KEYS are kept."""
        device = self._devices.get(device_key)
        if device is None:
            device = self._devices[device_key] = _Device()
        keys = device.keys
        at_us = keys.get(key)
        if at_us is not None and now_us - at_us < KEY_LIFE_US:
            return True
        keys.pop(key, None)
        if len(keys) >= KEYS:
            del keys[next(iter(keys))]
        keys[key] = now_us
        self._dirty.add(device_key)
        return False

    def forget_number(self, device_key: str, boot: int, seq: int, digest: int) -> None:
        """What was remembered did not become durable."""
        self.forgotten += 1
        numbers = self._devices[device_key].boots.get(boot) if device_key in self._devices else None
        if numbers is not None:
            numbers.forget(seq, digest)
            self._dirty.add(device_key)

    def forget_key(self, device_key: str, key: str) -> None:
        """What was remembered did not become durable."""
        self.forgotten += 1
        if device_key in self._devices:
            self._devices[device_key].keys.pop(key, None)
            self._dirty.add(device_key)

    def remember(self, record: Record) -> None:
        """Take up a record that the journal holds."""
        if not record.verified:
            return
        key = record.dedup_key
        if key and not key.startswith(NAMED):
            boot, _, seq = key.rpartition(":")
            self.seen_number(record.device_id, int(boot or 0), int(seq), digest_of(record))
        else:
            named = key.removeprefix(NAMED) or content_key(record.payload, record.part)
            self.seen_key(record.device_id, named, record.received_at_us)

    def take_dirty(self) -> list[str]:
        """Devices that changed since the last call; ``states`` has their rows."""
        device_keys = list(self._dirty)
        self._dirty.clear()
        return device_keys

    def keep_dirty(self, device_keys: Iterable[str]) -> None:
        """What take_dirty gave was not saved: give these devices again."""
        self._dirty.update(device_keys)

    def states(self, device_keys: Iterable[str]) -> list[tuple[str, bytes]]:
        """Rows (device_key, state) of these devices as they are now, about 10 us each."""
        return [(device_key, self._save(self._devices[device_key])) for device_key in device_keys]

    def restore(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Take up what ``states`` gave."""
        for device_key, state in rows:
            saved = msgspec.msgpack.decode(state, type=_Saved)
            device = self._devices[device_key] = _Device()
            device.keys = dict(saved.keys)
            for boot, high, hashes in saved.boots:
                numbers = device.boots[boot] = _Numbers()
                numbers.high = high
                first = high - len(hashes) + 1
                for offset, digest in enumerate(hashes):
                    numbers.ring[(first + offset) % WINDOW] = digest

    @staticmethod
    def _save(device: _Device) -> bytes:
        boots: list[tuple[int, int, Sequence[int]]] = []
        for boot, numbers in device.boots.items():
            first = max(0, numbers.high - SAVED + 1)
            hashes = [numbers.ring[seq % WINDOW] for seq in range(first, numbers.high + 1)]
            boots.append((boot, numbers.high, hashes))
        return msgspec.msgpack.encode((boots, list(device.keys.items())))
