"""What people do about orders: ask for one, dispatch it again, have it supervised, complain, follow up; and the lists.

Inside a transaction of the caller. Every act is an audit row and an order event.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

import apsw
import msgspec

from alerts import order_requests, outbox_rows, promises, rows, supervision, visits
from alerts.changes import clean_text
from alerts.completeness import CATEGORIES
from alerts.lifecycle import apply_effects, transition
from alerts.policy import Policy, order_category
from alerts.rows import Alert
from alerts.states import OPEN, Handling, permit
from alerts.supervision import Record
from gateway.clock import iso
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.filters import where
from gateway.model import Actor, Raise, Severity

MAX_TEXT: Final = 2000

INTENTS: Final[Mapping[str, tuple[str, Severity]]] = MappingProxyType(
    {
        "life_help": ("service_call", Severity.P2),
        "consultation": ("consultation", Severity.P3),
        "maintenance": ("device_fault", Severity.P4),
        "emergency": ("sos", Severity.P1),
    }
)
"""What a person may be asked for by telephone or at a counter; a health alarm comes from its rule."""

ACTIONS: Final = ("redispatch", "supervise", "complaint", "follow_up")

_SUPERVISED: Final = (
    "EXISTS (SELECT 1 FROM order_record WHERE order_record.alert_id = alert.id"
    " AND order_record.kind = 'supervision' AND order_record.ended_at_us IS NULL)"
)


def request(
    connection: apsw.Connection,
    intent: str,
    *,
    person_id: str = "",
    device_id: str = "",
    text: str,
    actor: Actor,
    now_us: int,
    policy: Policy,
) -> dict[str, Any]:
    """Somebody asks for something on a person's behalf; returns the case. Raises UsageError.

    While an alert of this person (or device) and kind is open, it is the same case once more.
    """
    if intent not in INTENTS:
        raise UsageError(f"unknown intent {intent!r}; known are {', '.join(INTENTS)}")
    permit("note", actor, "", Severity.P4)
    kind, severity = INTENTS[intent]
    if intent == "maintenance" and not device_id:
        raise UsageError("say which device is to be repaired")
    if intent != "maintenance" and not person_id:
        raise UsageError("say for whom it is asked")
    text = clean_text(text, "text", MAX_TEXT)
    if not text:
        raise UsageError("say in a sentence what is wanted")
    effect = Raise(
        effect_id=f"request/{uuid.uuid4()}",
        kind=kind,
        severity=severity,
        person_id=person_id,
        device_id=device_id,
        seq=0,
        occurred_at_us=now_us,
        received_at_us=now_us,
        rule_id="carebell.request",
        rule_version="1",
        evidence={"text": text, "reported_by": actor.id},
    )
    applied = apply_effects(connection, [effect], now_us, policy)
    return show(connection, (applied.raised or applied.changed)[0])


def act(
    connection: apsw.Connection,
    reference: str,
    action: str,
    *,
    actor: Actor,
    now_us: int,
    policy: Policy,
    note: str = "",
    version: int | None = None,
    satisfied: bool | None = None,
) -> dict[str, Any]:
    """One of ACTIONS on the case of ``reference`` (an alert's id or the platform's order id); returns the case.

    Raises NotFoundError, UsageError and ConflictError.
    """
    alert = find(connection, reference)
    note = clean_text(note, "note", MAX_TEXT)
    if version is not None and version != alert.version:
        raise ConflictError(f"alert {alert.id} has version {alert.version}; you saw version {version}")
    if action == "redispatch":
        redispatch(connection, alert, note, actor, now_us, policy)
    elif action == "supervise":
        permit("order_supervise_requested", actor, alert.kind, alert.severity)
        _needs(note, "say why it is to be supervised")
        if not supervision.supervise(connection, alert, "asked", now_us, policy, actor=actor, note=note):
            raise ConflictError(f"the order of alert {alert.id} is being supervised already, as somebody asked")
    elif action == "complaint":
        permit("order_complained", actor, alert.kind, alert.severity)
        _needs(note, "say what the complaint is")
        supervision.note_on(connection, alert, "order_complained", actor, now_us, policy, note=note)
        supervision.complain(connection, rows.get(connection, alert.id), note, actor, now_us, policy)
    elif action == "follow_up":
        permit("order_followed_up", actor, alert.kind, alert.severity)
        supervision.follow_up(
            connection, alert, satisfied=satisfied, note=note, actor=actor, now_us=now_us, policy=policy
        )
    else:
        raise UsageError(f"unknown action {action!r}; known are {', '.join(ACTIONS)}")
    return show(connection, alert.id)


def _needs(note: str, question: str) -> None:
    if not note:
        raise UsageError(question)


def redispatch(
    connection: apsw.Connection, alert: Alert, reason: str, actor: Actor, now_us: int, policy: Policy
) -> Alert:
    """The same incident once more: a new request with its own key and service code, the same external reference.

    The order before it has ended for the gateway: its later statuses are kept on it alone, and its code is no longer
    taken. A resolved alert is opened again. Raises ConflictError while the order before it is still to be sent, or when
    the alert is closed; UsageError for a kind that has no orders, or without a reason.
    """
    permit("redispatch", actor, alert.kind, alert.severity)
    _needs(reason, "say why it is dispatched again")
    if alert.handling is Handling.CLOSED:
        raise ConflictError(f"alert {alert.id} is closed; a new call makes a new alert")
    if not order_category(alert.kind, alert.severity):
        raise UsageError(f"{alert.kind} of {alert.severity.name} has no order; escalate it first")
    before = order_requests.get(connection, alert.id, alert.order_number) if alert.order_number else None
    if before is not None and not before.finished:
        state = outbox_rows.state_of(connection, before.idempotency_key)
        if state in ("pending", "sending", "retry"):
            raise ConflictError(f"order {before.number} of alert {alert.id} is not sent yet ({state}); it will be")
        order_requests.set_status(connection, before, before.status, now_us, finished=True)
    if alert.handling in OPEN:
        after = transition(
            connection, alert.id, "redispatch", expected_version=None, actor=actor, now_us=now_us, policy=policy,
            note=reason, detail={"number": alert.order_number + 1},
        )  # fmt: skip
    else:
        after = transition(
            connection, alert.id, "reopen", expected_version=None, actor=actor, now_us=now_us, policy=policy,
            note=reason, detail={"number": alert.order_number + 1},
        )  # fmt: skip
    supervision.record(connection, after, Record(kind="redispatch", note=reason), actor, now_us)
    supervision.settle(connection, after, now_us, policy)
    return after


# ---- reading ---------------------------------------------------------------------------------------------------------


def find(connection: apsw.Connection, reference: str) -> Alert:
    """The alert with this id, or whose order the platform knows by it. Raises NotFoundError."""
    try:
        return rows.get(connection, reference)
    except NotFoundError:
        return rows.get(connection, order_requests.by_order_id(connection, reference).alert_id)


def list_cases(
    connection: apsw.Connection,
    *,
    open_only: bool = False,
    overdue: bool = False,
    supervised: bool = False,
    category: str = "",
    person_id: str = "",
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Cases (alerts that have an order or a promise), newest first. ``limit`` is held to 1 to 10,000."""
    if category and category not in CATEGORIES:
        raise UsageError(f"unknown category {category!r}; known are {', '.join(CATEGORIES)}")
    asked, values = where(
        (open_only, rows.OPEN_SQL, ()),
        (person_id, "alert.person_id = ?", (person_id,)),
        (category, "order_promise.category = ?", (category,)),
        (overdue, "order_promise.overdue_at_us IS NOT NULL AND order_promise.kept_at_us IS NULL", ()),
        (supervised, _SUPERVISED, ()),
    )
    found: list[Any] = connection.execute(
        f"SELECT {rows.COLUMNS} FROM alert JOIN order_promise ON order_promise.alert_id = alert.id"  # noqa: S608 - ours
        f"{asked} ORDER BY alert.id DESC LIMIT ?",
        (*values, max(1, min(limit, 10_000))),
    ).fetchall()
    return [view(connection, alert) for alert in map(rows.alert_of, found)]


def view(connection: apsw.Connection, alert: Alert) -> dict[str, Any]:
    """One line of the list: ids, states and times."""
    shown = rows.view(connection, alert)
    made = promises.get(connection, alert.id)
    supervised = [
        reason
        for (reason,) in connection.execute(
            "SELECT reason FROM order_record WHERE alert_id = ? AND kind = 'supervision' AND ended_at_us IS NULL"
            " ORDER BY id",
            (alert.id,),
        )
    ]
    return {
        "alert_id": alert.id,
        "version": alert.version,
        "kind": alert.kind,
        "severity": alert.severity.name,
        "handling": alert.handling.value,
        "person_id": alert.person_id or None,
        "device_id": alert.device_id or None,
        "raised_at": iso(alert.raised_at_us),
        "category": None if made is None else made.category,
        "due_at": None if made is None else iso(made.due_at_us),
        "kept_at": None if made is None else _iso(made.kept_at_us),
        "overdue_at": None if made is None else _iso(made.overdue_at_us),
        "supervised": supervised,
        "order": shown["order"],
    }


def _iso(at_us: int | None) -> str | None:
    return None if at_us is None else iso(at_us)


def show(connection: apsw.Connection, reference: str) -> dict[str, Any]:
    """The case with every order, what the platform said of each, and all that was done. Raises NotFoundError."""
    alert = find(connection, reference)
    records = [
        {
            "kind": kind, "number": number, "reason": reason or None, "note": note or None, "actor": actor,
            "at": iso(at_us), "due_at": _iso(due), "ended_at": _iso(ended),
        }
        for kind, number, reason, note, actor, at_us, due, ended in connection.execute(
            "SELECT kind, number, reason, note, actor, at_us, due_at_us, ended_at_us FROM order_record"
            " WHERE alert_id = ? ORDER BY id LIMIT 1000",
            (alert.id,),
        )
    ]  # fmt: skip
    dispatches = [
        {"number": msgspec.json.decode(payload)["number"], "state": state, "attempts": attempt, "error": error or None}
        for payload, state, attempt, error in connection.execute(
            "SELECT payload, state, attempt, last_error FROM outbox WHERE alert_id = ? AND lane = 'order' ORDER BY id",
            (alert.id,),
        )
    ]
    return view(connection, alert) | {
        "orders": rows.show_alert(connection, alert.id)["orders"],
        "visits": visits.of_alert(connection, alert.id),
        "dispatches": dispatches,
        "records": records,
    }
