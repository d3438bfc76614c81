"""Firing timers: what the gateway does by itself when a time has come. Inside a transaction of the caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import apsw
from prometheus_client import Counter

from alerts import ladders, order_requests, rows, supervision, suppression, technical, timers
from alerts.ladders import Rung
from alerts.lifecycle import transition
from alerts.policy import HOUR_US, Policy, reminds
from alerts.policy_schema import LadderName
from alerts.rows import Alert
from alerts.states import OPEN, OWNED, Condition, Handling, is_emergency
from alerts.timers import Timer
from gateway.model import Actor, Severity

SYSTEM: Final = Actor("system", "timer")
UNPRESENTED_STEP: Final = 1000
ACCEPTED_LATE: Final = Counter(
    "carebell_alerts_accepted_late_total", "Emergencies that nobody had accepted when a limit passed", ["mark"]
)


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
    calm = timer.kind == "remind_calmly"
    pause_us = policy.remind_calmly_us if calm else policy.remind_after_us(epoch)
    timers.arm(connection, alert.id, timer.kind, now_us + pause_us, epoch)
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
        order = order_requests.under_way(connection, alert)
        if order is not None and order.order_id is not None and order.category == "maintenance":
            # a repair is on its way: it ends with the platform's word that it was done, or with a person's
            timers.arm(connection, alert.id, "auto_resolve", now_us + policy.auto_resolve_us)
            return
        transition(
            connection, alert.id, "resolve", expected_version=None, actor=SYSTEM, now_us=now_us, policy=policy,
            outcome="cleared",
        )  # fmt: skip


def _climb(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    name: LadderName = "operator" if timer.kind == ladders.TIMER["operator"] else "family"
    if policy.reach is None or alert.handling is not Handling.RAISED:
        return
    before = ladders.rungs(connection, alert.id).get(name)
    told = ladders.climb(connection, alert, name, timer.due_at_us, policy.reach, now_us)
    if before is not None:
        _note_step(connection, alert, before, told, now_us, policy)


def _note_step(
    connection: apsw.Connection, alert: Alert, rung: Rung, told: ladders.Told, now_us: int, policy: Policy
) -> None:
    """One audit row, and so one event for the consoles, for a step that told somebody."""
    if told.targets or told.consoles:
        transition(
            connection, alert.id, "ladder_step", expected_version=None, actor=SYSTEM, now_us=now_us, policy=policy,
            detail={
                "ladder": rung.name, "loop": rung.loop, "step": rung.step, "contact_id": " ".join(told.targets)[:500],
                "channel": " ".join(f"console:{group}" for group in told.consoles)[:500],
            },
        )  # fmt: skip


def _present(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """No console has shown it to anybody: another group of consoles, and the phone of whoever is on duty."""
    del timer
    snapshot = ladders.snapshot_of(connection, alert.id)
    rung = ladders.rungs(connection, alert.id).get("operator")
    if alert.handling is not Handling.RAISED or snapshot is None or rung is None or policy.reach is None:
        return
    told = ladders.Told([], ["second"])
    if snapshot.policy.unpresented is not None:
        place = UNPRESENTED_STEP  # a step of its own, so that its messages have names of their own
        more = ladders.tell(connection, alert, snapshot, snapshot.policy.unpresented, rung, place, policy.reach, now_us)
        told = ladders.Told(more.targets, [*told.consoles, *more.consoles])
    _note_step(connection, alert, rung, told, now_us, policy)


def _late(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """T_accept_target (amber) or T_accept_sla (red) passed without an operator."""
    if alert.handling is not Handling.RAISED:
        return
    target = timer.kind == "accept_target"
    column = "target_missed_at_us" if target else "sla_missed_at_us"
    connection.execute(
        f"UPDATE escalation SET {column} = coalesce({column}, ?) WHERE alert_id = ?",  # noqa: S608 - ours
        (now_us, alert.id),
    )
    ACCEPTED_LATE.labels("target" if target else "sla").inc()
    transition(
        connection, alert.id, "accept_late", expected_version=None, actor=SYSTEM, now_us=now_us, policy=policy,
        detail={"mark": "amber" if target else "red"},
    )  # fmt: skip


def _family_hold(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """The family took it long ago and nobody has ended it: its ladder goes on."""
    del timer
    rung = ladders.rungs(connection, alert.id).get("family")
    if alert.handling is Handling.RAISED and rung is not None and rung.taken_by:
        transition(
            connection, alert.id, "family_release", expected_version=None, actor=SYSTEM, now_us=now_us, policy=policy,
            note="taken by the family and not ended in time", detail={"contact_id": rung.taken_by},
        )  # fmt: skip


def _unreachable(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """There is somebody to tell and no way to: say so once a day, as a fault of this site."""
    del timer
    if not technical.is_open(connection, "nobody_can_be_called", policy):
        technical.raise_technical(
            connection, "nobody_can_be_called", f"escalation/unreachable/{now_us // (24 * HOUR_US)}", now_us, policy,
            evidence={"alert_id": alert.id, "reason": "nobody can be called: no provider configured"},
        )  # fmt: skip


def _unmask(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """The time of a suppression is over."""
    del timer
    if alert.handling is not Handling.RAISED or not suppression.is_suppressed(connection, alert.id):
        return
    action = suppression.over(connection, alert, now_us)
    if action:
        transition(connection, alert.id, action, expected_version=None, actor=SYSTEM, now_us=now_us, policy=policy)
    else:
        timers.arm(connection, alert.id, "unmask", now_us + suppression.INHIBITION_US)


_FIRE: Final[Mapping[str, Callable[[apsw.Connection, Alert, Timer, int, Policy], None]]] = MappingProxyType(
    {
        "remind": _remind,
        "remind_calmly": _remind,
        "progress": _progress,
        "close": _close,
        "auto_resolve": _auto_resolve,
        "ladder_operator": _climb,
        "ladder_family": _climb,
        "present": _present,
        "accept_target": _late,
        "accept_sla": _late,
        "family_hold": _family_hold,
        "unreachable": _unreachable,
        "unmask": _unmask,
        "ticket": supervision.ticket,
        "order_accept": supervision.accept_due,
        "order_due": supervision.order_due,
        "order_remind": supervision.remind,
        "order_repeat": supervision.repeated,
        "order_recheck": supervision.recheck,
    }
)
