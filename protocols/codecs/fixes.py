"""Places and times as the text protocols of terminals write them."""

from __future__ import annotations

from functools import lru_cache

from gateway.clock import US_PER_S
from gateway.model import Position
from protocols.bits import utc_us
from protocols.codecs.terminal import Draft


def fix(
    draft: Draft, latitude: float, longitude: float, *, valid: bool = True, accuracy_m: float | None = None
) -> None:
    """A place as a terminal states it, degrees of WGS-84. 0/0 stays a statement, but never a valid one.

    A terminal that searches says 0/0: who asks for its position is told that it has none now (rules take no 0/0 for a
    place), and does not mistake an older one for its answer.
    """
    if latitude == 0 and longitude == 0:
        at_us = draft.at_us or draft.received_at_us
        draft.position = Position(0.0, 0.0, at_us, accuracy_m, "gnss", False)
    else:
        draft.place(latitude, longitude, valid=valid, accuracy_m=accuracy_m)


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
