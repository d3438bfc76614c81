"""A Meitrack pendant: positions and events as text, answers to commands. Nothing it says waits for an answer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from simulators.terminals.base import Facts, Message, Place

EVENTS = {
    "sos": 1, "low_battery": 17, "overspeed": 19, "fence_enter": 20, "fence_exit": 21, "power_cut": 23, "fall": 79,
}  # fmt: skip
INTERVAL_EVENT = 35
LOCATED_EVENT = 34


class MeitrackScript:
    """``base.Script``. A message names one event: the first of several, an SOS before all others."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._imei = identity
        self._rest = b""
        self._last: Facts | None = None

    def hello(self, now: datetime) -> Sequence[Message]:
        del now
        return []

    def heartbeat(self, facts: Facts) -> Message:
        return Message(self._position(facts, 31))

    def report(self, facts: Facts) -> Message:
        self._last = facts
        known = [name for name in sorted(facts.alarms, key=lambda name: name != "sos") if name in EVENTS]
        return Message(self._position(facts, EVENTS[known[0]] if known else INTERVAL_EVENT))

    def frames(self, data: bytes) -> Sequence[bytes]:
        *whole, self._rest = (self._rest + data).split(b"\r\n")
        return [line for line in whole if line.startswith(b"@@")]

    def command(self, frame: bytes) -> Message | None:
        code = frame.partition(b"*")[0].split(b",")[2].decode("ascii")
        if code in ("AFF", "CCC"):
            return None
        if code == "A10" and self._last is not None:
            return Message(self._position(self._last, LOCATED_EVENT))
        return Message(self._message(f"{code},OK", chr(frame[2])))

    def _position(self, facts: Facts, event: int) -> bytes:
        place = facts.place or Place(0.0, 0.0, valid=False)
        volts = 330 + round(0.9 * facts.battery_percent)
        fields = [
            "AAA", str(event), f"{place.latitude:.6f}", f"{place.longitude:.6f}", facts.at.strftime("%y%m%d%H%M%S"),
            "A" if place.valid else "V", "9", "25", f"{place.speed_m_per_s * 3.6:.0f}", str(place.course_degrees),
            "1.2", "5", "0", "0", "460|0|1234|00056789", "0000", f"0000|0000|0000|{volts:04X}|0000", "",
        ]  # fmt: skip
        return self._message(",".join(fields), "A")

    def _message(self, text: str, flag: str) -> bytes:
        content = f",{self._imei},{text}*"
        head = f"$${flag}{len(content) + 4}{content}".encode("ascii")
        return head + f"{sum(head) & 0xFF:02X}\r\n".encode("ascii")
