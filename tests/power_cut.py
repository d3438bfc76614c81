"""A SQLite VFS that knows what a disk holds when the power goes: what was synced, and any part of the rest."""

from __future__ import annotations

import random
import threading
from pathlib import Path
from typing import Any

import apsw


class _Log:
    """One file as of its last sync, and the writes since, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.synced = path.read_bytes() if path.exists() else b""
        self.pending: list[tuple[int, bytes | None]] = []  # (offset, data), or (size, None) for a truncation

    def image(self, rng: random.Random) -> bytes:
        """What may be on the disk: synced content with some of the later writes, as a cache without order leaves it."""
        image = bytearray(self.synced)
        for offset, data in self.pending:
            if rng.random() < 0.5:
                continue
            if data is None:
                del image[offset:]
                continue
            if len(image) < offset:
                image.extend(bytes(offset - len(image)))
            torn = data if rng.random() < 0.8 else data[: rng.randrange(len(data) + 1)]
            image[offset : offset + len(torn)] = torn
        return bytes(image)


class LossyVFS(apsw.VFS):
    """Passes everything to the default VFS and remembers which writes no sync has covered."""

    def __init__(self, name: str) -> None:
        super().__init__(name, "")
        self.name = name
        self.lock = threading.RLock()
        self.logs: dict[str, _Log] = {}
        self.fail_sync = False

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        return _LossyFile(self, name, flags)

    def cut(self, folder: Path, rng: random.Random) -> None:
        """Write what the disk might hold now into ``folder``; the running database goes on."""
        folder.mkdir()
        with self.lock:
            for log in self.logs.values():
                if log.path.exists():
                    (folder / log.path.name).write_bytes(log.image(rng))


class _LossyFile(apsw.VFSFile):
    def __init__(self, vfs: LossyVFS, name: Any, flags: list[int]) -> None:
        path = name.filename() if isinstance(name, apsw.URIFilename) else (name or "")
        self._vfs = vfs
        with vfs.lock:
            self._log = vfs.logs.setdefault(path, _Log(Path(path)))
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        with self._vfs.lock:
            self._log.pending.append((offset, bytes(data)))
            super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        with self._vfs.lock:
            self._log.pending.append((newsize, None))
            super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._vfs.fail_sync:
            raise apsw.IOError("the disk says no")
        super().xSync(flags)
        with self._vfs.lock:
            self._log.synced = self._log.path.read_bytes()
            self._log.pending.clear()
