"""What GT06 messages say, by their type. Each reader fills a draft; a part that is cut off is a fault of the draft."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from gateway.errors import ParseError
from gateway.model import Frame
from protocols.bits import Cursor, bcd_time_us, binary_time_us
from protocols.codecs.fixes import fix
from protocols.codecs.gt06.commands import reply_of
from protocols.codecs.gt06.meanings import ALARM_CODES, EVENT_CODES, STATUS_ALARMS, battery_percent
from protocols.codecs.terminal import KMH_M_PER_S, Draft, clean_text

DEGREE: Final = 1_800_000
RECENT_US: Final = 900_000_000

_read_fix: Final = Struct(">BIIBH").unpack_from  # satellites, latitude, longitude, speed, flags and course
_read_cell: Final = Struct(">HBHBH").unpack_from  # MCC, MNC, LAC, cell in three bytes

_ALARM_PACKETS: Final = frozenset({0x16, 0x26, 0x27, 0x32, 0x39, 0xA4})
_CELL_LENGTH: Final = frozenset({0x16, 0x26, 0x27, 0x32, 0xA4})
_WITH_MOTION: Final = frozenset({0x22, 0x2D, 0x31, 0x37, 0xA0})
_LONG_CELLS: Final = frozenset({0xA0, 0xA1, 0xA2, 0xA4, 0xA5})
_CID32: Final = frozenset({0x11, 0x25, 0x31, 0x33, 0x34, 0x61})
_WITHOUT_WIFI: Final = frozenset({0x24, 0x28, 0x2E, 0xA1, 0x34})


class Message:
    """One frame without its header, serial, CRC and end. ``size`` is the value of its length field."""

    __slots__ = ("data", "extended", "kind", "offset_s", "received_at_us", "size")

    def __init__(self, kind: int, extended: bool, data: bytes, length: bytes, frame: Frame) -> None:
        self.kind = kind
        self.extended = extended
        self.data = data
        self.size = int.from_bytes(length, "big")
        self.received_at_us = frame.received_at_us
        self.offset_s: int = 0 if frame.context is None else frame.context.get("offset_s", 0)


Reader = Callable[[Message, Draft], None]


# ---- parts -----------------------------------------------------------------------------------------------------------


def _time(message: Message, draft: Draft, data: bytes, *, bcd: bool = False) -> None:
    """The time, in UTC or in the zone of the login: terminals do either, and the one that fits the moment is right."""
    try:
        at_us = bcd_time_us(data) if bcd else binary_time_us(data)
    except ValueError as error:
        draft.fault("time", error)
        return
    if at_us and message.offset_s and abs(at_us - message.received_at_us) > RECENT_US:
        at_us -= message.offset_s * 1_000_000
    draft.at_us = max(at_us, 0)


def _is_time(data: bytes) -> bool:
    if len(data) < 6:
        return False
    year, month, day, hour, minute, second = data[:6]
    return (
        5 <= year < 80 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60
    )  # fmt: skip


def _gps(message: Message, draft: Draft, data: bytes) -> None:
    """The 18 bytes: time, satellites, latitude, longitude, speed, flags and course."""
    _time(message, draft, data[:6])
    _fix(draft, data[6:18])


def _fix(draft: Draft, data: bytes) -> None:
    """The 12 bytes behind the time."""
    satellites, north, east, speed, flags = _read_fix(data)
    latitude = north / (DEGREE if flags & 0x0400 else -DEGREE)
    longitude = east / (-DEGREE if flags & 0x0800 else DEGREE)
    draft.unknown["satellites"] = satellites & 0x0F
    if flags & 0x4000:
        draft.unknown["ignition"] = bool(flags & 0x8000)
    fix(draft, round(latitude, 6), round(longitude, 6), valid=bool(flags & 0x1000))
    if not (north or east):
        return
    draft.measurements["speed_m_per_s"] = round(speed * KMH_M_PER_S, 2)
    course = flags & 0x03FF
    if course <= 360:
        draft.measurements["course_degrees"] = course


def _gps_at(data: bytes, offsets: tuple[int, ...]) -> int:
    """Where the GPS block is: models put things before it. -1: nowhere."""
    for offset in offsets:
        block = data[offset : offset + 18]
        if len(block) == 18 and (_is_time(block) or (offset == 0 and not any(block[:6]))):
            _, north, east, _, _ = _read_fix(block, 6)
            if north <= 90 * DEGREE and east <= 180 * DEGREE:
                return offset
    return -1


def _cell(cursor: Cursor, draft: Draft, *, long: bool, cid_bytes: int = 3) -> None:
    if not long and cid_bytes == 3 and cursor.left >= 8:  # the ordinary one, in one go
        mcc, mnc, lac, high, low = _read_cell(cursor.data, cursor.at)
        if not mcc & 0x8000:
            cursor.at += 8
            draft.cell(mcc, mnc, lac, high << 16 | low)
            return
    mcc, mnc = _operator(cursor)
    lac = cursor.uint(4 if long else 2)
    draft.cell(mcc, mnc, lac, cursor.uint(8 if long else cid_bytes))


def _operator(cursor: Cursor) -> tuple[int, int]:
    mcc = cursor.u16()
    return (mcc & 0x7FFF, cursor.u16()) if mcc & 0x8000 else (mcc, cursor.u8())


def _cell_with_length(cursor: Cursor, draft: Draft, *, long: bool) -> None:
    """A cell behind a byte of its length, which counts itself; 0: none, and some models fill up with zeros then."""
    length = cursor.u8()
    if length == 0:
        if cursor.left >= 50:
            cursor.skip(45)
        elif cursor.left >= 13:
            cursor.skip(8)
        return
    begin = cursor.at
    if length == 10:
        _cell(cursor, draft, long=False, cid_bytes=4)
        return
    _cell(cursor, draft, long=long)
    cursor.at = max(cursor.at, min(begin + length - 1, cursor.end - 5))


def _status(draft: Draft, status: int, level: int, gsm: int, alarm: int) -> None:
    """Status byte, battery, signal and alarm code. Alarms of the status byte and the code are one set."""
    draft.unknown["status"] = status
    of_status = STATUS_ALARMS.get(status >> 3 & 7)
    if of_status is not None:
        draft.alarm(of_status)
    if status & 4:
        draft.unknown["charging"] = True
    percent = battery_percent(level)
    if percent is not None:
        draft.measurements["battery_percent"] = percent
    draft.unknown["gsm_level"] = gsm
    _alarm(draft, alarm)


def _alarm(draft: Draft, code: int) -> None:
    if code == 0:
        return
    name = ALARM_CODES.get(code)
    if name is None:
        draft.unknown["alarm_code"] = code
    else:
        draft.alarm(name)


def _text(draft: Draft, data: bytes, name: str = "text") -> None:
    draft.keep(name, data.rstrip(b"\0").decode("ascii", "replace"))


# ---- messages --------------------------------------------------------------------------------------------------------


def _position(message: Message, draft: Draft) -> None:
    """GPS, and by type a cell, motion, odometer; in alarm packets status, battery and alarm."""
    data = message.data
    at = _gps_at(data, (0, 4, 8, 15))
    if at < 0:
        if len(data) < 18:
            raise ParseError(f"{len(data)} bytes, too short for a position")
        at = 0
    _gps(message, draft, data[at : at + 18])
    cursor = Cursor(data, at + 18)
    kind = message.kind
    if kind in _ALARM_PACKETS:
        _alarm_packet(message, draft, cursor)
    elif cursor.left >= 8 and kind != 0x10:
        _cell(cursor, draft, long=kind in _LONG_CELLS, cid_bytes=4 if kind in _CID32 else 3)
        if kind in _WITH_MOTION and cursor.left >= 3:
            _motion(message, draft, cursor)


def _motion(message: Message, draft: Draft, cursor: Cursor) -> None:
    if message.kind == 0x31:
        if message.size == 0x2A:
            draft.measure("altitude_m", int.from_bytes(message.data[-2:], "big", signed=True))
        return
    draft.keep("ignition", cursor.u8() == 1)
    draft.keep("upload_reason", cursor.u8())
    draft.stored = cursor.u8() == 1
    if cursor.left >= 4:
        draft.measure("odometer_m", cursor.u32())


def _alarm_packet(message: Message, draft: Draft, cursor: Cursor) -> None:
    kind, data = message.kind, message.data
    if kind == 0x16 and message.size == 0x24:  # no length before the cell, a voltage instead of a level
        _cell(cursor, draft, long=False)
        status, power, gsm = cursor.u8(), cursor.u16(), cursor.u8()
        _status(draft, status, 255, gsm, cursor.u8())
        draft.measure("external_power_volts", power / 100)
        return
    if kind in _CELL_LENGTH:
        _cell_with_length(cursor, draft, long=kind == 0xA4)
    else:
        _cell(cursor, draft, long=False)
    if kind == 0x16 and message.size == 0x26 and cursor.left >= 6:
        _status(draft, data[cursor.at], 255, data[cursor.at + 1], data[cursor.at + 4])
        return
    if cursor.left >= 6 and not _fits_status(data, cursor.at) and _fits_status(data, cursor.at + 1):
        cursor.skip(1)
    _status(draft, cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8())
    if cursor.left:
        draft.unknown["language"] = cursor.u8()


def _fits_status(data: bytes, at: int) -> bool:
    """Whether a level of 0 to 6 and a signal of 0 to 4 stand behind a status byte there."""
    return data[at + 1] <= 6 and data[at + 2] <= 4


def _cell_status(message: Message, draft: Draft) -> None:
    """A cell and a status without GPS."""
    cursor = Cursor(message.data)
    dated = message.kind == 0x19 and cursor.left >= 18 and _is_time(message.data)
    if dated:
        _time(message, draft, cursor.take(6))
    _cell(cursor, draft, long=message.kind == 0xA5)
    if not dated:
        _status(draft, cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8())


def _heartbeat(message: Message, draft: Draft) -> None:
    """Status (13): by its length one of several layouts."""
    data = message.data
    if message.size == 0x18:
        _steps(message, draft)
    elif message.size == 0x15:
        cursor = Cursor(data)
        draft.keep("status", cursor.u8())
        cursor.skip(2)
        _alarm(draft, cursor.u8())
        cursor.skip(1)
        draft.measure("battery_percent", cursor.u8())
        draft.keep("mode", cursor.u8())
        draft.measure("battery_volts", cursor.u16() / 100)
        cursor.skip(5)
        value = cursor.u16()
        draft.measure("temperature_celsius", (value & 0x7FFF) / (10 if value & 0x8000 else -10))
    elif len(data) >= 4:
        _status(draft, data[0], data[1], data[2], data[3])
        if len(data) > 4:
            draft.unknown["language"] = data[4]
    elif data:
        draft.keep("status", data[0])
        if len(data) > 1:
            draft.measure("battery_percent", battery_percent(data[1]))


def _steps(message: Message, draft: Draft) -> None:
    """The status of a pendant that counts steps."""
    cursor = Cursor(message.data)
    draft.keep("status", cursor.u32())
    cursor.skip(5)
    draft.measure("steps", cursor.u32())
    draft.measure("battery_percent", cursor.u8())
    draft.keep("charging", cursor.u8() == 1)
    draft.keep("moving", cursor.u8() == 1)


def _fence(message: Message, draft: Draft) -> None:
    """A3: a fence alarm with GPS, or the status of a pendant."""
    if message.size == 0x18:
        _steps(message, draft)
    elif _gps_at(message.data, (0,)) == 0:
        _gps(message, draft, message.data[:18])
        cursor = Cursor(message.data, 18)
        _cell_with_length(cursor, draft, long=False)
        _status(draft, cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8())
    else:
        draft.keep("data", message.data)


def _short_heartbeat(message: Message, draft: Draft) -> None:
    cursor = Cursor(message.data)
    flags = cursor.u8()
    draft.keep("armed", bool(flags & 1))
    draft.keep("ignition", bool(flags & 2))
    draft.keep("charging", bool(flags & 4))
    if cursor.left >= 2:
        draft.measure("battery_volts", cursor.u16() / 100)
    if cursor.left:
        draft.keep("gsm_level", cursor.u8())


def _status_modules(message: Message, draft: Draft) -> None:
    """36: a position on some models; else a status with modules behind it."""
    data = message.data
    if _gps_at(data, (0,)) == 0 and _is_time(data):
        _gps(message, draft, data[:18])
        return
    cursor = Cursor(data)
    _status(draft, cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8())
    cursor.skip(1)
    while cursor.left >= 3:
        _module(message, draft, cursor.u16(), cursor.take(cursor.u8()))


def _modules(message: Message, draft: Draft) -> None:
    """70: modules of id (2), length (2) and value."""
    cursor = Cursor(message.data)
    while cursor.left >= 4:
        _module(message, draft, cursor.u16(), cursor.take(cursor.u16()))


def _module(message: Message, draft: Draft, module: int, value: bytes) -> None:
    try:
        _read_module(draft, module, Cursor(value))
    except ParseError as error:
        draft.fault(f"module {module:02x}", error)
    del message


def _read_module(draft: Draft, module: int, cursor: Cursor) -> None:
    if module == 0x18:
        draft.measure("battery_volts", cursor.u16() / 100)
    elif module == 0x33:
        draft.at_us = cursor.u32() * 1_000_000
        satellites, altitude = cursor.u8(), cursor.i16()
        _fix(draft, bytes([satellites]) + cursor.take(11))
        if draft.position is not None:
            draft.measure("altitude_m", altitude)
    elif module == 0x34:
        code = cursor.u8()
        name = EVENT_CODES.get(code) or ALARM_CODES.get(code)
        draft.keep("event", code)
        if name is not None:
            draft.alarm(name)
    elif module == 0x11:
        while cursor.left >= 8:
            mcc, mnc, lac = cursor.u16(), cursor.u16(), cursor.u16()
            draft.cell(mcc, mnc, lac, cursor.uint(min(4, cursor.left)))
    elif module == 0x2C:
        draft.at_us = draft.at_us or cursor.u32() * 1_000_000
    elif module == 0x7F:
        tag: dict[str, Any] = {"mac": cursor.take(6).hex(":")}
        cursor.skip(2)
        tag["battery_percent"] = cursor.u8()
        cursor.skip(1)
        tag["temperature_celsius"] = cursor.sint_le(2) / 10
        tag["humidity_percent"] = cursor.uint_le(2) / 100
        draft.keep("tag", tag)
    else:
        draft.keep(f"module_{module:02x}", cursor.rest())


def _cells(message: Message, draft: Draft) -> None:
    """Several cells, timing advance, and by type access points."""
    kind = message.kind
    if kind == 0x34 and _gps_at(message.data, (4,)) == 4:
        _gps(message, draft, message.data[4:22])
        return
    cursor = Cursor(message.data)
    _time(message, draft, cursor.take(6))
    mcc, mnc = _operator(cursor)
    long = kind in _LONG_CELLS
    for _ in range(6 if kind == 0x33 else 7):
        lac = cursor.uint(4 if long else 2)
        cid = cursor.uint(8 if long else 4 if kind in _CID32 else 3)
        draft.cell(mcc, mnc, lac, cid, -cursor.u8())
    if cursor.left:
        draft.keep("timing_advance", cursor.u8())
    if kind not in _WITHOUT_WIFI and cursor.left:
        _access_points(cursor, draft)


def _access_points(cursor: Cursor, draft: Draft) -> None:
    for _ in range(cursor.u8()):
        if cursor.left < 7:
            break
        bssid = cursor.take(6)
        draft.wifi(bssid, -cursor.u8())


def _wifi_alarm(message: Message, draft: Draft) -> None:
    """A9: cells, access points and an alarm."""
    cursor = Cursor(message.data)
    _time(message, draft, cursor.take(6))
    mcc, mnc = _operator(cursor)
    long = cursor.u8() > 0
    for _ in range(cursor.u8()):
        lac = cursor.uint(4 if long else 2)
        draft.cell(mcc, mnc, lac, cursor.uint(8 if long else 3), -cursor.u8())
    cursor.skip(1)
    _access_points(cursor, draft)
    alarm, language = cursor.u8(), cursor.u8()
    _alarm(draft, (language >> 4) << 8 | alarm)


def _wifi(message: Message, draft: Draft) -> None:
    """17, 69: access points (as many as the length says) and cells; the time in BCD."""
    cursor = Cursor(message.data)
    if message.size + 5 == len(message.data) + 10 and _gps_at(message.data, (0,)) == 0:
        _gps(message, draft, message.data[:18])  # a model that uses the type for a position
        return
    _time(message, draft, cursor.take(6), bcd=True)
    for _ in range(message.size):
        bssid = cursor.take(6)
        draft.wifi(bssid, -cursor.u8())
    count = cursor.u8()
    if count:
        mcc, mnc = cursor.u16(), cursor.u8()
        for _ in range(count):
            lac, cid = cursor.u16(), cursor.u16()
            draft.cell(mcc, mnc, lac, cid, -cursor.u8())


def _wifi_plain(message: Message, draft: Draft) -> None:
    """F3: access points without a signal strength."""
    cursor = Cursor(message.data)
    _time(message, draft, cursor.take(6), bcd=True)
    for _ in range(cursor.u8()):
        cursor.skip(2)
        draft.wifi(cursor.take(6))


def _command_answer(message: Message, draft: Draft) -> None:
    """15, 25: the text that a command is answered with; the server's flag comes back. 21: the same, extended."""
    cursor = Cursor(message.data)
    if message.extended:
        flag, encoding = cursor.u32(), cursor.u8()
        text = cursor.rest().decode("ascii" if encoding == 1 else "utf-16-be", "replace")
    elif message.kind == 0x25 and cursor.peek() >= 5 and _is_time(message.data):
        _position(message, draft)
        return
    else:
        length, flag = cursor.u8(), cursor.u32()
        body = message.data[cursor.at :]
        body = body[: length - 4] if 4 < length <= len(body) + 4 else body
        text = body.rstrip(b"\0").decode("ascii", "replace")
    draft.keep("flag", flag)
    draft.keep("result", text)
    draft.keep("command_reply", reply_of(flag, clean_text(text)))


def _information(message: Message, draft: Draft) -> None:
    """94: external voltage, texts, doors, identity of the modem and the card."""
    cursor = Cursor(message.data)
    kind = cursor.u8()
    if kind == 0x00:
        draft.measure("external_power_volts", cursor.u16() / 100)
    elif kind == 0x05:
        flags = cursor.u8()
        draft.signal("door_open" if flags & 1 else "door_closed")
        draft.keep("door_flags", flags)
    elif kind == 0x0A:
        for name, size in (("imei", 8), ("imsi", 8), ("iccid", 10)):
            digits = cursor.take(size).hex().lstrip("0" if size == 8 else "")
            draft.keep(name, digits.rstrip("f"))
    elif kind == 0x0B:
        draft.keep("network_technology", cursor.u8())
    else:
        _text(draft, cursor.rest())


def _serial(message: Message, draft: Draft) -> None:
    """9B: what came in at the terminal's serial port."""
    draft.keep("serial", message.data)


def _phone_position(message: Message, draft: Draft) -> None:
    """32, 33 in extended frames: GPS with a length, cell with a length, alarm by the status byte."""
    cursor = Cursor(message.data)
    _time(message, draft, cursor.take(6))
    if cursor.u8():
        _fix(draft, cursor.take(12))
    before = cursor.peek()
    _cell_with_length(cursor, draft, long=False)
    if before > 0 and cursor.left:
        draft.keep("rssi", cursor.u8())
    for _ in range(2):  # further cells, access points
        cursor.skip(cursor.u8())
    status = cursor.u8()
    draft.keep("status", status)
    if message.kind == 0x33:
        name = {0xA2: "low_battery", 0xA3: "low_battery", 0xA4: "general", 0xA5: "door"}.get(status)
        if name is not None:
            draft.alarm(name)


def _either(extended: Reader, short: Reader) -> Reader:
    def read(message: Message, draft: Draft) -> None:
        (extended if message.extended else short)(message, draft)

    return read


def _camera_alarm(message: Message, draft: Draft) -> None:
    """95: an event, with a fix in front of it where there is one."""
    cursor = Cursor(message.data)
    if message.data[:2] == b"\xff\xff":
        cursor.skip(3)
        _time(message, draft, cursor.take(6))
        block = cursor.take(11)
        cursor.skip(4)
    else:
        _time(message, draft, cursor.take(6))
        block = b"\0" + cursor.take(10) if cursor.left >= 11 else b""
    code = cursor.u8()
    if block:
        _fix(draft, block[:9] + b"\0" + block[9:])
        draft.measurements.pop("speed_m_per_s", None)
    draft.keep("event", code)
    name = {0x01: "sos" if block else "general", 0x90: "acceleration", 0x91: "braking", 0x92: "cornering",
            0x93: "accident"}.get(code)  # fmt: skip
    if name is not None:
        draft.alarm(name)
    if cursor.left > 2:
        cursor.skip(2)
        _text(draft, cursor.rest(), "files")


def _obd(message: Message, draft: Draft) -> None:
    """8C: texts of the diagnosis port, with a time before and a fix behind them."""
    data = message.data
    _time(message, draft, data[:6])
    if len(data) > 32:
        _fix(draft, data[-13:-1])
        _text(draft, data[7:-13], "obd")


def _peripheral(message: Message, draft: Draft) -> None:
    draft.keep("data", message.data)


def _nothing(message: Message, draft: Draft) -> None:
    del message, draft


MESSAGES: Final[dict[int, Reader]] = {
    **dict.fromkeys((0x10, 0x11, 0x12, 0x1E, 0x22, 0x2D, 0x31, 0x37, 0x38, 0x61, 0xA0), _position),
    **dict.fromkeys((0x16, 0x26, 0x27, 0x39, 0xA4), _position),
    0x32: _either(_phone_position, _position),
    0x33: _either(_phone_position, _cells),
    0x13: _heartbeat,
    0x19: _cell_status,
    0xA5: _cell_status,
    0xA3: _fence,
    0x15: _command_answer,
    0x21: _command_answer,
    0x25: _command_answer,
    0x23: _short_heartbeat,
    0x36: _status_modules,
    0x70: _modules,
    **dict.fromkeys((0x18, 0x24, 0x28, 0x2C, 0x2E, 0x34, 0xA1, 0xA2), _cells),
    0xA9: _wifi_alarm,
    0x17: _wifi,
    0x69: _wifi,
    0xF3: _wifi_plain,
    0x94: _information,
    0x9B: _serial,
    0x95: _camera_alarm,
    0x8C: _obd,
    0xF2: _peripheral,
    0x2A: _position,
    0x8A: _nothing,
}
"""How each type is read. Others are answered and kept raw."""
