"""Orders and their alerts: what a delivered order, a refused one, and the platform's callbacks mean."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import apsw
from msgspec import Struct

from alerts import order_requests, rows, supervision, visits
from alerts.channel import Dispatch, Receipt
from alerts.completeness import INCOMPLETE
from alerts.lifecycle import apply_effects, transition
from alerts.order_requests import OrderRequest
from alerts.policy import Policy
from alerts.refusals import Refused, refuse
from alerts.rows import Alert
from alerts.states import OPEN, UNCLOSED, is_emergency
from alerts.technical import raise_technical
from gateway import audit
from gateway.clock import to_us
from gateway.errors import UsageError
from gateway.model import Actor, Clear, Severity

STATUSES: Final = ("accepted", "dispatched", "arrived", "completed", "cancelled", "complained", "followed_up")
"""The platform's closed list (contracts, section 5), in the order in which an order meets them."""

FINISHED: Final = frozenset({"completed", "cancelled", "followed_up"})
OUTBOX: Final = Actor("system", "outbox")
_RANK: Final = supervision.STATUS_RANK
_PROGRESS: Final = {"accepted": "dispatched", "dispatched": "dispatched", "arrived": "on_scene"}
_MAX_TEXT: Final = 2000


class Callback(Struct, frozen=True):
    """A callback of the platform, checked."""

    status: str
    at_us: int
    organization: str
    worker: str
    note: str
    service_code: str


def order_status(
    connection: apsw.Connection, order_id: str, body: Mapping[str, Any], actor: Actor, now_us: int, policy: Policy
) -> Alert | Refused:
    """Take a callback (contracts, section 5) onto its order and alert. A repeated one changes nothing.

    Returns Refused, with its audit row written, for ``arrived`` with a wrong or used service code.
    Raises NotFoundError for an unknown order, UsageError for a body that is none.
    """
    callback = read_callback(body, now_us)
    order = order_requests.by_order_id(connection, order_id)
    alert = rows.get(connection, order.alert_id)
    if _is_repeated(connection, order_id, callback, at_given="at" in body):
        return alert
    if callback.status == "arrived":
        wrong = _wrong_code(connection, order, callback.service_code)
        if wrong:
            return refuse(connection, alert, f"order/{order_id}", wrong, actor, now_us, policy, order_id=order_id)
        order_requests.use_code(connection, order, now_us)
    connection.execute(
        "INSERT INTO order_status (order_id, status, at_us, received_at_us, organization, worker, note)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (order_id, callback.status, callback.at_us, now_us, callback.organization, callback.worker, callback.note),
    )
    newest = callback.status if _RANK[callback.status] >= _RANK.get(order.status, 0) else order.status
    order_requests.set_status(connection, order, newest, now_us, finished=callback.status in FINISHED)
    if alert.handling not in UNCLOSED or order.number != alert.order_number:
        _audit_order(connection, order_id, callback, alert, actor, now_us)
        supervision.heard(connection, alert, order, callback.status, callback.note, actor, now_us, policy)
        return alert
    alert = transition(
        connection, alert.id, "order_status", expected_version=None, actor=actor, now_us=now_us, policy=policy,
        detail={
            "order_id": order_id,
            "status": callback.status,
            "progress": _PROGRESS.get(callback.status) if newest == callback.status else None,
        },
    )  # fmt: skip
    supervision.heard(connection, alert, order, callback.status, callback.note, actor, now_us, policy)
    alert = rows.get(connection, alert.id)
    harmless = alert.severity >= Severity.P3 and not is_emergency(alert.kind, alert.severity)
    if callback.status == "completed" and alert.handling in OPEN and harmless:
        alert = transition(
            connection, alert.id, "resolve", expected_version=None, actor=actor, now_us=now_us, policy=policy,
            outcome="assistance", detail={"order_id": order_id, "status": callback.status},
        )  # fmt: skip
    return alert


def read_callback(body: Mapping[str, Any], now_us: int) -> Callback:
    """Check a callback's body. Without ``at`` it happened now. Raises UsageError."""
    status = body.get("status")
    if status not in STATUSES:
        raise UsageError(f"unknown order status {str(status)[:40]!r}; known are {', '.join(STATUSES)}")
    texts = {}
    for name in ("organization", "worker", "note", "service_code"):
        value = body.get(name)
        if value is None:
            value = ""
        if not isinstance(value, str) or len(value) > _MAX_TEXT or not _is_unicode(value):
            raise UsageError(f"{name} must be text of at most {_MAX_TEXT} characters")
        texts[name] = value
    if status == "arrived" and not texts["service_code"]:
        raise UsageError("arrived must carry the service_code of the order")
    return Callback(str(status), _time_of(body.get("at"), now_us), **texts)


def _is_unicode(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _time_of(value: Any, now_us: int) -> int:
    if value is None:
        return now_us
    try:
        return to_us(datetime.fromisoformat(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError("at must be an RFC 3339 time with its zone, for example 2026-11-22T01:02:03Z") from error


def _is_repeated(connection: apsw.Connection, order_id: str, callback: Callback, *, at_given: bool) -> bool:
    row = connection.execute(
        "SELECT 1 FROM order_status WHERE order_id = ? AND status = ? AND organization = ? AND worker = ? AND note = ?"
        " AND (at_us = ? OR ?)",
        (
            order_id, callback.status, callback.organization, callback.worker, callback.note, callback.at_us,
            not at_given,
        ),
    ).fetchone()  # fmt: skip
    return row is not None


def _wrong_code(connection: apsw.Connection, order: OrderRequest, code: str) -> str:
    """A code that a scan at the door has taken is told by the platform once more, and once."""
    if not hmac.compare_digest(order.service_code.encode(), code.encode()):
        return "the service code is not that of this order"
    if order.code_used_at_us is not None and (_has_arrived(connection, order) or not visits.began(connection, order)):
        return "the service code was used before"
    return ""


def _has_arrived(connection: apsw.Connection, order: OrderRequest) -> bool:
    row = connection.execute(
        "SELECT 1 FROM order_status WHERE order_id = ? AND status = 'arrived'", (order.order_id,)
    ).fetchone()
    return row is not None


def _audit_order(
    connection: apsw.Connection, order_id: str, callback: Callback, alert: Alert, actor: Actor, now_us: int
) -> None:
    """The alert is closed, or has a newer order: the status is kept on the order alone."""
    audit.append(
        connection,
        at_us=now_us,
        actor=actor,
        action="order_status",
        subject=f"order/{order_id}",
        after={"order_id": order_id, "status": callback.status, "alert_id": alert.id},
    )


class OrderHandler:
    """A DeliveryHandler for the lane of orders."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def delivered(self, connection: apsw.Connection, dispatch: Dispatch, receipt: Receipt, now_us: int) -> None:
        number = int(dispatch.payload["number"])
        status = str(receipt.detail.get("status", ""))[:40]
        order_requests.answered(connection, dispatch.alert_id, number, receipt.reference, status, now_us)
        alert = rows.get(connection, dispatch.alert_id)
        supervision.settle(connection, alert, now_us, self._policy, ("refused", "incomplete"))
        if alert.handling not in UNCLOSED:
            audit.append(
                connection, at_us=now_us, actor=OUTBOX, action="order_sent", subject=f"order/{receipt.reference}",
                after={"order_id": receipt.reference, "status": status, "alert_id": alert.id},
            )  # fmt: skip
            return
        transition(
            connection, alert.id, "order_sent", expected_version=None, actor=OUTBOX, now_us=now_us,
            policy=self._policy,
            detail={
                "order_id": receipt.reference,
                "status": status,
                "number": number,
                "dispatch_id": dispatch.id,
                "progress": _PROGRESS.get(status),
            },
        )  # fmt: skip

    def died(self, connection: apsw.Connection, dispatch: Dispatch, reason: str, now_us: int) -> None:
        alert = rows.get(connection, dispatch.alert_id)
        if alert.handling in UNCLOSED:
            transition(
                connection, alert.id, "order_failed", expected_version=None, actor=OUTBOX, now_us=now_us,
                policy=self._policy, note=reason[:_MAX_TEXT],
                detail={"number": dispatch.payload["number"], "dispatch_id": dispatch.id},
            )  # fmt: skip
        missing = reason.removeprefix(INCOMPLETE) if reason.startswith(INCOMPLETE) else ""
        supervision.refused(connection, alert, missing, now_us, self._policy, note=reason[:_MAX_TEXT])
        if not missing:
            raise_technical(
                connection, "order_refused", f"outbox/{dispatch.id}/{dispatch.attempt}/{now_us}", now_us,
                self._policy, evidence={"dispatch_id": dispatch.id, "alert_id": dispatch.alert_id},
            )  # fmt: skip


class DestinationWatch:
    """A Technician: a destination that fails altogether is an open alert of the site until it works again."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def __call__(self, connection: apsw.Connection, destination: str, reason: str, now_us: int) -> None:
        kind = f"{destination}_unavailable"
        effect_id = f"breaker/{destination}/{now_us}/{'open' if reason else 'closed'}"
        if reason:
            raise_technical(connection, kind, effect_id, now_us, self._policy, evidence={"destination": destination})
            return
        cleared = Clear(
            effect_id=effect_id,
            kind=kind,
            person_id="",
            device_id="",
            seq=0,
            at_us=now_us,
            rule_id="carebell.outbox",
        )
        apply_effects(connection, [cleared], now_us, self._policy)
