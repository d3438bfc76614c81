"""A telecare unit that reports by SIA DC-09: Contact ID events and link tests, each acknowledged. Unencrypted.

A DUH ("try elsewhere") makes it try again: it has one receiver alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from simulators.terminals.base import Facts, Message

EVENTS = {
    "sos": "1101 01 001", "fall": "1101 01 002", "smoke": "1111 01 003", "gas": "1151 01 004",
    "low_battery": "1384 01 001", "power_cut": "1301 00 000", "power_restored": "3301 00 000", "tamper": "1144 01 001",
}  # fmt: skip


def checksum(data: bytes) -> int:
    """Bit by bit, as the standard describes it; the gateway has a table."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def framed(body: str) -> bytes:
    data = body.encode("ascii")
    return f"\n{checksum(data):04X}{len(data):04X}".encode("ascii") + data + b"\r"


class Dc09Script:
    """``base.Script``. The identity is the account: 3 to 16 hexadecimal digits."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._account = identity
        self._number = 0
        self._rest = b""

    def hello(self, now: datetime) -> Sequence[Message]:
        return [self._link_test(now)]

    def heartbeat(self, facts: Facts) -> Message:
        return self._link_test(facts.at)

    def report(self, facts: Facts) -> Message:
        """One event; without an alarm the periodic test."""
        event = next((EVENTS[name] for name in facts.alarms if name in EVENTS), "1602 00 000")
        self._number = self._number % 9999 + 1
        seq = f"{self._number:04d}"
        body = f'"ADM-CID"{seq}R1L1#{self._account}[#{self._account}|{event}]{_stamp(facts.at)}'
        return self._asked(body, seq)

    def frames(self, data: bytes) -> Sequence[bytes]:
        *whole, self._rest = (self._rest + data).split(b"\r")
        return [frame + b"\r" for frame in whole]

    def command(self, frame: bytes) -> Message | None:
        """Receivers of alarms command nothing."""
        del frame
        return None

    def _link_test(self, at: datetime) -> Message:
        body = f'"NULL"0000R1L1#{self._account}[]{_stamp(at)}'
        return self._asked(body, "0000")

    def _asked(self, body: str, seq: str) -> Message:
        route = f"{seq}R1L1#{self._account}[]"
        return Message(framed(body), framed(f'"ACK"{route}'), framed(f'"DUH"{route}'))


class Dc09UdpScript(Dc09Script):
    """The same in datagrams."""

    datagrams = True


def _stamp(at: datetime) -> str:
    return at.strftime("_%H:%M:%S,%m-%d-%Y")
