"""An event loop whose time jumps: when nothing is ready, the next timer is due at once. A minute takes milliseconds."""

from __future__ import annotations

import asyncio
import selectors
from typing import Any

from gateway.clock import US_PER_S


class JumpingSelector(selectors.SelectSelector):
    """Never waits; remembers for how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.passed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and timeout is not None and timeout > 0:
            self.passed_s += timeout
        return found


class JumpingLoop(asyncio.SelectorEventLoop):
    """For asyncio.Runner(loop_factory=JumpingLoop). Work in threads would see no time pass: there may be none."""

    def __init__(self) -> None:
        self.jumps = JumpingSelector()
        super().__init__(self.jumps)

    def time(self) -> float:
        return self.jumps.passed_s


class LoopClock:
    """gateway.clock.Clock by the time of the running loop."""

    def __init__(self, start_us: int) -> None:
        self.start_us = start_us

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    def now_us(self) -> int:
        return self.start_us + round(self.monotonic_s() * US_PER_S)


def play(story: Any) -> None:
    """Run a coroutine on a jumping loop."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        runner.run(story)
