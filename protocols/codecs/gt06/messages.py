"""What GT06 messages say, by their type. Each reader fills a draft; a part that is cut off is a fault of the draft."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.errors import ParseError
from protocols.bits import Cursor
from protocols.codecs.fixes import read_place_text
from protocols.codecs.gt06.commands import reply_of
from protocols.codecs.gt06.meanings import CAMERA_EVENTS, battery_percent
from protocols.codecs.gt06.modules import read_modules, read_modules_behind_status, read_short_module
from protocols.codecs.gt06.parts import (
    PLAUSIBLE_US,
    Message,
    gps_at,
    is_time,
    read_alarm,
    read_cell,
    read_cell_with_length,
    read_gps,
    read_operator,
    read_position,
    read_status,
    read_text,
    read_time,
)
from protocols.codecs.terminal import Draft, clean_text

_ALARM_PACKETS: Final = frozenset({0x16, 0x26, 0x27, 0x32, 0x39, 0xA4})
_WITHOUT_CELL: Final = frozenset({0x10, 0x1A})
_CELL_LENGTH: Final = frozenset({0x16, 0x26, 0x27, 0x32, 0xA4})
_WITH_MOTION: Final = frozenset({0x22, 0x2D, 0x31, 0x37, 0xA0})
_LONG_CELLS: Final = frozenset({0xA0, 0xA1, 0xA2, 0xA4, 0xA5})
_CID32: Final = frozenset({0x11, 0x25, 0x31, 0x33, 0x34, 0x61})
_WITHOUT_WIFI: Final = frozenset({0x24, 0x28, 0x2E, 0xA1, 0x34})

Reader = Callable[[Message, Draft], None]


def _position(message: Message, draft: Draft) -> None:
    """GPS, and by type a cell, motion, odometer; in alarm packets status, battery and alarm."""
    data = message.data
    at = gps_at(data, (0, 4, 8, 15))
    if at < 0:
        if len(data) < 18:
            raise ParseError(f"{len(data)} bytes, too short for a position")
        at = 0
    read_gps(message, draft, data[at : at + 18])
    cursor = Cursor(data, at + 18)
    kind = message.kind
    if kind in _ALARM_PACKETS:
        _alarm_packet(message, draft, cursor)
    elif cursor.left >= 8 and kind not in _WITHOUT_CELL:
        read_cell(cursor, draft, long=kind in _LONG_CELLS, cid_bytes=4 if kind in _CID32 else 3)
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
    if message.kind == 0x37 and cursor.left >= 3:
        read_short_module(cursor, draft)
    elif cursor.left >= 4:
        draft.measure("odometer_m", cursor.u32())


def _alarm_packet(message: Message, draft: Draft, cursor: Cursor) -> None:
    kind, data = message.kind, message.data
    if kind == 0x16 and message.size == 0x24:  # no length before the cell, a voltage instead of a level
        read_cell(cursor, draft, long=False)
        status, power, gsm = cursor.u8(), cursor.u16(), cursor.u8()
        read_status(draft, status, 255, gsm, cursor.u8())
        draft.measure("external_power_volts", power / 100)
        return
    if kind in _CELL_LENGTH:
        read_cell_with_length(cursor, draft, long=kind == 0xA4)
    else:
        read_cell(cursor, draft, long=False)
    if kind == 0x16 and message.size == 0x26 and cursor.left >= 6:
        read_status(draft, data[cursor.at], 255, data[cursor.at + 1], data[cursor.at + 4])
        return
    if cursor.left >= 6 and not _fits_status(data, cursor.at) and _fits_status(data, cursor.at + 1):
        cursor.skip(1)
    read_status(draft, cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8())
    if cursor.left:
        draft.unknown["language"] = cursor.u8()


def _fits_status(data: bytes, at: int) -> bool:
    """Whether a level of 0 to 6 and a signal of 0 to 4 stand behind a status byte there."""
    return data[at + 1] <= 6 and data[at + 2] <= 4


def _cell_status(message: Message, draft: Draft) -> None:
    """A cell and a status without GPS."""
    cursor = Cursor(message.data)
    dated = message.kind == 0x19 and cursor.left >= 18 and is_time(message.data)
    if dated:
        read_time(message, draft, cursor.take(6))
    read_cell(cursor, draft, long=message.kind == 0xA5)
    if not dated:
        read_status(draft, cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8())


def _heartbeat(message: Message, draft: Draft) -> None:
    """Status (13): by its length one of several layouts."""
    data = message.data
    if message.size == 0x18:
        _steps(message, draft)
    elif message.size == 0x15:
        cursor = Cursor(data)
        draft.keep("status", cursor.u8())
        cursor.skip(2)
        read_alarm(draft, cursor.u8())
        cursor.skip(1)
        draft.measure("battery_percent", cursor.u8())
        draft.keep("mode", cursor.u8())
        draft.measure("battery_volts", cursor.u16() / 100)
        cursor.skip(5)
        value = cursor.u16()
        draft.measure("temperature_celsius", (value & 0x7FFF) / (10 if value & 0x8000 else -10))
    elif len(data) >= 4:
        read_status(draft, data[0], data[1], data[2], data[3])
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
    elif gps_at(message.data, (0,)) == 0:
        read_gps(message, draft, message.data[:18])
        cursor = Cursor(message.data, 18)
        read_cell_with_length(cursor, draft, long=False)
        read_status(draft, cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8())
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


def _cells(message: Message, draft: Draft) -> None:
    """Several cells, timing advance, and by type access points."""
    kind = message.kind
    cursor = Cursor(message.data)
    read_time(message, draft, cursor.take(6))
    mcc, mnc = read_operator(cursor)
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
    read_time(message, draft, cursor.take(6))
    mcc, mnc = read_operator(cursor)
    long = cursor.u8() > 0
    for _ in range(cursor.u8()):
        lac = cursor.uint(4 if long else 2)
        draft.cell(mcc, mnc, lac, cursor.uint(8 if long else 3), -cursor.u8())
    cursor.skip(1)
    _access_points(cursor, draft)
    alarm, language = cursor.u8(), cursor.u8()
    read_alarm(draft, (language >> 4) << 8 | alarm)


def _wifi(message: Message, draft: Draft) -> None:
    """17, 69: access points (as many as the length says) and cells; the time in BCD."""
    cursor = Cursor(message.data)
    if message.size + 5 == len(message.data) + 10 and gps_at(message.data, (0,)) == 0:
        read_gps(message, draft, message.data[:18])  # a model that uses the type for a position
        return
    read_time(message, draft, cursor.take(6), bcd=True)
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
    read_time(message, draft, cursor.take(6), bcd=True)
    for _ in range(cursor.u8()):
        cursor.skip(2)
        draft.wifi(cursor.take(6))


def _command_answer(message: Message, draft: Draft) -> None:
    """15, 25: the text that a command is answered with; the server's flag comes back. 21: the same, extended."""
    cursor = Cursor(message.data)
    if message.extended:
        flag, encoding = cursor.u32(), cursor.u8()
        text = cursor.rest().decode("ascii" if encoding == 1 else "utf-16-be", "replace")
        read_place_text(draft, text)
    elif message.kind == 0x25 and cursor.peek() >= 5 and is_time(message.data):
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
    if not message.extended:  # the short frame has no kind
        draft.measure("external_power_volts", cursor.u16() / 100)
        return
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
        content = cursor.rest()
        if all(0x20 <= byte < 0x7F for byte in content.strip(b"\0\r\n")):
            read_text(draft, content)
        else:
            draft.keep(f"information_{kind:02x}", content)


def _serial(message: Message, draft: Draft) -> None:
    """9B: what came in at the terminal's serial port."""
    draft.keep("serial", message.data)


def _phone_position(message: Message, draft: Draft) -> None:
    """32, 33 in extended frames: GPS with a length, cell with a length, alarm by the status byte."""
    cursor = Cursor(message.data)
    read_time(message, draft, cursor.take(6))
    if cursor.u8():
        read_position(draft, cursor.take(12))
    before = cursor.peek()
    read_cell_with_length(cursor, draft, long=False)
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
        read_time(message, draft, cursor.take(6))
        block = cursor.take(11)
        cursor.skip(4)
    else:
        read_time(message, draft, cursor.take(6))
        block = b"\0" + cursor.take(10) if cursor.left >= 11 else b""
    code = cursor.u8()
    if block:
        read_position(draft, block[:9] + b"\0" + block[9:])
        draft.measurements.pop("speed_m_per_s", None)
    draft.keep("event", code)
    name = CAMERA_EVENTS.get(code)
    if code == 0x01:
        name = "sos" if block else "general"
    if name is not None:
        draft.alarm(name)
    if cursor.left > 2:
        cursor.skip(2)
        read_text(draft, cursor.rest(), "files")


def _obd(message: Message, draft: Draft) -> None:
    """8C: texts of the diagnosis port, with a time before and a fix behind them."""
    data = message.data
    read_time(message, draft, data[:6])
    if len(data) > 32:
        read_position(draft, data[-13:-1])
        read_text(draft, data[7:-13], "obd")


def _tracked(message: Message, draft: Draft) -> None:
    """34: alarms (4), the GPS block, state (2), odometer, a cell, the driver (4), battery and supply; or cells."""
    if gps_at(message.data, (4,)) != 4:
        _cells(message, draft)
        return
    read_gps(message, draft, message.data[4:22])
    cursor = Cursor(message.data, 22)
    if cursor.left < 23:
        return
    cursor.skip(2)
    draft.measure("odometer_m", cursor.u32())
    mcc, mnc, lac = cursor.u16(), cursor.u8(), cursor.u16()
    draft.cell(mcc, mnc, lac, cursor.u32())
    driver = cursor.u32()
    if driver:
        draft.keep("driver", driver)
    draft.measure("battery_volts", cursor.u16() / 100)
    draft.measure("external_power_volts", cursor.u16() / 100)


def read_unknown(message: Message, draft: Draft) -> None:
    """A type that nobody has told us: the bytes; and where it begins with a GPS block of today, that too."""
    draft.keep("message", f"{message.kind:02x}")
    if message.data:
        draft.keep("data", message.data)
    if not message.extended and is_time(message.data) and gps_at(message.data, (0,)) == 0:
        of_block = Draft(message.frame)
        read_gps(message, of_block, message.data[:18])
        if of_block.position is not None and abs(of_block.at_us - message.received_at_us) < PLAUSIBLE_US:
            read_gps(message, draft, message.data[:18])


def _peripheral(message: Message, draft: Draft) -> None:
    draft.keep("data", message.data)


def _nothing(message: Message, draft: Draft) -> None:
    del message, draft


MESSAGES: Final[dict[int, Reader]] = {
    **dict.fromkeys((0x10, 0x11, 0x12, 0x1A, 0x1E, 0x22, 0x2D, 0x31, 0x37, 0x38, 0x61, 0xA0), _position),
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
    0x36: read_modules_behind_status,
    0x70: read_modules,
    **dict.fromkeys((0x18, 0x24, 0x28, 0x2C, 0x2E, 0xA1, 0xA2), _cells),
    0x34: _tracked,
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
"""How each type is read. Others are answered and kept raw (``read_unknown``)."""
