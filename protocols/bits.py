"""Bytes as binary protocols use them: checksums, packed digits, times, sets of bits, and a bounded reader."""

from __future__ import annotations

import binascii
from calendar import timegm
from collections.abc import Mapping
from functools import reduce
from operator import xor
from typing import Final

from gateway.clock import US_PER_S
from gateway.errors import ParseError

_REVERSED: Final = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_ARC: Final = tuple(
    reduce(lambda crc, _: crc >> 1 ^ (0xA001 if crc & 1 else 0), range(8), value) for value in range(256)
)
_DAYS: Final = (0, 31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


# ---- checksums -------------------------------------------------------------------------------------------------------


def crc16_x25(data: bytes) -> int:
    """CRC-16/X-25, also called CRC-ITU: polynomial 0x1021 reflected, initial and final xor 0xFFFF. Check: 0x906E."""
    # The interpreter has the unreflected CRC in C; bits turned round before and behind it give the reflected one.
    crc = binascii.crc_hqx(data.translate(_REVERSED), 0xFFFF) ^ 0xFFFF
    return _REVERSED[crc & 0xFF] << 8 | _REVERSED[crc >> 8]


def crc16_arc(data: bytes) -> int:
    """CRC-16/ARC: polynomial 0x8005 reflected, initial 0. Check: 0xBB3D."""
    crc = 0
    for byte in data:
        crc = crc >> 8 ^ _ARC[(crc ^ byte) & 0xFF]
    return crc


def crc16_xmodem(data: bytes) -> int:
    """CRC-16/XMODEM: polynomial 0x1021, initial 0. Check: 0x31C3."""
    return binascii.crc_hqx(data, 0)


def crc16_ccitt_false(data: bytes) -> int:
    """CRC-16/CCITT-FALSE: polynomial 0x1021, initial 0xFFFF. Check: 0x29B1."""
    return binascii.crc_hqx(data, 0xFFFF)


def xor8(data: bytes) -> int:
    """All bytes xored."""
    return reduce(xor, data, 0)


def sum8(data: bytes) -> int:
    """The sum of all bytes modulo 256."""
    return sum(data) & 0xFF


def rotating_sum16(data: bytes) -> int:
    """For each byte: rotate 16 bits left by one, then add the byte, modulo 65536."""
    total = 0
    for byte in data:
        total = ((total << 1 | total >> 15) + byte) & 0xFFFF
    return total


# ---- digits and times ------------------------------------------------------------------------------------------------


def bcd_digits(data: bytes) -> str:
    """Two digits a byte. Raises ValueError where a half byte is no decimal digit."""
    digits = data.hex()
    if not digits.isdecimal():
        raise ValueError(f"{digits} is not decimal")
    return digits


def bcd_number(data: bytes) -> int:
    """Raises ValueError where a half byte is no decimal digit."""
    return int(bcd_digits(data))


def luhn_digit(digits: str) -> int:
    """The check digit that belongs behind these decimal digits (ISO/IEC 7812-1, Annex B), as behind an IMEI's 14."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return -total % 10


def utc_us(year: int, month: int, day: int, hour: int, minute: int, second: int, *, offset_s: int = 0) -> int:
    """Microseconds since the epoch of a clock that is ``offset_s`` ahead of UTC. ``year`` below 100 is of this century.

    Raises ValueError for a time that no calendar has (also February 29 of other years); second 60 is taken.
    """
    if year < 100:
        year += 2000
    if not (
        1970 <= year <= 9998
        and 1 <= month <= 12
        and 1 <= day <= _DAYS[month]
        and hour < 24
        and minute < 60
        and second <= 60
        and min(hour, minute, second) >= 0
    ):
        raise ValueError(f"{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} is no time")
    if month == 2 and day == 29 and (year % 4 or (year % 100 == 0 and year % 400)):
        raise ValueError(f"{year:04} has no February 29")
    at_s = timegm((year, month, day, hour, minute, second)) - offset_s
    if at_s < 0:
        raise ValueError("before 1970")
    return at_s * US_PER_S


def binary_time_us(data: bytes, offset_s: int = 0) -> int:
    """YY MM DD hh mm ss, one byte each; 0 when all are zero. Raises ValueError when it is no time."""
    if not any(data):
        return 0
    year, month, day, hour, minute, second = data
    return utc_us(year, month, day, hour, minute, second, offset_s=offset_s)


def bcd_time_us(data: bytes, offset_s: int = 0) -> int:
    """YY MM DD hh mm ss, two decimal digits each; 0 when all are zero. Raises ValueError when it is no time."""
    return digits_time_us(data.hex(), offset_s)


def digits_time_us(digits: str, offset_s: int = 0) -> int:
    """``YYMMDDhhmmss`` or ``YYYYMMDDhhmmss``; 0 when all are zero. Raises ValueError when it is no time."""
    if not (digits.isascii() and digits.isdecimal()) or len(digits) not in (12, 14):
        raise ValueError(f"{digits[:20]!r} is no time")
    if not digits.strip("0"):
        return 0
    split = len(digits) - 10
    rest = [int(digits[at : at + 2]) for at in range(split, len(digits), 2)]
    return utc_us(int(digits[:split]), *rest, offset_s=offset_s)


# ---- sets of bits ----------------------------------------------------------------------------------------------------


def bit_set(value: int, names: Mapping[int, str]) -> list[str]:
    """The names of all bits that are set, in the order of the table."""
    return [name for bit, name in names.items() if value >> bit & 1]


def has_bit(value: int, bit: int) -> bool:
    return bool(value >> bit & 1)


def bits(value: int, low: int, count: int) -> int:
    """``count`` bits from bit ``low`` on."""
    return value >> low & ((1 << count) - 1)


# ---- reading ---------------------------------------------------------------------------------------------------------


class Cursor:
    """Reads a frame from front to back, most significant byte first; ``_le`` is the other order.

    Raises ParseError when the frame ends before what is asked for.
    """

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.at = at
        self.end = len(data) if end is None else min(end, len(data))

    @property
    def left(self) -> int:
        """Bytes until the end."""
        return self.end - self.at

    def take(self, count: int) -> bytes:
        at = self.at
        if count < 0 or at + count > self.end:
            raise ParseError(f"ends after {self.end} bytes, within a field of {count} at {at}")
        self.at = at + count
        return self.data[at : at + count]

    def skip(self, count: int) -> None:
        self.take(count)

    def rest(self) -> bytes:
        return self.take(self.left)

    def peek(self) -> int:
        """The next byte, which stays; -1 at the end."""
        return self.data[self.at] if self.at < self.end else -1

    def uint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big")

    def sint(self, size: int) -> int:
        return int.from_bytes(self.take(size), "big", signed=True)

    def uint_le(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def sint_le(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little", signed=True)

    def u8(self) -> int:
        return self.take(1)[0]

    def i8(self) -> int:
        return self.sint(1)

    def u16(self) -> int:
        return self.uint(2)

    def i16(self) -> int:
        return self.sint(2)

    def u24(self) -> int:
        return self.uint(3)

    def u32(self) -> int:
        return self.uint(4)

    def i32(self) -> int:
        return self.sint(4)

    def u64(self) -> int:
        return self.uint(8)
