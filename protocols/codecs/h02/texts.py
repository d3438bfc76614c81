"""A fix in an H02 text, wherever it stands: makers put more and fewer fields around it."""

from __future__ import annotations

import re
from typing import Final

from protocols.codecs.fixes import fix, is_digits, time_us
from protocols.codecs.h02.status import battery_percent, read_status
from protocols.codecs.terminal import KNOT_M_PER_S, Draft, decimal, number

FIELDS: Final = 23
"""Bytes of a binary frame from the time to the status."""

_STATUS: Final = re.compile(r"[0-9A-Fa-f]{8}", re.ASCII)
_DEGREES_MINUTES: Final = re.compile(r"-?(\d{1,3})-(\d{1,2}(?:\.\d{1,8})?)", re.ASCII)
_PACKED: Final = re.compile(r"(\d{2,3})(\d{6})", re.ASCII)


def read_position(draft: Draft, fields: list[str]) -> bool:
    """The fix with its time, motion, status and what stands behind; False when there is none in the fields.

    It is found by its hemispheres: ``latitude, N or S, longitude, E or W``, validity and time before them.
    """
    at = next(
        (
            at
            for at in range(1, len(fields) - 2)
            if fields[at].strip() in ("N", "S", "n", "s") and fields[at + 2].strip() in ("E", "W", "e", "w")
        ),
        0,
    )
    if not at:
        return False
    behind = [field.strip() for field in fields[at + 3 :]]
    date_at = _find_date(behind)
    clock = fields[at - 3].strip() if at >= 3 else ""
    if date_at >= 0 and clock:
        try:
            draft.at_us = time_us(behind[date_at], clock)
        except ValueError as error:
            draft.fault("time", error)
    status_at = _find_status(behind, date_at)
    if status_at >= 0:
        read_status(draft, behind[status_at])
        _tail(draft, behind[status_at + 1 :])
    elif any(field for field in behind[3:]):
        draft.fault("status", "no status word")
    if 0 <= date_at - 2 <= 2 and date_at == 3:  # speed, course, battery, date
        level = number(behind[2])
        if level is not None and 0 < level <= 100:
            draft.measure("battery_percent", battery_percent(level))
    _fix(draft, fields, at, behind)
    return True


def _find_date(behind: list[str]) -> int:
    """Speed and course come first, and perhaps the battery; some leave the date out or empty."""
    return next((at for at in range(2, min(5, len(behind))) if is_digits(behind[at], 6)), -1)


def _find_status(behind: list[str], date_at: int) -> int:
    """Right behind the date, or behind three fields of the SIM card; without a date the first that may be one."""
    begin = date_at + 1 if date_at >= 0 else 2
    if date_at >= 0 and begin + 3 < len(behind) and "." in behind[begin + 1]:
        begin += 3
    return next((at for at in range(begin, min(begin + 5, len(behind))) if _STATUS.fullmatch(behind[at])), -1)


def _fix(draft: Draft, fields: list[str], at: int, behind: list[str]) -> None:
    stated = fields[at - 1].strip(), fields[at + 1].strip()
    if not stated[0] and not stated[1]:
        return
    latitude = _degrees(stated[0], 2, fields[at].strip().upper() == "S")
    longitude = _degrees(stated[1], 3, fields[at + 2].strip().upper() == "W")
    if latitude is None or longitude is None:
        draft.fault("position", "coordinates are not degrees and minutes")
        return
    validity = fields[at - 2].strip() if at >= 2 else ""
    if validity == "B":
        draft.keep("position_by", "B")
    fix(draft, latitude, longitude, valid=validity == "A")
    if validity != "A" or draft.position is None:
        return
    speed = decimal(behind[0]) if behind else None
    if speed is not None and 0 <= speed < 700:
        draft.measure("speed_m_per_s", speed * KNOT_M_PER_S)
    course = decimal(behind[1]) if len(behind) > 1 else None
    if course is not None and 0 <= course <= 360:
        draft.measure("course_degrees", course)


def _degrees(text: str, whole: int, negative: bool) -> float | None:
    """``ddmm.mmmm``, ``-dd-mm.mmmm`` or ``ddmmmmmm``. None when it is none of them."""
    parts = _DEGREES_MINUTES.fullmatch(text)
    if parts is not None:
        degrees, minutes = int(parts[1]), float(parts[2])
    elif (packed := _PACKED.fullmatch(text)) is not None and len(packed[1]) <= whole:
        degrees, minutes = int(packed[1]), int(packed[2]) / 10_000
    else:
        value = decimal(text)
        if value is None:
            return None
        negative = negative or value < 0
        degrees = int(abs(value) // 100)
        minutes = abs(value) - degrees * 100
    if minutes >= 60.000_001:
        return None
    return round(-(degrees + minutes / 60) if negative else degrees + minutes / 60, 7)


def _tail(draft: Draft, tail: list[str]) -> None:
    """What stands behind the status: a cell in decimal or hexadecimal, the battery; or odometer, sensors and a cell."""
    if not any(tail):
        return
    draft.keep("tail", ",".join(tail)[:500])
    if len(tail) == 6 and "." in tail[2]:  # odometer, temperature, fuel, altitude, area, cell
        draft.measure("temperature_celsius", decimal(tail[1]) or None)
        return
    if len(tail) < 4 or not all(tail[:4]):
        return
    decimals = [number(field) for field in tail[:4]]
    mcc = decimals[0]
    if mcc is not None and 200 <= mcc < 800 and None not in decimals:
        cell = decimals
    else:
        cell = [number(field, base=16) for field in tail[:4]]
    if cell[0] is not None and 200 <= cell[0] < 800 and None not in cell:
        draft.cell(cell[0], cell[1] or 0, cell[2] or 0, cell[3] or 0)
        level = number(tail[4]) if len(tail) == 5 else None
        if level is not None and 1 <= level <= 6:
            draft.measure("battery_percent", battery_percent(level))
