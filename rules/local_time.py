"""Local schedules as UTC microseconds, right on the days when clocks change.

A wall time that does not exist (spring) is read with the offset before the change, so it lands just after it; one that
exists twice (autumn) is its first occurrence as a start or a deadline and its second as an end: windows never shrink.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from gateway.care import Schedule, Window
from gateway.clock import from_us, to_us

_DAYS_LOOKED_AHEAD = 9


def local_date(at_us: int, zone: ZoneInfo) -> date:
    return from_us(at_us).astimezone(zone).date()


def wall_us(day: date, wall: str, zone: ZoneInfo, *, last: bool = False) -> int:
    """The UTC time of a wall time on a day; ``last`` takes the second of two."""
    return to_us(datetime.combine(day, time.fromisoformat(wall), zone).replace(fold=int(last)))


def windows_from(schedule: Schedule, day: date, zone: ZoneInfo) -> Iterator[tuple[int, int]]:
    """The windows that start on a local day or later, for nine days, by their start: [start, end) in UTC."""
    for offset in range(_DAYS_LOOKED_AHEAD):
        here = day + timedelta(days=offset)
        spans = (_span(window, here, zone) for window in schedule.windows if here.isoweekday() in window.days)
        yield from sorted(spans)


def in_force(schedule: Schedule | None, at_us: int, zone: ZoneInfo) -> bool:
    """Whether a schedule is in force; None always is."""
    if schedule is None:
        return True
    today = local_date(at_us, zone)
    for day in (today - timedelta(days=1), today):
        for window in schedule.windows:
            if day.isoweekday() in window.days:
                start_us, end_us = _span(window, day, zone)
                if start_us <= at_us < end_us:
                    return True
    return False


def next_start_us(schedule: Schedule | None, at_us: int, zone: ZoneInfo) -> int | None:
    """The next time after ``at_us`` at which a window opens."""
    if schedule is None:
        return None
    starts = (start for start, _ in windows_from(schedule, local_date(at_us, zone), zone))
    return next((start for start in starts if start > at_us), None)


def next_change_us(schedule: Schedule | None, at_us: int, zone: ZoneInfo) -> int | None:
    """The next time after ``at_us`` at which a window opens or closes."""
    if schedule is None:
        return None
    yesterday = local_date(at_us, zone) - timedelta(days=1)
    edges = [edge for span in windows_from(schedule, yesterday, zone) for edge in span if edge > at_us]
    return min(edges, default=None)


def _span(window: Window, day: date, zone: ZoneInfo) -> tuple[int, int]:
    end_day = day if window.until > window.start else day + timedelta(days=1)
    return wall_us(day, window.start, zone), wall_us(end_day, window.until, zone, last=True)
