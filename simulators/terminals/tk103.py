"""A TK103 locator in the packed dialect: handshake, login, positions, alarms. Written from the protocol anew."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from simulators.terminals.base import Facts, Message, Place
from simulators.terminals.h02 import degrees_minutes

ALARMS = {"power_cut": 0, "accident": 1, "sos": 2, "vibration": 3, "low_speed": 4, "overspeed": 5, "fence_exit": 6}
FRAME = re.compile(rb"\([^)]*\)")


class Tk103Script:
    """``base.Script``. An alarm message carries one alarm, the first by importance; positions are not answered."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._id = identity
        self._imei = identity.rjust(15, "0")[-15:]
        self._rest = b""

    def hello(self, now: datetime) -> Sequence[Message]:
        position = _fix(Facts(now))
        return [self._message("BP00HSO", "AP01HSO"), self._message(f"BP05{self._imei}{position}", "AP05")]

    def heartbeat(self, facts: Facts) -> Message:
        del facts
        return self._message("BP00HSO", "AP01HSO")

    def report(self, facts: Facts) -> Message:
        alarms = sorted((name for name in facts.alarms if name in ALARMS), key=lambda name: name != "sos")
        if alarms:
            return self._message(f"BO01{ALARMS[alarms[0]]}{_fix(facts)}", f"AS01{ALARMS[alarms[0]]}")
        return self._message(f"BR00{_fix(facts)}")

    def frames(self, data: bytes) -> Sequence[bytes]:
        buffer = self._rest + data
        self._rest = buffer[buffer.rfind(b")") + 1 :]
        return FRAME.findall(buffer)

    def command(self, frame: bytes) -> Message | None:
        word = frame.decode().strip("()")[len(self._id) :]
        if word.startswith("AP00"):
            return self._message("BP04" + _fix(Facts(datetime(2026, 1, 1))))  # noqa: DTZ001 - the clock of a script
        return None

    def _message(self, content: str, answer: str = "") -> Message:
        expects = f"({self._id}{answer})".encode() if answer else b""
        return Message(f"({self._id}{content})".encode(), expects)


def _fix(facts: Facts) -> str:
    """yymmdd, validity, place, speed in km/h, time, course, inputs, odometer."""
    place, at = facts.place or Place(0.0, 0.0, valid=False), facts.at
    return (
        f"{at:%y%m%d}{'A' if place.valid else 'V'}"
        f"{degrees_minutes(place.latitude, 2)}{'N' if place.latitude >= 0 else 'S'}"
        f"{degrees_minutes(place.longitude, 3)}{'E' if place.longitude >= 0 else 'W'}"
        f"{place.speed_m_per_s * 3.6:05.1f}{at:%H%M%S}{place.course_degrees:06.2f}00000000L00000000"
    )
