"""Firing timers: what the gateway does by itself when a time has come. Inside a transaction of the caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import apsw
from prometheus_client import Counter

from alerts import ladders, supervision, suppression, technical, timers
from alerts.dossier import Dossier, Rung, load, snapshot
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
    seen: dict[str, Dossier] = {}
    for timer in due:
        dossier = seen.get(timer.alert_id)
        if dossier is None:
            dossier = seen[timer.alert_id] = load(connection, timer.alert_id)
        order = _FIRE_ORDER.get(timer.kind)
        if order is None:
            _FIRE[timer.kind](connection, dossier, timer, now_us, policy)
            dossier.write(connection)
        else:
            order(connection, dossier.alert, timer, now_us, policy)
        if timer.kind not in _ALONE:
            seen.clear()
    return len(due)


_ALONE: Final = frozenset(
    {"remind", "remind_calmly", "ladder_operator", "ladder_family", "present", "accept_target", "accept_sla"}
)
"""Timers that change nothing of an alert but what its dossier has."""


def _do(
    connection: apsw.Connection,
    dossier: Dossier,
    action: str,
    now_us: int,
    policy: Policy,
    detail: Mapping[str, Any] | None = None,
    *,
    note: str = "",
    outcome: str = "",
) -> None:
    transition(
        connection, dossier.alert.id, action, expected_version=None, actor=SYSTEM, now_us=now_us, policy=policy,
        outcome=outcome, note=note, detail=detail, dossier=dossier,
    )  # fmt: skip


def _remind(connection: apsw.Connection, dossier: Dossier, timer: Timer, now_us: int, policy: Policy) -> None:
    """Nobody took it: tell everybody again, and later again, with growing pauses and no end."""
    alert = dossier.alert
    if alert.handling is not Handling.RAISED or not reminds(alert):
        return
    epoch = timer.epoch + 1
    calm = timer.kind == "remind_calmly"
    pause_us = policy.remind_calmly_us if calm else policy.remind_after_us(epoch)
    dossier.timers.arm(timer.kind, now_us + pause_us, epoch)
    _do(connection, dossier, "remind", now_us, policy, {"epoch": epoch})


def _progress(connection: apsw.Connection, dossier: Dossier, timer: Timer, now_us: int, policy: Policy) -> None:
    """Its owner reported nothing in time: it belongs to nobody again."""
    del timer
    if dossier.alert.handling in OWNED:
        detail = {"owner": dossier.alert.owner}
        _do(connection, dossier, "release", now_us, policy, detail, note="no progress in time")


def _close(connection: apsw.Connection, dossier: Dossier, timer: Timer, now_us: int, policy: Policy) -> None:
    del timer
    if dossier.alert.handling is Handling.RESOLVED:
        _do(connection, dossier, "close", now_us, policy)


def _auto_resolve(connection: apsw.Connection, dossier: Dossier, timer: Timer, now_us: int, policy: Policy) -> None:
    """An advisory or technical condition went by itself and stayed away."""
    del timer
    alert, order = dossier.alert, dossier.order_under_way()
    harmless = alert.severity >= Severity.P3 and not is_emergency(alert.kind, alert.severity)
    if alert.handling in OPEN and alert.condition is Condition.CLEARED and harmless:
        if order is not None and order.order_id is not None and order.category == "maintenance":
            # a repair is on its way: it ends with the platform's word that it was done, or with a person's
            dossier.timers.arm("auto_resolve", now_us + policy.auto_resolve_us)
            return
        _do(connection, dossier, "resolve", now_us, policy, outcome="cleared")


def _climb(connection: apsw.Connection, dossier: Dossier, timer: Timer, now_us: int, policy: Policy) -> None:
    name: LadderName = "operator" if timer.kind == ladders.TIMER["operator"] else "family"
    if policy.reach is None or dossier.alert.handling is not Handling.RAISED:
        return
    before = dossier.rungs.get(name)
    told = ladders.climb(connection, dossier, name, timer.due_at_us, policy.reach, now_us)
    if before is not None:
        _note_step(connection, dossier, before, told, now_us, policy)


def _note_step(
    connection: apsw.Connection, dossier: Dossier, rung: Rung, told: ladders.Told, now_us: int, policy: Policy
) -> None:
    """One audit row, and so one event for the consoles, for a step that told somebody."""
    if told.targets or told.consoles:
        detail = {
            "ladder": rung.name, "loop": rung.loop, "step": rung.step, "contact_id": " ".join(told.targets)[:500],
            "channel": " ".join(f"console:{group}" for group in told.consoles)[:500],
        }  # fmt: skip
        _do(connection, dossier, "ladder_step", now_us, policy, detail)


def _present(connection: apsw.Connection, dossier: Dossier, timer: Timer, now_us: int, policy: Policy) -> None:
    """No console has shown it to anybody: another group of consoles, and the phone of whoever is on duty."""
    del timer
    rung, reach = dossier.rungs.get("operator"), policy.reach
    kept = snapshot(connection, dossier.policy_hash)
    if dossier.alert.handling is not Handling.RAISED or kept is None or rung is None or reach is None:
        return
    told = ladders.Told([], ["second"])
    if kept.policy.unpresented is not None:
        place = UNPRESENTED_STEP  # a step of its own, so that its messages have names of their own
        more = ladders.tell(connection, dossier, kept, kept.policy.unpresented, rung, place, reach, now_us)
        told = ladders.Told(more.targets, [*told.consoles, *more.consoles])
    _note_step(connection, dossier, rung, told, now_us, policy)


def _late(connection: apsw.Connection, dossier: Dossier, timer: Timer, now_us: int, policy: Policy) -> None:
    """T_accept_target (amber) or T_accept_sla (red) passed without an operator."""
    if dossier.alert.handling is not Handling.RAISED:
        return
    target = timer.kind == "accept_target"
    column = "target_missed_at_us" if target else "sla_missed_at_us"
    connection.execute(
        f"UPDATE escalation SET {column} = coalesce({column}, ?) WHERE alert_id = ?",  # noqa: S608 - ours
        (now_us, dossier.alert.id),
    )
    ACCEPTED_LATE.labels("target" if target else "sla").inc()
    _do(connection, dossier, "accept_late", now_us, policy, {"mark": "amber" if target else "red"})


def _family_hold(connection: apsw.Connection, dossier: Dossier, timer: Timer, now_us: int, policy: Policy) -> None:
    """The family took it long ago and nobody has ended it: its ladder goes on."""
    del timer
    rung = dossier.rungs.get("family")
    if dossier.alert.handling is Handling.RAISED and rung is not None and rung.taken_by:
        note = "taken by the family and not ended in time"
        _do(connection, dossier, "family_release", now_us, policy, {"contact_id": rung.taken_by}, note=note)


def _unreachable(connection: apsw.Connection, dossier: Dossier, timer: Timer, now_us: int, policy: Policy) -> None:
    """There is somebody to tell and no way to: say so once a day, as a fault of this site."""
    del timer
    if not technical.is_open(connection, "nobody_can_be_called", policy):
        technical.raise_technical(
            connection, "nobody_can_be_called", f"escalation/unreachable/{now_us // (24 * HOUR_US)}", now_us, policy,
            evidence={"alert_id": dossier.alert.id, "reason": "nobody can be called: no provider configured"},
        )  # fmt: skip


def _unmask(connection: apsw.Connection, dossier: Dossier, timer: Timer, now_us: int, policy: Policy) -> None:
    """The time of a suppression is over."""
    del timer
    if dossier.alert.handling is not Handling.RAISED or dossier.masking is None:
        return
    action = suppression.over(connection, dossier.alert, now_us)
    if action:
        _do(connection, dossier, action, now_us, policy)
    else:
        dossier.timers.arm("unmask", now_us + suppression.INHIBITION_US)


_FIRE: Final[Mapping[str, Callable[[apsw.Connection, Dossier, Timer, int, Policy], None]]] = MappingProxyType(
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
    }
)
_FIRE_ORDER: Final[Mapping[str, Callable[[apsw.Connection, Alert, Timer, int, Policy], None]]] = MappingProxyType(
    {
        "ticket": supervision.ticket,
        "order_accept": supervision.accept_due,
        "order_due": supervision.order_due,
        "order_remind": supervision.remind,
        "order_repeat": supervision.repeated,
        "order_recheck": supervision.recheck,
    }
)
