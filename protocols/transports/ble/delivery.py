"""Frames to ingest, a batch for each turn of the loop; what was not committed is offered again.

The air does not deliver twice: BlueZ has confirmed an indication, and a button has fallen silent, before anything is
on disk. So what ingest could not commit waits here, in memory, until it can.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from gateway.model import Frame, Verdict
from gateway.ports import Ingest

BATCH: Final = 200
WAITING: Final = 5000
ALARMS_WAITING: Final = 1000
AGAIN_S: Final = 1.0

After = Callable[[], None]
_Item = tuple[Frame, After | None]


class Delivery:
    """``put`` never blocks. Above WAITING frames the oldest is shed and counted; alarms have a room of their own."""

    def __init__(self, ingest: Ingest, again_s: float = AGAIN_S) -> None:
        self._ingest = ingest
        self._again_s = again_s
        self._alarms: deque[_Item] = deque()
        self._others: deque[_Item] = deque()
        self._timer: asyncio.Handle | None = None
        self._in_flight = 0
        self.counts = {"frames_total": 0, "offered_again_total": 0, "shed_total": 0}

    def put(self, frame: Frame, *, alarm: bool = False, after: After | None = None) -> None:
        """Offer this frame with the others of this turn; call ``after`` once it is committed."""
        self.counts["frames_total"] += 1
        self._keep(self._alarms if alarm else self._others, (frame, after), ALARMS_WAITING if alarm else WAITING)
        self._schedule(0.0)

    @property
    def waiting(self) -> int:
        """Frames that are not committed yet."""
        return len(self._alarms) + len(self._others) + self._in_flight

    async def settled(self, limit_s: float) -> bool:
        """Wait until everything is committed; whether that happened in time."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + limit_s
        while self.waiting and loop.time() < until_s:
            await asyncio.sleep(0.005)
        return not self.waiting

    def _keep(self, queue: deque[_Item], item: _Item, most: int) -> None:
        if len(queue) >= most:
            queue.popleft()
            self.counts["shed_total"] += 1
        queue.append(item)

    def _put_back(self, queue: deque[_Item], items: list[_Item], most: int) -> None:
        queue.extendleft(reversed(items))
        while len(queue) > most:
            queue.popleft()
            self.counts["shed_total"] += 1

    def _schedule(self, delay_s: float) -> None:
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(delay_s, self._flush) if delay_s else loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._timer = None
        alarms = [self._alarms.popleft() for _ in range(min(BATCH, len(self._alarms)))]
        others = [self._others.popleft() for _ in range(min(BATCH - len(alarms), len(self._others)))]
        batch = [*alarms, *others]
        if not batch:
            return
        self._in_flight += len(batch)

        def done(verdict: asyncio.Future[Verdict]) -> None:
            self._in_flight -= len(batch)
            if verdict.result() is Verdict.ACCEPTED:
                for _, after in batch:
                    if after is not None:
                        after()
                return
            self.counts["offered_again_total"] += len(batch)
            self._put_back(self._alarms, alarms, ALARMS_WAITING)
            self._put_back(self._others, others, WAITING)
            self._schedule(self._again_s)

        self._ingest.offer([frame for frame, _ in batch]).add_done_callback(done)
        if self._alarms or self._others:
            self._schedule(0.0)
