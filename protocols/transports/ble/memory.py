"""What must be known of devices after a restart: counters of adverts, numbers and digests of fetched measurements.

A mark is set only once what it stands for is committed, so that the file is never ahead of the journal. A lost file
costs measurements that are fetched, and recorded, a second time; and the protection against replayed adverts until
each device was heard once.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

import msgspec
import structlog
from msgspec import Struct, field

DIGESTS: Final = 256
DEVICES: Final = 20_000

log: Final = structlog.get_logger("ble")


class Marks(Struct, omit_defaults=True):
    """Of one device. ``key`` tells with which bind key ``counter`` was counted."""

    counter: int = -1
    key: str = ""
    sequence: int = -1
    digests: list[str] = field(default_factory=list)


class Memory:
    """All marks, in one small file that is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._dirty = False
        self._marks: dict[str, Marks] = {}
        try:
            self._marks = msgspec.json.decode(path.read_bytes(), type=dict[str, Marks])
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            log.error("ble_memory_unreadable", error=type(error).__name__)

    def of(self, device_id: str) -> Marks:
        """The marks of a device, to look at."""
        return self._marks.get(device_id) or Marks()

    # ---- adverts -----------------------------------------------------------------------------------------------------

    def counter(self, device_id: str, key: bytes) -> int:
        """The highest counter that was committed under this key; -1 for none."""
        marks = self.of(device_id)
        return marks.counter if marks.key == fingerprint(key) else -1

    def counted(self, device_id: str, key: bytes, counter: int) -> None:
        marks = self._to_change(device_id)
        name = fingerprint(key)
        marks.counter = counter if marks.key != name else max(counter, marks.counter)
        marks.key = name

    # ---- measurements ------------------------------------------------------------------------------------------------

    def knows(self, device_id: str, dedup_key: str) -> bool:
        """Whether this measurement is among the newest DIGESTS of the device."""
        return digest(dedup_key) in self.of(device_id).digests

    def learn(self, device_id: str, dedup_key: str, sequence: int = -1) -> None:
        marks = self._to_change(device_id)
        marks.digests = [*marks.digests[-DIGESTS + 1 :], digest(dedup_key)]
        if sequence >= 0:
            marks.sequence = sequence

    # ---- the file ----------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Replace the file, if anything changed. A file that cannot be written is said, and tried again next time."""
        if not self._dirty:
            return
        self._dirty = False
        content = msgspec.json.encode(self._marks)  # in one go, whatever changes meanwhile
        new = self._path.with_suffix(".new")
        try:
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            new.replace(self._path)
        except OSError as error:
            self._dirty = True
            log.error("ble_memory_not_written", error=str(error))

    def _to_change(self, device_id: str) -> Marks:
        self._dirty = True
        marks = self._marks.get(device_id)
        if marks is None:
            if len(self._marks) >= DEVICES:
                del self._marks[next(iter(self._marks))]
            marks = self._marks[device_id] = Marks()
        return marks


def fingerprint(key: bytes) -> str:
    """Names a key without giving it away."""
    return hashlib.blake2b(key, digest_size=8, person=b"ble bind key").hexdigest()


def digest(dedup_key: str) -> str:
    return hashlib.blake2b(dedup_key.encode(), digest_size=8).hexdigest()
