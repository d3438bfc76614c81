"""Queclink: places, cells and access points, found by how they are written."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from protocols.codecs.terminal import Draft, decimal, number

MAX_FIXES: Final = 64

_LONGITUDE: Final = re.compile(r"-?\d{1,3}\.\d{4,8}")
_LATITUDE: Final = re.compile(r"-?\d{1,2}\.\d{4,8}")
_TIME: Final = re.compile(r"\d{14}")
_CODE: Final = re.compile(r"\d{1,4}")
_AREA: Final = re.compile(r"[0-9A-Fa-f]{4}|[0-9A-Fa-f]{6}|[0-9A-Fa-f]{8}")
_CELL: Final = re.compile(r"[0-9A-Fa-f]{4,8}")
_ADDRESS: Final = re.compile(r"[0-9A-Fa-f]{12}")
_STRENGTH: Final = re.compile(r"-\d{1,3}")


class Fix(Struct):
    """One place as text: ``accuracy,speed,course,altitude,longitude,latitude,time`` and where its cell ends."""

    accuracy: str
    speed: str
    course: str
    altitude: str
    longitude_latitude: tuple[float, float]
    time: str
    begin: int
    end: int

    @property
    def valid(self) -> bool:
        """Whether the receiver had a fix: its accuracy is 1 (best) to 50; 0 is the last known place."""
        accuracy = decimal(self.accuracy)
        return accuracy is not None and accuracy > 0


def find_fixes(fields: Sequence[str]) -> list[Fix]:
    """Every place of a sentence, in order; at most MAX_FIXES."""
    fixes: list[Fix] = []
    index = 0
    while index + 2 < len(fields) and len(fixes) < MAX_FIXES:
        longitude, latitude, time = fields[index : index + 3]
        if not (_LONGITUDE.fullmatch(longitude) and _LATITUDE.fullmatch(latitude) and _TIME.fullmatch(time)):
            index += 1
            continue
        before = ["", "", "", "", *fields[:index]][-4:]
        end = _end_of_cell(fields, index + 3)
        place = (float(longitude), float(latitude))
        accuracy, speed, course, altitude = before
        fixes.append(Fix(accuracy, speed, course, altitude, place, time, max(0, index - 4), end))
        index = end
    return fixes


def _end_of_cell(fields: Sequence[str], index: int) -> int:
    """Behind a place stands the cell in four fields, or four empty ones; some models have access points there."""
    cell = fields[index : index + 4]
    if len(cell) == 4 and (_is_cell(cell) or not any(cell)):
        return index + 4
    return index


def find_network(fields: Sequence[str], fixes: Sequence[Fix], drafts: Sequence[Draft]) -> int:
    """Cells and access points: those right behind a place belong to its report, others to the last.

    Returns where the last place, cell or access point ends; 0 when there is none.
    """
    for draft, fix in zip(drafts, fixes, strict=False):
        _add_cell(fields[: fix.end], fix.end - 4, draft)
    places = [range(fix.begin, fix.end) for fix in fixes]
    last = drafts[-1]
    behind = fixes[-1].end if fixes else 0
    index = 0
    while index + 1 < len(fields):
        if any(index in place for place in places):
            index += 1
        elif _ADDRESS.fullmatch(fields[index]) and _STRENGTH.fullmatch(fields[index + 1]):
            last.wifi(":".join(re.findall("..", fields[index])), int(fields[index + 1]))
            index += 2
            behind = max(behind, index)
        elif _add_cell(fields, index, last):
            index += 4
            behind = max(behind, index)
        else:
            index += 1
    return behind


def _is_cell(fields: Sequence[str]) -> bool:
    """``mcc,mnc,lac,cid``; the last two are hexadecimal."""
    mcc, mnc, lac, cid = fields
    if not (_CODE.fullmatch(mcc) and _CODE.fullmatch(mnc) and _AREA.fullmatch(lac) and _CELL.fullmatch(cid)):
        return False
    return len(mcc) >= 3 and 200 <= int(mcc) < 1000


def _add_cell(fields: Sequence[str], index: int, draft: Draft) -> bool:
    """Whether a cell begins at this place; it is added. A number behind it is the signal."""
    cell = fields[index : index + 4] if index >= 0 else ()
    if len(cell) != 4 or not _is_cell(cell):
        return False
    signal = number(fields[index + 4]) if index + 4 < len(fields) and len(fields[index + 4]) <= 2 else None
    draft.cell(int(cell[0]), int(cell[1]), int(cell[2], 16), int(cell[3], 16))
    seen = draft.unknown.get("network")
    if seen and signal:
        seen[-1]["level"] = signal
    return True
