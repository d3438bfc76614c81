"""Modbus RTU polling: one master, its units asked in turn; what has changed is kept at once, the rest now and then."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final

from gateway.errors import ParseError, TransportError
from protocols.codecs.modbus import Block, body
from protocols.transports.serial_line import SerialTransport, Wire

ANSWER_S: Final = 0.5
QUIET_S: Final = 0.02
SILENT_ROUNDS: Final = 10


class ModbusPoller(SerialTransport):
    """``ports.Transport``. ``poll_s`` lies between two rounds; unchanged values are kept every ``every_s``.

    A unit that does not answer, or with a wrong CRC, is asked again in the next round; a line on which nobody answers
    for ten rounds is opened anew.
    """

    def __init__(
        self,
        *common: Any,
        blocks: Sequence[Block],
        poll_s: float,
        every_s: float,
        answer_s: float = ANSWER_S,
        **rest: Any,
    ) -> None:
        super().__init__(*common, **rest)
        self._blocks = blocks
        self._poll_s = poll_s
        self._every_s = every_s
        self._answer_s = answer_s
        self._last: dict[Block, tuple[bytes, float]] = {}
        self.counts |= {"polls": 0, "unanswered": 0}

    async def _serve(self, wire: Wire) -> None:
        silent = 0
        while True:
            answered = False
            for block in self._blocks:
                answered = await self._poll(wire, block) or answered
            silent = 0 if answered else silent + 1
            if silent >= SILENT_ROUNDS:
                raise TransportError("no unit answers")
            await asyncio.sleep(self._poll_s)

    async def _poll(self, wire: Wire, block: Block) -> bool:
        """Ask for one block; whether it was answered."""
        request = block.request()
        self.counts["polls"] += 1
        wire.write(request)
        answer = await self._answer(wire, block.answer_bytes())
        try:
            values = body(answer, request)
        except ParseError:
            self.counts["unanswered"] += 1
            await self._drain(wire)
            return False
        before, kept_s = self._last.get(block, (b"", 0.0))
        now_s = self._clock.monotonic_s()
        if block not in self._last or values != before or now_s - kept_s >= self._every_s:
            await self._keep([self._frame(request + answer)])
            self._last[block] = (values, now_s)
        return True

    async def _drain(self, wire: Wire) -> None:
        """Throw away what comes late: the next answer begins on a quiet line. Raises OSError when the port closes."""
        try:
            async with asyncio.timeout(QUIET_S):
                while await wire.read(512):
                    pass
                raise OSError("the port closed")
        except TimeoutError:
            pass  # quiet

    async def _answer(self, wire: Wire, length: int) -> bytes:
        """What comes until the response is whole, or has taken too long. Raises OSError when the port closes."""
        answer = b""
        try:
            async with asyncio.timeout(self._answer_s):
                while len(answer) < length and not (len(answer) >= 5 and answer[1] & 0x80):
                    data = await wire.read(512)
                    if not data:
                        raise OSError("the port closed")
                    answer += data
        except TimeoutError:
            pass  # the unit is off, or noise ate a byte: what is on the line is not taken for the next answer
        return answer[:length]
