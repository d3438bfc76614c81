"""NMEA 0183 sentences of a satellite receiver on a line: RMC, GGA and GLL become places (pynmeagps reads them)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, time
from typing import Any, Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.bits import utc_us, xor8
from protocols.codecs.terminal import KNOT_M_PER_S, Draft
from protocols.framing import Framer, delimited, first_of

MAX_SENTENCE_BYTES: Final = 256  # the standard says 82; makers' own sentences are longer
PLACES: Final = frozenset({"RMC", "GGA", "GLL"})

_CUT: Final = first_of((b"$", delimited(b"$", b"\n")), (b"!", delimited(b"!", b"\n")))
_SENTENCE: Final = re.compile(rb"[$!]([^*\r\n]{5,240})\*([0-9A-Fa-f]{2})")


class NmeaCodec:
    """``ports.Codec``. A sentence tells nobody's identity: that is the line's."""

    name = "nmea"
    default_port = 0
    text = True
    datagrams = False

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient

    def framer(self) -> Framer:
        return Framer(_CUT, limit=MAX_SENTENCE_BYTES)

    def topic(self, payload: bytes) -> str:
        """What a newer sentence replaces; "" for one that nobody needs (satellites in view, ...)."""
        kind = payload.strip()[3:6].decode("latin-1")
        return kind if kind in PLACES else ""

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report. Raises ParseError for what is no sentence and for a wrong checksum."""
        found = _SENTENCE.fullmatch(frame.payload.strip())
        if found is None:
            raise ParseError("not an NMEA sentence: $...*hh")
        draft = Draft(frame)
        if xor8(found[1]) != int(found[2], 16):
            if not self._lenient:
                raise ParseError(f"checksum: {found[2].decode()}, but the sentence has {xor8(found[1]):02X}")
            draft.fault("checksum", f"{found[2].decode()} is wrong")
        sentence = _parsed(b"$" + found[1] + b"*%02X\r\n" % xor8(found[1]))
        draft.keep("sentence", found[1].partition(b",")[0].decode("latin-1"))
        if sentence.msgID in PLACES:
            _place(sentence, draft)
        return [draft.report()]


def _parsed(sentence: bytes) -> Any:
    import pynmeagps  # type: ignore[import-untyped]  # noqa: PLC0415 - no stubs; only where there is such a line
    from pynmeagps import exceptions  # noqa: PLC0415

    try:
        parsed = pynmeagps.NMEAReader.parse(sentence, msgmode=0, validate=1)
    except (
        exceptions.NMEAParseError, exceptions.NMEAMessageError, exceptions.NMEATypeError, exceptions.NMEAStreamError,
        ValueError, TypeError, KeyError, IndexError, ArithmeticError, AttributeError,
    ) as error:  # fmt: skip
        raise ParseError(f"not a sentence that can be read: {type(error).__name__}") from error
    if parsed is None:  # what the library says to bytes that are no text
        raise ParseError("not a sentence that can be read")
    return parsed


def _place(sentence: Any, draft: Draft) -> None:
    moment, day = getattr(sentence, "time", None), getattr(sentence, "date", None)
    if isinstance(moment, time) and isinstance(day, date) and 2000 <= day.year < 2100:
        draft.at_us = utc_us(day.year, day.month, day.day, moment.hour, moment.minute, moment.second)
    quality, status = getattr(sentence, "quality", 1), getattr(sentence, "status", "A")
    if quality == 0 or status != "A":
        return
    latitude, longitude = getattr(sentence, "lat", None), getattr(sentence, "lon", None)
    if isinstance(latitude, int | float) and isinstance(longitude, int | float):
        draft.place(round(float(latitude), 7), round(float(longitude), 7))
    speed, course, height = (getattr(sentence, name, None) for name in ("spd", "cog", "alt"))
    if isinstance(speed, int | float):
        draft.measure("speed_m_per_s", speed * KNOT_M_PER_S)
    if isinstance(course, int | float):
        draft.measure("course_degrees", float(course))
    if isinstance(height, int | float):
        draft.measure("altitude_m", float(height))
