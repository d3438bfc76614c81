"""Meitrack: binary records of CCC (fixed) and CCE (parameters of one, two, four and any number of bytes)."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

from gateway.clock import US_PER_S
from gateway.errors import ParseError
from gateway.model import Frame
from protocols.bits import Cursor
from protocols.codecs.fixes import fix
from protocols.codecs.meitrack.text import read_event
from protocols.codecs.terminal import KMH_M_PER_S, Draft

EPOCH_2000_S: Final = 946_684_800
MAX_RECORDS: Final = 500
_C_RECORD: Final = 52


def _at_us(seconds: int) -> int:
    return (EPOCH_2000_S + seconds) * US_PER_S if seconds else 0


# ---- CCC -------------------------------------------------------------------------------------------------------------


def read_c(frame: Frame, imei: str, content: bytes) -> list[Draft]:
    """Version (2), length of a record (2), how many wait behind (4), records."""
    cursor = Cursor(content)
    drafts: list[Draft] = []
    if cursor.left < 8:
        return [_unread(frame, imei, content, "ends within its head")]
    cursor.skip(2)
    length = cursor.uint_le(2)
    cursor.skip(4)
    if length < _C_RECORD:
        return [_unread(frame, imei, content, f"records of {length} bytes")]
    while cursor.left >= length and len(drafts) < MAX_RECORDS:
        draft = Draft(frame, imei)
        record = cursor.take(length)
        _record_c(Cursor(record), draft)
        draft.dedup_key = _dedup_key(draft, record)
        drafts.append(draft)
    if cursor.left or not drafts:
        drafts.append(_unread(frame, imei, cursor.rest(), "less than a record"))
    return drafts


def _unread(frame: Frame, imei: str, content: bytes, what: str) -> Draft:
    draft = Draft(frame, imei)
    draft.fault("records", what)
    draft.keep("records", content)
    return draft


def _dedup_key(draft: Draft, record: bytes) -> str:
    """Nothing numbers a record: a resend is one of the same time with the same bytes."""
    return f"{draft.at_us // US_PER_S}-{zlib.crc32(record):08x}" if draft.at_us else ""


def _record_c(cursor: Cursor, draft: Draft) -> None:
    read_event(cursor.u8(), draft)
    latitude, longitude = cursor.sint_le(4) / 1e6, cursor.sint_le(4) / 1e6
    draft.at_us = _at_us(cursor.uint_le(4))
    valid = cursor.u8() == 1
    fix(draft, latitude, longitude, valid=valid)
    draft.keep("satellites", cursor.u8())
    draft.keep("gsm_signal", cursor.u8())
    speed, course = cursor.uint_le(2), cursor.uint_le(2)
    hdop, altitude = cursor.uint_le(2) / 10, cursor.sint_le(2)
    if draft.position is not None and draft.position.valid:
        draft.measure("speed_m_per_s", speed * KMH_M_PER_S)
        draft.measure("course_degrees", course)
        draft.measure("altitude_m", altitude)
        draft.keep("hdop", hdop)
    draft.measure("odometer_m", cursor.uint_le(4))
    draft.keep("runtime_s", cursor.uint_le(4))
    mcc, mnc, lac = cursor.uint_le(2), cursor.uint_le(2), cursor.uint_le(2)
    draft.cell(mcc, mnc, lac, cursor.uint_le(2))
    states = cursor.uint_le(2)
    draft.keep("outputs", states & 0xFF)
    draft.keep("inputs", states >> 8)
    draft.keep("analog", [cursor.uint_le(2)])
    draft.measure("battery_volts", cursor.uint_le(2) / 100)
    draft.measure("external_power_volts", cursor.uint_le(2) / 100)
    draft.keep("fences", cursor.uint_le(4))


# ---- CCE -------------------------------------------------------------------------------------------------------------


class _Record:
    """Parameters come in any order: the place is made when all are there."""

    __slots__ = ("altitude", "course", "draft", "latitude", "longitude", "speed", "valid")

    def __init__(self, draft: Draft) -> None:
        self.draft = draft
        self.latitude: float | None = None
        self.longitude: float | None = None
        self.valid = False
        self.speed: int | None = None
        self.course: int | None = None
        self.altitude: int | None = None

    def finish(self) -> None:
        draft = self.draft
        if self.latitude is None or self.longitude is None:
            return
        fix(draft, self.latitude, self.longitude, valid=self.valid)
        if draft.position is None or not draft.position.valid:
            return
        draft.measure("speed_m_per_s", None if self.speed is None else self.speed * KMH_M_PER_S)
        draft.measure("course_degrees", self.course)
        draft.measure("altitude_m", self.altitude)


def read_e(frame: Frame, imei: str, content: bytes) -> list[Draft]:
    """How many wait behind (4), how many are here (2), then length (2) and record of each."""
    cursor = Cursor(content)
    drafts: list[Draft] = []
    if cursor.left < 6:
        return [_unread(frame, imei, content, "ends within its head")]
    cursor.skip(4)
    stated = cursor.uint_le(2)
    while cursor.left >= 2 and len(drafts) < min(stated, MAX_RECORDS):
        length = cursor.uint_le(2)
        draft = Draft(frame, imei)
        drafts.append(draft)
        if length > cursor.left:
            draft.fault("records", f"{length} bytes stated, {cursor.left} there")
        body = cursor.take(min(length, cursor.left))
        _record_e(body, draft)
        draft.dedup_key = _dedup_key(draft, body)
    if len(drafts) < stated or cursor.left:
        what = f"{stated} stated, {len(drafts)} there"
        if not drafts:
            return [_unread(frame, imei, content, what)]
        drafts[0].fault("records", f"{what}, and {cursor.left} bytes")
    return drafts


def _record_e(body: bytes, draft: Draft) -> None:
    cursor = Cursor(body)
    record = _Record(draft)
    try:
        cursor.skip(2)  # how many parameters in all
        for size in (1, 2, 4):
            for _ in range(cursor.u8()):
                identifier = _identifier(cursor)
                _fixed(identifier, size, cursor.take(size), record)
        for _ in range(cursor.u8()):
            identifier = _identifier(cursor)
            value = cursor.take(cursor.u8())
            _variable(identifier, value, record)
        if any(cursor.data[cursor.at :]):
            draft.keep("tail", cursor.rest())
    except ParseError as error:
        draft.fault("record", error)
        draft.keep("record", body)
    record.finish()


def _identifier(cursor: Cursor) -> int:
    """One byte, or two that begin with FE."""
    first = cursor.u8()
    return first << 8 | cursor.u8() if first == 0xFE else first


def _fixed(identifier: int, size: int, value: bytes, record: _Record) -> None:
    read = _FIXED.get((size, identifier))
    raw = int.from_bytes(value, "little")
    if read is not None:
        read(raw, record)
    elif raw:
        record.draft.keep(f"p_{identifier:02x}", raw)


def _variable(identifier: int, value: bytes, record: _Record) -> None:
    read = _VARIABLE.get(identifier)
    try:
        if read is None:
            raise ParseError("not known")  # noqa: TRY301 - kept like one that is too short
        read(Cursor(value), record)
    except ParseError as error:
        if read is not None:
            record.draft.fault(f"parameter {identifier:02x}", error)
        if any(value):
            record.draft.keep(f"p_{identifier:02x}", value)


def _set_event(raw: int, record: _Record) -> None:
    if raw:
        read_event(raw, record.draft)


def _set_valid(raw: int, record: _Record) -> None:
    record.valid = raw == 1


def _set_latitude(raw: int, record: _Record) -> None:
    record.latitude = _signed(raw, 4) / 1e6


def _set_longitude(raw: int, record: _Record) -> None:
    record.longitude = _signed(raw, 4) / 1e6


def _set_time(raw: int, record: _Record) -> None:
    record.draft.at_us = _at_us(raw)


def _set_speed(raw: int, record: _Record) -> None:
    record.speed = raw


def _set_course(raw: int, record: _Record) -> None:
    record.course = raw if raw <= 360 else None


def _set_altitude(raw: int, record: _Record) -> None:
    record.altitude = _signed(raw, 2)


def _signed(raw: int, size: int) -> int:
    return raw - (1 << 8 * size) if raw >> (8 * size - 1) else raw


def _kept(name: str, scale: float = 1.0) -> Callable[[int, _Record], None]:
    def read(raw: int, record: _Record) -> None:
        record.draft.keep(name, raw if scale == 1.0 else round(raw * scale, 4))

    return read


def _measured(metric: str, scale: float = 1.0) -> Callable[[int, _Record], None]:
    def read(raw: int, record: _Record) -> None:
        record.draft.measure(metric, raw if scale == 1.0 else raw * scale)

    return read


_FIXED: Final[dict[tuple[int, int], Callable[[int, _Record], None]]] = {
    (1, 0x01): _set_event,
    (1, 0x05): _set_valid,
    (1, 0x06): _kept("satellites"),
    (1, 0x07): _kept("gsm_signal"),
    (1, 0x14): _kept("outputs"),
    (1, 0x15): _kept("inputs"),
    (1, 0xFE69): _measured("battery_percent"),
    (2, 0x08): _set_speed,
    (2, 0x09): _set_course,
    (2, 0x0A): _kept("hdop", 0.1),
    (2, 0x0B): _set_altitude,
    (2, 0x19): _measured("battery_volts", 0.01),
    (2, 0x1A): _measured("external_power_volts", 0.01),
    (2, 0x40): _set_event,
    (4, 0x02): _set_latitude,
    (4, 0x03): _set_longitude,
    (4, 0x04): _set_time,
    (4, 0x0C): _measured("odometer_m"),
    (4, 0x0D): _kept("runtime_s"),
    (4, 0xFEF4): _kept("engine_minutes"),
}


def _cell(cursor: Cursor, record: _Record) -> None:
    """MCC, MNC, LAC, CID (4), signal in dBm."""
    mcc, mnc, lac, cid = cursor.uint_le(2), cursor.uint_le(2), cursor.uint_le(2), cursor.uint_le(4)
    rssi = cursor.sint_le(2) if cursor.left >= 2 else 0
    record.draft.cell(mcc, mnc, lac, cid, rssi if -200 < rssi < 0 else None)


def _temperature(cursor: Cursor, record: _Record) -> None:
    """Number of the sensor, hundredths of a degree."""
    cursor.skip(1)
    celsius = cursor.sint_le(2) / 100
    draft = record.draft
    if "temperature_celsius" not in draft.measurements:
        draft.measure("temperature_celsius", celsius)
    draft.unknown.setdefault("temperatures", []).append(celsius)


def _text(name: str) -> Callable[[Cursor, _Record], None]:
    def read(cursor: Cursor, record: _Record) -> None:
        record.draft.keep(name, cursor.rest().decode("latin-1").strip("\0"))

    return read


def _batteries(cursor: Cursor, record: _Record) -> None:
    """FEA8: state and percent of three batteries; state 0 is none."""
    for index in (1, 2, 3):
        state, percent = cursor.u8(), cursor.u8()
        if not state:
            continue
        if index == 1:
            record.draft.measure("battery_percent", percent)
        else:
            record.draft.keep(f"battery_{index}_percent", percent)


_VARIABLE: Final[dict[int, Callable[[Cursor, _Record], None]]] = {
    0x0E: _cell,
    0x28: _text("picture"),
    **dict.fromkeys(range(0x2A, 0x32), _temperature),
    0xFEA8: _batteries,
}
