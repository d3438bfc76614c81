"""Terminals that keep sending over TCP whatever happens, and a record of what was answered. GT06 by hand."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from simulators.terminals.base import Facts, Message, Place
from simulators.terminals.gt06 import Gt06Script

CONNECT_S = 10.0
WINDOW = 6


@dataclass
class Tracker:
    """One terminal. Its frames are told apart by their last bytes: serial and CRC."""

    imei: str
    rng: random.Random
    script: Gt06Script = field(init=False)
    unanswered: list[Message] = field(default_factory=list)
    answered: set[str] = field(default_factory=set)
    presses: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.script = Gt06Script(self.imei)

    def next(self) -> Message:
        sos = self.rng.random() < 0.05
        place = Place(39.1 + self.rng.random() / 100, 117.2)
        message = self.script.report(Facts(datetime.now(UTC), place, ("sos",) if sos else ()))
        if sos:
            self.presses.add(name_of(message))
        return message


def name_of(message: Message) -> str:
    """As the codec names a frame against resends."""
    return message.payload[-6:-2].hex()


class TrackerDriver:
    """Runs all terminals until ``finish``; then each sends what is unanswered until nothing is left."""

    def __init__(self, port: int, imeis: Sequence[str], seed: int) -> None:
        self._port = port
        self._finishing = False
        self.trackers = [Tracker(imei, random.Random(f"{seed}{imei}")) for imei in imeis]

    def finish(self) -> None:
        self._finishing = True

    def answered(self) -> set[tuple[str, str]]:
        return {(tracker.imei, name) for tracker in self.trackers for name in tracker.answered}

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for tracker in self.trackers:
                group.create_task(self._live(tracker))

    async def _live(self, tracker: Tracker) -> None:
        while not (self._finishing and not tracker.unanswered):
            try:
                async with asyncio.timeout(CONNECT_S):
                    reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except (OSError, TimeoutError):
                await asyncio.sleep(0.05)
                continue
            try:
                async with asyncio.timeout(20):
                    await self._talk(tracker, reader, writer)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                pass  # it died: come again
            writer.close()
            await asyncio.sleep(0.02)

    async def _talk(self, tracker: Tracker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        login = tracker.script.hello(datetime.now(UTC))[0]
        writer.write(login.payload + b"".join(message.payload for message in tracker.unanswered))
        assert (await reader.readexactly(10)).startswith(login.expects)
        while True:
            while not self._finishing and len(tracker.unanswered) < WINDOW:
                message = tracker.next()
                tracker.unanswered.append(message)
                writer.write(message.payload)
            if not tracker.unanswered:
                return
            answer = await reader.readexactly(10)
            (message,) = [one for one in tracker.unanswered if answer.startswith(one.expects)]
            tracker.unanswered.remove(message)
            tracker.answered.add(name_of(message))
            await asyncio.sleep(tracker.rng.random() * 0.01)
