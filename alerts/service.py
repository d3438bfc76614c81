"""Alerts at run time: takes the rules' effects, fires timers, and keeps the auditor going."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Final, Protocol

import apsw
import structlog
from prometheus_client import Counter, Gauge

from alerts import auditor, care_rows, due, outbox_rows, timers
from alerts.lifecycle import Applied, apply_effects
from alerts.policy import HOUR_US, Policy
from gateway import audit, crashpoints
from gateway.clock import US_PER_S, Clock
from gateway.errors import StorageBrokenError, StorageError
from gateway.model import Actor, Effect
from gateway.ports import Store

POLL_S: Final = 0.25
PACE_S: Final = 0.02
"""The shortest time from one look at timers to the next: what becomes due within it is fired in one transaction."""
AUDIT_S: Final = 30.0
SLICE: Final = 8
"""Effects or timers of one transaction: other commits wait for these, about 10 ms each when the loop is busy."""
MOST: Final = 128
"""The same while more of them wait than that gets through: a commit each is then what holds them up."""
RETRY_S: Final = 0.25
JUMP_US: Final = 2 * US_PER_S
KEEP_DISPATCHES_US: Final = 30 * 24 * HOUR_US
KEEP_OCCASIONS_US: Final = 1096 * 24 * HOUR_US

RAISED: Final = Counter("carebell_alerts_raised_total", "Alerts raised")
EFFECTS: Final = Counter("carebell_effects_total", "Effects of rules written down, by whether they were new", ["known"])
DEPTH: Final = Gauge("carebell_outbox_dispatches", "Unfinished and dead dispatches", ["destination", "state"])
CLOCK_JUMPS: Final = Counter("carebell_clock_jumps_total", "Wall clock jumps of more than two seconds")
_log = structlog.get_logger(__name__)


class Taking(Protocol):
    """Takes what is due out of the outbox as the last step of a transaction (alerts.outbox.Taking)."""

    def take(self, connection: apsw.Connection, now_us: int) -> None: ...


class Filling(Protocol):
    """What is filled here (alerts.outbox.Outbox)."""

    def taking(self, most: int) -> AbstractContextManager[Taking]: ...


def no_bookmark(connection: apsw.Connection, seq: int) -> None:
    """Nobody keeps a bookmark."""
    del connection, seq


class AlertService:
    """Writes effects in order, a slice in a transaction, together with the reader's bookmark.

    When a write fails it is tried again for ever, so that no effect is lost; a broken disk ends the process, and the
    journal's replay brings the effects again.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        policy: Policy,
        *,
        outbox: Filling,
        bookmark: Callable[[apsw.Connection, int], None] = no_bookmark,
    ) -> None:
        """``outbox`` is filled. ``bookmark`` writes, in the same transaction, how far the rules have come."""
        self._store = store
        self._clock = clock
        self._policy = policy
        self._outbox = outbox
        self._bookmark = bookmark
        self._waiting: deque[Effect] = deque()
        self._marks: deque[tuple[int, int]] = deque()  # (effects submitted up to here, seq)
        self._submitted = 0
        self._written = 0
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._due_us: int | None = None
        self._anchor_us = 0
        self._anchor_s = 0.0
        self._depths: set[tuple[str, str]] = set()

    def submit(self, effects: Sequence[Effect], seq: int = 0) -> None:
        """Take effects, in order; never blocks. ``seq``: the last record that the rules have seen, for the bookmark."""
        if not effects:
            return
        self._waiting.extend(effects)
        self._submitted += len(effects)
        if seq:
            self._marks.append((self._submitted, seq))
        self._idle.clear()
        self._filled.set()

    @property
    def waiting(self) -> int:
        """How many effects are not on disk yet."""
        return len(self._waiting)

    async def drained(self) -> None:
        """Return when every effect submitted so far is on disk."""
        await self._idle.wait()

    async def run(self) -> None:
        """Until cancelled. Raises StorageBrokenError."""
        self._anchor()
        await self._guarded(self._maintain)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._write_effects())
            group.create_task(self._fire_timers())
            group.create_task(self._audit())

    # ---- effects -----------------------------------------------------------------------------------------------------

    async def _write_effects(self) -> None:
        while True:
            await self._filled.wait()
            await self._write_slice()
            if not self._waiting:
                self._filled.clear()
                self._idle.set()

    async def _write_slice(self) -> None:
        size = max(SLICE, min(len(self._waiting) // 4, MOST))
        effects = list(islice(self._waiting, size))
        done = self._written + len(effects)
        seq = max((seq for upto, seq in self._marks if upto <= done), default=0)
        now_us = self._clock.now_us()

        crashpoints.reached(crashpoints.BEFORE_EFFECTS)

        def write(connection: apsw.Connection) -> Applied:
            applied = apply_effects(connection, effects, now_us, self._policy)
            if seq:
                self._bookmark(connection, seq)
            taking.take(connection, now_us)
            return applied

        try:
            with self._outbox.taking(size) as taking:
                applied = await self._store.write(write)
        except StorageBrokenError:
            raise
        except StorageError as error:
            _log.error("effects_not_written", effects=len(self._waiting), error=str(error))
            await asyncio.sleep(RETRY_S)
            return
        crashpoints.reached(crashpoints.AFTER_EFFECTS)
        for _ in effects:
            self._waiting.popleft()
        while self._marks and self._marks[0][0] <= done:
            self._marks.popleft()
        self._written = done
        RAISED.inc(len(applied.raised))
        EFFECTS.labels("true").inc(applied.known)
        EFFECTS.labels("false").inc(len(effects) - applied.known)
        for alert_id in applied.raised:
            _log.info("alert_raised", alert_id=alert_id)

    # ---- timers and clocks -------------------------------------------------------------------------------------------

    async def _fire_timers(self) -> None:
        while True:
            await self._guarded(self._fire)
            await asyncio.sleep(self._wait_s())

    def _wait_s(self) -> float:
        """Until the next timer is due; another may be armed meanwhile, so never longer than the poll."""
        if self._due_us is None:
            return POLL_S
        return min(max((self._due_us - self._clock.now_us()) / US_PER_S, PACE_S), POLL_S)

    async def _fire(self) -> None:
        """Fire what is due, and note when the next will be."""
        await self._watch_clock()
        due_us, self._due_us = self._due_us, None  # not known where the store fails
        if due_us is None or due_us > self._clock.now_us():
            due_us = await self._store.read(timers.next_due_us)
        limit, full = SLICE, True
        while full and due_us is not None and due_us <= self._clock.now_us():
            fired, due_us = await self._fire_some(limit)
            full = fired == limit
            limit = min(2 * limit, MOST)
        self._due_us = due_us

    async def _fire_some(self, limit: int) -> tuple[int, int | None]:
        """How many were fired, and when the next timer is due."""
        now_us = self._clock.now_us()
        with self._outbox.taking(limit) as taking:

            def fire(connection: apsw.Connection) -> tuple[int, int | None]:
                fired = due.fire_due(connection, now_us, self._policy, limit)
                taking.take(connection, now_us)
                return fired, timers.next_due_us(connection)

            return await self._store.write(fire)

    def _anchor(self) -> None:
        self._anchor_us = self._clock.now_us()
        self._anchor_s = self._clock.monotonic_s()

    async def _watch_clock(self) -> None:
        """After a jump forward, what is late fires once; after a jump back, what remained to wait still remains."""
        expected_us = self._anchor_us + round((self._clock.monotonic_s() - self._anchor_s) * US_PER_S)
        jump_us = self._clock.now_us() - expected_us
        self._anchor()
        if abs(jump_us) <= JUMP_US:
            return
        now_us = self._anchor_us
        _log.error("wall_clock_jumped", by_s=round(jump_us / US_PER_S, 3))
        CLOCK_JUMPS.inc()

        def note(connection: apsw.Connection) -> None:
            if jump_us < 0:
                timers.shift(connection, jump_us)
                outbox_rows.shift(connection, jump_us)
                care_rows.shift(connection, jump_us)
            audit.append(
                connection, at_us=now_us, actor=Actor("system", "clock"), action="clock_jumped", subject="site/clock",
                evidence={"by_ms": jump_us // 1000},
            )  # fmt: skip

        await self._store.write(note)

    # ---- housekeeping ------------------------------------------------------------------------------------------------

    async def _audit(self) -> None:
        while True:
            await asyncio.sleep(AUDIT_S)
            await self._guarded(self._maintain)

    async def _maintain(self) -> None:
        now_us = self._clock.now_us()

        def maintain(connection: apsw.Connection) -> int:
            timers.pull_in(connection, now_us, self._policy.longest_us)
            auditor.prune(connection, now_us, KEEP_DISPATCHES_US)
            care_rows.prune(connection, now_us - KEEP_OCCASIONS_US)
            return len(auditor.restore(connection, now_us, self._policy))

        await self._store.write(maintain)
        depth = await self._store.read(outbox_rows.depth)
        for labels in self._depths - depth.keys():
            DEPTH.labels(*labels).set(0)
        for labels, count in depth.items():
            DEPTH.labels(*labels).set(count)
        self._depths = set(depth)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except StorageBrokenError:
            raise
        except StorageError as error:
            _log.error("alerts_not_written", error=str(error))
