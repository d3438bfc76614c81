"""Many devices at a chosen rate, open loop: messages leave at their time, however slow the acknowledgements are.

One process and one loop: aiomqtt and paho cost about 0.2 ms a message, so a fleet of up to about 2,000 devices and some
thousands of messages a second is what it can play; a load generator for more is another program.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct

from simulators.commands import Obedience
from simulators.devices import Gateway, HttpLink, MqttLink, Tally, http_client
from simulators.payloads import Place, Statement, utc_now, write

TICK_S: Final = 0.01
CONNECT_AT_ONCE: Final = 50
MAX_IN_FLIGHT: Final = 10_000
HOME: Final = (39.1172, 117.2021)
PROFILE: Final = "carebell.native"


class FleetPlan(Struct, frozen=True):
    """``rate_per_s`` is of the whole fleet. ``sos_every``: each so many-th message is a press, 0 for none.

    ``http_share`` of the devices send over HTTP instead of MQTT. ``duration_s`` None runs until it is told to stop.
    """

    rate_per_s: float
    duration_s: float | None = None
    sos_every: int = 0
    http_share: float = 0.0
    connect_timeout_s: float = 60.0
    drain_s: float = 30.0


class Fleet:
    """``run`` connects the devices, sends, waits for what is in flight, and returns; ``stop`` ends the sending."""

    def __init__(self, gateway: Gateway, credentials: Sequence[tuple[str, str]], plan: FleetPlan) -> None:
        self.plan = plan
        self.tally = Tally()
        self.connected = 0
        self.began_s = 0.0
        self.sending_s = 0.0
        self.behind = 0  # most messages that were due and waited for a place in flight
        self._gateway = gateway
        self._credentials = credentials
        self._stop = asyncio.Event()
        self._links: list[MqttLink | HttpLink] = []
        self._obediences: list[Obedience] = []
        self._boot = int(time.time())

    @property
    def devices(self) -> int:
        return len(self._credentials)

    @property
    def resent(self) -> int:
        return sum(link.resent for link in self._links)

    @property
    def reconnects(self) -> int:
        return sum(max(0, link.connections - 1) for link in self._links)

    def stop(self) -> None:
        self._stop.set()

    async def run(self) -> None:
        """Raises ConnectionError when no device at all can connect within ``connect_timeout_s``."""
        by_http = round(self.plan.http_share * self.devices)
        client = http_client(min(max(by_http, 1), 200))
        async with client, asyncio.TaskGroup() as group:
            keepers = []
            for number, (device_id, token) in enumerate(self._credentials):
                link: MqttLink | HttpLink
                if number < by_http:
                    link = HttpLink(client, self._gateway, device_id, token)
                else:
                    link = MqttLink(self._gateway, device_id, token, on_command=self._obedience(number).answer)
                self._links.append(link)
            gate = asyncio.Semaphore(CONNECT_AT_ONCE)
            keepers = [group.create_task(_keep(link, gate)) for link in self._links]
            try:
                await self._all_connected()
                await self._send_all()
            finally:
                for keeper in keepers:
                    keeper.cancel()

    def _obedience(self, index: int) -> Obedience:
        obedience = Obedience(lambda: ordinary(index, 0).position)
        self._obediences.append(obedience)
        return obedience

    @property
    def commands_done(self) -> int:
        """How many commands the fleet has carried out."""
        return sum(len(obedience.done) for obedience in self._obediences)

    async def _all_connected(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.plan.connect_timeout_s):
                while self.connected < self.devices and not self._stop.is_set():
                    self.connected = sum(link.connections > 0 for link in self._links)
                    await asyncio.sleep(0.02)
        if not self.connected and not self._stop.is_set():
            reason = next((link.last_error for link in self._links if link.last_error), "no answer")
            raise ConnectionError(f"no device could connect: {reason}")

    async def _send_all(self) -> None:
        """Paced by the clock, not by answers; then wait up to ``drain_s`` for the last acknowledgements."""
        loop = asyncio.get_running_loop()
        plan = self.plan
        self.began_s = loop.time()
        number = 0
        senders = asyncio.TaskGroup()
        async with senders:
            in_flight: set[asyncio.Task[bool]] = set()
            while not self._stop.is_set():
                elapsed_s = loop.time() - self.began_s
                self.sending_s = elapsed_s
                due = int(elapsed_s * plan.rate_per_s) + 1
                is_over = plan.duration_s is not None and elapsed_s >= plan.duration_s
                if plan.duration_s is not None and is_over:  # what was due is sent, however late we look
                    due = math.ceil(plan.duration_s * plan.rate_per_s)
                while number < due:
                    if len(in_flight) >= MAX_IN_FLIGHT:
                        self.behind = max(self.behind, due - number)
                        break
                    task = senders.create_task(self._send(number))
                    in_flight.add(task)
                    task.add_done_callback(in_flight.discard)
                    number += 1
                if is_over:
                    break
                await asyncio.sleep(TICK_S)
            if in_flight:
                await asyncio.wait(in_flight, timeout=plan.drain_s)
            for task in in_flight:
                task.cancel()

    async def _send(self, number: int) -> bool:
        index = number % self.devices
        emergency = self.plan.sos_every > 0 and (number + 1) % self.plan.sos_every == 0
        payload = write(
            PROFILE,
            Statement(("sos",)) if emergency else ordinary(index, number),
            number=number // self.devices,
            boot=self._boot,
            at=utc_now(),
        )
        return await self.tally.send(self._links[index], payload, emergency=emergency)

    def result(self) -> dict[str, Any]:
        """What the run came to; JSON-ready."""
        tally = self.tally
        seconds = max(self.sending_s, 1e-9)
        return {
            "devices": self.devices,
            "connected": self.connected,
            "reconnects": self.reconnects,
            "seconds": round(self.sending_s, 3),
            "sent": tally.sent,
            "acknowledged": tally.acked,
            "unacknowledged": tally.unacknowledged,
            "resent": self.resent,
            "rate_per_s": round(tally.sent / seconds, 1),
            "behind": self.behind,
            "ack_ms": tally.latencies.shown_ms(),
            "sos": tally.emergencies,
            "sos_acknowledged": tally.emergencies_acked,
            "sos_ack_ms": tally.emergency_latencies.shown_ms(),
            "commands_done": self.commands_done,
            "errors": tally.errors,
        }


def ordinary(index: int, number: int) -> Statement:
    """What a healthy person's watch says: nothing in it is past any limit."""
    draw = random.Random(f"{index}/{number}")
    east, north = draw.uniform(-0.0004, 0.0004), draw.uniform(-0.0004, 0.0004)
    place = Place(round(HOME[0] + north, 6), round(HOME[1] + east, 6), round(draw.uniform(5, 15), 1))
    return Statement(
        measurements={
            "heart_rate_bpm": draw.randint(62, 88),
            "spo2_percent": draw.randint(96, 99),
            "steps": number % 20_000,
            "battery_percent": draw.randint(40, 95),
        },
        position=place if number % 5 == 0 else None,
    )


async def _keep(link: MqttLink | HttpLink, gate: asyncio.Semaphore) -> None:
    """Hold back the crowd: a fleet's first connections do not come all at once."""
    async with gate:
        await asyncio.sleep(0.02)
    await link.run()


Progress = Callable[[Fleet], None]


async def play(fleet: Fleet, show: Progress, every_s: float = 0.25) -> None:
    """Run a fleet and show how it goes."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(fleet.run())
        while not running.done():
            show(fleet)
            await asyncio.wait([running], timeout=every_s)
        show(fleet)
