"""Lines of call hosts and receivers on a serial port; a profile says what their words mean.

``CALL 101-2 SOS`` becomes the fields ``text`` (the line), ``word_1``, ``word_2`` ...; ``room=101`` becomes ``room``.
Words are parted by blanks, commas, semicolons and vertical bars; control characters around them are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.framing import Framer, delimited

MAX_LINE_BYTES: Final = 1024
MAX_WORDS: Final = 32
_WORDS: Final = re.compile(r"[^\s,;|\x00-\x1f\x7f]+")
_NAMED: Final = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,31})[=:](.+)")


class CallHostCodec:
    """``ports.Codec``. ``point`` names the field that tells the room, bed or button; ``encoding`` is the host's."""

    name = "callhost"
    default_port = 0
    text = True
    datagrams = False

    def __init__(self, *, lenient: bool = False, point: str = "", encoding: str = "utf-8") -> None:
        del lenient  # there is no checksum
        self._point = point
        self._encoding = encoding

    def framer(self) -> Framer:
        return Framer(delimited(b"", b"\n"), limit=MAX_LINE_BYTES)

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report with fields. Its ``device_key`` is ``<line's key>/<point>`` where the point is told.

        Raises ParseError for a line without a word.
        """
        line = frame.payload.decode(self._encoding, "replace").encode("utf-8", "replace").decode()
        words = _WORDS.findall(line)[:MAX_WORDS]
        if not words or not any(character.isalnum() for word in words for character in word):
            raise ParseError("a line without a word")
        fields: dict[str, Any] = {"text": " ".join(words)}
        for number, word in enumerate(words, 1):
            fields[f"word_{number}"] = word
            named = _NAMED.fullmatch(word)
            if named and named[1] != "text":
                fields.setdefault(named[1], named[2])
        point = str(fields.get(self._point, ""))[:64] if self._point else ""
        key = f"{frame.device_key}/{point}" if point else frame.device_key
        return [Report(key, fields=fields)]
