"""A MiniFinder pendant: login, heartbeats, positions with flags, answers to commands. The gateway answers nothing."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from simulators.terminals.base import Facts, Message, Place

FLAG_BITS = {"sos": 6, "overspeed": 7, "fall": 8, "fence_exit": 9, "low_battery": 12, "motion": 14}
PASSWORD = b"123456"


class MinifinderScript:
    """``base.Script``."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._imei = identity

    def hello(self, now: datetime) -> Sequence[Message]:
        del now
        return [Message(f"!1,{self._imei},V07S,100;".encode("ascii"))]

    def heartbeat(self, facts: Facts) -> Message:
        fix = "A" if facts.place is not None and facts.place.valid else "V"
        return Message(f"!5,17,{fix},{facts.battery_percent};".encode("ascii"))

    def report(self, facts: Facts) -> Message:
        place = facts.place or Place(0.0, 0.0, valid=False)
        flags = 17 << 16 | int(place.valid)
        for name in set(facts.alarms) & set(FLAG_BITS):
            flags |= 1 << FLAG_BITS[name]
        fields = [
            "!D", facts.at.strftime("%d/%m/%y"), facts.at.strftime("%H:%M:%S"), f"{place.latitude:.6f}",
            f"{place.longitude:.6f}", f"{place.speed_m_per_s * 3.6:.0f}", str(place.course_degrees), f"{flags:x}",
            "5.0", str(facts.battery_percent), "9", "14", "0",
        ]  # fmt: skip
        return Message((",".join(fields) + ";").encode("ascii"))

    def frames(self, data: bytes) -> Sequence[bytes]:
        return [data] if data else []

    def command(self, frame: bytes) -> Message | None:
        return Message(b"!3,ok;" if frame.startswith(PASSWORD) else b"!3,error;")
