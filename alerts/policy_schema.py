"""What an escalation policy is made of. Values; docs/escalation.md is their page."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from alerts.notice import Medium

LocalTime = Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Weekday = Annotated[int, Meta(ge=1, le=7)]
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Place = Annotated[str, Meta(min_length=1, max_length=200)]
Address = Annotated[str, Meta(max_length=500)]
Seconds = Annotated[float, Meta(ge=0, le=3600)]
SeverityName = Literal["P1", "P2", "P3", "P4"]
LadderName = Literal["operator", "family"]
Tell = Literal["center", "backup", "staff", "console", "contacts", "next_contact"]

LONGEST_STEP_S: Final = 3600
"""No step and no loop waits longer than this."""


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts: immutable, by keyword, and a misspelt key is an error."""


class Hours(_Part, frozen=True, kw_only=True):
    """A span of the site's local time; it runs over midnight when ``until <= start``; the day is that of its start."""

    start: LocalTime = "00:00"
    until: LocalTime = "00:00"
    days: tuple[Weekday, ...] = (1, 2, 3, 4, 5, 6, 7)


class Reachable(_Part, frozen=True, kw_only=True):
    """Somebody who is told in the line of duty, and when. Empty addresses: cannot be reached that way."""

    name: Address = ""
    language: Literal["zh", "en"] = "zh"
    voice: Address = ""
    sms: Address = ""
    email: Address = ""
    chat: Address = ""
    push: Address = ""
    webhook: Address = ""
    hours: tuple[Hours, ...] = ()
    on_holidays: bool = True

    def address(self, medium: Medium) -> str:
        """Where the medium reaches it; "" for nowhere."""
        return str(getattr(self, medium))


class Center(Reachable, frozen=True, kw_only=True):
    """A call center. ``city``: where everything goes that no other center serves, and when that one does not answer."""

    city: bool = False
    backup: bool = False
    districts: tuple[Place, ...] = ()
    communities: tuple[Place, ...] = ()


class Target(_Part, frozen=True, kw_only=True):
    """Whom a step tells, and by which media. ``who``: roles of staff, or groups of consoles."""

    tell: Tell
    who: tuple[Name, ...] = ()
    media: tuple[Medium, ...] = ()


class Step(Target, frozen=True, kw_only=True):
    """``at_s`` counts from the beginning of the loop."""

    at_s: Seconds


class Ladder(_Part, frozen=True, kw_only=True):
    """Steps that come again every ``every_s``, each time ``slower``, at most ``longest_s`` apart, without end."""

    name: LadderName
    severities: Annotated[tuple[SeverityName, ...], Meta(min_length=1)]
    step: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=50)]
    every_s: Annotated[float, Meta(ge=30, le=3600)]
    slower: Annotated[float, Meta(ge=1, le=4)] = 1.5
    longest_s: Annotated[float, Meta(ge=30, le=3600)] = 900

    def period_s(self, round_number: int) -> float:
        """How long the loop takes that is the ``round_number``-th (from 0) since the ladder was started."""
        slowed = self.every_s * self.slower ** min(round_number, 40)
        return float(max(self.step[-1].at_s, min(slowed, max(self.longest_s, self.every_s))))


class EscalationPolicy(_Part, frozen=True, kw_only=True):
    """One policy: for which persons and kinds, its ladders, and the P1 limits (seconds)."""

    id: Name
    districts: tuple[Place, ...] = ()
    communities: tuple[Place, ...] = ()
    kinds: tuple[Name, ...] = ()
    ladder: Annotated[tuple[Ladder, ...], Meta(min_length=1)]
    unpresented: Target | None = None
    family_first: bool = False
    present_s: Annotated[float, Meta(ge=1, le=600)] = 5
    accept_target_s: Annotated[float, Meta(ge=1, le=3600)] = 30
    accept_sla_s: Annotated[float, Meta(ge=1, le=3600)] = 60
    family_hold_s: Annotated[float, Meta(ge=60, le=3600)] = 900

    def ladder_of(self, name: str, severity: str) -> Ladder | None:
        return next((each for each in self.ladder if each.name == name and severity in each.severities), None)


class Quota(_Part, frozen=True, kw_only=True):
    """How many messages or calls one provider may send to one number. ``provider`` "": each that has no own one."""

    medium: Medium
    provider: Annotated[str, Meta(max_length=64)] = ""
    per_minute: Annotated[int, Meta(ge=1)] | None = None
    per_hour: Annotated[int, Meta(ge=1)] | None = None
    per_day: Annotated[int, Meta(ge=1)] | None = None

    def windows(self) -> tuple[tuple[int, int], ...]:
        """Seconds and count of each limit."""
        limits = ((60, self.per_minute), (3600, self.per_hour), (86_400, self.per_day))
        return tuple((seconds, count) for seconds, count in limits if count is not None)


class Inhibit(_Part, frozen=True, kw_only=True, rename={"while_open": "while"}):
    """While an alert of kind ``while`` is open, alerts of the kinds ``masks`` of the same device are not escalated."""

    while_open: Name
    masks: Annotated[tuple[Name, ...], Meta(min_length=1)]


class Document(_Part, frozen=True, kw_only=True):
    """One file."""

    version: Annotated[str, Meta(min_length=1, max_length=64)]
    holidays: tuple[Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\d$")], ...] = ()
    quota: tuple[Quota, ...] = ()
    center: dict[Name, Center] = {}
    staff: dict[Name, Reachable] = {}
    inhibit: tuple[Inhibit, ...] = ()
    policy: tuple[EscalationPolicy, ...] = ()


class Snapshot(Struct, frozen=True, kw_only=True):
    """A policy with all that its steps need, as an alert keeps it. ``route``: centers in the order they are tried."""

    version: str
    policy: EscalationPolicy
    timezone: str
    route: tuple[str, ...]
    centers: dict[str, Center]
    staff: dict[str, Reachable]
    holidays: tuple[str, ...]
    quotas: tuple[Quota, ...]
