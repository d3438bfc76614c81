"""What a template may say of an alert: only what the recipient's role may see. Pure; times of the person's place."""

from __future__ import annotations

import gettext
from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Literal

from alerts.people import zone_of
from alerts.rows import Alert
from gateway.clock import US_PER_S, from_us
from gateway.datum import from_wgs84

Language = Literal["zh", "en"]
Role = Literal["family", "operator", "group"]
"""A designated contact; staff and call centers; a chat group, in which nobody knows who reads."""

MapName = Literal["amap", "osm"]
MAPS: Final[Mapping[Language, MapName]] = MappingProxyType({"zh": "amap", "en": "osm"})

HEALTH: Final = frozenset(
    {
        "heart_rate_high", "heart_rate_low", "heart_rate_unusual", "spo2_low", "blood_pressure_high",
        "blood_pressure_low", "body_temperature_high", "body_temperature_low", "blood_glucose_high",
        "blood_glucose_low", "respiratory_rate_high", "respiratory_rate_low", "weight_change", "news2_high",
        "measurement_missed", "measurement_implausible", "medication_missed",
    }
)  # fmt: skip
"""Kinds that tell of somebody's health: by open carriers only staff read which one it is."""

SENSITIVE: Final = ("address", "room", "phone", "position", "map_link")
"""What a chat group does not read."""


def facts_of(
    alert: Alert,
    person: Mapping[str, Any] | None,
    device: Mapping[str, Any] | None,
    *,
    words: gettext.NullTranslations,
    language: Language,
    role: Role,
    recipient: str,
    link: str,
    timezone: str,
    replies: bool = False,
) -> dict[str, Any]:
    """The variables of every template; text that is not known or not for this role is "". docs/templates.md."""
    person = person or {}
    local = from_us(alert.raised_at_us).astimezone(zone_of(str(person.get("timezone") or timezone)))
    position = _position(alert)
    kind = alert.kind if role == "operator" or alert.kind not in HEALTH else "health"
    facts: dict[str, Any] = {
        "language": language,
        "role": role,
        "recipient": recipient,
        "name": _name(alert, person, words, language, role),
        "address_form": _clean(person.get("address_form")),
        "kind": kind,
        "kind_name": _word(words, "kind name", kind) or _word(words, "kind name", "other") or kind,
        "what": _word(words, "kind", kind) or _word(words, "kind", "other") or kind,
        "severity": f"P{int(alert.severity)}",
        "severity_name": _word(words, "severity", f"P{int(alert.severity)}") or f"P{int(alert.severity)}",
        "emergency": int(alert.severity) == 1,
        "time": local.strftime("%H:%M"),
        "spoken_time": _spoken_time(local, language),
        "date": local.strftime("%Y-%m-%d"),
        "district": _clean(person.get("district")),
        "address": _clean(person.get("address")),
        "room": _clean((device or {}).get("install_place")),
        "phone": _phone(_clean(person.get("phone")), language),
        "position": position,
        "map_link": "" if position is None else map_link(position, MAPS[language]),
        "link": link,
        "replies": replies and role != "group",
        "unverified": not alert.verified,
        "late": alert.late,
        "occurrences": alert.occurrences,
    }
    if role == "group":
        facts |= dict.fromkeys(SENSITIVE, "") | {"position": None}
    return facts


def map_link(position: Mapping[str, Any], name: MapName) -> str:
    """The point on a map, in that map's datum: GCJ-02 for Amap, WGS-84 for OpenStreetMap. It names nobody."""
    latitude, longitude = float(position["latitude"]), float(position["longitude"])
    if name == "amap":
        latitude, longitude = from_wgs84(latitude, longitude, "gcj02")
        return f"https://uri.amap.com/marker?position={longitude:.5f},{latitude:.5f}&coordinate=gaode"
    return f"https://osm.org/?mlat={latitude:.5f}&mlon={longitude:.5f}&zoom=17"


def _position(alert: Alert) -> dict[str, Any] | None:
    """``latitude, longitude, accuracy_m, minutes_old, valid``: age as of the alert; None when there is none."""
    told = alert.position
    if told is None:
        return None
    accuracy, at_us = told.get("accuracy_m"), told.get("observed_at_us")
    old_us = None if at_us is None else max(alert.raised_at_us - int(at_us), 0)
    return {
        "latitude": float(told["latitude"]),
        "longitude": float(told["longitude"]),
        "accuracy_m": None if accuracy is None else round(float(accuracy)),
        "minutes_old": None if old_us is None else old_us // (60 * US_PER_S),
        "valid": bool(told.get("valid", True)),
    }


def _name(
    alert: Alert, person: Mapping[str, Any], words: gettext.NullTranslations, language: Language, role: Role
) -> str:
    """How the person is called: as chosen for family and groups, by the full name for staff."""
    name, form = _clean(person.get("name")), _clean(person.get("address_form"))
    if not name:
        about = alert.subject.partition("/")[0]
        return _word(words, "name", about if about in ("device", "site") else "person") or about
    if role == "operator":
        return name
    if form:
        return form
    if role == "group":
        return f"{name[:1]}某" if language == "zh" else f"{name[:1]}."
    return words.pgettext("name", "%(name)s") % {"name": name}


def _word(words: gettext.NullTranslations, context: str, message: str) -> str:
    """A word of the catalogue, "" when it does not have it."""
    found = words.pgettext(context, message)
    return "" if found == message else found


def _spoken_time(local: datetime, language: Language) -> str:
    if language == "zh":
        return f"{local.hour}点{local.minute:02d}分" if local.minute else f"{local.hour}点整"
    return local.strftime("%I:%M %p").lstrip("0")


def _phone(phone: str, language: Language) -> str:
    """A Chinese number without its country for who reads Chinese."""
    return phone.removeprefix("+86") if language == "zh" else phone


def _clean(value: Any) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in str(value or "")).split())


def role_of(contact_id: str, medium: str) -> Role:
    """Who reads what is sent to this id by this medium."""
    if medium == "chat":
        return "group"
    return "operator" if contact_id.startswith(("staff:", "center:")) else "family"
