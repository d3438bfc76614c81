"""What one turn of the loop has time for. When devices send more, ordinary data waits for a turn of its own and what
may be an emergency does not: a press is read at once however long the queue before it is.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final, Protocol

TURN_BYTES: Final = 8_192
"""About 30 readings, 0.8 ms. A turn reads all sockets that have something, so without a bound a thousand devices that
speak at once make a turn of 25 ms, and an emergency takes several turns from its bytes to its acknowledgement."""
WAITING_BYTES: Final = 33_554_432
"""Above this nothing waits any more: sockets are read as slowly as the loop can, and the devices notice."""


class Waiter(Protocol):
    """A connection with data that waits."""

    def read_waiting(self) -> int:
        """Read it; how many bytes that were, 0 when it was read before."""
        ...


class Turns:
    """Shared by the connections of one listener."""

    __slots__ = ("_left", "_loop", "_scheduled", "_waiting", "waited", "waiting_bytes")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._left = TURN_BYTES
        self._scheduled = False
        self._waiting: deque[Waiter] = deque()
        self.waiting_bytes = 0
        self.waited = 0
        """How often data had to wait."""

    def has_time(self, size: int) -> bool:
        """Whether data of this size is read now; otherwise it is to ``wait``."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._next)
        if self._left <= 0 and self.waiting_bytes < WAITING_BYTES:
            return False
        self._left -= size
        return True

    def wait(self, waiter: Waiter, size: int) -> None:
        """Let this connection read in a turn to come. ``size`` bytes are counted until ``read_waiting``."""
        self._waiting.append(waiter)
        self.waiting_bytes += size
        self.waited += 1

    def read_all(self) -> None:
        """At the end: nothing that came waits any more."""
        while self._waiting:
            self._waiting.popleft().read_waiting()

    def _next(self) -> None:
        self._left = TURN_BYTES
        while self._waiting and self._left > 0:
            self._left -= self._waiting.popleft().read_waiting()
        self._scheduled = bool(self._waiting)
        if self._scheduled:
            self._loop.call_soon(self._next)
