"""An Eview pendant (MiniFinder 2): one frame with status, place, alarms and health; answers to commands."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime

from simulators.terminals.base import Facts, Message, Place, by_size

ALARM_BITS = {
    "low_battery": 0, "overspeed": 1, "fall": 2, "fence_exit": 4, "power_off": 8, "motion": 10, "no_motion": 11,
    "sos": 12,
}  # fmt: skip
WANTS_ANSWER = 0x10


class Minifinder2Script:
    """``base.Script``."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._imei = _item(0x01, identity.encode("ascii"))
        self._sequence = 0
        self._rest = b""

    def hello(self, now: datetime) -> Sequence[Message]:
        del now
        body = b"\x03" + self._imei + _item(0x12)
        frame, sequence = self._frame(body, WANTS_ANSWER)
        del sequence
        return [Message(frame, b"\xab\x00\x07\x00")]

    def heartbeat(self, facts: Facts) -> Message:
        return self._data(_status(facts))

    def report(self, facts: Facts) -> Message:
        items = _status(facts)
        stamp = _stamp(facts.at)
        if facts.alarms:
            bits = sum(1 << ALARM_BITS[name] for name in set(facts.alarms) if name in ALARM_BITS)
            items += _item(0x02, bits.to_bytes(4, "little") + stamp)
        if facts.place is not None:
            items += _gps(facts.place)
        if facts.steps:
            items += _item(0x30, stamp + facts.steps.to_bytes(4, "little"))
        if facts.heart_rate_bpm:
            items += _item(0x40, stamp + bytes([facts.heart_rate_bpm]))
        return self._data(items)

    def frames(self, data: bytes) -> Sequence[bytes]:
        found, self._rest = by_size(self._rest + data, 8, _size)
        return found

    def command(self, frame: bytes) -> Message | None:
        if frame[8] != 0x04:
            return None
        body = b"\x04" + _item(0x1F, b"\0done")
        return Message(_head(body, 0) + frame[6:8] + body)

    def _data(self, items: bytes) -> Message:
        frame, sequence = self._frame(b"\x01" + self._imei + items, WANTS_ANSWER)
        answer = b"\x7f\x01\x00"
        return Message(frame, _head(answer, 0) + sequence + answer)

    def _frame(self, body: bytes, flags: int) -> tuple[bytes, bytes]:
        self._sequence = self._sequence + 1 & 0xFFFF
        sequence = self._sequence.to_bytes(2, "little")
        return _head(body, flags) + sequence + body, sequence


def _item(key: int, value: bytes = b"") -> bytes:
    return bytes([len(value) + 1, key]) + value


def _stamp(at: datetime) -> bytes:
    return int(at.timestamp()).to_bytes(4, "little")


def _status(facts: Facts) -> bytes:
    return _item(0x24, _stamp(facts.at) + (facts.battery_percent << 24 | 17 << 19).to_bytes(4, "little"))


def _gps(place: Place) -> bytes:
    degrees = round(place.latitude * 1e7), round(place.longitude * 1e7)
    hdop = 12 if place.valid else 0
    speed = round(place.speed_m_per_s * 3.6)
    return _item(0x20, struct.pack("<iiHHhHIB", *degrees, speed, place.course_degrees, 5, hdop, 0, 9))


def _head(body: bytes, flags: int) -> bytes:
    return b"\xab" + bytes([flags]) + len(body).to_bytes(2, "little") + _crc(body).to_bytes(2, "little")


def _crc(data: bytes) -> int:
    """CRC-16/XMODEM, bit by bit."""
    crc = 0
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x1021 if crc & 0x8000 else crc << 1) & 0xFFFF
    return crc


def _size(head: bytes) -> int:
    return int.from_bytes(head[2:4], "little") + 8
