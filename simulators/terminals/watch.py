"""A watch of the SeTracker family: keep-alives, positions, alarms, the echo of commands. From the protocol anew."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from simulators.terminals.base import Facts, Message, Place

ALARM_BITS: Final = {
    "sos": 16, "low_battery": 17, "fence_exit": 18, "fence_enter": 19, "removed": 20, "fall": 21, "power_cut": 14,
}  # fmt: skip
_FRAME: Final = re.compile(rb"\[[^\]]*\]")


class WatchScript:
    """``base.Script``. Positions are not answered: the protocol has no answer to them."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._id = identity
        self._rest = b""

    def hello(self, now: datetime) -> Sequence[Message]:
        del now
        return [self._message("LK", self._frame("LK"))]

    def heartbeat(self, facts: Facts) -> Message:
        return self._message(f"LK,{facts.steps},0,{facts.battery_percent}", self._frame("LK"))

    def report(self, facts: Facts) -> Message:
        block = self._block(facts)
        if facts.alarms:
            return self._message(f"AL,{block}", self._frame("AL"))
        return self._message(f"UD,{block}")

    def health(self, facts: Facts) -> Message:
        """The heart rate."""
        return self._message(f"heart,{facts.heart_rate_bpm}", self._frame("heart"))

    def frames(self, data: bytes) -> Sequence[bytes]:
        buffer = self._rest + data
        found = _FRAME.findall(buffer)
        self._rest = buffer[buffer.rfind(b"]") + 1 :]
        return found

    def command(self, frame: bytes) -> Message | None:
        word = frame[1:-1].split(b"*", 3)[3].split(b",")[0].decode()
        return None if word in ("LK", "AL", "heart") else self._message(word)

    def _block(self, facts: Facts) -> str:
        place = facts.place or Place(0.0, 0.0, valid=False)
        north, east = "N" if place.latitude >= 0 else "S", "E" if place.longitude >= 0 else "W"
        status = sum(1 << ALARM_BITS[name] for name in set(facts.alarms))
        fields = [
            facts.at.strftime("%d%m%y,%H%M%S"), "A" if place.valid else "V",
            f"{abs(place.latitude):.6f}", north, f"{abs(place.longitude):.7f}", east,
            f"{place.speed_m_per_s * 3.6:.2f}", f"{place.course_degrees}", "0.0", "9" if place.valid else "0", "80",
            str(facts.battery_percent), str(facts.steps), "0", f"{status:08X}",
            "1,1,460,0,10365,8050,131", "0", "12.5",
        ]  # fmt: skip
        return ",".join(fields)

    def _frame(self, content: str) -> bytes:
        return f"[3G*{self._id}*{len(content):04X}*{content}]".encode()

    def _message(self, content: str, expects: bytes = b"") -> Message:
        return Message(self._frame(content), expects)
