"""Values of Bluetooth health devices: SFLOAT and FLOAT (IEEE 11073-20601), dates, and the record access commands."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from functools import lru_cache
from types import MappingProxyType
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct

from gateway.clock import from_us, to_us
from gateway.errors import ParseError
from protocols.bits import Cursor

DEFAULT_ZONE: Final = "Asia/Shanghai"

_SFLOAT_SPECIAL: Final = MappingProxyType(
    {0x07FF: "nan", 0x0800: "nres", 0x07FE: "+inf", 0x0802: "-inf", 0x0801: "reserved"}
)
_FLOAT_SPECIAL: Final = MappingProxyType(
    {0x007FFFFF: "nan", 0x00800000: "nres", 0x007FFFFE: "+inf", 0x00800002: "-inf", 0x00800001: "reserved"}
)


class Number(Struct, frozen=True, gc=False):
    """A number, or why there is none: ``nan`` (not measured), ``nres`` (not at this resolution), ``+inf``, ``-inf``
    (outside what the device can measure), ``reserved``. A special value is never a number, and never 0.
    """

    value: float | None
    quality: str = ""


def sfloat(raw: int) -> Number:
    """IEEE 11073-20601 SFLOAT, 16 bits: 4 bits of decimal exponent, 12 of mantissa, both two's complement."""
    special = _SFLOAT_SPECIAL.get(raw)
    if special is not None:
        return Number(None, special)
    return Number(_scaled(_signed(raw & 0x0FFF, 12), _signed(raw >> 12, 4)))


def float32(raw: int) -> Number:
    """IEEE 11073-20601 FLOAT, 32 bits: 8 bits of decimal exponent, 24 of mantissa, both two's complement."""
    special = _FLOAT_SPECIAL.get(raw)
    if special is not None:
        return Number(None, special)
    return Number(_scaled(_signed(raw & 0xFFFFFF, 24), _signed(raw >> 24, 8)))


def _signed(value: int, width: int) -> int:
    return value - (1 << width) if value >> (width - 1) else value


def _scaled(mantissa: int, exponent: int) -> float:
    # A power of ten below 1 is not a binary fraction: dividing rounds once, multiplying by it would round twice.
    return float(mantissa * 10**exponent) if exponent >= 0 else mantissa / 10**-exponent


def to_sfloat(mantissa: int, exponent: int = 0) -> bytes:
    """The two bytes of mantissa (-2048 to 2047) times ten to the exponent (-8 to 7), as they are sent."""
    return ((exponent & 0xF) << 12 | mantissa & 0xFFF).to_bytes(2, "little")


def to_float32(mantissa: int, exponent: int = 0) -> bytes:
    """The four bytes of a FLOAT, as they are sent."""
    return ((exponent & 0xFF) << 24 | mantissa & 0xFFFFFF).to_bytes(4, "little")


# ---- dates -----------------------------------------------------------------------------------------------------------


class LocalTime(Struct, frozen=True, gc=False):
    """What a device's clock shows; it knows no zone. ``text`` is that, ``at_us`` the moment when it is a whole time."""

    text: str
    at_us: int = 0


@lru_cache(maxsize=64)
def zone_of(name: str) -> tzinfo:
    """The zone of this name; DEFAULT_ZONE for one that does not exist."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return ZoneInfo(DEFAULT_ZONE)


def date_time(cursor: Cursor, zone: tzinfo, offset_min: int = 0) -> LocalTime:
    """Date Time (0x2A08, 7 bytes) in the zone of the person, moved by minutes. A zero in year, month or day says that
    the device does not know it; such a time, and one that no calendar has, is a text alone.
    """
    year, month, day = cursor.uint_le(2), cursor.u8(), cursor.u8()
    hour, minute, second = cursor.u8(), cursor.u8(), cursor.u8()
    text = f"{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
    try:
        local = datetime(year, month, day, hour, minute, second, tzinfo=zone) + timedelta(minutes=offset_min)
        at_us = to_us(local.astimezone(UTC))
    except (ValueError, OverflowError):
        return LocalTime(text)
    return LocalTime(local.strftime("%Y-%m-%dT%H:%M:%S"), at_us) if at_us > 0 else LocalTime(text)


def current_time(at_us: int, zone: tzinfo) -> bytes:
    """Current Time (0x2A2B, 10 bytes) of this moment in the zone: what is written to a device that wants it.

    The reason is "external reference time update"; Monday is day 1.
    """
    local = from_us(at_us).astimezone(zone)
    fraction = local.microsecond * 256 // 1_000_000
    return date_time_bytes(local) + bytes([local.isoweekday(), fraction, 0x02])


def date_time_bytes(local: datetime) -> bytes:
    """Date Time (0x2A08, 7 bytes)."""
    return local.year.to_bytes(2, "little") + bytes([local.month, local.day, local.hour, local.minute, local.second])


# ---- record access control point (0x2A52) ----------------------------------------------------------------------------

REPORT_ALL: Final = b"\x01\x01"
REPORT_LAST: Final = b"\x01\x06"
ABORT: Final = b"\x03\x00"
SUCCESS, NO_RECORDS = 0x01, 0x06


def report_from(sequence: int) -> bytes:
    """Report stored records whose sequence number is this one or a later one (0 to 65535)."""
    return b"\x01\x03\x01" + sequence.to_bytes(2, "little")


class AccessAnswer(Struct, frozen=True, gc=False):
    """An indication of 0x2A52: ``count`` of records, or the ``code`` with which request ``asked`` ended."""

    asked: int = 0
    code: int = 0
    count: int = -1


def access_answer(value: bytes) -> AccessAnswer:
    """Raises ParseError."""
    cursor = Cursor(value)
    opcode, _operator = cursor.u8(), cursor.u8()
    if opcode == 0x05:
        return AccessAnswer(0x04, SUCCESS, cursor.uint_le(2))
    if opcode == 0x06:
        return AccessAnswer(cursor.u8(), cursor.u8())
    raise ParseError(f"record access answer {opcode:#04x} is not known")
