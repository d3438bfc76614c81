"""A Queclink GL300: reports and alarms as text, each waiting for ``+SACK``; answers to commands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from simulators.terminals.base import Facts, Message, Place

VERSION = "1A0102"
KINDS = {"sos": "GTSOS", "low_battery": "GTBPL", "overspeed": "GTSPD", "fence_exit": "GTGEO", "no_motion": "GTNMR"}
SUB_COMMANDS = {"1": "RTL", "3": "REBOOT", "4": "RESET", "5": "PWROFF", "8": "VER", "9": "BAT"}


class Gl200TextScript:
    """``base.Script``. A sentence names one alarm: the first of several, an SOS before all others."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._imei = identity
        self._count = 0
        self._rest = b""
        self._at = ""

    def hello(self, now: datetime) -> Sequence[Message]:
        self._at = _time(now)
        return [self._heartbeat()]

    def heartbeat(self, facts: Facts) -> Message:
        self._at = _time(facts.at)
        return self._heartbeat()

    def report(self, facts: Facts) -> Message:
        self._at = _time(facts.at)
        known = [name for name in sorted(facts.alarms, key=lambda name: name != "sos") if name in KINDS]
        kind = KINDS[known[0]] if known else "GTFRI"
        before = "3.52" if kind == "GTBPL" else "0,0,1"
        after = "" if kind == "GTBPL" else f",{facts.battery_percent}"
        count = self._next()
        text = f"+RESP:{kind},{VERSION},{self._imei},GL300,{before},{_fix(facts)},{after},{self._at},{count}$"
        return Message(text.encode("ascii"), f"+SACK:{count}$".encode("ascii"))

    def frames(self, data: bytes) -> Sequence[bytes]:
        *whole, self._rest = (self._rest + data).split(b"$")
        return [sentence + b"$" for sentence in whole]

    def command(self, frame: bytes) -> Message | None:
        if not frame.startswith(b"AT+GT"):
            return None
        kind, _, rest = frame[5:-1].decode("ascii").partition("=")
        fields = rest.split(",")
        what = f"{SUB_COMMANDS.get(fields[1], fields[1])}," if kind == "RTO" and len(fields) > 1 else ""
        answer = f"+ACK:GT{kind},{VERSION},{self._imei},GL300,{what}{fields[-1]},{self._at},{self._next()}$"
        return Message(answer.encode("ascii"))

    def _heartbeat(self) -> Message:
        count = self._next()
        text = f"+ACK:GTHBD,{VERSION},{self._imei},GL300,{self._at},{count}$"
        return Message(text.encode("ascii"), f"+SACK:GTHBD,{VERSION},{count}$".encode("ascii"))

    def _next(self) -> str:
        self._count = self._count + 1 & 0xFFFF
        return f"{self._count:04X}"


def _time(at: datetime) -> str:
    return at.strftime("%Y%m%d%H%M%S")


def _fix(facts: Facts) -> str:
    place = facts.place or Place(0.0, 0.0, valid=False)
    speed = f"{place.speed_m_per_s * 3.6:.1f}"
    degrees = f"{place.longitude:.6f},{place.latitude:.6f}"
    accuracy = 1 if place.valid else 0
    return f"{accuracy},{speed},{place.course_degrees},5.0,{degrees},{_time(facts.at)},0460,0000,1234,00056789"
