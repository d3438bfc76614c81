"""Staff who check in and out by the service code of their order, at a terminal or in an app.

DB12/T 1234, 6.1.3 and 6.4.2: who is served has a code of their own, and its check-in begins the service.
The code is taken once. Inside a transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import apsw
from msgspec import Struct

from alerts import order_requests, rows, supervision
from alerts.changes import clean_text
from alerts.order_requests import OrderRequest
from alerts.policy import MINUTE_US, Policy
from alerts.refusals import Refused, refuse
from gateway.clock import iso, to_us
from gateway.errors import UsageError
from gateway.model import Actor

METHODS: Final = ("nfc", "ble", "qr", "ic_card", "keyed", "")
DIRECTIONS: Final = ("in", "out")
UNKNOWN_CODE: Final = "no order has this service code"
RESENT_WITHIN_US: Final = 5 * MINUTE_US
"""The same scan of the same hand at the same terminal: told twice, not done twice."""


class Scan(Struct, frozen=True, kw_only=True):
    """A service code that was read. ``at_us`` is when, by whoever read it; it orders nothing.

    ``heard_us``: when the gateway heard of it.
    """

    service_code: str
    direction: str
    staff_id: str
    device_id: str
    method: str
    at_us: int
    heard_us: int


def read_scan(body: Mapping[str, Any], device_id: str, heard_us: int) -> Scan:
    """Check what was told. ``device_id``: the terminal, "" for none. Without ``at`` it is when it was heard.

    Raises UsageError.
    """
    texts = {name: clean_text(body.get(name) or "", name, 64) for name in ("service_code", "staff_id")}
    if missing := [name for name, value in texts.items() if not value]:
        raise UsageError(f"{' and '.join(missing)}: missing")
    direction, method = body.get("direction") or "in", body.get("method") or ""
    if direction not in DIRECTIONS:
        raise UsageError("direction: in or out")
    if method not in METHODS:
        raise UsageError(f"method: one of {', '.join(METHODS[:-1])}")
    try:
        at_us = heard_us if body.get("at") is None else to_us(datetime.fromisoformat(body["at"]))
    except (TypeError, ValueError, OverflowError) as error:
        raise UsageError("at must be an RFC 3339 time with its zone, for example 2026-11-22T01:02:03Z") from error
    return Scan(**texts, direction=direction, device_id=device_id, method=method, at_us=at_us, heard_us=heard_us)


def take(
    connection: apsw.Connection, scan: Scan, actor: Actor, now_us: int, policy: Policy
) -> dict[str, Any] | Refused:
    """Staff come or go; returns the visit.

    Returns Refused, with its audit row written, for an unknown code, a used one, one of an order that has ended, and
    for who leaves without having come.
    """
    order = order_requests.by_code(connection, scan.service_code)
    if order is None:
        return refuse(connection, None, "order/unknown", UNKNOWN_CODE, actor, now_us, policy)
    found = of_order(connection, order)
    if found is not None and _is_resent(scan, found):
        return found
    alert = rows.get(connection, order.alert_id)
    wrong = _wrong(scan, order, found)
    if wrong:
        subject = f"order/{order.order_id or order.alert_id}"
        return refuse(connection, alert, subject, wrong, actor, now_us, policy, order_id=order.order_id)
    action = "service_checkin" if scan.direction == "in" else "service_checkout"
    if scan.direction == "in":
        connection.execute(
            "INSERT INTO service_visit (alert_id, number, staff_id, in_device_id, in_method, in_at_us)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (order.alert_id, order.number, scan.staff_id, scan.device_id, scan.method, now_us),
        )
        order_requests.use_code(connection, order, now_us)
        if supervision.STATUS_RANK.get(order.status, 0) < supervision.STATUS_RANK["arrived"]:
            order_requests.set_status(connection, order, "arrived", now_us, finished=False)
    else:
        connection.execute(
            "UPDATE service_visit SET out_device_id = ?, out_method = ?, out_at_us = ?"
            " WHERE alert_id = ? AND number = ?",
            (scan.device_id, scan.method, now_us, order.alert_id, order.number),
        )
    supervision.note_on(
        connection, alert, action, actor, now_us, policy,
        detail={
            "number": order.number, "order_id": order.order_id, "service_code": scan.service_code,
            "device_id": scan.device_id or None, "staff_id": scan.staff_id, "method": scan.method or None,
            "at": iso(scan.at_us), "progress": "on_scene" if scan.direction == "in" else None,
        },
    )  # fmt: skip
    if scan.direction == "in":
        alert = rows.get(connection, order.alert_id)
        supervision.heard(connection, alert, order, "arrived", "", actor, now_us, policy)
    visit = of_order(connection, order)
    assert visit is not None, "it was written above"
    return visit


def of_order(connection: apsw.Connection, order: OrderRequest) -> dict[str, Any] | None:
    """The visit of an order, JSON-ready; None when nobody checked in."""
    row: Any = connection.execute(
        "SELECT staff_id, in_device_id, in_method, in_at_us, out_device_id, out_method, out_at_us FROM service_visit"
        " WHERE alert_id = ? AND number = ?",
        (order.alert_id, order.number),
    ).fetchone()
    if row is None:
        return None
    staff_id, in_device, in_method, in_us, out_device, out_method, out_us = row
    return {
        "alert_id": order.alert_id, "number": order.number, "order_id": order.order_id, "staff_id": staff_id,
        "in_at": iso(in_us), "in_device_id": in_device or None, "in_method": in_method or None,
        "out_at": None if out_us is None else iso(out_us), "out_device_id": out_device or None,
        "out_method": out_method or None,
    }  # fmt: skip


def of_alert(connection: apsw.Connection, alert_id: str) -> list[dict[str, Any]]:
    """The visits of all its orders, oldest first."""
    numbers: list[Any] = connection.execute(
        "SELECT number FROM service_visit WHERE alert_id = ? ORDER BY number", (alert_id,)
    ).fetchall()
    orders = [order_requests.get(connection, alert_id, number) for (number,) in numbers]
    found = [of_order(connection, order) for order in orders if order is not None]
    return [each for each in found if each is not None]


def began(connection: apsw.Connection, order: OrderRequest) -> bool:
    """Whether a scan took the code of this order."""
    return of_order(connection, order) is not None


def _is_resent(scan: Scan, visit: dict[str, Any]) -> bool:
    """Also one that was heard before the visit was written: it comes from the journal again, after a crash."""
    at = visit[f"{scan.direction}_at"]
    same = (visit["staff_id"], visit[f"{scan.direction}_device_id"] or "") == (scan.staff_id, scan.device_id)
    return at is not None and same and scan.heard_us - to_us(datetime.fromisoformat(at)) < RESENT_WITHIN_US


def _wrong(scan: Scan, order: OrderRequest, visit: dict[str, Any] | None) -> str:
    if scan.direction == "out":
        if visit is None:
            return "nobody has checked in with this service code"
        if visit["staff_id"] != scan.staff_id:
            return "somebody else has checked in with this service code"
        return "" if visit["out_at"] is None else "the service code was used before"
    if visit is not None or order.code_used_at_us is not None:
        return "the service code was used before"
    return "the order of this service code has ended" if order.finished else ""
