"""Places and times as the text protocols of terminals write them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from gateway.clock import US_PER_S
from gateway.model import Position
from protocols.bits import utc_us
from protocols.codecs.terminal import KMH_M_PER_S, Draft

_LATITUDE: Final = re.compile(r"\bLat:\s*([NS])\s*(\d{1,2}\.\d+)", re.ASCII)
_LONGITUDE: Final = re.compile(r"\bLon:\s*([EW])\s*(\d{1,3}\.\d+)", re.ASCII)
_COURSE: Final = re.compile(r"\bCourse:\s*(\d{1,3}(?:\.\d+)?)", re.ASCII)
_SPEED: Final = re.compile(r"\bSpeed:\s*(\d{1,4}(?:\.\d+)?)", re.ASCII)
_AT: Final = re.compile(r"\bDateTime:\s*(\d{4})-(\d{1,2})-(\d{1,2})\s+(\d{1,2}):(\d{1,2}):(\d{1,2})", re.ASCII)


def fix(
    draft: Draft,
    latitude: float,
    longitude: float,
    *,
    valid: bool = True,
    source: str = "gnss",
    accuracy_m: float | None = None,
) -> None:
    """A place as a terminal states it, degrees of WGS-84. 0/0 stays a statement, but never a valid one.

    A terminal that searches says 0/0: who asks for its position is told that it has none now (rules take no 0/0 for a
    place), and does not mistake an older one for its answer.
    """
    if latitude == 0 and longitude == 0:
        at_us = draft.at_us or draft.received_at_us
        draft.position = Position(0.0, 0.0, at_us, accuracy_m, source, False)
    else:
        draft.place(latitude, longitude, valid=valid, source=source, accuracy_m=accuracy_m)


@lru_cache(maxsize=1024)
def midnight_us(digits: str, year_first: bool) -> int:
    """The begin of a day written ``ddmmyy`` or ``yymmdd``, in UTC; 0 when it is all zero. Raises ValueError."""
    if len(digits) != 6 or not (digits.isascii() and digits.isdecimal()):
        raise ValueError(f"{digits[:20]!r} is no date")
    if digits == "000000":
        return 0
    first, month, last = int(digits[:2]), int(digits[2:4]), int(digits[4:])
    year, day = (first, last) if year_first else (last, first)
    return utc_us(year, month, day, 0, 0, 0)


def time_us(day: str, clock: str, *, year_first: bool = False) -> int:
    """Microseconds since the epoch of ``ddmmyy`` (or ``yymmdd``) and ``hhmmss`` in UTC; 0 when the day is all zero.

    Raises ValueError for what no calendar and no clock has.
    """
    begin_us = midnight_us(day, year_first)
    if len(clock) != 6 or not (clock.isascii() and clock.isdecimal()):
        raise ValueError(f"{clock[:20]!r} is no time of day")
    hour, minute, second = int(clock[:2]), int(clock[2:4]), int(clock[4:])
    if hour > 23 or minute > 59 or second > 60:
        raise ValueError(f"{clock} is no time of day")
    return begin_us + (hour * 3600 + minute * 60 + second) * US_PER_S if begin_us else 0


def is_digits(text: str, size: int) -> bool:
    """Whether it is exactly so many ASCII digits."""
    return len(text) == size and text.isascii() and text.isdecimal()


def read_place_text(draft: Draft, text: str) -> bool:
    """``Lat:N..,Lon:E..,Course:..,Speed:..,DateTime:..``, how several makers answer "where". False: no place in it."""
    latitude, longitude = _LATITUDE.search(text), _LONGITUDE.search(text)
    if latitude is None or longitude is None:
        return False
    at = _AT.search(text)
    if at is not None:
        year, month, day, hour, minute, second = (int(group) for group in at.groups())
        try:
            draft.at_us = utc_us(year, month, day, hour, minute, second)
        except ValueError as error:
            draft.fault("time", error)
    north, east = float(latitude[2]), float(longitude[2])
    fix(draft, -north if latitude[1] == "S" else north, -east if longitude[1] == "W" else east)
    course, speed = _COURSE.search(text), _SPEED.search(text)
    if draft.position is not None and draft.position.valid:
        draft.measure("course_degrees", None if course is None else float(course[1]))
        draft.measure("speed_m_per_s", None if speed is None else float(speed[1]) * KMH_M_PER_S)
    return True
