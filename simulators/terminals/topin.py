"""A Topin pendant: login, status, positions, SOS, answers to commands. Written from the protocol anew."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from simulators.terminals.base import Facts, Message, Place

ALARM_FLAGS = {"vibration": 0x01, "overspeed": 0x02, "low_battery": 0x10}


class TopinScript:
    """``base.Script``. An SOS is a frame of its own, without a place; the place goes along in front of it."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._imei = identity
        self._rest = b""

    def hello(self, now: datetime) -> Sequence[Message]:
        del now
        login = _frame(0x01, bytes.fromhex(self._imei.rjust(16, "0")) + b"\x01", 0x0D)
        return [Message(login, _frame(0x01, b"\x01", 0x0D))]

    def heartbeat(self, facts: Facts) -> Message:
        status = bytes([facts.battery_percent, 1, 8, 10, 80, 0, 0, 0, 0, facts.heart_rate_bpm])
        return Message(_frame(0x13, status), _frame(0x13, status))

    def report(self, facts: Facts) -> Message:
        at = facts.at
        stamp = bytes([at.year % 100, at.month, at.day, at.hour, at.minute, at.second])
        flags = sum(ALARM_FLAGS.get(name, 0) for name in set(facts.alarms))
        position = _frame(0x10, stamp + _fix(facts.place or Place(0.0, 0.0, valid=False)) + bytes([0, 3, flags]))
        if "sos" in facts.alarms:
            return Message(position + _frame(0x99), _frame(0x99))
        return Message(position, b"xx" + position[2:4] + stamp)

    def frames(self, data: bytes) -> Sequence[bytes]:
        buffer = self._rest + data
        found = []
        while (end := buffer.find(b"\r\n", 4)) >= 0:
            while buffer[end + 2 : end + 4] not in (b"", b"xx") and (further := buffer.find(b"\r\n", end + 1)) >= 0:
                end = further
            found.append(buffer[: end + 2])
            buffer = buffer[end + 2 :]
        self._rest = buffer
        return found

    def command(self, frame: bytes) -> Message | None:
        return Message(_frame(frame[3])) if frame[3] in (0x41, 0x56, 0x80, 0x98) else None


def _fix(place: Place) -> bytes:
    flags = place.course_degrees | (0x1000 if place.valid else 0)
    flags |= (0x0400 if place.latitude >= 0 else 0) | (0x0800 if place.longitude < 0 else 0)
    degrees = b"".join(round(abs(value) * 1_800_000).to_bytes(4, "big") for value in (place.latitude, place.longitude))
    return b"\x99" + degrees + bytes([min(255, round(place.speed_m_per_s * 3.6))]) + flags.to_bytes(2, "big")


def _frame(kind: int, data: bytes = b"", length: int | None = None) -> bytes:
    return b"xx" + bytes([len(data) + 1 if length is None else length, kind]) + data + b"\r\n"
