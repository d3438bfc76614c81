"""What an alert leads to: which order it asks for, which timers run in which state. Values; no clock, no database."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, Protocol

from msgspec import Struct, field

from alerts.people import Reach
from alerts.policy_schema import LONGEST_STEP_S
from alerts.rows import Alert
from alerts.states import OPEN, OWNED, SUPERVISION_KIND, Condition, Handling, is_emergency
from gateway.clock import US_PER_S
from gateway.model import Severity

MINUTE_US: Final = 60 * US_PER_S
HOUR_US: Final = 60 * MINUTE_US

SERVICE_KINDS: Final = frozenset({"service_call"})
CONSULTATION_KINDS: Final = frozenset({"consultation"})
SILENCE_KINDS: Final = frozenset({"device_silent", "connection_lost"})
"""Kinds which say that a device is no longer heard: what it last said is then unknown."""
MAINTENANCE_KINDS: Final = frozenset({"device_fault", "tamper", "low_battery", "power_lost"}) | SILENCE_KINDS


class Promise(Struct, frozen=True):
    """What is promised of one category of orders. Durations in microseconds, from the report of the need.

    ``kept_by`` is the status of the order with which it is kept; ``reminders_us`` are told while it is not.
    """

    accept_us: int
    due_us: int
    kept_by: str
    reminders_us: tuple[int, ...] = ()


PROMISES: Final[Mapping[str, Promise]] = MappingProxyType(
    {
        "emergency": Promise(3 * MINUTE_US, 30 * MINUTE_US, "arrived"),
        "service": Promise(30 * MINUTE_US, 24 * HOUR_US, "arrived"),
        "consultation": Promise(4 * HOUR_US, 48 * HOUR_US, "completed", (24 * HOUR_US, 40 * HOUR_US)),
        "maintenance": Promise(8 * HOUR_US, 48 * HOUR_US, "arrived", (24 * HOUR_US, 40 * HOUR_US)),
    }
)
"""DB4110 6.1.2: a consultation is answered within 48 h; 7.3.5: after a fault report somebody is there within 48 h."""

TICKET_AFTER: Final[Mapping[str, int]] = MappingProxyType(
    {"device_silent": HOUR_US, "connection_lost": HOUR_US, "power_lost": HOUR_US, "low_battery": 4 * HOUR_US}
)
"""Faults that mostly go by themselves (a watch on its charger, a network that is down for many devices at once): their
order goes out when they have lasted so long; its promise still counts from the report."""


class Steps(Struct, frozen=True):
    """What follows a change.

    ``arm``: timers by kind and delay in microseconds, replacing one of the same kind. ``hasten``: the same, but a timer
    that is due sooner stays, so that no storm of presses can put it off. ``cancel``: timers by kind.
    ``order``: the category of the order that the alert needs when it has none under way, "" for none.
    """

    arm: Mapping[str, int] = field(default_factory=dict)
    hasten: Mapping[str, int] = field(default_factory=dict)
    cancel: frozenset[str] = frozenset()
    order: str = ""


class NextSteps(Protocol):
    """Says what follows a change. Pure. A policy with people to call puts its ladder here."""

    def __call__(self, alert: Alert, action: str, policy: Policy) -> Steps: ...


def no_readings(person_id: str, device_id: str) -> Mapping[str, float]:
    """Nothing is known of anybody's vital signs."""
    del person_id, device_id
    return {}


def default_steps(alert: Alert, action: str, policy: Policy) -> Steps:
    """An order for what is urgent, reminders until somebody takes it, and limits on holding and keeping it."""
    arm: dict[str, int] = {}
    hasten: dict[str, int] = {}
    cancel: set[str] = set()
    if alert.handling is Handling.RESOLVED:
        cancel = {*_REMINDERS, "progress", "auto_resolve"}
        if action in ("resolve", "end_test"):
            arm["close"] = policy.close_us
    elif alert.handling is Handling.CLOSED:
        cancel = {*_REMINDERS, "progress", "auto_resolve", "close"}
    elif alert.handling in OWNED:
        cancel = {*_REMINDERS, "close"}
        if action in ("accept", "assign", "progress", "restore", "family_accept", "order_status", "service_checkin"):
            arm["progress"] = policy.progress_us[alert.severity]
    else:
        cancel = {"progress", "close"}
        if reminds(alert) and action in _TELLS_AGAIN:
            hasten |= _reminder(alert, policy)
    if alert.handling in OPEN and alert.severity >= Severity.P3:
        if alert.condition is Condition.CLEARED and action in ("clear", "lower"):
            arm["auto_resolve"] = policy.auto_resolve_us
        elif alert.condition is not Condition.CLEARED:
            cancel.add("auto_resolve")
    order = order_category(alert.kind, alert.severity) if alert.handling in OPEN else ""
    if order == "maintenance" and alert.order_number == 0 and action not in _ORDERS_AT_ONCE:
        waits_us = policy.ticket_after_us.get(alert.kind, 0)
        hasten |= {"ticket": waits_us} if waits_us and action in _TELLS_AGAIN else {}
        order = "" if waits_us else order
    return Steps(arm, hasten, frozenset(cancel), order)


_ORDERS_AT_ONCE: Final = ("open_ticket", "redispatch", "escalate")


_TELLS_AGAIN: Final = frozenset(
    {"raise", "press", "reopen", "release", "escalate", "severity_up", "restore", "order_failed", "unmask"}
)


def _reminder(alert: Alert, policy: Policy) -> dict[str, int]:
    if alert.severity <= Severity.P2 or is_emergency(alert.kind, alert.severity):
        return {"remind": policy.remind_first_us}
    return {"remind_calmly": policy.remind_calmly_us}


_REMINDERS: Final = ("remind", "remind_calmly")

_LADDER_TIMERS: Final = frozenset(
    {"ladder_operator", "ladder_family", "present", "accept_target", "accept_sla", "family_hold", "unreachable"}
)


def reminds(alert: Alert) -> bool:
    """Whether this alert is told again and again until somebody takes it; what is not urgent, every few hours."""
    return alert.kind == SUPERVISION_KIND or alert.severity <= Severity.P2 or is_emergency(alert.kind, alert.severity)


def order_category(kind: str, severity: Severity) -> str:
    """The category (contracts, section 5) of the order that an alert needs; "" when it needs none."""
    if kind == SUPERVISION_KIND:
        return ""
    if kind in SERVICE_KINDS:
        return "service"
    if kind in CONSULTATION_KINDS:
        return "consultation"
    if kind in MAINTENANCE_KINDS and severity > (Severity.P2 if kind in SILENCE_KINDS else Severity.P1):
        return "maintenance"
    return "emergency" if severity <= Severity.P2 or is_emergency(kind, severity) else ""


class Policy(Struct, frozen=True, kw_only=True):
    """The numbers and choices of a site. Durations in microseconds.

    ``readings`` gives the newest vital signs for an order; it is called on the writer's thread. ``draw`` gives a random
    number below its argument, for service codes. ``promises`` has each category of orders; ``repeat_count`` incidents
    of one kind within ``repeat_window_us`` are supervised. ``reach`` is whom the ladders can tell, None for a process
    that only acts on alerts: the ladders of an alert that it raises are begun by the daemon's auditor.
    """

    site: str = "default"
    reopen_us: int = 10 * MINUTE_US
    close_us: int = 24 * HOUR_US
    auto_resolve_us: int = 10 * MINUTE_US
    remind_first_us: int = 30 * US_PER_S
    remind_last_us: int = 10 * MINUTE_US
    remind_calmly_us: int = 4 * HOUR_US
    promises: Mapping[str, Promise] = PROMISES
    ticket_after_us: Mapping[str, int] = TICKET_AFTER
    recheck_us: int = HOUR_US
    repeat_count: int = 3
    repeat_window_us: int = 24 * HOUR_US
    complaint_days: int = 5
    progress_us: Mapping[Severity, int] = MappingProxyType(
        {
            Severity.P1: 5 * MINUTE_US,
            Severity.P2: 15 * MINUTE_US,
            Severity.P3: HOUR_US,
            Severity.P4: 24 * HOUR_US,
        }
    )
    next_steps: NextSteps = default_steps
    reach: Reach | None = None
    readings: Callable[[str, str], Mapping[str, float]] = no_readings
    draw: Callable[[int], int] = secrets.randbelow

    def remind_after_us(self, epoch: int) -> int:
        """The pause before reminder ``epoch`` (0 is the first): doubles up to ``remind_last_us``."""
        return min(self.remind_last_us, self.remind_first_us << min(epoch, 20))

    def longest_us(self, timer: str) -> int:
        """No timer of this kind is ever further away; one that seems to be was set by a wrong clock."""
        bounds = {
            "remind": max(self.remind_first_us, self.remind_last_us),
            "remind_calmly": self.remind_calmly_us,
            "progress": max(self.progress_us.values()),
            "auto_resolve": self.auto_resolve_us,
            "ticket": max(self.ticket_after_us.values(), default=0),
            "order_accept": max(promise.accept_us for promise in self.promises.values()),
            "order_due": max(promise.due_us for promise in self.promises.values()),
            "order_remind": max(promise.due_us for promise in self.promises.values()),
            "order_recheck": self.recheck_us,
            "order_repeat": 0,
        }
        if timer in _LADDER_TIMERS:
            return LONGEST_STEP_S * US_PER_S
        return bounds.get(timer, self.close_us)
