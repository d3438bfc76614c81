"""Looking after orders (督办): what follows when one is late, refused, incomplete, repeated or complained of.

Each finding is asked once of each order: a record, an order event on the alert, and an alert of its own for a
supervisor, which is told until a person has it. Inside a transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw
from msgspec import Struct

from alerts import order_requests, outbox_rows, promises, rows, timers
from alerts.lifecycle import apply_effects, transition
from alerts.order_requests import OrderRequest
from alerts.policy import Policy, order_category
from alerts.rows import Alert
from alerts.states import OPEN, SUPERVISION_KIND, UNCLOSED, Condition, is_emergency
from alerts.timers import Timer
from gateway import audit
from gateway.clock import iso
from gateway.model import Actor, Clear, Raise, Severity

SYSTEM: Final = Actor("system", "timer")
REASONS: Final = (
    "not_accepted", "overdue", "refused", "incomplete", "cancelled", "repeated", "complaint", "unsatisfied", "asked",
)  # fmt: skip
"""Why an order is supervised; ``asked``: a person wants it."""

STATUS_RANK: Final = {
    "accepted": 1, "dispatched": 2, "arrived": 3, "completed": 4, "cancelled": 4, "complained": 5, "followed_up": 5,
}  # fmt: skip
_URGENT: Final = frozenset({"emergency", "service"})


class Record(Struct, frozen=True, kw_only=True):
    """What ``order_record`` keeps of one thing that was done."""

    kind: str
    reason: str = ""
    note: str = ""
    due_at_us: int | None = None


def record(connection: apsw.Connection, alert: Alert, what: Record, actor: Actor, now_us: int) -> bool:
    """Keep it. False for a supervision that is under way for the same reason."""
    connection.execute(
        "INSERT OR IGNORE INTO order_record (alert_id, number, kind, reason, note, actor, at_us, due_at_us)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            alert.id, alert.order_number, what.kind, what.reason, what.note[:2000], actor.id, now_us, what.due_at_us,
        ),
    )  # fmt: skip
    return connection.changes() == 1


def supervise(
    connection: apsw.Connection,
    alert: Alert,
    reason: str,
    now_us: int,
    policy: Policy,
    *,
    actor: Actor = SYSTEM,
    note: str = "",
) -> bool:
    """Ask for supervision of the alert's order; ``reason`` is one of REASONS. False when that is under way already."""
    what = Record(kind="supervision", reason=reason, note=note)
    if not record(connection, alert, what, actor, now_us):
        return False
    order = order_requests.get(connection, alert.id, alert.order_number) if alert.order_number else None
    category = order_category(alert.kind, alert.severity) if order is None else order.category
    evidence: dict[str, Any] = {
        "alert_id": alert.id,
        "person_id": alert.person_id or None,
        "device_id": alert.device_id or None,
        "number": alert.order_number,
        "order_id": None if order is None else order.order_id,
        "category": category,
        "reason": reason,
    }
    note_on(connection, alert, "order_supervise_requested", actor, now_us, policy, note=note, detail=evidence)
    urgent = category in _URGENT or is_emergency(alert.kind, alert.severity)
    effect = Raise(
        effect_id=f"supervision/{alert.id}/{alert.order_number}/{reason}/{now_us}",
        kind=SUPERVISION_KIND,
        severity=Severity.P2 if urgent else Severity.P3,
        person_id="",  # whoever is told of it is in charge of orders: nobody of the family
        device_id="",
        seq=0,
        occurred_at_us=now_us,
        received_at_us=now_us,
        rule_id="carebell.supervision",
        rule_version="1",
        evidence=evidence,
    )
    apply_effects(connection, [effect], now_us, policy)
    return True


def note_on(
    connection: apsw.Connection,
    alert: Alert,
    action: str,
    actor: Actor,
    now_us: int,
    policy: Policy,
    *,
    note: str = "",
    detail: dict[str, Any] | None = None,
) -> None:
    """An order event on an alert; on one that is closed it is an audit row alone, and the alert stays as it is."""
    if alert.handling in UNCLOSED:
        transition(
            connection, alert.id, action, expected_version=None, actor=actor, now_us=now_us, policy=policy, note=note,
            detail=detail,
        )  # fmt: skip
        return
    audit.append(
        connection, at_us=now_us, actor=actor, action=action, subject=f"alert/{alert.id}", alert_id=alert.id,
        version=alert.version, after=rows.view(connection, alert), reason=note, evidence=detail,
    )  # fmt: skip


_IS_SUPERVISED: Final = (
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM order_record WHERE alert_id = ? AND kind = 'supervision'"  # noqa: S608 - ours
    f" AND ended_at_us IS NULL) OR EXISTS (SELECT 1 FROM alert WHERE subject = ? AND kind = ? AND {rows.OPEN_SQL})"
)


def settle(
    connection: apsw.Connection, alert: Alert, now_us: int, policy: Policy, reasons: Sequence[str] = REASONS
) -> None:
    """What was supervised for these reasons is as it should be. When nothing else is left, the supervisor's alert is
    cleared; a person ends it.
    """
    if not connection.execute(_IS_SUPERVISED, (alert.id, f"alert/{alert.id}", SUPERVISION_KIND)).fetchone():
        return
    connection.executemany(
        "UPDATE order_record SET ended_at_us = ? WHERE alert_id = ? AND kind = 'supervision' AND ended_at_us IS NULL"
        " AND reason = ?",
        [(now_us, alert.id, reason) for reason in reasons],
    )
    left = connection.execute(
        "SELECT 1 FROM order_record WHERE alert_id = ? AND kind = 'supervision' AND ended_at_us IS NULL", (alert.id,)
    ).fetchone()
    case = rows.find_open(connection, f"alert/{alert.id}", SUPERVISION_KIND, verified=True)
    if left is None and case is not None and case.condition is not Condition.CLEARED:
        cleared = Clear(
            effect_id=f"supervision/{alert.id}/{alert.order_number}/{now_us}/settled",
            kind=SUPERVISION_KIND,
            person_id="",
            device_id="",
            seq=0,
            at_us=now_us,
            rule_id="carebell.supervision",
            evidence={"alert_id": alert.id},
        )
        apply_effects(connection, [cleared], now_us, policy)


# ---- what the platform says ------------------------------------------------------------------------------------------


def heard(
    connection: apsw.Connection,
    alert: Alert,
    order: OrderRequest,
    status: str,
    note: str,
    actor: Actor,
    now_us: int,
    policy: Policy,
) -> None:
    """A status of the alert's order arrived and is written down: promises are kept, complaints are followed."""
    if status == "complained":
        complain(connection, alert, note, actor, now_us, policy)
    elif status == "followed_up":
        record(connection, alert, Record(kind="follow_up", note=note), actor, now_us)
        _end_complaints(connection, alert.id, now_us)
    if order.number != alert.order_number:
        return
    timers.cancel(connection, alert.id, ("order_accept",))
    promise = policy.promises[order.category]
    if status == "cancelled":
        timers.cancel(connection, alert.id, ("order_due", "order_remind"))
        if alert.handling in OPEN:
            supervise(connection, alert, "cancelled", now_us, policy, note=note)
    elif status != "complained" and STATUS_RANK[status] >= STATUS_RANK[promise.kept_by]:
        promises.keep(connection, alert.id, now_us)
        settle(connection, alert, now_us, policy)


def complain(connection: apsw.Connection, alert: Alert, note: str, actor: Actor, now_us: int, policy: Policy) -> None:
    """Somebody is not content: recorded, to be answered within five working days, and supervised."""
    what = Record(kind="complaint", note=note, due_at_us=_working_days_later(now_us, policy.complaint_days))
    record(connection, alert, what, actor, now_us)
    supervise(connection, alert, "complaint", now_us, policy, actor=actor, note=note)


def _working_days_later(now_us: int, days: int) -> int:
    """So many days that are neither Saturday nor Sunday (UTC); holidays are not counted out."""
    day_us = 24 * 3600 * 1_000_000
    at_us = now_us
    while days:
        at_us += day_us
        days -= (at_us // day_us + 3) % 7 < 5  # 1 January 1970 was a Thursday
    return at_us


def _end_complaints(connection: apsw.Connection, alert_id: str, now_us: int) -> None:
    connection.execute(
        "UPDATE order_record SET ended_at_us = ? WHERE alert_id = ? AND kind = 'complaint' AND ended_at_us IS NULL",
        (now_us, alert_id),
    )


def follow_up(
    connection: apsw.Connection,
    alert: Alert,
    *,
    satisfied: bool | None,
    note: str,
    actor: Actor,
    now_us: int,
    policy: Policy,
) -> None:
    """Somebody asked how it was. It answers the complaints; who is not satisfied is supervised."""
    opinion = {True: "satisfied", False: "unsatisfied", None: ""}[satisfied]
    record(connection, alert, Record(kind="follow_up", reason=opinion, note=note), actor, now_us)
    _end_complaints(connection, alert.id, now_us)
    note_on(
        connection, alert, "order_followed_up", actor, now_us, policy, note=note,
        detail={"number": alert.order_number, "satisfied": satisfied},
    )  # fmt: skip
    if satisfied is False:
        supervise(connection, alert, "unsatisfied", now_us, policy, actor=actor, note=note)
    else:
        settle(connection, alert, now_us, policy)


def refused(connection: apsw.Connection, alert: Alert, missing: str, now_us: int, policy: Policy, *, note: str) -> None:
    """The order is a dead letter: the platform refused it, or (``missing``) it was not complete enough to be sent."""
    timers.cancel(connection, alert.id, ("order_accept",))
    if alert.handling not in OPEN:
        return
    supervise(connection, alert, "incomplete" if missing else "refused", now_us, policy, note=note)
    if missing:
        timers.arm(connection, alert.id, "order_recheck", now_us + policy.recheck_us)


# ---- timers ----------------------------------------------------------------------------------------------------------


def ticket(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """A fault has lasted: now its repair is ordered."""
    del timer
    if alert.handling in OPEN and alert.condition is not Condition.CLEARED and alert.order_number == 0:
        transition(
            connection, alert.id, "open_ticket", expected_version=None, actor=SYSTEM, now_us=now_us, policy=policy
        )


def accept_due(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """The platform should have accepted the order by now. One that nobody can have sent yet is waited for."""
    del timer
    order = order_requests.under_way(connection, alert)
    if alert.handling not in OPEN or order is None or STATUS_RANK.get(order.status, 0) > 0:
        return
    tried = outbox_rows.attempts_of(connection, order.idempotency_key)
    if order.order_id is None and not tried:
        after_us = policy.promises[order.category].accept_us
        timers.arm(connection, alert.id, "order_accept", now_us + after_us)
        return
    supervise(connection, alert, "not_accepted", now_us, policy)


def order_due(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """The promised time is over."""
    del timer
    made = promises.get(connection, alert.id)
    if alert.handling not in OPEN or made is None or made.kept_at_us is not None:
        return
    timers.cancel(connection, alert.id, ("order_remind",))
    promises.note_overdue(connection, alert.id, now_us)
    supervise(connection, alert, "overdue", now_us, policy, note=f"promised until {iso(made.due_at_us)}")


def remind(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """Some of the promised time is over; each reminder is told once, one that comes too late only with the last."""
    made = promises.get(connection, alert.id)
    if alert.handling not in OPEN or made is None or made.kept_at_us is not None:
        return
    times = policy.promises[made.category].reminders_us
    place = timer.epoch + 1
    while place < len(times) and timer.due_at_us + times[place] - times[timer.epoch] <= now_us:
        place += 1
    if place < len(times):
        due_us = timer.due_at_us + times[place] - times[timer.epoch]
        timers.arm(connection, alert.id, "order_remind", due_us, place)
    record(connection, alert, Record(kind="reminder", due_at_us=made.due_at_us), SYSTEM, now_us)
    note_on(
        connection, alert, "order_reminded", SYSTEM, now_us, policy,
        detail={"number": alert.order_number, "category": made.category, "due_at": iso(made.due_at_us)},
    )  # fmt: skip


def repeated(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """The same thing again and again: somebody should look into its cause."""
    del timer
    supervise(connection, alert, "repeated", now_us, policy)


def recheck(connection: apsw.Connection, alert: Alert, timer: Timer, now_us: int, policy: Policy) -> None:
    """What was missing from an order may be known by now: try it again, under its own key."""
    del timer, policy
    order = order_requests.under_way(connection, alert)
    if alert.handling in OPEN and order is not None:
        outbox_rows.revive(connection, order.idempotency_key, now_us)
