"""The table ``order_request``: which orders an alert has asked for. Inside a transaction of the caller."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any, Final

import apsw
from msgspec import Struct

from alerts import outbox_rows
from alerts.dossier import Order
from alerts.policy import Policy
from alerts.rows import Alert, encode_json
from gateway.errors import ConflictError, NotFoundError

LANE: Final = "order"
DESTINATION: Final = "order_api"
_NAMESPACE: Final = uuid.UUID("c7f7a9d3-6d0e-5b0a-9c39-5d1c8f5f6a41")
CODE_DIGITS: Final = 8
_DRAWS: Final = 50


class OrderRequest(Struct, frozen=True):
    """One row: an order asked of the platform, whether it has answered or not."""

    alert_id: str
    number: int
    idempotency_key: str
    category: str
    priority: int
    service_code: str
    code_used_at_us: int | None
    readings: str
    order_id: str | None
    status: str
    finished: bool
    requested_at_us: int


_COLUMNS: Final = ", ".join(OrderRequest.__struct_fields__)


def _of(row: tuple[Any, ...]) -> OrderRequest:
    values = dict(zip(OrderRequest.__struct_fields__, row, strict=True))
    values["finished"] = bool(values["finished"])
    return OrderRequest(**values)


def get(connection: apsw.Connection, alert_id: str, number: int) -> OrderRequest | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM order_request WHERE alert_id = ? AND number = ?",  # noqa: S608 - columns of ours
        (alert_id, number),
    ).fetchone()
    return None if row is None else _of(row)


def by_order_id(connection: apsw.Connection, order_id: str) -> OrderRequest:
    """The newest request that the platform answered with this id. Raises NotFoundError."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM order_request WHERE order_id = ?"  # noqa: S608 - columns of ours
        " ORDER BY requested_at_us DESC, number DESC LIMIT 1",
        (order_id,),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no order {order_id}")
    return _of(row)


def by_code(connection: apsw.Connection, service_code: str) -> OrderRequest | None:
    """The request with this service code: the one that is under way, else the newest."""
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM order_request WHERE service_code = ?"  # noqa: S608 - columns of ours
        " ORDER BY finished, requested_at_us DESC LIMIT 1",
        (service_code,),
    ).fetchone()
    return None if row is None else _of(row)


def known_order_ids(connection: apsw.Connection, alert_id: str, before_number: int) -> set[str]:
    """The platform's ids of the alert's earlier orders."""
    rows = connection.execute(
        "SELECT order_id FROM order_request WHERE alert_id = ? AND number < ? AND order_id IS NOT NULL",
        (alert_id, before_number),
    )
    return {row[0] for row in rows}


def under_way(connection: apsw.Connection, alert: Alert) -> OrderRequest | None:
    """The alert's order that has not ended: unsent, sent, or refused and waiting for a person."""
    if alert.order_number == 0:
        return None
    latest = get(connection, alert.id, alert.order_number)
    return None if latest is None or latest.finished else latest


def request(connection: apsw.Connection, alert: Alert, category: str, now_us: int, policy: Policy) -> Order:
    """Write order number ``alert.order_number`` and its dispatch. The alert's row has that number already."""
    number = alert.order_number
    key = str(uuid.uuid5(_NAMESPACE, f"{alert.id}/{number}"))
    readings = encode_json(dict(policy.readings(alert.person_id, alert.device_id)))
    priority = int(alert.severity)
    for _ in range(_DRAWS):
        code = _draw_code(policy.draw)
        connection.execute(
            f"INSERT INTO order_request ({_COLUMNS}, updated_at_us)"  # noqa: S608 - columns of ours
            " VALUES (?, ?, ?, ?, ?, ?, NULL, ?, NULL, '', 0, ?, ?)"
            " ON CONFLICT (service_code) WHERE finished = 0 DO NOTHING",
            (alert.id, number, key, category, priority, code, readings, now_us, now_us),
        )
        if connection.changes() == 1:
            break
    else:
        raise ConflictError("no free service code was found: far too many orders are under way")
    outbox_rows.enqueue(
        connection,
        lane=LANE,
        destination=DESTINATION,
        order_key=alert.subject,
        priority=priority,
        idempotency_key=key,
        alert_id=alert.id,
        payload={"alert_id": alert.id, "number": number},
        now_us=now_us,
    )
    return Order(None, "", "pending", category, now_us, "", key, finished=0)


def answered(connection: apsw.Connection, alert_id: str, number: int, order_id: str, status: str, now_us: int) -> None:
    """The platform has taken the order."""
    connection.execute(
        "UPDATE order_request SET order_id = ?, status = ?, updated_at_us = ? WHERE alert_id = ? AND number = ?",
        (order_id, status, now_us, alert_id, number),
    )


def set_status(connection: apsw.Connection, order: OrderRequest, status: str, now_us: int, *, finished: bool) -> None:
    connection.execute(
        "UPDATE order_request SET status = ?, finished = max(finished, ?), updated_at_us = ?"
        " WHERE alert_id = ? AND number = ?",
        (status, int(finished), now_us, order.alert_id, order.number),
    )


def use_code(connection: apsw.Connection, order: OrderRequest, now_us: int) -> None:
    connection.execute(
        "UPDATE order_request SET code_used_at_us = ? WHERE alert_id = ? AND number = ? AND code_used_at_us IS NULL",
        (now_us, order.alert_id, order.number),
    )


def finish_superseded(connection: apsw.Connection, dispatch_ids: list[int], now_us: int) -> None:
    """The orders of dispatches that will not be sent have ended."""
    connection.executemany(
        "UPDATE order_request SET finished = 1, updated_at_us = ?"
        " WHERE alert_id = (SELECT alert_id FROM outbox WHERE id = ?)"
        " AND idempotency_key = (SELECT idempotency_key FROM outbox WHERE id = ?)",
        [(now_us, dispatch_id, dispatch_id) for dispatch_id in dispatch_ids],
    )


def check_digit(digits: str) -> str:
    """The Luhn digit (ISO/IEC 7812-1, annex B) that follows these digits: finds every single wrong digit."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def _draw_code(draw: Callable[[int], int]) -> str:
    """Seven drawn digits and their check digit. The table takes it once only while its order is under way."""
    digits = f"{draw(10 ** (CODE_DIGITS - 1)):0{CODE_DIGITS - 1}d}"
    return digits + check_digit(digits)
