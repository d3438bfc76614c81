"""Checksums by their published check values, digits, times, cursors."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.clock import to_us
from gateway.errors import ParseError
from protocols import bits

CHECK = b"123456789"


def test_the_published_check_values() -> None:
    assert bits.crc16_x25(CHECK) == 0x906E
    assert bits.crc16_xmodem(CHECK) == 0x31C3
    assert bits.crc16_ccitt_false(CHECK) == 0x29B1
    assert bits.crc16_x25(b"") == 0
    assert bits.xor8(CHECK) == 0x31
    assert bits.sum8(CHECK) == 0xDD
    assert bits.luhn_digit("7992739871") == 3
    assert bits.luhn_digit("49015420323751") == 8


@given(st.binary(max_size=64))
def test_crc_x25_is_what_division_bit_by_bit_gives(data: bytes) -> None:
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x8408 if crc & 1 else crc >> 1
    assert bits.crc16_x25(data) == crc ^ 0xFFFF


@given(st.integers(946_684_800, 4_102_444_799), st.integers(-50_000, 50_000))
def test_times_are_those_of_the_calendar(at_s: int, offset_s: int) -> None:
    at = datetime.fromtimestamp(at_s, UTC)
    expected = to_us(at) - offset_s * 1_000_000
    digits = at.strftime("%y%m%d%H%M%S")
    if digits.strip("0"):
        assert bits.digits_time_us(digits, offset_s) == expected
        assert bits.bcd_time_us(bytes.fromhex(digits), offset_s) == expected
        fields = (at.year % 100, at.month, at.day, at.hour, at.minute, at.second)
        assert bits.binary_time_us(bytes(fields), offset_s) == expected


@given(st.binary(min_size=6, max_size=6))
def test_six_bytes_are_a_time_or_not(data: bytes) -> None:
    """As datetime sees it, whatever the bytes are."""
    year, month, day, hour, minute, second = data
    try:
        expected = (
            to_us(datetime(2000 + year, month, day, hour, minute, min(second, 59), tzinfo=UTC)) if any(data) else 0
        )
    except ValueError:
        expected = None
    if second > 60 or (year > 99):
        return  # leap seconds, and years that two digits cannot say
    if second == 60 and expected is not None:
        expected += 1_000_000
    if expected is None:
        with pytest.raises(ValueError):
            bits.binary_time_us(data)
    else:
        assert bits.binary_time_us(data) == expected


def test_digits() -> None:
    assert bits.bcd_digits(b"\x01\x23") == "0123"
    assert bits.bcd_number(b"\x01\x23") == 123
    with pytest.raises(ValueError, match="not decimal"):
        bits.bcd_digits(b"\x1a")
    for wrong in ("", "12", "2611220102030", "26112201020x", "260230010203"):
        with pytest.raises(ValueError):
            bits.digits_time_us(wrong)
    assert bits.bit_set(0b101, {0: "a", 1: "b", 2: "c"}) == ["a", "c"]
    assert (bits.bits(0b110100, 2, 3), bits.has_bit(4, 2), bits.has_bit(4, 1)) == (0b101, True, False)


def test_a_cursor_knows_its_end() -> None:
    cursor = bits.Cursor(bytes(range(1, 12)), end=10)
    assert (cursor.u8(), cursor.u16(), cursor.u24()) == (1, 0x0203, 0x040506)
    assert (cursor.peek(), cursor.left) == (7, 4)
    assert cursor.uint_le(2) == 0x0807
    with pytest.raises(ParseError, match="ends after 10 bytes"):
        cursor.u24()
    assert cursor.rest() == b"\x09\x0a"
    assert (cursor.peek(), cursor.left) == (-1, 0)
    assert bits.Cursor(b"\xff\xfe").sint(2) == -2
    assert bits.Cursor(b"\xfe\xff").sint_le(2) == -2
