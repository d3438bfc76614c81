"""Whether the process lives, whether it can commit, and how its parts are."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any, Final

import apsw
import structlog
from msgspec import Struct

from gateway.clock import Clock, iso
from gateway.errors import StorageError
from gateway.metrics import Histogram
from gateway.ports import HealthPart, Store

FRESH_S: Final = 2.0  # a commit this old still proves that commits work
PROBE_TIMEOUT_S: Final = 3.0
LAG_INTERVAL_S: Final = 0.05
LOAD_INTERVAL_S: Final = 5.0
LOAD_LIMIT: Final = 0.70  # of all processors (DB12/T 1235 section 6: above it for no longer than ten minutes)
LOAD_LIMIT_FOR_S: Final = 600.0


class PartState(Struct, frozen=True):
    """One line of /readyz."""

    name: str
    ok: bool
    text: str
    required: bool


class Health:
    """Readiness is a commit: the last one, when it is young enough, or one made for the question."""

    def __init__(self, *, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._parts: list[tuple[HealthPart, bool]] = []
        self._committed_s = float("-inf")
        self._probing: asyncio.Lock = asyncio.Lock()
        self._failure = "nothing was committed yet"

    def add(self, part: HealthPart, *, required: bool = False) -> None:
        """List this part; while a required one does not work, /readyz answers 503."""
        self._parts.append((part, required))

    def committed(self, _committed: object = None) -> None:
        """A commit happened just now. May be given to ingest as a listener: it spares the probe's own write."""
        self._committed_s = self._clock.monotonic_s()

    async def probe(self) -> str:
        """Commit something unless that happened within FRESH_S; "" when it worked, else what is wrong."""
        async with self._probing:
            if self._clock.monotonic_s() - self._committed_s <= FRESH_S:
                return ""
            at_us = self._clock.now_us()
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await self._store.write(lambda connection: _write_probe(connection, at_us))
            except TimeoutError:
                self._failure = f"no commit within {PROBE_TIMEOUT_S:g} s"
                return self._failure
            except StorageError as error:
                self._failure = str(error) or type(error).__name__
                return self._failure
            self.committed()
            return ""

    async def parts(self) -> tuple[bool, list[PartState]]:
        """Whether the daemon is ready, and each part's state; the journal first."""
        trouble = await self.probe()
        states = [PartState("journal", not trouble, trouble or "commits", True)]
        for part, required in self._parts:
            ok, text = part.state()
            states.append(PartState(part.name, ok, text, required))
        return all(state.ok for state in states if state.required), states

    async def report(self) -> tuple[bool, dict[str, Any]]:
        """The same, JSON-ready."""
        ready, states = await self.parts()
        listed = [{"name": s.name, "ok": s.ok, "text": s.text, "required": s.required} for s in states]
        return ready, {"ready": ready, "at": iso(self._clock.now_us()), "parts": listed}


def _write_probe(connection: apsw.Connection, at_us: int) -> None:
    connection.execute(
        "INSERT INTO meta (key, value) VALUES ('probe', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (at_us,),
    )


class LoopLag:
    """How late the loop runs what is due, measured all the time. A HealthPart."""

    name = "loop"

    def __init__(self, clock: Clock, limit_s: float = 1.0) -> None:
        self._clock = clock
        self._limit_s = limit_s
        self._last_s = 0.0
        self.histogram = Histogram()

    async def run(self) -> None:
        while True:
            begun = self._clock.monotonic_s()
            await asyncio.sleep(LAG_INTERVAL_S)
            self._last_s = max(0.0, self._clock.monotonic_s() - begun - LAG_INTERVAL_S)
            self.histogram.observe(self._last_s)

    def state(self) -> tuple[bool, str]:
        return self._last_s < self._limit_s, f"lag {self._last_s * 1000:.1f} ms"


class HostLoad:
    """The machine's load average over its processors. A HealthPart: not ok above LOAD_LIMIT for LOAD_LIMIT_FOR_S."""

    name = "host_load"

    def __init__(self, clock: Clock, read: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._read = read or _load
        self._since_s: float | None = None
        self._told = False
        self.ratio = 0.0

    async def run(self) -> None:
        while True:
            self.sample()
            await asyncio.sleep(LOAD_INTERVAL_S)

    def sample(self) -> None:
        """Look once. Logs each change of state once."""
        self.ratio = self._read()
        if self.ratio <= LOAD_LIMIT:
            self._since_s = None
        elif self._since_s is None:
            self._since_s = self._clock.monotonic_s()
        ok, text = self.state()
        if ok == self._told:
            self._told = not ok
            structlog.get_logger("health").warning("host_load", ok=ok, text=text)

    def state(self) -> tuple[bool, str]:
        long = self._since_s is not None and self._clock.monotonic_s() - self._since_s >= LOAD_LIMIT_FOR_S
        text = f"load {self.ratio:.0%} of {os.cpu_count() or 1} processors"
        return not long, f"{text}, above {LOAD_LIMIT:.0%} for ten minutes" if long else text


def _load() -> float:
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return 0.0  # /proc/loadavg is hidden from this process
