"""Frames of Topin in a stream: 78 78, a length that means different things, type, data, 0D 0A."""

from __future__ import annotations

from typing import Final

from protocols.framing import Framer, first_of

MAX_FRAME_BYTES: Final = 1024
HEAD: Final = 4
ACCESS_POINTS: Final = frozenset({0x17, 0x18, 0x19, 0x1A, 0x69})
_CELL_BYTES: Final = (5, 9, 7)
_FIXES: Final = {0x10: 18, 0x11: 18, 0x01: 8}
"""Bytes of data that a type has at least: no end is looked for in them."""


def framer() -> Framer:
    return Framer(_CUT, limit=MAX_FRAME_BYTES)


def cells_fit(count: int, left: int) -> int:
    """Bytes of a cell, where ``left`` bytes hold country, operator, ``count`` cells and at most two more; 0: none."""
    if not count:
        return 0
    return next((size for size in _CELL_BYTES if 0 <= left - 3 - count * size <= 2), 0)


def _cut_one(buffer: bytes, at: int, seen: int) -> tuple[int, int]:
    """By what the type is known to hold, then the first 0D 0A behind which a frame begins or nothing has come yet."""
    del seen  # what stands between may be the middle of a time
    left = len(buffer) - at
    if left < HEAD + 2:
        return at, at
    stated, kind = buffer[at + 2], buffer[at + 3]
    if kind in ACCESS_POINTS:
        return _cut_network(buffer, at, stated)
    least = _FIXES.get(kind, max(0, stated - 2) if stated < 64 else 0)
    if kind == 0x13:
        least = 4
    start = at + HEAD + least
    end = buffer.find(b"\r\n", start)
    while end >= 0 and end + 2 < len(buffer) and buffer[end + 2 : end + 4] != b"xx"[: len(buffer) - end - 2]:
        another = buffer.find(b"\r\n", end + 1)
        if another < 0 or another + 2 - at > HEAD + stated + 2:
            break
        end = another
    return (at, at) if end < 0 else (at, end + 2)


def _cut_network(buffer: bytes, at: int, points: int) -> tuple[int, int]:
    """Time (6), ``points`` access points of 7, cells of 5 or 9 behind their number, perhaps an alarm."""
    cells_at = at + HEAD + 6 + 7 * points
    if cells_at >= len(buffer):
        return at, at
    count = buffer[cells_at]
    begin = cells_at + 1 + (3 + 5 * count if count else 0)
    end = buffer.find(b"\r\n", begin)
    while end >= 0:
        if not count or cells_fit(count, end - cells_at - 1):
            return at, end + 2
        end = buffer.find(b"\r\n", end + 1)
    longest = cells_at + 1 + 3 + 9 * count + 4
    if len(buffer) < longest:
        return at, at
    end = buffer.find(b"\r\n", begin)
    return (at, end + 2) if end >= 0 else (longest, longest)


_CUT: Final = first_of((b"xx", _cut_one))
