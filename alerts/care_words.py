"""What is said in care: plain, slow, by the person's address form. Chinese and English. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from alerts.compose import Words

Language = Literal["zh", "en"]

_MESSAGE: Final[Mapping[Language, str]] = {
    "zh": "今天也请多保重，按时吃饭、吃药，有事请按呼叫键。",
    "en": "Please look after yourself today, eat and take your medicine in time, and press the button if you need us.",
}
_CHECK: Final[Mapping[Language, str]] = {"zh": "我们来问候您。您今天好吗？", "en": "We are asking how you are today."}
_BY_SMS: Final[Mapping[Language, str]] = {
    "zh": "一切都好请回复1，需要帮助请回复2。",
    "en": "Reply 1 if you are well, 2 if you need help.",
}
_STOP: Final[Mapping[Language, str]] = {"zh": "不再接收请回复T。", "en": "Reply STOP for no more of these."}


def words(kind: str, own: str, *, language: Language, name: str, medium: str) -> Words:
    """``own``: the schedule's own words, "" for the standard ones. A call's keys are said by the provider."""
    chinese = language == "zh"
    hello = (f"{name}，您好。" if chinese else f"Hello {name}. ") if name else ("您好。" if chinese else "Hello. ")
    main = own or (_CHECK if kind == "check" else _MESSAGE)[language]
    answer = _BY_SMS[language] if kind == "check" and medium == "sms" else ""
    subject = "【安心铃】问候" if chinese else "carebell: how are you?"
    gap = "" if chinese else " "
    text = ("【安心铃】" if chinese else "carebell: ") + gap.join(
        part for part in (f"{hello}{main}", answer, _STOP[language]) if part
    )
    speech = f"{hello}{'这里是安心铃。' if chinese else 'This is carebell. '}{main}"
    return Words(subject, text, speech, {"name": name, "what": main, "place": "", "time": "", "link": ""})


_WELL: Final = frozenset(
    {"1", "好", "好的", "很好", "都好", "一切都好", "平安", "没事", "ok", "okay", "well", "fine", "yes"}
)
_HELP: Final = frozenset({"2", "帮助", "需要帮助", "救命", "help"})
_NO_MORE: Final = frozenset({"t", "td", "退订", "stop", "unsubscribe"})


def meaning_of(text: str) -> str:
    """What a reply says: ``well``, ``help``, ``stop``, or "" for anything else."""
    said = text.strip().strip("。.!！").strip().lower()
    for meaning, known in (("well", _WELL), ("help", _HELP), ("stop", _NO_MORE)):
        if said in known:
            return meaning
    return ""
