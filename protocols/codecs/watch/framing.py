"""Frames of watches in a stream: brackets that balance, and the escapes of binary content."""

from __future__ import annotations

import re
from typing import Final

from protocols.framing import Framer

MAX_FRAME_BYTES: Final = 262_144  # a photo, or a minute of voice

HEAD: Final = re.compile(
    rb"\[([^*\[\]]{2})\*([^*\[\]]{1,32})\*(?:([0-9A-Fa-f]{4})\*(?=[0-9A-Fa-f]{4}\*))?([0-9A-Fa-f]{4})\*"
)
"""Maker, id, index (some firmwares), length of the content in hexadecimal."""

_BINARY: Final = (b"TK,", b"JXTK,", b"img,", b"IMG,")
_ESCAPED: Final = re.compile(rb"\x7d([\x01-\x05])")
_PLAIN: Final = {b"\x01": b"}", b"\x02": b"[", b"\x03": b"]", b"\x04": b",", b"\x05": b"*"}


class WatchFramer(Framer):
    """``protocols.framing.Framer`` that hands out frames without their escapes."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(_cut, limit=MAX_FRAME_BYTES)

    def feed(self, data: bytes) -> list[bytes]:
        frames = super().feed(data)
        return [unescape(frame) if b"\x7d" in frame else frame for frame in frames]


def unescape(frame: bytes) -> bytes:
    """7D 01 to 7D 05 are ``}``, ``[``, ``]``, comma and star. A 7D before anything else stays what it is."""
    return _ESCAPED.sub(lambda found: _PLAIN[found[1]], frame)


def _cut(buffer: bytes, at: int, seen: int) -> tuple[int, int]:
    """Begin at ``[``, end where brackets balance; by the length where that agrees; before a next frame's head."""
    begin = buffer.find(b"[", at)
    if begin < 0:
        return len(buffer), len(buffer)
    end = buffer.find(b"]", max(begin + 1, seen - 1 if begin == at else 0))
    while end >= 0:
        head = HEAD.match(buffer, begin)
        if head is None:
            restart = _last_head(buffer, begin + 1, end)
            if restart < 0:
                return begin, end + 1
        else:
            restart, stop = _end(buffer, begin, head.end(), int(head[4], 16))
            if restart < 0:
                return begin, stop
        begin = restart  # the rest of the frame before this head never came
        end = buffer.find(b"]", begin)
    return begin, begin


def _last_head(buffer: bytes, begin: int, end: int) -> int:
    """Where the last head of a frame in this part begins; -1: there is none."""
    last = -1
    for head in HEAD.finditer(buffer, begin, end):
        last = head.start()
    return last


def _end(buffer: bytes, begin: int, content: int, size: int) -> tuple[int, int]:
    """``(-1, end)`` of the frame, ``begin`` when its end has not come; or where a frame begins within it, and 0."""
    if buffer.startswith(_BINARY, content):
        stop = _by_length(buffer, content, size)
        if stop is not None:
            return -1, max(begin, stop)
    depth, at = 1, content
    while True:
        closing = buffer.find(b"]", at)
        if closing < 0:
            return -1, begin
        opening = buffer.find(b"[", at, closing)
        if opening >= 0:
            restart = _last_head(buffer, opening, closing)
            if restart >= 0:
                return restart, 0
            depth += buffer.count(b"[", opening, closing)
        depth -= 1
        if depth <= 0 or closing - content == size or HEAD.match(buffer, closing + 1):
            return -1, closing + 1
        at = closing + 1


def _by_length(buffer: bytes, content: int, size: int) -> int | None:
    """Where voice or a photo of a firmware that does not escape ends; 0: its end has not come; None: not told."""
    stop = content + size
    first = buffer.find(b"]", content)
    if first >= stop:
        return None
    if stop < len(buffer):
        return stop + 1 if buffer[stop] == 0x5D else None
    return None if HEAD.search(buffer, first) else 0
