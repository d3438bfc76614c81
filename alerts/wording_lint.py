"""Looks at templates before anybody is told by them: what they would say, how long that is, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, cast

from msgspec import Struct

from alerts.channels.modem_pdu import segments
from alerts.channels.twilio_twiml import CHOICES
from alerts.compose import Words
from alerts.facts import HEALTH, SENSITIVE, Language, Role, facts_of
from alerts.notice import Medium
from alerts.rows import Alert
from alerts.states import Condition, Handling
from alerts.wording import BROKEN, LANGUAGES, TEXTS, Wording
from gateway.errors import ConfigError, UsageError
from gateway.model import EMERGENCY_SIGNALS, Severity

MOST_SEGMENTS: Final = 2
MOST_SPEECH_S: Final = 30.0
ROLES: Final[tuple[Role, ...]] = ("family", "operator", "group")
CHANNELS: Final[tuple[Medium, ...]] = ("sms", "voice", "email", "chat", "push")

_CHARACTERS_PER_S: Final = 3.3
"""Chinese, spoken slowly: 200 characters a minute."""
_WORDS_PER_S: Final = 2.0
_PAUSE_S: Final = 0.6
_AT_US: Final = 1_795_000_000_000_000
_SITE_KINDS: Final = frozenset(
    {"nobody_can_be_called", "contact_wrong_number", "order_refused", "order_api_unavailable", "broker_session_lost"}
)
_ALERT_ID: Final = "019aa5c0-0000-7000-8000-000000000001"

PERSONS: Final[Mapping[Language, Mapping[str, Any]]] = {
    "zh": {
        "name": "王秀英", "address_form": "王奶奶", "phone": "+8613800000001", "district": "和平区",
        "address": "和平区和平路1号2栋301室", "timezone": "Asia/Shanghai",
    },
    "en": {
        "name": "Wang Xiuying", "address_form": "Granny Wang", "phone": "+8613800000001", "district": "Heping",
        "address": "Room 301, Building 2, 1 Heping Road", "timezone": "Asia/Shanghai",
    },
}  # fmt: skip
"""Somebody made up, of ordinary length."""
RECIPIENTS: Final[Mapping[Language, str]] = {"zh": "李明", "en": "Li Ming"}


class Preview(Struct, frozen=True, kw_only=True):
    """What one message would be. ``segments`` of an SMS; ``seconds`` that a voice takes to say it once."""

    channel: Medium
    language: Language
    role: Role
    kind: str
    subject: str
    text: str
    html: str
    segments: int | None
    seconds: float | None
    keys: str


class Report(Struct, frozen=True):
    """``problems`` must be put right; ``warnings`` should be looked at. One line each."""

    problems: list[str]
    warnings: list[str]


def preview(
    wording: Wording,
    *,
    kind: str = "sos",
    channel: Medium = "sms",
    language: Language = "zh",
    role: Role = "family",
    severity: int | None = None,
    link: str = "",
    with_position: bool = True,
) -> Preview:
    """What would be said of an alert of somebody made up. Raises UsageError for a channel without words."""
    if channel not in CHANNELS:
        raise UsageError(f"{channel} carries no words of templates; the others are {', '.join(CHANNELS)}")
    role = "group" if channel == "chat" else role
    words = wording(
        sample(kind, severity, with_position=with_position), None if kind in _SITE_KINDS else PERSONS[language],
        language=language, recipient=RECIPIENTS[language] if role == "family" else "", link=link,
        timezone="Asia/Shanghai", medium=channel, role=role, device={"install_place": _room(language)},
    )  # fmt: skip
    return _measured(words, kind, channel, language, role)


def check(folder: Path | None, link: str = "", *, replies: bool = False) -> Report:
    """All that can be known of the templates of a site, with carebell's own behind them. ``link``: as it would be sent.
    ``replies``: as for Wording.

    Every text is rendered for every kind, language and role, with and without what may be missing.
    """
    try:
        wording = Wording(folder, replies=replies)
    except ConfigError as error:
        return Report(str(error).splitlines(), [])
    problems = [*_broken(wording)]
    warnings = [f"{name}: is not used; templates are {', '.join(TEXTS)}, each .j2" for name in wording.unused]
    warnings += _untranslated(wording)
    if not problems:
        warnings += _too_long(wording, link)
    return Report(problems, list(dict.fromkeys(warnings)))


def findings(folder: Path | None, link: str = "", *, replies: bool = False) -> list[str]:
    """Problems and warnings in one list, for ``carebell check``."""
    report = check(folder, link, replies=replies)
    return report.problems + report.warnings


def sample(kind: str, severity: int | None = None, *, with_position: bool = True) -> Alert:
    """An alert of somebody made up; an emergency is P1 unless ``severity`` says otherwise."""
    level = Severity(severity) if severity is not None else Severity.P1 if kind in EMERGENCY_SIGNALS else Severity.P2
    position = {
        "latitude": 39.1235, "longitude": 117.2011, "observed_at_us": _AT_US - 180_000_000, "accuracy_m": 12.0,
        "source": "gnss", "valid": True,
    }  # fmt: skip
    return Alert(
        id=_ALERT_ID, version=1, subject="site/default" if kind in _SITE_KINDS else "person/P-0001",
        person_id="" if kind in _SITE_KINDS else "P-0001", device_id="D-0001", kind=kind, severity=level,
        condition=Condition.ACTIVE, handling=Handling.RAISED, progress="", owner="", outcome="", verified=True,
        late=False, occurrences=1, raised_at_us=_AT_US, updated_at_us=_AT_US, occurred_at_us=_AT_US,
        resolved_at_us=None, rule_id="sample", rule_version="1", evidence={},
        position=position if with_position else None, previous_id=None, order_number=0,
    )  # fmt: skip


def kinds(wording: Wording) -> list[str]:
    """Every kind that has a name."""
    return sorted({key for context, key in wording.messages["zh"] if context == "kind name"} - {"other", "health"})


def speech_seconds(text: str, language: Language) -> float:
    """About how long a slow voice takes for it, with a pause behind each line."""
    lines = [line for line in text.splitlines() if line.strip()]
    if language == "zh":
        spoken = sum(character.isalnum() for line in lines for character in line) / _CHARACTERS_PER_S
    else:
        spoken = sum(len(line.split()) for line in lines) / _WORDS_PER_S
    return spoken + _PAUSE_S * len(lines)


def _measured(words: Words, kind: str, channel: Medium, language: Language, role: Role) -> Preview:
    voice = channel == "voice"
    text = words.speech if voice else words.text
    return Preview(
        channel=channel, language=language, role=role, kind=kind,
        subject=words.subject if channel in ("email", "chat", "push") else "", text=text, html=words.html,
        segments=segments(text) if channel == "sms" else None,
        seconds=round(speech_seconds(text, language), 1) if voice else None, keys=CHOICES[language] if voice else "",
    )  # fmt: skip


def _room(language: Language) -> str:
    return "卧室" if language == "zh" else "bedroom"


def _variants(wording: Wording, language: Language) -> Iterator[dict[str, Any]]:
    """Facts as they come: of every role, all there, all missing, and the odd ones."""
    for role in ROLES:
        full = facts_of(
            sample("sos"), PERSONS[language], {"install_place": _room(language)}, words=wording.words(language),
            language=language, role=role, recipient=RECIPIENTS[language], link="https://platform.example/1",
            timezone="Asia/Shanghai",
        )  # fmt: skip
        yield full
        yield full | {"unverified": True, "late": True, "occurrences": 3, "link": "", "emergency": False}
        yield full | {"replies": role != "group"}
        if full["position"] is not None:
            bare = full["position"] | {"accuracy_m": None, "minutes_old": None, "valid": False}
            yield full | {"position": bare}
        yield (
            full | dict.fromkeys((*SENSITIVE, "link", "recipient", "district", "address_form"), "") | {"position": None}
        )


def _broken(wording: Wording) -> Iterator[str]:
    """Templates of the site that cannot say something, and what they would leave unsaid."""
    for language in LANGUAGES:
        for text in TEXTS:
            for origin, name in wording.candidates(text, language):
                fault = _fault(wording, origin, name, text, language)
                if fault:
                    yield f"{name} ({language}): {fault}"


def _fault(wording: Wording, origin: str, name: str, text: str, language: Language) -> str:
    for facts in _variants(wording, language):
        try:
            said = wording.render_one(origin, name, text, language, facts)
        except BROKEN as error:
            return f"cannot be rendered: {error or type(error).__name__}"
        if not said:
            return "says nothing"
        if text in ("sms", "voice", "push", "email") and facts["name"] not in said:
            return "does not say whom it is about: {{ name }}"
    return ""


def _untranslated(wording: Wording) -> Iterator[str]:
    known = {key for messages in wording.messages.values() for key in messages}
    asked = {key for origin in wording.sources for keys in wording.used(origin).values() for _, key in keys}
    for name, keys in wording.used("site").items():
        for line, key in keys:
            if key not in wording.messages["zh"]:
                yield f"{name}:{line}: {key[1]!r} has no Chinese in zh.po"
    for language, messages in wording.own_messages.items():
        for key in messages:
            if not key[0] and key not in asked and key not in known - set(messages):
                yield f"{language}.po: no template says {key[1]!r}"


def _too_long(wording: Wording, link: str) -> Iterator[str]:
    for language in LANGUAGES:
        for role in cast("tuple[Role, ...]", ("family", "operator")):
            longest: dict[str, tuple[float, str]] = {}
            for kind in kinds(wording):
                if kind in HEALTH and role == "family" and kind != "medication_missed":
                    continue  # all of them say the same
                sms = preview(wording, kind=kind, channel="sms", language=language, role=role, link=link)
                call = preview(wording, kind=kind, channel="voice", language=language, role=role)
                longest["sms"] = max(longest.get("sms", (0, "")), (float(sms.segments or 0), kind))
                longest["voice"] = max(longest.get("voice", (0, "")), (call.seconds or 0, kind))
            parts, kind = longest["sms"]
            if parts > MOST_SEGMENTS:
                yield f"sms ({language}, {role}): {parts:.0f} messages for {kind}; {MOST_SEGMENTS} arrive together"
            seconds, kind = longest["voice"]
            if seconds > MOST_SPEECH_S:
                yield f"voice ({language}, {role}): {seconds:.0f} s for {kind}; at most {MOST_SPEECH_S:.0f} s are heard"
