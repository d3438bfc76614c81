"""A circuit breaker: how much to ask of a destination that fails. Pure: time is given to it, in seconds, monotonic."""

from __future__ import annotations

import enum
import random
from collections import deque
from typing import Final

CONSECUTIVE: Final = 5
WINDOW: Final = 20
FIRST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 30.0


class BreakerState(enum.StrEnum):
    CLOSED = "closed"  # works
    OPEN = "open"  # fails: nothing is sent until the pause is over
    HALF_OPEN = "half_open"  # one real dispatch finds out


class Breaker:
    """Opens on 5 failures in a row, or when more than half of the last 20 failed. Pauses double from 1 to 30 s."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._in_a_row = 0
        self._pauses = 0
        self._until_s = 0.0
        self.state = BreakerState.CLOSED

    def allowance(self, now_s: float, free: int, in_flight: int) -> int:
        """How many dispatches may go out now: all the free places, one probe, or none."""
        if self.state is BreakerState.OPEN and now_s >= self._until_s:
            self.state = BreakerState.HALF_OPEN
        if self.state is BreakerState.CLOSED:
            return free
        if self.state is BreakerState.HALF_OPEN and in_flight == 0:
            return min(free, 1)
        return 0

    def wait_s(self, now_s: float) -> float:
        """How long nothing will be allowed."""
        return max(0.0, self._until_s - now_s) if self.state is BreakerState.OPEN else 0.0

    def succeeded(self) -> bool:
        """The destination answered. True when that ends a failure."""
        self._recent.append(True)
        self._in_a_row = 0
        if self.state is BreakerState.CLOSED:
            return False
        self.state = BreakerState.CLOSED
        self._recent.clear()
        self._pauses = 0
        return True

    def failed(self, now_s: float, retry_after_s: float | None = None) -> bool:
        """The destination failed. True when that opens a breaker which was closed."""
        self._recent.append(False)
        self._in_a_row += 1
        if self.state is BreakerState.OPEN:  # one that was under way when it opened
            self._until_s = max(self._until_s, now_s + (retry_after_s or 0.0))
            return False
        was_closed = self.state is BreakerState.CLOSED
        mostly = len(self._recent) == WINDOW and self._recent.count(False) * 2 > WINDOW
        if was_closed and self._in_a_row < CONSECUTIVE and not mostly:
            return False
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**self._pauses)
        self._pauses = min(self._pauses + 1, 16)
        self._until_s = now_s + max(self._rng.uniform(pause_s / 2, pause_s), retry_after_s or 0.0)
        self.state = BreakerState.OPEN
        return was_closed
