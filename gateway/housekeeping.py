"""What keeps the journal in shape: the memory of seen messages is saved, old records go, the reserve comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import apsw
import structlog

from gateway.clock import US_PER_S, Clock
from gateway.config import JournalSection
from gateway.errors import StorageBrokenError, StorageError
from gateway.model import Committed
from gateway.ports import Store
from gateway.storage import call_retention, journal
from gateway.storage.call_retention import Retention
from gateway.storage.dedup import Marks
from gateway.storage.many import upsert
from gateway.storage.writer import JournalWriter

READER: Final = "marks"
SAVE_S: Final = 20.0
PRUNE_S: Final = 5.0
BOOKMARK_S: Final = 1.0
CALLS_S: Final = 600.0
DEVICES_PER_WRITE: Final = 500
DEVICES_PER_TURN: Final = 100
"""Encoded in one turn of the loop, about a millisecond."""

log = structlog.get_logger("housekeeping")


class Bookmarked(Protocol):
    """A reader in another process, which tells up to where the journal may be forgotten: what it has on disk."""

    def durable(self) -> int: ...


class Housekeeping:
    """``observe`` is a listener of ingest; ``run`` does the work."""

    def __init__(
        self,
        *,
        writer: JournalWriter,
        marks: Marks,
        clock: Clock,
        settings: JournalSection,
        outside_readers: dict[str, Bookmarked],
        settled: Callable[[], Awaitable[bool]],
        calls: Retention | None = None,
    ) -> None:
        """``settled``: whether everything that ingest has taken so far is on disk (gateway.ingest).

        ``calls``: how long the call log is kept; without it as long as the standards demand.
        """
        self._writer = writer
        self._store: Store = writer
        self._marks = marks
        self._clock = clock
        self._settings = settings
        self._outside = outside_readers
        self._settled = settled
        self._written: dict[str, int] = {}
        self._calls = calls or Retention()
        self._calls_at_s: float | None = None
        self._failing = False
        self.seq = 0
        self.saved_seq = 0
        self.pruned_batches = 0

    def observe(self, committed: Committed) -> None:
        self.seq = committed.last_seq

    def recover(self, connection: apsw.Connection) -> None:
        """Rebuild the memory of seen messages: as it was saved, and from the records since."""
        self._marks.restore(connection.execute("SELECT device_key, state FROM mark"))
        self.seq = self.saved_seq = journal.readers(connection).get(READER, 0)
        while parts := list(journal.read_after(connection, self.seq)):
            for part in parts:
                if isinstance(part, Committed):
                    for record in part.records:
                        self._marks.remember(record)
                self.seq = part.last_seq

    async def run(self) -> None:
        """Until cancelled. Raises StorageBrokenError; whatever else cannot be written now is tried again."""
        save_s = prune_s = self._clock.monotonic_s()
        while True:
            await asyncio.sleep(BOOKMARK_S)
            now_s = self._clock.monotonic_s()
            failed = not await self._tried(self._write_bookmarks)
            if now_s - save_s >= SAVE_S:
                save_s = now_s
                failed = not await self._tried(self.save) or failed
            if now_s - prune_s >= PRUNE_S:
                prune_s = now_s
                self._writer.restore_reserve()
                failed = not await self._tried(self._prune) or failed
                failed = not await self._tried(self.forget_calls) or failed
            if not failed:
                self._failing = False

    async def _tried(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Whether it worked. A disk that is full or a file that is held must not end the process that takes alarms."""
        try:
            await work()
        except StorageBrokenError:
            raise
        except StorageError as error:
            if not self._failing:  # once per change of state
                self._failing = True
                log.error("housekeeping_not_written", error=str(error))
            return False
        return True

    async def save(self) -> None:
        """Save which messages were seen. The bookmark moves only with the last of it. Raises StorageError.

        Ingest remembers a message before its commit: what is saved must not know one that the journal does not have,
        or its resend after a crash would be acknowledged and lost.
        """
        seq = self.seq
        devices = self._marks.take_dirty()
        if not devices and seq == self.saved_seq:
            return
        forgotten, rows = self._marks.forgotten, list[tuple[str, bytes]]()
        try:
            for start in range(0, len(devices), DEVICES_PER_TURN):
                rows += self._marks.states(devices[start : start + DEVICES_PER_TURN])
                await asyncio.sleep(0)
            if not await self._settled() or self._marks.forgotten != forgotten:
                self._marks.keep_dirty(devices)
                return
            now_us = self._clock.now_us()
            for start in range(0, len(rows), DEVICES_PER_WRITE):
                part = rows[start : start + DEVICES_PER_WRITE]
                await self._store.write(lambda connection, part=part: _save_marks(connection, part))  # type: ignore[misc]
            await self._store.write(lambda connection: journal.set_reader(connection, READER, seq, now_us))
        except BaseException:
            self._marks.keep_dirty(devices)
            raise
        self.saved_seq = seq

    async def _write_bookmarks(self) -> None:
        moved = {name: reader.durable() for name, reader in self._outside.items()}
        moved = {name: seq for name, seq in moved.items() if seq > self._written.get(name, 0)}
        if moved:
            now_us = self._clock.now_us()

            def write(connection: apsw.Connection) -> None:
                for name, seq in moved.items():
                    journal.set_reader(connection, name, seq, now_us)

            await self._store.write(write)
            self._written |= moved

    async def _prune(self) -> None:
        older_than_us = self._clock.now_us() - round(self._settings.keep_days * 86_400 * US_PER_S)
        max_bytes = round(self._settings.max_gigabytes * (1 << 30))
        gone = await self._store.write(
            lambda connection: journal.prune(connection, older_than_us=older_than_us, max_bytes=max_bytes)
        )
        self.pruned_batches += gone

    async def forget_calls(self) -> None:
        """Every ten minutes: what of the call log is past its time and not held. Raises StorageError.

        The first time after a start at most a day counts as passed: a clock that was set wrong deletes nothing early.
        """
        now_s, last_s = self._clock.monotonic_s(), self._calls_at_s
        if last_s is not None and now_s - last_s < CALLS_S:
            return
        passed_us = call_retention.DAY_US if last_s is None else round((now_s - last_s) * US_PER_S)
        while True:
            now_us, passing_us = self._clock.now_us(), passed_us
            deleted = await self._store.write(
                lambda connection, now_us=now_us, passing_us=passing_us: call_retention.prune(  # type: ignore[misc]
                    connection, self._calls, now_us, passing_us
                )
            )
            self._calls_at_s, passed_us = now_s, 0
            if deleted.calls or deleted.recordings:
                log.info("call_log_pruned", calls=deleted.calls, recordings=deleted.recordings)
            if not deleted.more:
                return


def _save_marks(connection: apsw.Connection, rows: list[tuple[str, bytes]]) -> None:
    upsert(connection, "mark", ("device_key",), "state", rows)
