"""Parts that GT06 messages are made of. Each reader fills a draft; what is cut off is a fault of the draft."""

from __future__ import annotations

from struct import Struct
from typing import Final

from gateway.model import Frame
from protocols.bits import Cursor, bcd_time_us, binary_time_us
from protocols.codecs.fixes import fix
from protocols.codecs.gt06.meanings import ALARM_CODES, STATUS_ALARMS, battery_percent
from protocols.codecs.terminal import KMH_M_PER_S, Draft

DEGREE: Final = 1_800_000
RECENT_US: Final = 900_000_000
PLAUSIBLE_US: Final = 400 * 86_400_000_000
_fix_fields: Final = Struct(">BIIBH").unpack_from  # satellites, latitude, longitude, speed, flags and course
_cell_fields: Final = Struct(">HBHBH").unpack_from  # MCC, MNC, LAC, cell in three bytes


class Message:
    """One frame without its header, serial, CRC and end. ``size`` is the value of its length field."""

    __slots__ = ("data", "extended", "frame", "kind", "offset_s", "received_at_us", "size")

    def __init__(self, kind: int, extended: bool, data: bytes, length: bytes, frame: Frame) -> None:
        self.kind = kind
        self.extended = extended
        self.data = data
        self.size = int.from_bytes(length, "big")
        self.frame = frame
        self.received_at_us = frame.received_at_us
        self.offset_s: int = 0 if frame.context is None else frame.context.get("offset_s", 0)


def read_time(message: Message, draft: Draft, data: bytes, *, bcd: bool = False) -> None:
    """The time, in UTC or in the zone of the login: terminals do either, and the one that fits the moment is right."""
    try:
        at_us = bcd_time_us(data) if bcd else binary_time_us(data)
    except ValueError as error:
        draft.fault("time", error)
        return
    if at_us and message.offset_s and abs(at_us - message.received_at_us) > RECENT_US:
        at_us -= message.offset_s * 1_000_000
    draft.at_us = max(at_us, 0)


def is_time(data: bytes) -> bool:
    if len(data) < 6:
        return False
    year, month, day, hour, minute, second = data[:6]
    return (
        5 <= year < 80 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60
    )  # fmt: skip


def read_gps(message: Message, draft: Draft, data: bytes) -> None:
    """The 18 bytes: time, satellites, latitude, longitude, speed, flags and course."""
    read_time(message, draft, data[:6])
    read_position(draft, data[6:18])


def read_position(draft: Draft, data: bytes) -> None:
    """The 12 bytes behind the time."""
    satellites, north, east, speed, flags = _fix_fields(data)
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


def gps_at(data: bytes, offsets: tuple[int, ...]) -> int:
    """Where the GPS block is: models put things before it. -1: nowhere."""
    for offset in offsets:
        block = data[offset : offset + 18]
        if len(block) == 18 and (is_time(block) or (offset == 0 and not any(block[:6]))):
            _, north, east, _, _ = _fix_fields(block, 6)
            if north <= 90 * DEGREE and east <= 180 * DEGREE:
                return offset
    return -1


def read_cell(cursor: Cursor, draft: Draft, *, long: bool, cid_bytes: int = 3) -> None:
    if not long and cid_bytes == 3 and cursor.left >= 8:  # the ordinary one, in one go
        mcc, mnc, lac, high, low = _cell_fields(cursor.data, cursor.at)
        if not mcc & 0x8000:
            cursor.at += 8
            draft.cell(mcc, mnc, lac, high << 16 | low)
            return
    mcc, mnc = read_operator(cursor)
    lac = cursor.uint(4 if long else 2)
    draft.cell(mcc, mnc, lac, cursor.uint(8 if long else cid_bytes))


def read_operator(cursor: Cursor) -> tuple[int, int]:
    mcc = cursor.u16()
    return (mcc & 0x7FFF, cursor.u16()) if mcc & 0x8000 else (mcc, cursor.u8())


def read_cell_with_length(cursor: Cursor, draft: Draft, *, long: bool) -> None:
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
        read_cell(cursor, draft, long=False, cid_bytes=4)
        return
    read_cell(cursor, draft, long=long)
    cursor.at = max(cursor.at, min(begin + length - 1, cursor.end - 5))


def read_status(draft: Draft, status: int, level: int, gsm: int, alarm: int) -> None:
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
    read_alarm(draft, alarm)


def read_alarm(draft: Draft, code: int) -> None:
    if code == 0:
        return
    name = ALARM_CODES.get(code)
    if name is None:
        draft.unknown["alarm_code"] = code
    else:
        draft.alarm(name)


def read_text(draft: Draft, data: bytes, name: str = "text") -> None:
    draft.keep(name, data.rstrip(b"\0").decode("ascii", "replace"))
