"""NMEA sentences with their checksums."""

from __future__ import annotations

from functools import reduce


def sentence(text: str) -> bytes:
    data = text.encode("ascii")
    return b"$%s*%02X\r\n" % (data, reduce(lambda sum_, byte: sum_ ^ byte, data, 0))
