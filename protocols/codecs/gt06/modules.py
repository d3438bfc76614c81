"""GT06: modules of id, length and value, which newer models put together to a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.errors import ParseError
from protocols.bits import Cursor
from protocols.codecs.gt06.meanings import ALARM_CODES, EVENT_CODES, MODULE_ALARMS
from protocols.codecs.gt06.parts import Message, gps_at, is_time, read_gps, read_position, read_status
from protocols.codecs.terminal import Draft

Reader = Callable[[Draft, Cursor], None]


def read_modules_behind_status(message: Message, draft: Draft) -> None:
    """36: a position on some models; else a status with modules behind it."""
    data = message.data
    if gps_at(data, (0,)) == 0 and is_time(data):
        read_gps(message, draft, data[:18])
        return
    cursor = Cursor(data)
    read_status(draft, cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8())
    cursor.skip(1)
    while cursor.left >= 3:
        _module(draft, cursor.u16(), cursor.take(cursor.u8()))


def read_modules(message: Message, draft: Draft) -> None:
    """70: modules of id (2), length (2) and value."""
    cursor = Cursor(message.data)
    while cursor.left >= 4:
        _module(draft, cursor.u16(), cursor.take(cursor.u16()))


def read_short_module(cursor: Cursor, draft: Draft) -> None:
    """One of id (2), length (1) and value, as it stands behind a position of type 37."""
    module = cursor.u16()
    value = cursor.take(min(cursor.u8(), cursor.left))
    if module == 0x27 and len(value) >= 2:
        draft.measure("external_power_volts", int.from_bytes(value[:2], "big") / 100)
    elif module == 0x2E and len(value) >= 4:
        draft.measure("odometer_m", int.from_bytes(value[:4], "big"))
    elif any(value):
        draft.keep(f"module_{module:02x}", value)


def _module(draft: Draft, module: int, value: bytes) -> None:
    read = _MODULES.get(module)
    if read is None:
        draft.keep(f"module_{module:02x}", value)
        return
    try:
        read(draft, Cursor(value))
    except ParseError as error:
        draft.fault(f"module {module:02x}", error)


def _position(draft: Draft, cursor: Cursor) -> None:
    """33: Unix time, satellites, altitude, then the position as ever."""
    draft.at_us = cursor.u32() * 1_000_000
    satellites, altitude = cursor.u8(), cursor.i16()
    read_position(draft, bytes([satellites]) + cursor.take(11))
    if draft.position is not None and draft.position.valid:
        draft.measure("altitude_m", altitude)


def _tag(draft: Draft, cursor: Cursor) -> None:
    """7F: a Bluetooth tag: address, two bytes, battery, a byte, temperature and humidity."""
    tag: dict[str, Any] = {"mac": cursor.take(6).hex(":")}
    cursor.skip(2)
    tag["battery_percent"] = cursor.u8()
    cursor.skip(1)
    tag["temperature_celsius"] = cursor.sint_le(2) / 10
    tag["humidity_percent"] = cursor.uint_le(2) / 100
    draft.keep("tag", tag)


def _digits(name: str) -> Reader:
    return lambda draft, cursor: draft.keep(name, cursor.rest().hex().rstrip("f"))


def _battery(draft: Draft, cursor: Cursor) -> None:
    draft.measure("battery_volts", cursor.u16() / 100)


def _odometer(draft: Draft, cursor: Cursor) -> None:
    """2E: metres, the only number here that begins with its least byte."""
    draft.measure("odometer_m", cursor.uint_le(4))


def _event(*tables: Mapping[int, str]) -> Reader:
    """A code by the first table that knows it."""

    def read(draft: Draft, cursor: Cursor) -> None:
        code = cursor.u8()
        draft.keep("event", code)
        name = next((table[code] for table in tables if code in table), None)
        if name is not None:
            draft.alarm(name)

    return read


def _cells(draft: Draft, cursor: Cursor) -> None:
    while cursor.left >= 8:
        mcc, mnc, lac = cursor.u16(), cursor.u16(), cursor.u16()
        draft.cell(mcc, mnc, lac, cursor.uint(min(4, cursor.left)))


def _time(draft: Draft, cursor: Cursor) -> None:
    draft.at_us = draft.at_us or cursor.u32() * 1_000_000


_MODULES: Final[Mapping[int, Reader]] = {
    0x01: _digits("imei"),
    0x02: _digits("imsi"),
    0x03: _digits("iccid"),
    0x11: _cells,
    0x18: _battery,
    0x2B: _event(MODULE_ALARMS),
    0x2C: _time,
    0x2E: _odometer,
    0x33: _position,
    0x34: _event(EVENT_CODES, ALARM_CODES),
    0x7F: _tag,
}
"""By id; others stay raw."""
