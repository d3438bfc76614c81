"""The fix in a TK103 frame, packed or with commas."""

from __future__ import annotations

import re
from typing import Final

from protocols.codecs.fixes import fix, time_us
from protocols.codecs.terminal import KMH_M_PER_S, Draft, decimal, degrees_minutes

_PACKED: Final = re.compile(
    r"(?P<before>\d*?),?(?P<day>\d{6}),?(?P<valid>[AV]),?"
    r"\s*(?P<lat>\d{1,4}\.\d+)\s*(?P<ns>[NS])?,?\s*(?P<lon>\d{1,5}\.\d+)\s*(?P<ew>[EW])?,?"
    r"\s*(?P<speed>\d{1,3}\.\d)(?P<clock>\d{6})\s*(?P<course>\d{1,3}\.\d+?)"
    r"(?P<status>[0-9A-Fa-f]{8})?,?(?P<odometer>L[0-9A-Fa-f]{1,8})?(?P<rest>(?![0-9A-Fa-f]).*)?$",
    re.ASCII | re.DOTALL,
)
_COMMAS: Final = re.compile(
    r",?(?P<day>\d{6}),(?P<valid>[AV]),\s*(?P<lat>\d{1,4}(?:\.\d+)?)\s*,?(?P<ns>[NS]),"
    r"\s*(?P<lon>\d{1,5}(?:\.\d+)?)\s*,?(?P<ew>[EW]),(?P<rest>.*)$",
    re.ASCII | re.DOTALL,
)
_LOOSE: Final = re.compile(
    r"(?P<day>\d{6}),?(?P<valid>[AV]),?\s*(?P<lat>\d{1,4}\.\d+)\s*(?P<ns>[NS]),?\s*(?P<lon>\d{1,5}\.\d+)\s*(?P<ew>[EW])",
    re.ASCII,
)


def read_position(draft: Draft, data: str, *, commas: bool) -> bool:
    """False when there is no fix in the data."""
    if commas:
        found = _COMMAS.match(data)
        if found is not None:
            _with_commas(draft, found)
            return True
    packed = _PACKED.match(data)
    if packed is not None:
        _packed(draft, packed)
        return True
    loose = _LOOSE.search(data)
    if loose is None:
        return False
    draft.fault("motion", "speed, time and course are not readable")
    _fix(draft, loose)
    return True


def _time(draft: Draft, day: str, clock: str, *, year_first: bool) -> None:
    try:
        draft.at_us = time_us(day, clock, year_first=year_first)
    except ValueError as error:
        draft.fault("time", error)


def _fix(draft: Draft, found: re.Match[str]) -> None:
    latitude = degrees_minutes(found["lat"], found["ns"] or "")
    longitude = degrees_minutes(found["lon"], found["ew"] or "")
    if latitude is not None and longitude is not None:
        fix(draft, round(latitude, 7), round(longitude, 7), valid=found["valid"] == "A")


def _motion(draft: Draft, speed: str, course: str, altitude: str = "") -> None:
    if draft.position is None or not draft.position.valid:
        return
    value = decimal(speed)
    if value is not None and 0 <= value <= 1400:
        draft.measure("speed_m_per_s", value * KMH_M_PER_S)
    value = decimal(course)
    if value is not None and 0 <= value <= 360:
        draft.measure("course_degrees", value)
    draft.measure("altitude_m", decimal(altitude))


def _packed(draft: Draft, found: re.Match[str]) -> None:
    """yymmdd. Eight digits of inputs, then the odometer in metres, hexadecimal."""
    _time(draft, found["day"], found["clock"], year_first=True)
    _fix(draft, found)
    _motion(draft, found["speed"], found["course"])
    if len(found["before"]) == 15:
        draft.keep("imei", found["before"])
    draft.keep("status", found["status"])
    if found["odometer"]:
        draft.measure("odometer_m", int(found["odometer"][1:], 16))
    if found["rest"]:
        draft.keep("rest", found["rest"][:200])


def _with_commas(draft: Draft, found: re.Match[str]) -> None:
    """ddmmyy; behind the fix speed, time, course, and perhaps altitude and satellites, or inputs."""
    fields = [field.strip() for field in found["rest"].split(",")]
    fields += [""] * (3 - len(fields))
    if fields[1]:
        _time(draft, found["day"], fields[1].split(".")[0], year_first=False)
    _fix(draft, found)
    rest = fields[3:]
    altitude = rest[0] if rest and ("." in rest[0] or len(rest[0]) < 6) else ""
    _motion(draft, fields[0], fields[2], altitude)
    if altitude:
        rest = rest[1:]
        satellites = rest[0] if rest else ""
        if satellites.isdecimal() and len(satellites) < 3:
            draft.keep("satellites", int(satellites))
            rest = rest[1:]
    if any(rest):
        draft.keep("rest", ",".join(rest)[:200])
