"""The life of an alert as a table: what may happen in which state, to where it leads, and who may do it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from gateway.errors import UsageError
from gateway.model import EMERGENCY_SIGNALS, Actor, Severity


class Condition(enum.StrEnum):
    """What the device says of it. Never ends the handling of an emergency."""

    ACTIVE = "active"
    CLEARED = "cleared"
    UNKNOWN = "unknown"  # the device went silent


class Handling(enum.StrEnum):
    """What people have done about it."""

    RAISED = "raised"
    ACCEPTED = "accepted"
    IN_PROGRESS = "in_progress"
    RESOLVED = "resolved"
    CLOSED = "closed"


OPEN: Final = frozenset({Handling.RAISED, Handling.ACCEPTED, Handling.IN_PROGRESS})
OWNED: Final = frozenset({Handling.ACCEPTED, Handling.IN_PROGRESS})
UNCLOSED: Final = OPEN | {Handling.RESOLVED}

PROGRESS: Final = frozenset(
    {"contacting_person", "talking", "contacting_family", "ems_called", "dispatched", "on_scene", "transported"}
)
"""Sub-states of ``in_progress``: a list, not a chain."""

OUTCOMES: Final = frozenset(
    {
        "emergency",
        "assistance",
        "false_press",
        "fall_ok",
        "test",
        "technical",
        "unreachable_escalated",
        "duplicate",
        "cleared",
    }
)
"""How an alert ended. ``cleared``: the condition went by itself and stayed away; never for an emergency."""

DEVICE_KINDS: Final = frozenset(
    {"device_fault", "tamper", "low_battery", "power_lost", "device_silent", "connection_lost"}
)
"""Faults of a device: one open alert of each device and kind, whoever wears it. Everything else is of the person."""

SUPERVISION_KIND: Final = "order_supervision"
"""The alert that asks a supervisor to look after an order (督办): one open alert of each supervised alert."""

MACHINE: Final = frozenset({"rule", "device", "system", "platform"})
HANDLERS: Final = frozenset({"admin", "supervisor", "operator"})
"""Roles of people who may end an emergency. Family, installers and programs are not among them."""


class Move(Struct, frozen=True):
    """One row of the table. ``target`` None keeps the handling. ``roles`` empty: machines alone.

    ``versioned`` False: nothing about the alert itself changes, so its version stays.
    """

    sources: frozenset[Handling]
    target: Handling | None
    roles: frozenset[str] = frozenset()
    machines: frozenset[str] = frozenset()
    versioned: bool = True


_BACKEND: Final = HANDLERS | {"backend"}
_SYSTEM: Final = frozenset({"system"})
_FEELERS: Final = frozenset({"rule", "device", "system"})
_ORDERS: Final = frozenset({"system", "platform"})
_FAMILY: Final = frozenset({"family"})
_CONTACT: Final = frozenset({"contact"})
_RAISED: Final = frozenset({Handling.RAISED})

TABLE: Final[Mapping[str, Move]] = MappingProxyType(
    {
        # what devices and rules say
        "press": Move(OPEN, None, machines=_FEELERS),
        "clear": Move(OPEN, None, machines=_FEELERS),
        "lose_sight": Move(OPEN, None, machines=_FEELERS),
        "severity_up": Move(OPEN, None, machines=_FEELERS),
        # what people do
        "accept": Move(frozenset({Handling.RAISED}), Handling.ACCEPTED, roles=_BACKEND),
        "progress": Move(OWNED, Handling.IN_PROGRESS, roles=_BACKEND, machines=_ORDERS),
        "release": Move(OWNED, Handling.RAISED, roles=_BACKEND, machines=_SYSTEM),
        "assign": Move(OPEN, Handling.ACCEPTED, roles=frozenset({"admin", "supervisor", "operator"})),
        "escalate": Move(OPEN, None, roles=_BACKEND),
        "lower": Move(OPEN, None, roles=HANDLERS),
        "resolve": Move(OPEN, Handling.RESOLVED, roles=_BACKEND, machines=_SYSTEM | {"platform", "rule"}),
        "family_accept": Move(_RAISED, None, roles=_FAMILY, machines=_CONTACT),
        "family_release": Move(_RAISED, None, roles=_FAMILY, machines=_CONTACT | _SYSTEM, versioned=False),
        "next_step": Move(_RAISED, None, machines=_CONTACT | _SYSTEM, versioned=False),
        "answer_noted": Move(frozenset(Handling), None, machines=_CONTACT, versioned=False),
        "presented": Move(OPEN, None, roles=_BACKEND, versioned=False),
        "note": Move(UNCLOSED, None, roles=_BACKEND | {"family", "installer"}, machines=_SYSTEM),
        "reopen": Move(frozenset({Handling.RESOLVED}), Handling.RAISED, roles=_BACKEND, machines=_FEELERS),
        # what the gateway does by itself
        "close": Move(
            frozenset({Handling.RESOLVED}), Handling.CLOSED, roles=frozenset({"admin", "supervisor"}), machines=_SYSTEM
        ),
        "remind": Move(frozenset({Handling.RAISED}), None, machines=_SYSTEM, versioned=False),
        "restore": Move(OPEN, None, machines=_SYSTEM, versioned=False),
        "ladder_step": Move(_RAISED, None, machines=_SYSTEM, versioned=False),
        "accept_late": Move(_RAISED, None, machines=_SYSTEM, versioned=False),
        "unmask": Move(OPEN, None, machines=_SYSTEM, versioned=False),
        "open_ticket": Move(OPEN, None, machines=_SYSTEM),
        "end_test": Move(_RAISED, Handling.RESOLVED, machines=_SYSTEM),
        # what became of the order
        "order_sent": Move(UNCLOSED, None, machines=_ORDERS),
        "order_failed": Move(UNCLOSED, None, machines=_ORDERS),
        "order_status": Move(UNCLOSED, None, machines=_ORDERS),
        "order_code_refused": Move(UNCLOSED, None, roles=_BACKEND, machines=_ORDERS | {"device"}, versioned=False),
        "service_checkin": Move(UNCLOSED, None, roles=_BACKEND, machines=_ORDERS | {"device"}),
        "service_checkout": Move(UNCLOSED, None, roles=_BACKEND, machines=_ORDERS | {"device"}, versioned=False),
        # what is done about the order
        "redispatch": Move(OPEN, None, roles=_BACKEND),
        "order_reminded": Move(UNCLOSED, None, machines=_SYSTEM, versioned=False),
        "order_supervise_requested": Move(UNCLOSED, None, roles=_BACKEND, machines=_ORDERS, versioned=False),
        "order_complained": Move(UNCLOSED, None, roles=_BACKEND, machines=_ORDERS, versioned=False),
        "order_followed_up": Move(UNCLOSED, None, roles=_BACKEND, machines=_ORDERS, versioned=False),
    }
)
"""Every action on an existing alert. Raising is not here: it makes the row."""

DESK_ACTIONS: Final = (
    "accept", "progress", "release", "resolve", "note", "escalate", "assign", "lower", "reopen", "presented",
    "family_accept", "family_release",
)  # fmt: skip
"""What a person or the platform's backend may ask for."""


def is_emergency(kind: str, severity: Severity) -> bool:
    """Whether only a person may end it, and somebody has to be told until somebody has it."""
    return severity is Severity.P1 or kind in EMERGENCY_SIGNALS


def permit(action: str, actor: Actor, kind: str, severity: Severity) -> Move:
    """The row of an action that this actor may do to an alert of this kind and severity. Raises UsageError."""
    move = TABLE.get(action)
    if move is None:
        raise UsageError(f"unknown action {action!r}; known are {', '.join(DESK_ACTIONS)}")
    role = actor.role or {"operator": "operator", "platform": "backend"}.get(actor.type, "")
    if actor.type not in move.machines and (actor.type not in ("operator", "platform") or role not in move.roles):
        raise UsageError(f"{actor.type} {actor.role or actor.id} may not {action} an alert")
    if action == "resolve" and is_emergency(kind, severity) and not _may_end_emergency(actor):
        raise UsageError("an emergency is resolved by an operator or supervisor, and by nobody else")
    if action == "resolve" and severity is Severity.P2 and actor.type in MACHINE:
        raise UsageError("an urgent alert (P2) is resolved by a person")
    return move


def _may_end_emergency(actor: Actor) -> bool:
    return actor.type == "operator" and (actor.role or "operator") in HANDLERS
