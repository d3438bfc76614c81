"""Will messages on their way into the journal."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

import msgspec
import structlog

from gateway.clock import Clock
from gateway.model import Frame, Verdict
from gateway.ports import Directory, Ingest
from protocols.transports.mqtt_endpoint.packets import Will
from protocols.transports.mqtt_endpoint.topics import up_topic

CONNECTION_LOST: Final = b'{"signals":["connection_lost"]}'
RETRY_MAX_S: Final = 30.0
BATCH: Final = 200

log = structlog.get_logger(__name__)


class LastWill(msgspec.Struct, gc=False):
    """A will with the connection that it belongs to."""

    will: Will
    device_id: str
    transport: str
    source: str


def frames_of(last: LastWill, codec: str, received_at_us: int) -> list[Frame]:
    """What a will says, as frames of its device.

    A native statement on the device's up topic stands for itself. Anything else is kept, when it was meant for the up
    topic, and joined by the signal ``connection_lost``, since no codec need understand what it says.
    """

    def frame(name: str, payload: bytes) -> Frame:
        return Frame(last.transport, name, last.source, payload, received_at_us, last.device_id)

    said = []
    if last.will.topic == up_topic(last.device_id) and last.will.payload:
        said.append(frame(codec, last.will.payload))
        if codec == "native" and _is_object(last.will.payload):
            return said
    return [*said, frame("native", CONNECTION_LOST)]


def _is_object(payload: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(payload), dict | list)
    except (msgspec.DecodeError, RecursionError):
        return False


class Wills:
    """Wills that are due. They are offered until they are on disk, in order, at most ``bound`` at a time."""

    def __init__(self, ingest: Ingest, directory: Directory, clock: Clock, bound: int) -> None:
        self._ingest = ingest
        self._directory = directory
        self._clock = clock
        self._bound = bound
        self._due: deque[Frame] = deque()
        self._wake = asyncio.Event()
        self._delivering = asyncio.Lock()
        self.published = 0
        self.lost = 0

    def publish(self, last: LastWill) -> None:
        binding = self._directory.device(last.device_id)
        codec = "native" if binding is None else binding.codec
        if len(self._due) >= self._bound:
            self.lost += 1
            log.error("mqtt_will_lost", device_id=last.device_id, count=len(self._due))
            return
        self._due.extend(frames_of(last, codec, self._clock.now_us()))
        self._wake.set()

    async def run(self) -> None:
        delay_s = 0.5
        while True:
            await self._wake.wait()
            if await self._deliver():
                delay_s = 0.5
            else:
                await asyncio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_MAX_S)

    async def drain(self) -> None:
        """Deliver what is due, once; for the end."""
        while self._due and await self._deliver():
            pass

    async def _deliver(self) -> bool:
        async with self._delivering:
            batch = [self._due[number] for number in range(min(BATCH, len(self._due)))]
            if batch and await self._ingest.deliver(batch) is not Verdict.ACCEPTED:
                return False
            for _ in batch:
                self._due.popleft()
        self.published += len(batch)
        if not self._due:
            self._wake.clear()
        return True
