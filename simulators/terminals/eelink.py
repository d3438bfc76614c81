"""An Eelink pendant over TCP: login, heartbeats, positions, warnings, answers to commands. From the protocol anew."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime

from simulators.terminals.base import Facts, Message, Place, by_size

ALARM_CODES = {
    "sos": 0x02, "low_battery": 0x03, "vibration": 0x04, "removed": 0x25, "overspeed": 0x82, "fence_enter": 0x83,
    "fence_exit": 0x84, "fall": 0x86,
}  # fmt: skip
CELL = bytes.fromhex("01cc0000123400056789b5")


class EelinkScript:
    """``base.Script``. A warning names one alarm: the first of several, an SOS before all others."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._imei = identity
        self._number = 0
        self._rest = b""

    def hello(self, now: datetime) -> Sequence[Message]:
        del now
        return [self._package(0x01, bytes.fromhex(self._imei.rjust(16, "0")) + b"\x01\x20", answer=7)]

    def heartbeat(self, facts: Facts) -> Message:
        del facts
        return self._package(0x03, b"\x00\x01")

    def report(self, facts: Facts) -> Message:
        place = facts.place or Place(0.0, 0.0, valid=False)
        head = int(facts.at.timestamp()).to_bytes(4, "big") + b"\x03" + _gps(place) + CELL
        status = b"\x00\x01" if place.valid else b"\x00\x00"
        known = [name for name in sorted(facts.alarms, key=lambda name: name != "sos") if name in ALARM_CODES]
        if known:
            return self._package(0x14, head + bytes([ALARM_CODES[known[0]]]) + status)
        volts = (3300 + 9 * facts.battery_percent).to_bytes(2, "big")
        return self._package(
            0x12, head + status + volts + bytes(12) + min(facts.steps, 0xFFFF).to_bytes(2, "big") + b"\0\0"
        )

    def frames(self, data: bytes) -> Sequence[bytes]:
        found, self._rest = by_size(self._rest + data, 7, _size)
        return found

    def command(self, frame: bytes) -> Message | None:
        if frame[2] != 0x80:
            return None
        number, text = frame[8:12], frame[12:]
        return self._package(0x80, b"\x01" + number + text.rstrip(b"#").split(b",")[0] + b" OK", answer=-1)

    def _package(self, kind: int, body: bytes, *, answer: int = 0) -> Message:
        """``answer``: how many bytes the answer's body has; -1: there is none."""
        self._number = self._number + 1 & 0xFFFF
        number = self._number.to_bytes(2, "big")
        expects = b"" if answer < 0 else b"gg" + bytes([kind]) + (2 + answer).to_bytes(2, "big") + number
        return Message(b"gg" + bytes([kind]) + (len(body) + 2).to_bytes(2, "big") + number + body, expects)


def _gps(place: Place) -> bytes:
    degrees = (round(place.latitude * 1_800_000), round(place.longitude * 1_800_000))
    return struct.pack(">iihHHB", *degrees, 0, round(place.speed_m_per_s * 3.6), place.course_degrees, 9)


def _size(head: bytes) -> int:
    return int.from_bytes(head[3:5], "big") + 5
