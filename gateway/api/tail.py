"""The newest events, read and written as text once for all streams that follow them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import msgspec
from msgspec import Struct

from gateway.ports import EventFeed

BATCH: Final = 1000
KEPT: Final = 8000
PACE_S: Final = 0.05
"""After a read that came to the end: a commit each three milliseconds must not wake every stream as often."""


class Told(Struct, frozen=True):
    """An event, its place in the journal, and itself as JSON."""

    place: tuple[int, int]
    event: dict[str, Any]
    text: bytes


class Tail:
    """What one feed tells. ``is_whole``: False leaves observations out.

    A stream asks for what lies behind its own number. Who asks first for more than there is reads it, the others wait
    for that; who is behind what is kept reads on its own until it has caught up. Thus streams cost one read together.
    """

    def __init__(self, feed: EventFeed, *, is_whole: bool) -> None:
        self._feed = feed
        self._is_whole = is_whole
        self._kept: deque[Told] = deque(maxlen=KEPT)
        self._since = self._reached = -1  # ``_kept`` has everything behind the one, up to the other
        self._reading = asyncio.Lock()
        self._pause_until_s = 0.0

    async def after(self, seq: int) -> tuple[Sequence[Told], int]:
        """Events behind ``seq``, about BATCH of them, and the number that they reach to; waits until there is one."""
        while True:
            if self._since <= seq < self._reached:
                return self._part(seq)
            if seq < self._since:
                return await self._alone(seq)
            async with self._reading:
                if seq >= self._reached:
                    await self._follow(seq)

    async def _follow(self, seq: int) -> None:
        """Read what comes next. A cancelled one leaves it to the next who asks."""
        loop = asyncio.get_running_loop()
        if self._reached < seq:  # nobody asked for a while: what lies between is of no use to anybody
            self._kept.clear()
            self._since = self._reached = seq
        await self._feed.wait(seq)
        await asyncio.sleep(self._pause_until_s - loop.time())
        told, reached = await self._alone(self._reached)
        self._pause_until_s = loop.time() + (PACE_S if len(told) < BATCH else 0.0)
        room = KEPT - len(told)
        if len(self._kept) > room:
            lost = len(self._kept) - room
            self._since = self._kept[lost - 1].place[0]
            while self._kept and self._kept[0].place[0] <= self._since:  # no number is torn apart
                self._kept.popleft()
        self._kept.extend(told)
        self._reached = reached

    async def _alone(self, seq: int) -> tuple[Sequence[Told], int]:
        newest = self._feed.last_seq()
        events = await (self._feed.after if self._is_whole else self._feed.transitions)(seq, BATCH)
        told = [Told(place(event), event, msgspec.json.encode(event)) for event in events]
        if not told:
            return told, max(seq, newest)  # numbers without events
        last = told[-1].place[0]
        return told, last if self._is_whole or len(told) >= BATCH else max(last, newest)

    def _part(self, seq: int) -> tuple[Sequence[Told], int]:
        first = next((n for n, told in enumerate(reversed(self._kept)) if told.place[0] <= seq), len(self._kept))
        return list(islice(self._kept, len(self._kept) - first, None)), self._reached


def place(event: dict[str, Any]) -> tuple[int, int]:
    """Number and part of an event."""
    seq, _, part = str(event["id"]).partition("-")
    return int(seq), int(part)
