"""Meitrack: a position in text, and what events mean in either form."""

from __future__ import annotations

import re
from typing import Final

from protocols.bits import digits_time_us
from protocols.codecs.fixes import fix
from protocols.codecs.terminal import KMH_M_PER_S, Draft, decimal, number

EVENTS: Final = {
    1: "sos", 17: "low_battery", 18: "low_power", 19: "overspeed", 20: "fence_enter", 21: "fence_exit",
    22: "power_restored", 23: "power_cut", 28: "fault", 29: "power_on", 36: "motion", 40: "power_off", 42: "motion",
    44: "jamming", 50: "temperature", 51: "temperature", 57: "tamper", 65: "sos", 78: "accident", 79: "fall",
    90: "cornering", 91: "cornering", 129: "braking", 130: "acceleration", 135: "fatigue",
}  # fmt: skip
EVENT_ASKED: Final = 34
_SENSOR: Final = re.compile(r"[0-9A-Fa-f]{6}")


def read_event(event: int, draft: Draft) -> None:
    draft.keep("event", event)
    name = EVENTS.get(event)
    if name is not None:
        draft.alarm(name)


def read_position(fields: list[str], draft: Draft) -> bool:
    """Event, latitude, longitude, time, validity, ...; AFF has a count before them. False: this is none.

    An event counts even if nothing behind it can be read.
    """
    shift = 1 if len(fields) > 4 and len(fields[0]) == 4 and "." in fields[3] else 0
    values = fields[shift:]
    event = number(values[0]) if values else None
    if event is None or len(values) < 5:
        return False
    read_event(event, draft)
    values += [""] * max(0, 18 - len(values))
    latitude, longitude = decimal(values[1]), decimal(values[2])
    try:
        draft.at_us = digits_time_us(values[3])
    except ValueError as error:
        draft.fault("time", error)
    if latitude is None or longitude is None:
        draft.fault("position", "not a number of degrees")
    else:
        fix(draft, latitude, longitude, valid=values[4] == "A")
    _motion(values, draft)
    draft.keep("satellites", number(values[5]))
    draft.keep("gsm_signal", number(values[6]))
    draft.measure("odometer_m", number(values[11]))
    draft.keep("runtime_s", number(values[12]))
    _cell(values[13], draft)
    states = number(values[14], base=16)
    if states is not None:
        draft.keep("outputs", states & 0xFF)
        draft.keep("inputs", states >> 8)
    _voltages(values[15], draft)
    _temperatures(values, draft)
    if any(values[16:]):
        draft.keep("more", ",".join(values[16:]).strip(","))
    return True


def _motion(values: list[str], draft: Draft) -> None:
    if draft.position is None or not draft.position.valid:
        return
    speed, course = decimal(values[7]), decimal(values[8])
    draft.measure("speed_m_per_s", None if speed is None else speed * KMH_M_PER_S)
    draft.measure("course_degrees", course)
    draft.measure("altitude_m", decimal(values[10]))
    draft.keep("hdop", decimal(values[9]))


def _cell(text: str, draft: Draft) -> None:
    """``mcc|mnc|lac|cid``, the last two in hexadecimal."""
    parts = text.split("|")
    if len(parts) < 4:
        return
    mcc, mnc, lac, cid = number(parts[0]), number(parts[1]), number(parts[2], base=16), number(parts[3], base=16)
    if mcc and mnc is not None and lac is not None and cid is not None:
        draft.cell(mcc, mnc, lac, cid)


def _voltages(text: str, draft: Draft) -> None:
    """Hexadecimal ``ad1|ad2|ad3|battery|power``, or volts of battery and power as decimals."""
    parts = text.split("|")
    if len(parts) < 4:
        return
    if "." in parts[0]:
        draft.measure("battery_volts", decimal(parts[0]))
        draft.measure("external_power_volts", decimal(parts[1]))
        return
    battery, power = number(parts[3], base=16), number(parts[4], base=16) if len(parts) > 4 else None
    if battery is None:
        return
    battery_scale, power_scale = _scales(battery)
    if battery:
        draft.measure("battery_volts", battery * battery_scale)
    if power is not None:
        draft.measure("external_power_volts", power * power_scale)
    analog = [number(part, base=16) for part in parts[:3]]
    if any(analog):
        draft.keep("analog", analog)


def _temperatures(values: list[str], draft: Draft) -> None:
    """Behind the voltages: what belongs to the event, a reserved field, the protocol's version, fuel, then sensors.

    Each sensor is six hexadecimal digits: its number, then from version 3 on hundredths of a degree, before that a
    whole degree and its hundredths.
    """
    if len(values) < 21 or not values[20]:
        return
    version = number(values[18]) or 0
    found: list[float] = []
    for part in values[20].split("|")[:16]:
        if _SENSOR.fullmatch(part) is None:
            return
        raw = bytes.fromhex(part)
        if version >= 3:
            found.append(int.from_bytes(raw[1:], "big", signed=True) / 100)
        else:
            whole = int.from_bytes(raw[1:2], "big", signed=True)
            found.append(round(whole + (raw[2] if whole >= 0 else -raw[2]) / 100, 2))
    draft.measure("temperature_celsius", found[0])
    if len(found) > 1:
        draft.keep("temperatures", found)


def _scales(battery: int) -> tuple[float, float]:
    """Newer models write hundredths of a volt; older ones what a converter of 10 or 12 bits shows.

    A lithium cell has three to four and a half volts, so that its number tells which.
    """
    if battery <= 500:
        return 0.01, 0.01
    if battery < 1024:
        return 3 * 2 / 1024, 3 * 16 / 1024
    return 3.3 * 2 / 4096, 3.3 * 16 / 4096
