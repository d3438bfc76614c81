"""Frames of TK103 in a stream: ``(`` to ``)``; between two ``$`` stands free text in which brackets are letters."""

from __future__ import annotations

from typing import Final

from protocols.framing import Framer

MAX_FRAME_BYTES: Final = 4096
FREE_TEXT_BYTES: Final = 2048


def framer() -> Framer:
    return Framer(_cut, limit=MAX_FRAME_BYTES)


def _cut(buffer: bytes, at: int, seen: int) -> tuple[int, int]:
    begin = buffer.find(b"(", at)
    if begin < 0:
        return len(buffer), len(buffer)
    first = end = buffer.find(b")", max(begin + 1, seen - 1 if begin == at and b"$" not in buffer else 0))
    while end >= 0:
        if buffer.count(b"$", begin, end) % 2 == 0:
            return begin, end + 1
        if end - begin > FREE_TEXT_BYTES:  # a text that nobody closed
            return begin, first + 1
        end = buffer.find(b")", end + 1)
    return begin, begin
