"""Many simulated terminals of one protocol at a chosen rate, open loop, as ``simulators.fleet`` does it for MQTT."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Any, Final

from msgspec import Struct

from simulators.latency import Latencies
from simulators.payloads import utc_now
from simulators.terminals.base import Facts, Place, Terminal
from simulators.terminals.registry import Kind

TICK_S: Final = 0.01
HOME: Final = (39.1172, 117.2021)


class TerminalPlan(Struct, frozen=True):
    """``rate_per_s`` is of all terminals together; ``sos_every``: each so many-th report is an SOS, 0 for none."""

    rate_per_s: float
    duration_s: float = 10.0
    sos_every: int = 0
    connect_timeout_s: float = 60.0
    drain_s: float = 30.0


class TerminalFleet:
    """``run`` connects the terminals, sends, waits for the answers, and returns; ``stop`` ends the sending."""

    def __init__(
        self, kind: Kind, identities: Sequence[str], host: str, port: int, plan: TerminalPlan, *, udp: bool = False
    ) -> None:
        script = kind.udp if udp and kind.udp is not None else kind.script
        self.plan = plan
        self.terminals = [Terminal(script(identity), host, port or kind.port) for identity in identities]
        self.latencies, self.sos_latencies = Latencies(), Latencies()
        self.sent = self.answered = self.sos = self.sos_answered = 0
        self.seconds = 0.0
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        """Raises ConnectionError when no terminal at all can connect."""
        async with asyncio.TaskGroup() as group:
            keepers = [group.create_task(terminal.run()) for terminal in self.terminals]
            try:
                await self._all_connected()
                await self._send_all()
            finally:
                for keeper in keepers:
                    keeper.cancel()

    def connected(self) -> int:
        return sum(terminal.connections > 0 for terminal in self.terminals)

    async def _all_connected(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.plan.connect_timeout_s):
                while self.connected() < len(self.terminals) and not self._stop.is_set():
                    await asyncio.sleep(0.02)
        if not self.connected() and not self._stop.is_set():
            reason = next((terminal.last_error for terminal in self.terminals if terminal.last_error), "no answer")
            raise ConnectionError(f"no terminal could connect: {reason}")

    async def _send_all(self) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        in_flight: set[asyncio.Task[None]] = set()
        async with asyncio.TaskGroup() as group:
            while not self._stop.is_set():
                is_over = self.seconds >= self.plan.duration_s  # what was due by then is sent, however late we look
                due = (
                    self.plan.duration_s * self.plan.rate_per_s if is_over else self.seconds * self.plan.rate_per_s + 1
                )
                while self.sent < due:
                    task = group.create_task(self._send(self.sent))
                    in_flight.add(task)
                    task.add_done_callback(in_flight.discard)
                    self.sent += 1
                if is_over:
                    break
                await asyncio.sleep(TICK_S)
                self.seconds = loop.time() - begun_s
            if in_flight:
                await asyncio.wait(set(in_flight), timeout=self.plan.drain_s)
            for task in list(in_flight):
                task.cancel()

    async def _send(self, number: int) -> None:
        terminal = self.terminals[number % len(self.terminals)]
        emergency = self.plan.sos_every > 0 and (number + 1) % self.plan.sos_every == 0
        draw = random.Random(number)
        place = Place(
            round(HOME[0] + draw.uniform(-0.0004, 0.0004), 6), round(HOME[1] + draw.uniform(-0.0004, 0.0004), 6)
        )
        facts = Facts(utc_now(), place, ("sos",) if emergency else (), draw.randint(40, 95), number % 20_000)
        self.sos += emergency
        seconds = await terminal.send(terminal.script.report(facts))
        (self.sos_latencies if emergency else self.latencies).add(seconds)
        self.answered += 1
        self.sos_answered += emergency

    def result(self) -> dict[str, Any]:
        """What the run came to; JSON-ready."""
        return {
            "terminals": len(self.terminals),
            "connected": self.connected(),
            "reconnects": sum(max(0, terminal.connections - 1) for terminal in self.terminals),
            "seconds": round(self.seconds, 3),
            "sent": self.sent,
            "answered": self.answered,
            "unanswered": self.sent - self.answered,
            "resent": sum(terminal.resent for terminal in self.terminals),
            "refused": sum(terminal.refused for terminal in self.terminals),
            "rate_per_s": round(self.sent / max(self.seconds, 1e-9), 1),
            "answer_ms": self.latencies.shown_ms(),
            "sos": self.sos,
            "sos_answered": self.sos_answered,
            "sos_answer_ms": self.sos_latencies.shown_ms(),
        }
