"""Reading connections to the journal file, of the process that writes it and of any other."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import apsw

from gateway.errors import StorageError
from gateway.storage.database import open_database

T = TypeVar("T")
KEPT: Final = 2


class Readers:
    """The reading half of ``ports.NearStore``. The file must be there."""

    def __init__(self, path: Path, *, vfs: str | None = None) -> None:
        self._path = path
        self._vfs = vfs
        self._glancing: apsw.Connection | None = open_database(path, read_only=True, vfs=vfs)
        self._glancing.set_busy_timeout(0)
        self._idle: queue.SimpleQueue[apsw.Connection] = queue.SimpleQueue()

    async def read(self, fn: Callable[[apsw.Connection], T]) -> T:
        """As ``ports.Store``."""
        return await asyncio.get_running_loop().run_in_executor(None, self._read, fn)

    async def glance(self, fn: Callable[[apsw.Connection], T]) -> T:
        """On the loop's own connection, which waits for nobody: where the file is held, in a thread after all."""
        if self._glancing is None:
            return await self.read(fn)
        try:
            with self._glancing:  # one snapshot
                result = fn(self._glancing)
        except apsw.BusyError:
            return await self.read(fn)
        except (apsw.IOError, apsw.CorruptError) as error:
            raise StorageError(f"the journal cannot be read: {error}") from error
        return result

    def stop_glancing(self) -> None:
        """From now on every look is a read in a thread. Safe to call twice."""
        if self._glancing is not None:
            self._glancing.close()
            self._glancing = None

    def close(self) -> None:
        """Nobody reads any more. Safe to call twice."""
        self.stop_glancing()
        while not self._idle.empty():
            self._idle.get().close()

    def _read(self, fn: Callable[[apsw.Connection], T]) -> T:
        try:
            connection = self._idle.get_nowait()
        except queue.Empty:
            connection = open_database(self._path, read_only=True, vfs=self._vfs)
        try:
            with connection:  # one snapshot
                result = fn(connection)
        except (apsw.IOError, apsw.CorruptError, apsw.BusyError) as error:
            raise StorageError(f"the journal cannot be read: {error}") from error
        finally:
            if self._idle.qsize() < KEPT:
                self._idle.put(connection)
            else:
                connection.close()
        return result
