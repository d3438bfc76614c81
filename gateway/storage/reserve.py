"""Space on the disk that only emergencies may use: a file of zeros that is given up when the disk is full."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


class Reserve:
    """``size_bytes`` of preallocated space beside the journal."""

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self._size_bytes = size_bytes

    def held(self) -> bool:
        try:
            return self._path.stat().st_size >= self._size_bytes
        except OSError:
            return False

    def hold(self) -> bool:
        """Take the space if it is not held and there is at least twice as much. Returns whether it is held now."""
        if self.held():
            return True
        try:
            if shutil.disk_usage(self._path.parent).free < 2 * self._size_bytes:
                return False
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size_bytes)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            self._path.unlink(missing_ok=True)
            return False
        return True

    def release(self) -> bool:
        """Give the space up. Returns whether there was any."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
