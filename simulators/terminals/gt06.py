"""A GT06 pendant: login, heartbeats, positions, alarm packets, answers to commands. Written from the protocol anew."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from simulators.terminals.base import Facts, Message, Place, by_size

ALARM_CODES = {"sos": 0x01, "fall": 0x23, "removed": 0x18, "low_battery": 0x0F, "fence_exit": 0x05, "vibration": 0x03}
STATUS_ALARMS = {"vibration": 1, "power_cut": 2, "low_battery": 3, "sos": 4, "removed": 7}
CELL = bytes.fromhex("01cc00287d001f72")


class Gt06Script:
    """``base.Script``."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._imei = identity
        self._serial = 0
        self._rest = b""

    def hello(self, now: datetime) -> Sequence[Message]:
        del now
        return [self._message(0x01, bytes.fromhex(self._imei.rjust(16, "0")) + b"\x00\x01\x00\x02")]

    def heartbeat(self, facts: Facts) -> Message:
        return self._message(0x13, bytes([0x44, _level(facts.battery_percent), 4, 0, 2]))

    def report(self, facts: Facts) -> Message:
        gps = _gps(facts)
        if not facts.alarms:
            return self._message(0x22, gps + CELL + b"\0\0\0")
        first, *others = sorted(facts.alarms, key=lambda name: name != "sos")
        status = next((STATUS_ALARMS[name] for name in others if name in STATUS_ALARMS), 0) << 3
        tail = bytes([0x40 | status, _level(facts.battery_percent), 4, ALARM_CODES[first], 2])
        return self._message(0x26, gps + b"\x09" + CELL + tail)

    def frames(self, data: bytes) -> Sequence[bytes]:
        found, self._rest = by_size(self._rest + data, 5, _size)
        return found

    def command(self, frame: bytes) -> Message | None:
        if frame[3] != 0x80:
            return None
        flag, text = frame[5:9], frame[9 : 5 + frame[4]]
        answer = text.rstrip(b"#").split(b",")[0] + b" OK"
        return self._message(0x15, bytes([len(answer) + 4]) + flag + answer + b"\x00\x02")

    def _message(self, kind: int, data: bytes) -> Message:
        self._serial = self._serial % 0xFFFF + 1
        serial = self._serial.to_bytes(2, "big")
        body = bytes([len(data) + 5, kind]) + data + serial
        answer = bytes([5, kind]) + serial
        expects = b"" if kind == 0x15 else b"xx" + answer + _crc(answer)
        return Message(b"xx" + body + _crc(body) + b"\r\n", expects)


def _gps(facts: Facts) -> bytes:
    at, place = facts.at, facts.place or Place(0.0, 0.0, valid=False)
    clock = bytes([at.year % 100, at.month, at.day, at.hour, at.minute, at.second])
    flags = place.course_degrees | (0x1000 if place.valid else 0)
    flags |= (0x0400 if place.latitude >= 0 else 0) | (0x0800 if place.longitude < 0 else 0)
    degrees = b"".join(round(abs(value) * 1_800_000).to_bytes(4, "big") for value in (place.latitude, place.longitude))
    speed = min(255, round(place.speed_m_per_s * 3.6))
    return clock + b"\xc9" + degrees + bytes([speed]) + flags.to_bytes(2, "big")


def _level(percent: int) -> int:
    return min(6, max(0, percent // 16))


def _crc(data: bytes) -> bytes:
    """CRC-16/X-25, bit by bit."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x8408 if crc & 1 else crc >> 1
    return (crc ^ 0xFFFF).to_bytes(2, "big")


def _size(head: bytes) -> int:
    return head[2] + 5 if head[0] == 0x78 else int.from_bytes(head[2:4], "big") + 6
