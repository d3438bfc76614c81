"""The daemon's part of ``carebell replay --apply``: brings what waits in the table into the journal, by ingest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import apsw
import structlog

from gateway import crashpoints
from gateway.clock import Clock
from gateway.errors import StorageBrokenError, StorageError
from gateway.model import Committed, Frame, Report, Verdict
from gateway.ports import Directory, Ingest, Store
from gateway.replaying import queue
from gateway.replaying.compare import Repair, is_emergency
from gateway.replaying.frames import Kept, frames_at
from gateway.replaying.queue import Waiting
from gateway.storage.dedup import NAMED
from gateway.storage.journal import last_seq, read_after

POLL_S: Final = 0.5
PAUSE_S: Final = 0.1
"""Between two slices, so that what devices say now never waits behind what they said then."""
RETRY_S: Final = 2.0
SLICE: Final = 100

log = structlog.get_logger("replay")


class Replaying:
    """``run`` is a task of the daemon's. What it offers is late data: marked as stored, received when it was received.

    Each row is offered once: before that it is written down behind which number it will stand, and a row that was
    offered and is not done (a crash, a commit that failed) is looked for there before it is offered again.
    """

    def __init__(self, *, ingest: Ingest, store: Store, directory: Directory, clock: Clock) -> None:
        self._ingest = ingest
        self._store = store
        self._directory = directory
        self._clock = clock
        self._failing = False

    async def run(self) -> None:
        """Until cancelled. Raises StorageBrokenError."""
        while True:
            pause_s = POLL_S
            try:
                if await self._take_slice():
                    pause_s = PAUSE_S
                self._failing = False
            except StorageBrokenError:
                raise
            except StorageError as error:
                pause_s = RETRY_S
                if not self._failing:  # once per change of state
                    self._failing = True
                    log.error("replay_not_written", error=str(error))
            await asyncio.sleep(pause_s)

    async def _take_slice(self) -> bool:
        """Bring some rows into the journal; return whether there were any. Raises StorageError."""
        rows = await self._store.read(lambda connection: queue.waiting(connection, SLICE))
        if not rows:
            return False
        doubtful = [row for row in rows if row.offered_after is not None]
        if doubtful:
            await self._settle(doubtful)
            return True
        kept_at = await self._store.read(lambda connection: frames_at(connection, {row.seq for row in rows}))
        frames: list[Frame] = []
        offered: list[queue.Key] = []
        left: list[queue.Key] = []
        for row in rows:
            kept = kept_at.get(row.seq)
            made = None if kept is None else list(self._frames(row, kept))
            if made is None or len(made) != len(_by_device(row.repairs)):
                left.append((row.seq, row.round))
                log.warning("replay_left", seq=row.seq, reason="gone" if kept is None else "the device changed")
                continue
            frames += made
            offered.append((row.seq, row.round))

        def write_down(connection: apsw.Connection) -> None:
            queue.drop(connection, left)
            queue.set_offered(connection, offered, last_seq(connection))

        await self._store.write(write_down)
        if await self._deliver(frames):
            crashpoints.reached(crashpoints.REPLAY_COMMITTED)
            now_us = self._clock.now_us()
            await self._store.write(lambda connection: queue.set_done(connection, offered, now_us))
        else:
            await asyncio.sleep(RETRY_S)
        return True

    async def _deliver(self, frames: Sequence[Frame]) -> bool:
        """Emergencies apart: what is routine among these has no part in their haste."""
        urgent = [frame for frame in frames if _is_emergency(frame)]
        routine = [frame for frame in frames if not _is_emergency(frame)]
        verdicts = [await self._ingest.deliver(group) for group in (urgent, routine) if group]
        return all(verdict is Verdict.ACCEPTED for verdict in verdicts)

    def _frames(self, row: Waiting, kept: Kept) -> Iterator[Frame]:
        """One frame for each device that the repaired one spoke of, unless the device changed hands since.

        Ingest names no records of a sender that proved nothing, so that there the reference stands behind the source.
        """
        first = kept.records[0]
        for device_id, repairs in _by_device(row.repairs).items():
            binding = self._directory.device(device_id) if device_id else None
            if device_id and (binding is None or binding.state == "retired"):
                continue
            if binding is not None and device_id == first.device_id and binding.person_id != first.person_id:
                continue
            yield Frame(
                first.transport,
                first.codec,
                first.source if first.verified else f"{first.source} {row.reference}",
                first.payload,
                first.received_at_us,
                device_id,
                verified=first.verified,
                reports=[_report(row, repair) for repair in repairs],
            )

    async def _settle(self, rows: Sequence[Waiting]) -> None:
        """Of rows that were offered: those that are in the journal are done, the others are offered again."""
        found = await self._store.read(lambda connection: _committed(connection, rows))
        now_us = self._clock.now_us()
        lost = [(row.seq, row.round) for row in rows if (row.seq, row.round) not in found]

        def write(connection: apsw.Connection) -> None:
            queue.set_done(connection, list(found), now_us)
            queue.set_offered(connection, lost, None)

        await self._store.write(write)


def _report(row: Waiting, repair: Repair) -> Report:
    return Report(
        repair.device_key,
        repair.reading,
        dedup_key=row.reference,
        at_us=repair.reading.observed_at_us,
        stored=True,
        faults=None if repair.fault is None else [repair.fault],
    )


def _by_device(repairs: Sequence[Repair]) -> dict[str, list[Repair]]:
    found: dict[str, list[Repair]] = {}
    for repair in repairs:
        found.setdefault(repair.device_id, []).append(repair)
    return found


def _is_emergency(frame: Frame) -> bool:
    return any(is_emergency(report.reading) for report in frame.reports or ())


def _committed(connection: apsw.Connection, rows: Sequence[Waiting]) -> set[queue.Key]:
    """Which of these stand in the journal, behind the number that each was offered after."""
    by_key = {NAMED + row.reference: (row.seq, row.round) for row in rows}
    by_source = {row.reference: (row.seq, row.round) for row in rows}
    found: set[queue.Key] = set()
    seq = min(row.offered_after or 0 for row in rows)
    while parts := list(read_after(connection, seq, 8)):
        for part in parts:
            seq = part.last_seq
            if isinstance(part, Committed):
                for record in part.records:
                    key = by_key.get(record.dedup_key) or by_source.get(record.source.rpartition(" ")[2])
                    if key is not None:
                        found.add(key)
    return found
