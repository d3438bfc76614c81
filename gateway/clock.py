"""Time. Every other module asks a Clock, so that a test can own it."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final, Protocol

US_PER_S: Final = 1_000_000


class Clock(Protocol):
    """Wall time in whole microseconds since 1970-01-01T00:00:00Z, and a monotonic clock in seconds."""

    def now_us(self) -> int: ...

    def monotonic_s(self) -> float: ...


class SystemClock:
    """The machine's clocks."""

    def now_us(self) -> int:
        return time.time_ns() // 1000

    def monotonic_s(self) -> float:
        return time.monotonic()


class VirtualClock:
    """A clock that moves only when it is told to."""

    def __init__(self, at: datetime) -> None:
        self._now_us = to_us(at)

    def now_us(self) -> int:
        return self._now_us

    def monotonic_s(self) -> float:
        return self._now_us / US_PER_S

    def advance(self, seconds: float) -> None:
        self._now_us += round(seconds * US_PER_S)

    def set(self, at: datetime) -> None:
        self._now_us = to_us(at)


def to_us(at: datetime) -> int:
    """Microseconds since the epoch of an aware time. Exact: no float on the way.

    Raises ValueError for a naive time.
    """
    if at.tzinfo is None:
        raise ValueError("a time without a zone")
    delta = at - _EPOCH
    return (delta.days * 86_400 + delta.seconds) * US_PER_S + delta.microseconds


def from_us(at_us: int) -> datetime:
    """The aware UTC time of microseconds since the epoch."""
    seconds, micros = divmod(at_us, US_PER_S)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros)


def iso(at_us: int) -> str:
    """RFC 3339 with milliseconds and Z, as the public surfaces print times: ``2026-11-22T01:02:03.250Z``."""
    second = datetime.fromtimestamp(at_us // US_PER_S, UTC).isoformat(timespec="seconds")
    return f"{second[:19]}.{at_us // 1000 % 1000:03d}Z"


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
