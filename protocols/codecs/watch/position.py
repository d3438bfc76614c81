"""The position block of watches: fix, battery, steps, the status word with its alarms, cells and access points."""

from __future__ import annotations

import re
from typing import Any, Final

from protocols.codecs.fixes import fix, time_us
from protocols.codecs.terminal import KMH_M_PER_S, MAX_NETWORK, Draft, clean_text

STATUS_AT: Final = 16
NETWORK_AT: Final = 17
MAX_STEPS: Final = 1_000_000

STATES: Final = ((0, "low_battery"), (1, "fence_exit"), (2, "fence_enter"), (14, "power_cut"))
"""The low half of the status word. Bit 3 (bracelet) and bit 4 (moving, or still) mean different things to makers."""

ALARM_BITS: Final = (
    (16, "sos"), (17, "low_battery"), (18, "fence_exit"), (19, "fence_enter"), (20, "removed"), (21, "fall"),
    (22, "fall"),
)  # fmt: skip
"""The high half."""

_STATUS: Final = re.compile(r"[0-9A-Fa-f]{4,8}", re.ASCII)
_STATUS_LONG: Final = re.compile(r"[0-9A-Fa-f]{8}", re.ASCII)
_MAC: Final = re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}", re.ASCII)
_HEXADECIMAL: Final = re.compile(r"[0-9A-Fa-f]{1,12}", re.ASCII)


def read_position(draft: Draft, fields: list[str], *, alarm: bool) -> None:
    """``fields[0]`` is the type. ``alarm``: the message itself is one, whatever its status word says."""
    _status(draft, fields, alarm=alarm)
    count = len(fields)
    if count < 8:
        draft.fault("position", f"{count - 1} fields")
        return
    try:
        draft.at_us = time_us(fields[1], fields[2])
    except ValueError as error:
        draft.fault("time", error)
    accuracy_m = _network(draft, fields) if count > NETWORK_AT else None
    _fix(draft, fields, accuracy_m)
    unknown, measurements = draft.unknown, draft.measurements
    if count > 14:
        text = fields[11]
        if text.isdecimal():
            unknown["satellites"] = int(text[:4])
        text = fields[12]
        if text.isdecimal():
            unknown["gsm_percent"] = int(text[:4])
        text = fields[13]
        value = _real(text)
        if value is not None and 0 <= value <= 100:
            measurements["battery_percent"] = value
        elif text:
            draft.fault("battery", f"{text[:20]!r} is no percentage")
        value = _real(fields[14])
        if value is not None and 0 <= value <= MAX_STEPS:
            measurements["steps"] = int(value)
        elif fields[14]:
            draft.fault("steps", f"{fields[14][:20]!r} is no number of steps")
    if count > 15 and fields[15].isdecimal():
        unknown["rolls"] = int(fields[15][:9])


def _fix(draft: Draft, fields: list[str], accuracy_m: float | None) -> None:
    latitude, longitude = _real(fields[4]), _real(fields[6])
    if latitude is None or longitude is None:
        if fields[4].strip() or fields[6].strip():
            draft.fault("position", "coordinates are no numbers")
        return
    if fields[5] in ("S", "s"):
        latitude = -abs(latitude)
    if fields[7] in ("W", "w"):
        longitude = -abs(longitude)
    valid = fields[3] in ("A", "a")
    fix(draft, latitude, longitude, valid=valid, accuracy_m=accuracy_m)
    if not valid or draft.position is None or len(fields) < 11:
        return
    measurements = draft.measurements
    value = _real(fields[8])
    if value is not None and 0 <= value <= 1400:
        measurements["speed_m_per_s"] = round(value * KMH_M_PER_S, 4)
    value = _real(fields[9])
    if value is not None and 0 <= value <= 360:
        measurements["course_degrees"] = value
    value = _real(fields[10])
    if value is not None:
        draft.measure("altitude_m", value)


def _status(draft: Draft, fields: list[str], *, alarm: bool) -> None:
    """Every bit of the status word. An alarm message that names no alarm is an alarm without a name."""
    text = fields[STATUS_AT] if len(fields) > STATUS_AT else ""
    if text != "00000000" and not _STATUS.fullmatch(text):  # a firmware with more or fewer fields before it
        text = next((field for field in fields[8:22] if _STATUS_LONG.fullmatch(field)), "")
    if not text:
        if alarm:
            draft.alarm("general")
        draft.fault("status", "no status word")
        return
    draft.unknown["status"] = text
    status = 0 if text == "00000000" else int(text, 16)
    if not status:
        if alarm:
            draft.alarm("general")
        return
    named = False
    if status >> 16:
        for bit, name in ALARM_BITS:
            if status >> bit & 1:
                draft.alarm(name)
                named = True
    if status & 0x4007:
        draft.alarm(*(name for bit, name in STATES if status >> bit & 1))
    if alarm and not named:
        draft.alarm("general")


def _network(draft: Draft, fields: list[str]) -> float | None:
    """Cells and access points into the draft; the accuracy in metres, where it stands behind them."""
    count = len(fields)
    at = NETWORK_AT + 1
    text = fields[NETWORK_AT]
    if text != "0" and text.isdecimal() and len(text) < 4 and count > at + 4:
        at = _cells(draft, fields, at, int(text))
    behind = at + 1 if at < count else count  # the number of access points
    if behind < count - 1:
        behind = _access_points(draft, fields, behind)
    if behind < count:
        accuracy_m = _real(fields[-1])
        if accuracy_m is not None and accuracy_m > 0:
            return accuracy_m
    return None


def _access_points(draft: Draft, fields: list[str], behind: int) -> int:
    """Name, MAC, signal each, found by the MAC: a name may hold commas. Returns where they end."""
    seen: list[dict[str, Any]] = []
    for place in range(behind, len(fields)):
        field = fields[place]
        if len(field) != 17 or field[2] != ":" or not _MAC.fullmatch(field):
            continue
        point: dict[str, Any] = {"bssid": field.lower()}
        rssi = _signed(fields[place + 1]) if place + 1 < len(fields) else None
        if rssi is not None:
            point["rssi"] = rssi
        name = fields[place - 1] if place > behind else ""
        if name:
            point["name"] = name[:64] if name.isprintable() else clean_text(name)[:64]
        seen.append(point)
        behind = place + 2
    if seen:
        draft.unknown["network"] = [*draft.unknown.get("network", ()), *seen][:MAX_NETWORK]
    return behind


def _cells(draft: Draft, fields: list[str], at: int, cells: int) -> int:
    """Timing advance, country, operator, then three fields a cell. Returns where they end."""
    if not (fields[at + 1].isdecimal() and fields[at + 2].isdecimal()):
        return at
    mcc, mnc = int(fields[at + 1][:5]), int(fields[at + 2][:5])
    at += 3
    end = min(at + 3 * cells, len(fields))
    decimal = "".join(fields[at:end:3] + fields[at + 1 : end : 3]).isdecimal()  # a letter anywhere: all hexadecimal
    seen: list[dict[str, Any]] = []
    for place in range(at, end - 1, 3):
        lac_text, cid_text = fields[place], fields[place + 1]
        if len(lac_text) > 12 or len(cid_text) > 12:
            end = place
            break
        if decimal and lac_text and cid_text:
            lac, cid = int(lac_text), int(cid_text)
        elif _HEXADECIMAL.fullmatch(lac_text) and _HEXADECIMAL.fullmatch(cid_text):
            lac, cid = int(lac_text, 16), int(cid_text, 16)
        else:
            end = place
            break
        if not (lac or cid):
            continue
        cell = {"mcc": mcc, "mnc": mnc, "lac": lac, "cid": cid}
        rssi = _signed(fields[place + 2]) if place + 2 < end else None
        if rssi is not None:
            cell["rssi"] = rssi
        seen.append(cell)
    if seen:
        draft.unknown["network"] = seen[:MAX_NETWORK]
    return end


def _real(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if -1e15 < value < 1e15 else None


def _signed(text: str) -> int | None:
    digits = text.removeprefix("-")
    return int(text) if digits.isdecimal() and len(digits) < 5 else None
