"""Cutting byte streams into frames: bounded, and in step again behind rubbish.

A protocol states how to cut as a function (``Cut``); the framer does the buffering and keeps the bounds. ``delimited``,
``counted`` and ``first_of`` make the usual cuts; a protocol with rules of its own writes one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.errors import FramingError

RUBBISH_BYTES: Final = 65_536

Cut = Callable[[bytes, int, int], tuple[int, int]]
"""``cut(buffer, at, seen) -> (begin, end)``: what to do with the bytes from ``at`` on.

``buffer[at:begin]`` is rubbish and dropped; ``buffer[begin:end]`` is a whole frame. ``end == begin``: no whole frame
yet, keep what begins at ``begin`` and ask again when more has come. ``seen`` is the length of the buffer at the last
question (0: never asked about these bytes): a search for an end may begin there. Pure; must not look behind its buffer.
"""


class Framer:
    """``ports.Framer`` for any cut.

    ``limit`` bounds a frame that is not whole yet, in bytes; a whole one may be longer by what one read brought.
    ``rubbish_limit`` bounds what is dropped between two frames. ``skipped`` counts the bytes dropped so far.
    """

    __slots__ = ("_broken", "_cut", "_limit", "_rest", "_rubbish", "_rubbish_limit", "_seen", "skipped")

    def __init__(self, cut: Cut, *, limit: int, rubbish_limit: int = RUBBISH_BYTES) -> None:
        self._cut = cut
        self._limit = limit
        self._rubbish_limit = rubbish_limit
        self._rest = b""
        self._seen = 0
        self._rubbish = 0
        self._broken = ""
        self.skipped = 0

    @property
    def rest(self) -> bytes:
        """What has come of a frame that is not whole yet."""
        return self._rest

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that are whole now, in order. Raises FramingError at a bound, and from then on always.

        What is whole before the bound is reached is returned first.
        """
        if self._broken:
            raise FramingError(self._broken)
        buffer = self._rest + data if self._rest else data
        length = len(buffer)
        seen, self._seen = self._seen, 0
        frames: list[bytes] = []
        at = 0
        while at < length:
            begin, end = self._cut(buffer, at, seen)
            seen = 0
            if begin > at:
                self._rubbish += begin - at
                self.skipped += begin - at
            if end <= begin:
                at = begin
                self._seen = length - begin
                break
            if end - begin > self._limit:
                self._broken = f"a frame of {end - begin} bytes; at most {self._limit} are taken"
                at = length
                break
            frames.append(buffer[begin:end])
            self._rubbish = 0
            at = end
        self._rest = buffer[at:]
        if length - at > self._limit:
            self._broken = f"no end of a frame within {self._limit} bytes"
        elif self._rubbish > self._rubbish_limit:
            self._broken = f"more than {self._rubbish_limit} bytes that belong to no frame"
        if self._broken and not frames:
            raise FramingError(self._broken)
        return frames


def delimited(start: bytes, end: bytes) -> Cut:
    """Frames from ``start`` to the next ``end``, both included; what stands before ``start`` is rubbish.

    An empty ``start``: a frame begins where the last one ended, and empty frames are dropped.
    """
    overlap = len(end) - 1

    def cut(buffer: bytes, at: int, seen: int) -> tuple[int, int]:
        begin = at
        if start:
            begin = buffer.find(start, at)
            if begin < 0:
                return _keep_partial(buffer, at, start)
        else:
            while buffer.startswith(end, begin):
                begin += len(end)
        stop = buffer.find(end, max(begin + len(start), seen - overlap if begin == at else 0))
        return (begin, begin) if stop < 0 else (begin, stop + len(end))

    return cut


def counted(start: bytes, head: int, size: Callable[[bytes, int], int]) -> Cut:
    """Frames that state their length. ``size(buffer, begin)`` is the whole frame's, in bytes, asked once ``head`` bytes
    are there; 0 or less: this was no start, look for the next one.
    """

    def cut(buffer: bytes, at: int, seen: int) -> tuple[int, int]:
        del seen
        begin = buffer.find(start, at)
        while begin >= 0:
            left = len(buffer) - begin
            if left < head:
                return begin, begin
            length = size(buffer, begin)
            if length > 0:
                return (begin, begin) if length > left else (begin, begin + length)
            begin = buffer.find(start, begin + 1)
        return _keep_partial(buffer, at, start)

    return cut


def first_of(*cuts: tuple[bytes, Cut]) -> Cut:
    """Several kinds of frame in one stream: the one whose start comes first decides. Each start is not empty."""

    def cut(buffer: bytes, at: int, seen: int) -> tuple[int, int]:
        best, chosen = len(buffer), None
        for start, candidate in cuts:
            found = buffer.find(start, at)
            if 0 <= found < best:
                best, chosen = found, candidate
        if chosen is None:
            begin = min(_keep_partial(buffer, at, start)[0] for start, _ in cuts)
            return begin, begin
        return chosen(buffer, best, seen if best == at else 0)

    return cut


def _keep_partial(buffer: bytes, at: int, start: bytes) -> tuple[int, int]:
    """Everything is rubbish but an end of the buffer that may be the beginning of ``start``."""
    for kept in range(min(len(start) - 1, len(buffer) - at), 0, -1):
        if buffer.endswith(start[:kept]):
            return len(buffer) - kept, len(buffer) - kept
    return len(buffer), len(buffer)
