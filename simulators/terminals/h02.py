"""An H02 pendant: texts over TCP; its alarms are bits that are not set. Written from the protocol anew."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from simulators.terminals.base import Facts, Message, Place

ALARM_BITS = {"sos": 1, "vibration": 0, "overspeed": 2, "power_cut": 19, "fence_enter": 4, "fence_exit": 7}


class H02Script:
    """``base.Script``. There is no login."""

    datagrams = False

    def __init__(self, identity: str) -> None:
        self._id = identity
        self._rest = b""

    def hello(self, now: datetime) -> Sequence[Message]:
        del now
        return [Message(self._text("V0"), self._text("V0"))]

    def heartbeat(self, facts: Facts) -> Message:
        return Message(self._text(f"HTBT,{facts.battery_percent}"), self._text("HTBT"))

    def report(self, facts: Facts) -> Message:
        return Message(self._text(f"V1,{_fix(facts)}"), f"*HQ,{self._id},V4,V1,".encode())

    def frames(self, data: bytes) -> Sequence[bytes]:
        *found, self._rest = (self._rest + data).split(b"#")
        return [frame + b"#" for frame in found]

    def command(self, frame: bytes) -> Message | None:
        word, *fields = frame.decode().rstrip("#").split(",")[2:]
        if word in ("V0", "V4", "HTBT"):
            return None
        told = ",".join([word, *fields[1:], fields[0]] if fields else [word])
        return Message(self._text(f"V4,{told},000000,V,0000.0000,N,00000.0000,E,0.00,0,010126,FFFFFFFF"))

    def _text(self, content: str) -> bytes:
        return f"*HQ,{self._id},{content}#".encode()


def _fix(facts: Facts) -> str:
    place = facts.place or Place(0.0, 0.0, valid=False)
    status = 0xFFFFFFFF & ~sum(1 << ALARM_BITS[name] for name in set(facts.alarms) if name in ALARM_BITS)
    fields = [
        facts.at.strftime("%H%M%S"), "A" if place.valid else "V",
        degrees_minutes(place.latitude, 2), "N" if place.latitude >= 0 else "S",
        degrees_minutes(place.longitude, 3), "E" if place.longitude >= 0 else "W",
        f"{place.speed_m_per_s / 1852 * 3600:.2f}", f"{place.course_degrees:03}", facts.at.strftime("%d%m%y"),
        f"{status:08X}",
    ]  # fmt: skip
    return ",".join(fields)


def degrees_minutes(degrees: float, digits: int) -> str:
    """``ddmm.mmmm`` or ``dddmm.mmmm``."""
    ten_thousandths = round(abs(degrees) * 600_000)
    whole, rest = divmod(ten_thousandths, 600_000)
    return f"{whole:0{digits}}{rest // 10_000:02}.{rest % 10_000:04}"
