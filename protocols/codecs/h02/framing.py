"""Frames of H02 in a stream: texts from ``*`` to ``#``, binary ones that begin ``$`` and do not state their length."""

from __future__ import annotations

from typing import Final

from protocols.framing import Framer, delimited

MAX_FRAME_BYTES: Final = 2048
SHORT: Final = 32
LONGER: Final = (45, 48, 46, 42)
_START: Final = b"*$X\r\n"
_text_cut: Final = delimited(b"*", b"#")


class H02Framer(Framer):
    """Cuts one connection. A terminal keeps to one length of binary frames, so what was clear once is remembered."""

    __slots__ = ("_length",)

    def __init__(self) -> None:
        self._length = 0
        super().__init__(self._next, limit=MAX_FRAME_BYTES)

    def _next(self, buffer: bytes, at: int, seen: int) -> tuple[int, int]:
        begin = at
        while begin < len(buffer) and buffer[begin] not in b"*$X":
            begin += 1
        if begin == len(buffer):
            return begin, begin
        if buffer[begin] == 0x2A:
            return _text_cut(buffer, begin, seen if begin == at else 0)
        if buffer[begin] == 0x58:
            return (begin, begin) if len(buffer) - begin < SHORT else (begin, begin + SHORT)
        length = self._length_of(buffer, begin)
        return begin, begin + length

    def _length_of(self, buffer: bytes, begin: int) -> int:
        """0: more bytes are needed. A length fits when the buffer, or a new frame, comes behind it."""
        left = len(buffer) - begin
        if left < SHORT:
            return 0
        candidates = (self._length, SHORT, *LONGER) if self._length else (SHORT, *LONGER)
        for length in candidates:
            if left == length or (left > length and buffer[begin + length] in _START):
                self._length = length
                return length
        if self._length and left > self._length:
            return self._length
        return 0 if left < max(LONGER) else SHORT
