"""Firing timers: what the gateway does by itself when a time has come. Inside a transaction of the caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import apsw

from alerts import rows, timers
from alerts.lifecycle import transition
from alerts.policy import Policy, reminds
from alerts.rows import Alert
from alerts.states import OPEN, OWNED, Condition, Handling, is_emergency
from alerts.timers import Timer
from gateway.model import Actor, Severity

SYSTEM: Final = Actor("system", "timer")


def fire_due(connection: apsw.Connection, now_us: int, policy: Policy, limit: int = 100) -> int:
    """Fire at most ``limit`` due timers, each once; one that no longer fits does nothing. Returns how many."""
    due = timers.take_due(connection, now_us, limit)
    for timer in due:
        alert = rows.get(connection, timer.alert_id)
        _FIRE[timer.kind](connection, alert, timer, now_us, policy)
    return len(due)


def _remind(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """Nobody took it: tell everybody again, and later again, with growing pauses and no end."""
    if alert.handling is not Handling.RAISED or not reminds(alert):
        return
    epoch = timer.epoch + 1
    timers.arm(connection, alert.id, "remind", now_us + policy.remind_after_us(epoch), epoch)
    transition(
        connection, alert.id, "remind", expected_version=None, actor=SYSTEM, now_us=now_us, policy=policy,
        detail={"epoch": epoch},
    )  # fmt: skip


def _progress(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """Its owner reported nothing in time: it belongs to nobody again."""
    del timer
    if alert.handling in OWNED:
        transition(
            connection, alert.id, "release", expected_version=None, actor=SYSTEM, now_us=now_us, policy=policy,
            note="no progress in time", detail={"owner": alert.owner},
        )  # fmt: skip


def _close(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    del timer
    if alert.handling is Handling.RESOLVED:
        transition(connection, alert.id, "close", expected_version=None, actor=SYSTEM, now_us=now_us, policy=policy)


def _auto_resolve(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """An advisory or technical condition went by itself and stayed away."""
    del timer
    harmless = alert.severity >= Severity.P3 and not is_emergency(alert.kind, alert.severity)
    if alert.handling in OPEN and alert.condition is Condition.CLEARED and harmless:
        transition(
            connection, alert.id, "resolve", expected_version=None, actor=SYSTEM, now_us=now_us, policy=policy,
            outcome="cleared",
        )  # fmt: skip


_FIRE: Final[Mapping[str, Callable[[apsw.Connection, Alert, Timer, int, Policy], None]]] = MappingProxyType(
    {"remind": _remind, "progress": _progress, "close": _close, "auto_resolve": _auto_resolve}
)
