"""A social alarm unit that reports by SCAIP: heartbeats and alarms as SIP MESSAGEs, each answered with 200.

A response is led by its Call-ID here, so that a repeated answer to an older request is not taken for this one's.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from simulators.scaip import Unit, accepted, mrq
from simulators.terminals.base import Facts, Message

DEVICES = {"sos": "0003", "fall": "0005", "smoke": "0023", "gas": "0021"}
STATUSES = {"low_battery": "0016", "power_cut": "0085", "power_restored": "0086", "tamper": "0125"}


class ScaipScript:
    """``base.Script``. The identity is the controller id."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._cid = identity
        self._unit = Unit(identity, "192.0.2.1:5060", "UDP" if self.datagrams else "TCP")
        self._number = 0
        self._rest = b""

    def hello(self, now: datetime) -> Sequence[Message]:
        del now
        return [self._said(mty="PI", dty="0002")]

    def heartbeat(self, facts: Facts) -> Message:
        del facts
        return self._said(mty="PI", dty="0002")

    def report(self, facts: Facts) -> Message:
        """One alarm; without one a test transmission."""
        for name in facts.alarms:
            if name in DEVICES:
                return self._said(mty="ME", dty=DEVICES[name], stc="0010")
            if name in STATUSES:
                return self._said(mty="ME", dty="0002", stc=STATUSES[name])
        return self._said(mty="ME", dty="0002", stc="0102")

    def frames(self, data: bytes) -> Sequence[bytes]:
        self._rest += data
        found: list[bytes] = []
        while b"\r\n\r\n" in self._rest:
            head, _, rest = self._rest.partition(b"\r\n\r\n")
            length = int(head.lower().rpartition(b"content-length:")[2].split(b"\r\n")[0])
            if len(rest) < length:
                break
            found.append(_call_id(head) * head.startswith(b"SIP/2.0 ") + head + b"\r\n\r\n" + rest[:length])
            self._rest = rest[length:]
        return found

    def command(self, frame: bytes) -> Message | None:
        """The answer document comes as a MESSAGE, which wants its 200."""
        return Message(accepted(frame)) if frame.startswith(b"MESSAGE ") else None

    def _said(self, **tags: str) -> Message:
        self._number += 1
        body = mrq(ref=f"{self._number:08X}", cid=self._cid, **tags)
        payload = self._unit.message(body)
        led = _call_id(payload) + b"SIP/2.0 "
        return Message(payload, led + b"200 ", led + b"503 ")


class ScaipUdpScript(ScaipScript):
    """The same in datagrams, repeated until they are answered."""

    datagrams = True


def _call_id(head: bytes) -> bytes:
    """With a blank behind it; empty when there is none."""
    line = next((line for line in head.split(b"\r\n") if line.lower().startswith(b"call-id:")), b":")
    return line.partition(b":")[2].strip() + b" "
