"""A JT/T 808 pendant: registration, authentication, heartbeats, locations, answers. Written from the standard anew.

Up to 12 digits of identity use the header of 2013, more that of 2019.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import reduce
from operator import xor
from typing import overload

from simulators.terminals.base import Facts, Message, Place

ALARM_BITS = {
    "sos": 0, "overspeed": 1, "power_cut": 8, "vibration": 15, "tamper": 16, "low_battery": 18, "fence_exit": 20,
    "motion": 28, "fall": 30,
}  # fmt: skip
MODEL = b"carebell-sim"
ANSWERS = (0x8001, 0x8100, 0x8109, 0x8800)


class Opening(Sequence[Message]):
    """Messages that are made when they are asked for: the second one needs the answer to the first."""

    def __init__(self, *makers: Callable[[], Message]) -> None:
        self._makers = makers

    def __len__(self) -> int:
        return len(self._makers)

    @overload
    def __getitem__(self, index: int) -> Message: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Message]: ...
    def __getitem__(self, index: int | slice) -> Message | Sequence[Message]:
        if isinstance(index, slice):
            return [make() for make in self._makers[index]]
        return self._makers[index]()


class Jt808Script:
    """``base.Script``. The first connection registers; each authenticates with the code that the terminal was given."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._modern = len(identity) > 12
        self._terminal = bytes.fromhex(identity.rjust(20 if self._modern else 12, "0"))
        self._serial = 0
        self._rest = b""
        self._code = b""

    def hello(self, now: datetime) -> Sequence[Message]:
        del now
        return Opening(self._authentication) if self._code else Opening(self._registration, self._authentication)

    def heartbeat(self, facts: Facts) -> Message:
        del facts
        return self._message(0x0002, b"")

    def report(self, facts: Facts) -> Message:
        alarms = sum(1 << ALARM_BITS[name] for name in set(facts.alarms) if name in ALARM_BITS)
        items = b"\x06\x01" + bytes([facts.battery_percent]) + b"\x30\x01\x14"
        if "removed" in facts.alarms:
            items += b"\xeb\x08\x00\x06\x00\x89" + (0xFFFFFFFF ^ 1 << 12).to_bytes(4, "big")
        if facts.steps:
            items += b"\xf8\x02" + min(facts.steps, 0xFFFF).to_bytes(2, "big")
        return self._message(0x0200, alarms.to_bytes(4, "big") + _place(facts) + items)

    def frames(self, data: bytes) -> Sequence[bytes]:
        """Each as message id and body. The platform's serial number, which nobody can wait for, stands behind."""
        *whole, self._rest = (self._rest + data).split(b"\x7e")
        return [self._content(part) for part in whole if part]

    def command(self, frame: bytes) -> Message | None:
        if int.from_bytes(frame[:2], "big") in ANSWERS:
            return None
        return self._message(0x0001, frame[-2:] + frame[:2] + b"\0")

    def _registration(self) -> Message:
        widths = (11, 30, 30) if self._modern else (5, 20, 7)
        texts = (b"CAREB", MODEL, self._identity[-7:].encode())
        body = bytes(4) + b"".join(text.ljust(width, b"\0") for text, width in zip(texts, widths, strict=True)) + b"\0"
        return self._message(0x0100, body, answer=0x8100)

    def _authentication(self) -> Message:
        if not self._modern:
            return self._message(0x0102, self._code)
        imei = self._identity[-15:].encode().ljust(15, b"\0")
        return self._message(0x0102, bytes([len(self._code)]) + self._code + imei + bytes(20))

    def _content(self, part: bytes) -> bytes:
        plain = part.replace(b"\x7d\x02", b"\x7e").replace(b"\x7d\x01", b"\x7d")
        at = 5 + len(self._terminal) if self._modern else 4 + len(self._terminal)
        message_id, serial, body = plain[:2], plain[at : at + 2], plain[at + 2 : -1]
        if message_id == b"\x81\x00" and body[2:3] == b"\0":
            self._code = body[3:]
        return message_id + body + serial

    def _message(self, message_id: int, body: bytes, *, answer: int = 0x8001) -> Message:
        self._serial = self._serial + 1 & 0xFFFF
        serial = self._serial.to_bytes(2, "big")
        attributes = len(body) | (0x4000 if self._modern else 0)
        head = message_id.to_bytes(2, "big") + attributes.to_bytes(2, "big") + (b"\x01" if self._modern else b"")
        content = head + self._terminal + serial + body
        content += bytes([reduce(xor, content)])
        escaped = content.replace(b"\x7d", b"\x7d\x01").replace(b"\x7e", b"\x7d\x02")
        expects = b""
        if message_id != 0x0001:
            about = message_id.to_bytes(2, "big") if answer == 0x8001 else b""
            expects = answer.to_bytes(2, "big") + serial + about + b"\0"
        return Message(b"\x7e" + escaped + b"\x7e", expects)


def _place(facts: Facts) -> bytes:
    place = facts.place or Place(0.0, 0.0, valid=False)
    status = (2 if place.valid else 0) | (4 if place.latitude < 0 else 0) | (8 if place.longitude < 0 else 0)
    local = facts.at + timedelta(hours=8)
    fields = [
        status.to_bytes(4, "big"),
        round(abs(place.latitude) * 1e6).to_bytes(4, "big"),
        round(abs(place.longitude) * 1e6).to_bytes(4, "big"),
        bytes(2),
        round(place.speed_m_per_s * 36).to_bytes(2, "big"),
        (place.course_degrees % 360).to_bytes(2, "big"),
        bytes.fromhex(local.strftime("%y%m%d%H%M%S")),
    ]
    return b"".join(fields)
