"""Eelink: the bodies of packages, old (02 to 06) and new (12 to 19)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.clock import US_PER_S
from protocols.bits import Cursor
from protocols.codecs.fixes import fix, read_place_text
from protocols.codecs.terminal import KMH_M_PER_S, Draft

Reader = Callable[[int, bytes, Draft], None]

LOGIN: Final = 0x01
NORMAL, WARNING, REPORT = 0x12, 0x14, 0x15
_DEGREE: Final = 1_800_000
_FIX: Final = 1
_OLD_BODY: Final = 25
_PHONE_FIELD: Final = 21

ALARMS: Final = {
    0x01: "power_off", 0x02: "sos", 0x03: "low_battery", 0x04: "vibration", 0x05: "motion", 0x06: "blind_area",
    0x07: "blind_area_left", 0x08: "fault", 0x09: "fault", 0x10: "general", 0x25: "removed", 0x81: "low_speed",
    0x82: "overspeed", 0x83: "fence_enter", 0x84: "fence_exit", 0x85: "accident", 0x86: "fall",
}  # fmt: skip


def _alarm(code: int, draft: Draft) -> None:
    """The alarm of a warning; a warning without a name is one that somebody has to look at."""
    name = ALARMS.get(code)
    draft.alarm(name or "general")
    if name is None:
        draft.keep("alarm_code", f"{code:02x}")


def _time(cursor: Cursor, draft: Draft) -> None:
    seconds = cursor.u32()
    draft.at_us = seconds * US_PER_S


# ---- old bodies ------------------------------------------------------------------------------------------------------


def _old(kind: int, body: bytes, draft: Draft) -> None:
    """Time, latitude, longitude, speed, course, one cell, whether there was a fix; then what the type adds."""
    if kind == 0x04 and body:  # it counts whatever is wrong before it
        _alarm(body[_OLD_BODY] if len(body) > _OLD_BODY else body[-1], draft)
    cursor = Cursor(body)
    _time(cursor, draft)
    latitude, longitude = cursor.i32() / _DEGREE, cursor.i32() / _DEGREE
    speed, course = cursor.u8(), cursor.u16()
    mcc, mnc, lac, cid = cursor.u16(), cursor.u16(), cursor.u16(), cursor.u24()
    draft.cell(mcc, mnc, lac, cid)
    valid = bool(cursor.u8() & _FIX)
    fix(draft, latitude, longitude, valid=valid)
    if draft.position is not None and draft.position.valid:
        draft.measure("speed_m_per_s", speed * KMH_M_PER_S)
        if course <= 360:
            draft.measure("course_degrees", course)
    if kind == 0x02 and cursor.left >= 2:
        _status(cursor.u16(), draft)
        _battery(cursor, draft)
        if cursor.left >= 2:
            draft.keep("gsm_signal", cursor.u16())
    elif kind == 0x05 and cursor.left:
        draft.keep("event", cursor.u8())
    elif kind == 0x04 and cursor.left:
        cursor.skip(1)
    if cursor.left:
        draft.keep("tail", cursor.rest())


def _battery(cursor: Cursor, draft: Draft) -> None:
    if cursor.left >= 2:
        millivolts = cursor.u16()
        if millivolts:
            draft.measure("battery_volts", millivolts / 1000)


# ---- new bodies ------------------------------------------------------------------------------------------------------


def _new(kind: int, body: bytes, draft: Draft) -> None:
    """Time, mask, what the mask says, then what the type adds."""
    cursor = Cursor(body)
    _time(cursor, draft)
    mask = cursor.u8()
    place = _gps(cursor) if mask & 1 else None
    _network(mask, cursor, draft)
    status = None
    if kind == WARNING and cursor.left:
        _alarm(cursor.u8(), draft)
    elif kind == REPORT and cursor.left:
        draft.keep("report_type", cursor.u8())
    if kind in (NORMAL, WARNING, REPORT) and cursor.left >= 2:
        status = cursor.u16()
        _status(status, draft)
    if place is not None:
        _place(place, status is None or bool(status & _FIX), draft)
    if kind == NORMAL:
        _sensors(cursor, draft)
    if cursor.left:
        tail = cursor.rest()
        if any(tail):
            draft.keep("tail", tail)


def _gps(cursor: Cursor) -> tuple[int, ...]:
    return (cursor.i32(), cursor.i32(), cursor.i16(), cursor.u16(), cursor.u16(), cursor.u8())


def _place(place: tuple[int, ...], valid: bool, draft: Draft) -> None:
    latitude, longitude, altitude, speed, course, satellites = place
    fix(draft, latitude / _DEGREE, longitude / _DEGREE, valid=valid)
    draft.keep("satellites", satellites)
    if draft.position is not None and draft.position.valid:
        draft.measure("altitude_m", altitude)
        draft.measure("speed_m_per_s", speed * KMH_M_PER_S)
        if course <= 360:
            draft.measure("course_degrees", course)


def _network(mask: int, cursor: Cursor, draft: Draft) -> None:
    mcc = mnc = 0
    if mask & 2:
        mcc, mnc = cursor.u16(), cursor.u16()
        _cell(mcc, mnc, cursor, draft)
    for bit in (2, 3):
        if mask >> bit & 1:
            _cell(mcc, mnc, cursor, draft)
    for bit in (4, 5, 6):
        if mask >> bit & 1:
            address = cursor.take(6)
            draft.wifi(address, _dbm(cursor.u8()))
    if mask & 0x80:
        _radio(cursor, draft)


def _cell(mcc: int, mnc: int, cursor: Cursor, draft: Draft) -> None:
    lac, cid = cursor.u16(), cursor.u32()
    draft.cell(mcc, mnc, lac, cid, _dbm(cursor.u8()))


def _dbm(raw: int) -> int | None:
    """Signals are written as 110 above, or below, nothing: 0 is not known; from 128 on it is a negative number."""
    if raw == 0:
        return None
    return raw - 256 if raw >= 128 else raw - 110


def _radio(cursor: Cursor, draft: Draft) -> None:
    """Kind of radio, count; the serving 4G cell, then neighbours by their physical numbers."""
    radio, count = cursor.u8(), cursor.u8()
    draft.keep("radio", radio)
    if not count:
        return
    mcc, mnc, lac, tac = cursor.u16(), cursor.u16(), cursor.u16(), cursor.u16()
    cid = cursor.u32()
    cursor.skip(2)
    rssi = None
    for _ in range(count):
        cursor.skip(4)
        seen = _dbm(cursor.u8())
        rssi = seen if rssi is None else rssi
    draft.cell(mcc, mnc, tac or lac, cid, rssi, "lte")


def _status(status: int, draft: Draft) -> None:
    """Bit pairs (has one, and its value): 1 and 2 ignition, 3 and 4 armed, 5 and 6 relay, 7 and 8 charging."""
    draft.keep("status_word", f"{status:04x}")
    if status & 1 << 1:
        draft.keep("ignition", bool(status & 1 << 2))
    if status & 1 << 7:
        draft.keep("charging", bool(status & 1 << 8))


def _sensors(cursor: Cursor, draft: Draft) -> None:
    """As far as bytes remain; what is all zero has no sensor."""
    _battery(cursor, draft)
    if cursor.left >= 4:
        draft.keep("analog", [cursor.u16(), cursor.u16()])
    if cursor.left >= 4:
        draft.measure("odometer_m", cursor.u32())
    if cursor.left >= 4:
        cursor.skip(4)  # how often the radios were used
    if cursor.left >= 4:
        draft.measure("steps", cursor.u16())
        draft.keep("walking_time", cursor.u16())
    if cursor.left >= 12:
        climate = cursor.take(12)
        if any(climate):
            _climate(Cursor(climate), draft)
    if cursor.left >= 2:
        raw = cursor.i16()
        if raw:
            draft.keep("temperature_2", raw / 16)


def _climate(cursor: Cursor, draft: Draft) -> None:
    temperature, humidity = cursor.i16(), cursor.u16()
    light, carbon_dioxide = cursor.u32(), cursor.u32()
    if temperature:
        draft.measure("temperature_celsius", temperature / 256)
    if humidity:
        draft.measure("humidity_percent", humidity / 10)
    if light:
        draft.keep("illuminance", light / 256)
    if carbon_dioxide:
        draft.keep("co2", carbon_dioxide)


# ---- others ----------------------------------------------------------------------------------------------------------


def _heartbeat(kind: int, body: bytes, draft: Draft) -> None:
    del kind
    cursor = Cursor(body)
    if cursor.left >= 2:
        _status(cursor.u16(), draft)


def _obd(kind: int, body: bytes, draft: Draft) -> None:
    del kind
    cursor = Cursor(body)
    _time(cursor, draft)
    draft.keep("obd", cursor.rest())


def _result(kind: int, body: bytes, draft: Draft) -> None:
    """80: kind, the number of the command, text. The answer to ``WHERE#`` is a place in words."""
    del kind
    cursor = Cursor(body)
    cursor.skip(1)
    number = cursor.u32()
    text = cursor.rest().decode("utf-8", "replace").strip("\0 ")
    command = "locate" if read_place_text(draft, text) else ""
    draft.keep("command_reply", {"command": command, "result": "done", "number": number, "text": text[:500]})


def _message(kind: int, body: bytes, draft: Draft) -> None:
    """06: an old body, then number and text of a short message that the terminal got. The number is not repeated."""
    del kind
    cursor = Cursor(body)
    if cursor.left > _OLD_BODY + _PHONE_FIELD:
        cursor.skip(_OLD_BODY + _PHONE_FIELD)
        draft.keep("text", cursor.rest().decode("utf-8", "replace"))
    else:
        draft.keep("text", cursor.rest())


READERS: Final[dict[int, Reader]] = {
    0x02: _old,
    0x03: _heartbeat,
    0x04: _old,
    0x05: _old,
    0x06: _message,
    0x07: _obd,
    **dict.fromkeys((0x12, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19), _new),
    0x80: _result,
}
