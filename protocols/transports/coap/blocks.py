"""Bodies in blocks (RFC 7959, Block1), bounded in size, number and time."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

from aiocoap.message import Message
from aiocoap.numbers import codes

from gateway.clock import Clock

MAX_BODY_BYTES: Final = 65_536
MAX_BODIES: Final = 512
MAX_BODIES_PER_SENDER: Final = 4
MAX_TOTAL_BYTES: Final = 8 << 20
LIFETIME_S: Final = 93.0  # MAX_TRANSMIT_WAIT


class _Body:
    __slots__ = ("at_s", "data", "host")

    def __init__(self, at_s: float, host: str) -> None:
        self.at_s = at_s
        self.host = host
        self.data = bytearray()


class Bodies:
    """What has come of bodies that are not whole yet."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._kept: OrderedDict[Any, _Body] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)

    def take(  # noqa: PLR0911 - each refusal has its own code
        self, request: Message, host: str
    ) -> tuple[bytes | None, Message | None]:
        """The whole body, or the answer that asks for more or refuses: one of the two is None."""
        block = request.opt.block1
        if block is None:
            return request.payload, None
        number, more, exponent = block.block_number, block.more, block.size_exponent
        now_s = self._clock.monotonic_s()
        self._expire(now_s)
        # The token differs from block to block; address, security context and what is asked for do not.
        key = (request.remote.blockwise_key, int(request.code), request.opt.uri_path, request.opt.uri_query)
        if number == 0:
            self._drop(key)
            if len(self._kept) >= MAX_BODIES or sum(body.host == host for body in self._kept.values()) >= (
                MAX_BODIES_PER_SENDER
            ):
                return None, _refusal(codes.SERVICE_UNAVAILABLE, request)
            body = self._kept[key] = _Body(now_s, host)
        else:
            found = self._kept.get(key)
            if found is None or len(found.data) != number << (exponent + 4):
                return None, _refusal(codes.REQUEST_ENTITY_INCOMPLETE, request)
            body = found
        if more and len(request.payload) != 1 << (exponent + 4):
            self._drop(key)
            return None, _refusal(codes.BAD_REQUEST, request)
        if len(body.data) + len(request.payload) > MAX_BODY_BYTES or self._bytes > MAX_TOTAL_BYTES:
            self._drop(key)
            answer = _refusal(codes.REQUEST_ENTITY_TOO_LARGE, request)
            answer.opt.size1 = MAX_BODY_BYTES
            return None, answer
        body.data += request.payload
        body.at_s = now_s
        self._bytes += len(request.payload)
        if more:
            answer = Message(code=codes.CONTINUE)
            answer.opt.block1 = block
            return None, answer
        whole = bytes(body.data)
        self._drop(key)
        return whole, None

    def _drop(self, key: Any) -> None:
        body = self._kept.pop(key, None)
        if body is not None:
            self._bytes -= len(body.data)

    def _expire(self, now_s: float) -> None:
        for key in [key for key, body in self._kept.items() if now_s - body.at_s > LIFETIME_S]:
            self._drop(key)


def _refusal(code: Any, request: Message) -> Message:
    answer = Message(code=code)
    answer.opt.block1 = request.opt.block1
    if code is codes.SERVICE_UNAVAILABLE:
        answer.opt.max_age = 5
    return answer


def in_blocks(request: Message, answer: Message) -> Message:
    """The answer, or the block of it that was asked for (Block2)."""
    asked = request.opt.block2
    if asked is None and len(answer.payload) <= 1024:
        return answer
    number, exponent = (asked.block_number, min(asked.size_exponent, 6)) if asked is not None else (0, 6)
    size = 1 << (exponent + 4)
    if number and number * size >= len(answer.payload):
        return Message(code=codes.BAD_OPTION)
    if not number and len(answer.payload) <= size and asked is None:
        return answer
    part = answer.copy(payload=answer.payload[number * size : (number + 1) * size])
    part.opt.block2 = (number, (number + 1) * size < len(answer.payload), exponent)
    return part
