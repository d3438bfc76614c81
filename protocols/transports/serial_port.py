"""Serial lines that speak on their own: frames by a delimiter, a length, a codec's own rule, or silence."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from gateway.errors import FramingError
from gateway.model import Frame
from gateway.ports import Framer
from protocols.framing import Framer as CutFramer
from protocols.framing import delimited
from protocols.transports.serial_line import SerialTransport, Wire

READ_BYTES: Final = 4096
MAX_FRAME_BYTES: Final = 4096


class SerialPort(SerialTransport):
    """``ports.Transport``. ``delimiter``, ``length`` (bytes) or ``silence_s`` says where frames end, else the codec.

    ``reply`` is written for each frame once it is on disk. ``every_s``: of sentences that replace each other the newest
    is kept so often.
    """

    def __init__(
        self,
        *common: Any,
        delimiter: bytes = b"",
        length: int = 0,
        silence_s: float = 0.0,
        reply: bytes = b"",
        every_s: float = 10.0,
        **rest: Any,
    ) -> None:
        super().__init__(*common, **rest)
        self._delimiter = delimiter
        self._length = length
        self._silence_s = silence_s
        self._reply = reply
        self._every_s = every_s
        self._topic = getattr(self._codec, "topic", None)
        self._kept_s: dict[str, float] = {}

    def framer(self) -> Framer:
        """A framer for a line that has just been opened."""
        if self._delimiter:
            return CutFramer(delimited(b"", self._delimiter), limit=MAX_FRAME_BYTES)
        if self._length:
            return CutFramer(_counted(self._length), limit=MAX_FRAME_BYTES)
        made: Framer = self._codec.framer()  # type: ignore[attr-defined]  # every codec of serial lines has one
        return made

    async def _serve(self, wire: Wire) -> None:
        if self._silence_s:
            await self._serve_silence(wire)
            return
        framer = self.framer()
        while data := await wire.read(READ_BYTES):
            try:
                payloads = framer.feed(data)
            except FramingError:
                self.counts["rubbish"] += 1
                framer = self.framer()
                continue
            await self._take(wire, payloads)
        raise OSError("the port closed")

    async def _serve_silence(self, wire: Wire) -> None:
        """A frame is what came until nothing came for ``silence_s``."""
        frame = b""
        while True:
            try:
                async with asyncio.timeout(self._silence_s if frame else None):
                    data = await wire.read(READ_BYTES)
            except TimeoutError:
                whole, frame = frame, b""
                await self._take(wire, [whole])
                continue
            if not data:
                raise OSError("the port closed")
            frame += data
            if len(frame) > MAX_FRAME_BYTES:
                self.counts["rubbish"] += 1
                frame = b""

    async def _take(self, wire: Wire, payloads: Sequence[bytes]) -> None:
        frames: list[Frame] = [self._frame(payload) for payload in payloads if self._wanted(payload)]
        if not frames:
            return
        await self._keep(frames)
        if self._reply:
            wire.write(self._reply * len(frames))

    def _wanted(self, payload: bytes) -> bool:
        if self._topic is None:
            return True
        topic = self._topic(payload)
        now_s = self._clock.monotonic_s()
        if not topic or now_s - self._kept_s.get(topic, -self._every_s) < self._every_s:
            return False
        self._kept_s[topic] = now_s
        return True


def _counted(length: int) -> Any:
    return lambda buffer, at, _seen: (at, at + length) if len(buffer) - at >= length else (at, at)
