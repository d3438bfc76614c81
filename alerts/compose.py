"""The words of a notice: how the person is addressed, what happened, where. Chinese and English. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Literal, Protocol
from zoneinfo import ZoneInfo

from msgspec import Struct

from alerts.rows import Alert
from gateway.clock import from_us

Language = Literal["zh", "en"]

_KINDS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "sos": ("按了紧急呼叫", "pressed the emergency button"),
        "service_call": ("请求生活帮助", "asks for help in daily life"),
        "fall": ("可能跌倒了", "may have fallen"),
        "smoke": ("家中烟雾报警", "smoke alarm at home"),
        "gas": ("家中燃气报警", "gas alarm at home"),
        "carbon_monoxide": ("家中一氧化碳报警", "carbon monoxide alarm at home"),
        "heat": ("家中高温报警", "heat alarm at home"),
        "no_answer": ("没有回应问候", "did not answer a check"),
        "water_leak": ("家中漏水报警", "water leak at home"),
        "geofence_exit": ("离开了约定的区域", "left the agreed area"),
        "bed_exit": ("夜间离床未归", "left the bed and did not return"),
    }
)
_OTHER: Final = ("有健康或安全告警", "has a health or safety alert")


class Words(Struct, frozen=True):
    """What a notice says."""

    subject: str
    text: str
    speech: str
    params: dict[str, str]


class Composer(Protocol):
    """Makes the words of a notice. Pure."""

    def __call__(
        self,
        alert: Alert,
        person: Mapping[str, Any] | None,
        *,
        language: Language,
        recipient: str,
        link: str,
        timezone: str,
    ) -> Words:
        """``recipient``: the address form of who is told, "" for a call center. ``link``: a page of the alert or "".

        Which keys a call asks for is said by the provider, behind ``speech``.
        """
        ...


def compose(
    alert: Alert,
    person: Mapping[str, Any] | None,
    *,
    language: Language,
    recipient: str,
    link: str,
    timezone: str,
) -> Words:
    """Composer: plain words, no template engine."""
    number = 0 if language == "zh" else 1
    chinese = language == "zh"
    person = person or {}
    name = str(person.get("name") or ("一位老人" if chinese else "A person in care"))
    what = _KINDS.get(alert.kind, _OTHER)[number]
    place = str(person.get("address") or "")
    at = from_us(alert.raised_at_us).astimezone(ZoneInfo(timezone)).strftime("%H:%M")
    spot = _spot(alert.position)
    phone = str(person.get("phone") or "")
    if chinese:
        hello = f"{recipient}，您好。" if recipient else ""
        main = f"{name}{what}，时间{at}" + (f"，地址{place}" if place else "") + "。"
        subject = f"【安心铃】{name}{what}"
        text = f"【安心铃】{hello}{main}" + (f"位置{spot}。" if spot else "") + (f"电话{phone}。" if phone else "")
        text += f"查看并处理：{link}" if link else ""
        speech = f"{hello}这里是安心铃。{main}"
    else:
        hello = f"{recipient}: " if recipient else ""
        main = f"{name} {what} at {at}" + (f", {place}" if place else "") + "."
        subject = f"carebell: {name} {what}"
        text = (
            f"carebell: {hello}{main}" + (f" Position {spot}." if spot else "") + (f" Phone {phone}." if phone else "")
        )
        text += f" {link}" if link else ""
        speech = f"{hello}This is carebell. {main}"
    params = {"name": name, "what": what, "place": place, "time": at, "link": link}
    return Words(subject, text, speech.strip(), params)


def _spot(position: Mapping[str, Any] | None) -> str:
    if position is None:
        return ""
    return f"{float(position['latitude']):.5f},{float(position['longitude']):.5f} (WGS-84)"
