"""Who can be told of an alert: the contacts that a person designated, and how to reach them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import apsw
from msgspec import Struct, field

from alerts.notice import Medium
from alerts.policy_files import PolicyBook, fingerprint
from alerts.policy_schema import Snapshot
from gateway.clock import from_us

MEDIA: Final[tuple[Medium, ...]] = ("voice", "sms", "push", "chat", "email", "webhook")
_OF_CHANNEL: Final[Mapping[str, Medium]] = MappingProxyType(
    {"voice": "voice", "sms": "sms", "app": "push", "wechat": "push", "email": "email"}
)
"""The registry's channels by medium. An app or WeChat user is known to the site's push service by the contact's id."""


class NoticeSource(Protocol):
    """The registry, as JSON-ready views. Called inside transactions: quick. None for what is not there."""

    def person(self, connection: apsw.Connection, person_id: str) -> Mapping[str, Any] | None:
        """``name, phone, address, district, community, language, timezone, state`` of a person."""
        ...

    def device(self, connection: apsw.Connection, device_id: str) -> Mapping[str, Any] | None:
        """``district, install_place, model`` of a device."""
        ...

    def contacts(self, connection: apsw.Connection, person_id: str) -> Sequence[Mapping[str, Any]]:
        """Active contacts in the order in which they are told: ``contact_id, name, phone, email, language, channels,
        severities, quiet_from, quiet_to, position``.
        """
        ...


class Chosen(Struct, frozen=True):
    """What an alert keeps of the policies, as JSON too, and the SHA-256 of that."""

    snapshot: Snapshot
    body: str
    digest: str


CHOICES_KEPT: Final = 256


class Reach(Struct, frozen=True, kw_only=True):
    """What the ladders need: the policies, the registry, and for each medium its providers in order (ready ones)."""

    book: PolicyBook
    source: NoticeSource
    providers: Callable[[Medium], tuple[str, ...]]
    _chosen: dict[tuple[str, str, str], Chosen] = field(default_factory=dict)

    def choose(self, kind: str, district: str, community: str) -> Chosen:
        """What an alert of this kind in this place keeps of the book."""
        found = self._chosen.get((kind, district, community))
        if found is None:
            snapshot = self.book.snapshot(kind, district, community)
            if len(self._chosen) >= CHOICES_KEPT:
                self._chosen.clear()
            found = self._chosen[kind, district, community] = Chosen(snapshot, *fingerprint(snapshot))
        return found

    def media(self) -> frozenset[Medium]:
        """By which media somebody can be reached now."""
        return frozenset(medium for medium in MEDIA if self.providers(medium))


class Contact(Struct, frozen=True, kw_only=True):
    """One contact. Personal data: never logged."""

    contact_id: str
    name: str
    phone: str
    email: str
    language: str
    media: frozenset[Medium]
    severities: frozenset[str]
    quiet_from: str
    quiet_to: str
    position: int

    def address(self, medium: Medium) -> str:
        """What the medium needs to reach them; "" when it cannot."""
        if medium not in self.media:
            return ""
        return {"voice": self.phone, "sms": self.phone, "email": self.email, "push": self.contact_id}.get(medium, "")

    def is_quiet(self, now_us: int, timezone: str) -> bool:
        """Whether these are the hours in which they want to hear only of emergencies."""
        if not self.quiet_from or not self.quiet_to:
            return False
        clock = from_us(now_us).astimezone(zone_of(timezone)).strftime("%H:%M")
        if self.quiet_from < self.quiet_to:
            return self.quiet_from <= clock < self.quiet_to
        return clock >= self.quiet_from or clock < self.quiet_to


def contact_of(view: Mapping[str, Any]) -> Contact:
    """A contact from the registry's view."""
    channels = [str(channel) for channel in view.get("channels") or ()]
    return Contact(
        contact_id=str(view["contact_id"]),
        name=str(view.get("name") or ""),
        phone=str(view.get("phone") or ""),
        email=str(view.get("email") or ""),
        language=str(view.get("language") or "zh"),
        media=frozenset(_OF_CHANNEL[channel] for channel in channels if channel in _OF_CHANNEL),
        severities=frozenset(str(each) for each in view.get("severities") or ()),
        quiet_from=str(view.get("quiet_from") or ""),
        quiet_to=str(view.get("quiet_to") or ""),
        position=int(view.get("position") or 1),
    )


def zone_of(name: str) -> ZoneInfo:
    """The time zone, Shanghai's when there is none of that name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):
        return ZoneInfo("Asia/Shanghai")


def hash_of(address: str) -> str:
    """What the call log keeps of a number or address, to count and to compare."""
    return hashlib.sha256(address.encode()).hexdigest()
