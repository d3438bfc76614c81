"""The table ``alert``: reading, writing and showing it. Only alerts.lifecycle calls what writes."""

from __future__ import annotations

import hashlib
import uuid
from functools import lru_cache
from typing import Any, Final

import apsw
import msgspec
from msgspec import Struct

from alerts.states import DEVICE_KINDS, SUPERVISION_KIND, Condition, Handling
from gateway.clock import iso
from gateway.errors import NotFoundError
from gateway.filters import where
from gateway.model import Effect, Raise, Severity


class Alert(Struct, frozen=True):
    """One row of ``alert``; fields in the order of its columns."""

    id: str
    version: int
    subject: str
    person_id: str
    device_id: str
    kind: str
    severity: Severity
    condition: Condition
    handling: Handling
    progress: str
    owner: str
    outcome: str
    verified: bool
    late: bool
    occurrences: int
    raised_at_us: int
    updated_at_us: int
    occurred_at_us: int
    resolved_at_us: int | None
    rule_id: str
    rule_version: str
    evidence: dict[str, Any]
    position: dict[str, Any] | None
    previous_id: str | None
    order_number: int


_FIELDS: Final = Alert.__struct_fields__
COLUMNS: Final = ", ".join(f"alert.{name}" for name in _FIELDS)
_MUTABLE: Final = (
    "version", "severity", "condition", "handling", "progress", "owner", "outcome", "occurrences", "updated_at_us",
    "resolved_at_us", "position", "order_number",
)  # fmt: skip
_INSERT: Final = f"INSERT INTO alert ({', '.join(_FIELDS)}) VALUES ({', '.join('?' * len(_FIELDS))})"  # noqa: S608 - ours
OPEN_SQL: Final = "alert.handling IN ('raised', 'accepted', 'in_progress')"

_ALIKE: Final = "SELECT id FROM alert WHERE subject = :subject AND kind = :kind AND verified = :verified"
_NEWEST: Final = (
    f"SELECT {COLUMNS} FROM alert WHERE id = coalesce(({_ALIKE} AND {OPEN_SQL}),"  # noqa: S608 - columns of ours
    f" ({_ALIKE} ORDER BY raised_at_us DESC, id DESC LIMIT 1))"
)


def alert_id(site: str, effect: Raise) -> str:
    """A UUID in the layout of version 7 (RFC 9562, 5.7), the same for the same effect at the same site.

    Its time is when the effect's record was received; its other bits are a hash of the site and the effect's id.
    """
    milliseconds = max(effect.received_at_us, 0) // 1000 & ((1 << 48) - 1)
    digest = int.from_bytes(hashlib.sha256(f"{site}\n{effect.effect_id}".encode()).digest()[:10])
    bits = milliseconds << 80 | 0x7 << 76 | (digest >> 64 & 0xFFF) << 64 | 0b10 << 62 | (digest & ((1 << 62) - 1))
    return str(uuid.UUID(int=bits))


def subject_of(site: str, person_id: str, device_id: str) -> str:
    """Whom an alert is about: the person, else the device, else the site itself."""
    if person_id:
        return f"person/{person_id}"
    return f"device/{device_id}" if device_id else f"site/{site}"


def subject_for(site: str, effect: Effect) -> str:
    """Whom an effect is about: a fault is its device's, a supervision the supervised alert's, all else the person's."""
    supervised = effect.evidence.get("alert_id") if effect.kind == SUPERVISION_KIND else None
    if supervised:
        return f"alert/{supervised}"
    person_id = "" if effect.kind in DEVICE_KINDS and effect.device_id else effect.person_id
    return subject_of(site, person_id, effect.device_id)


def alert_of(row: tuple[Any, ...]) -> Alert:
    """The alert of one row of COLUMNS."""
    values = dict(zip(_FIELDS, row, strict=True))
    values["severity"] = Severity(values["severity"])
    values["condition"] = Condition(values["condition"])
    values["handling"] = Handling(values["handling"])
    values["verified"] = bool(values["verified"])
    values["late"] = bool(values["late"])
    values["evidence"] = msgspec.json.decode(values["evidence"])
    values["position"] = None if values["position"] is None else msgspec.json.decode(values["position"])
    return Alert(**values)


def insert(connection: apsw.Connection, alert: Alert) -> None:
    connection.execute(_INSERT, [_column(alert, name) for name in _FIELDS])


def update(connection: apsw.Connection, before: Alert, after: Alert) -> bool:
    """Write what changed; an index costs only where it did. False when the row is not as it was read."""
    changed = [name for name in _MUTABLE if getattr(before, name) != getattr(after, name)]
    sets = ", ".join(f"{name} = ?" for name in changed)
    connection.execute(
        f"UPDATE alert SET {sets} WHERE id = ? AND version = ?",  # noqa: S608 - columns of ours
        [*(_column(after, name) for name in changed), after.id, before.version],
    )
    return connection.changes() == 1


def encode_json(value: Any) -> str:
    """JSON text; what JSON cannot say (NaN, infinity) becomes null, an object of ours its text."""
    return msgspec.json.encode(value, enc_hook=str).decode()


def _column(alert: Alert, name: str) -> Any:
    value = getattr(alert, name)
    if isinstance(value, dict):
        return encode_json(value)
    return int(value) if isinstance(value, bool) else value


def get(connection: apsw.Connection, alert_id: str) -> Alert:
    """Raises NotFoundError."""
    row = connection.execute(f"SELECT {COLUMNS} FROM alert WHERE id = ?", (alert_id,)).fetchone()  # noqa: S608 - ours
    if row is None:
        raise NotFoundError(f"there is no alert {alert_id}")
    return alert_of(row)


def find_open(connection: apsw.Connection, subject: str, kind: str, *, verified: bool) -> Alert | None:
    """The one open alert of this subject and kind."""
    row = connection.execute(
        f"SELECT {COLUMNS} FROM alert WHERE subject = ? AND kind = ? AND verified = ? AND {OPEN_SQL}",  # noqa: S608 - ours
        (subject, kind, int(verified)),
    ).fetchone()
    return None if row is None else alert_of(row)


def find_newest(connection: apsw.Connection, subject: str, kind: str, *, verified: bool) -> Alert | None:
    """The one open alert of this subject and kind, else the newest of those that ended."""
    row = connection.execute(_NEWEST, {"subject": subject, "kind": kind, "verified": int(verified)}).fetchone()
    return None if row is None else alert_of(row)


def open_alerts_of_device(connection: apsw.Connection, device_id: str) -> list[Alert]:
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM alert WHERE device_id = ? AND {OPEN_SQL} ORDER BY id",  # noqa: S608 - ours
        (device_id,),
    )
    return [alert_of(row) for row in rows]


_iso: Final = lru_cache(maxsize=1024)(iso)
"""One moment is told again and again: of an alert's raising, by every step of its ladders."""
ORDER_COLUMNS: Final = (
    "r.order_id, r.status, coalesce(o.state, iif(r.order_id IS NULL, 'superseded', 'done')), r.category,"
    " r.requested_at_us, coalesce(o.last_error, '')"
)
"""Of ``order_request r`` and its dispatch ``outbox o``, for ``shown``."""
_ORDER_SQL: Final = (
    f"SELECT {ORDER_COLUMNS} FROM order_request r"  # noqa: S608 - columns of ours
    " LEFT JOIN outbox o ON o.idempotency_key = r.idempotency_key WHERE r.alert_id = ? AND r.number = ?"
)


def view(connection: apsw.Connection, alert: Alert) -> dict[str, Any]:
    """What lists, audit rows and events show of an alert: ids and states; no names, vital signs, places or codes."""
    row = None
    if alert.order_number:
        row = connection.execute(_ORDER_SQL, (alert.id, alert.order_number)).fetchone()
    return shown(alert, row)


def shown(alert: Alert, order: tuple[Any, ...] | None) -> dict[str, Any]:
    """``view``, where the ORDER_COLUMNS of the newest order request are known; None for no order."""
    told: dict[str, Any] = {
        "id": alert.id,
        "version": alert.version,
        "kind": alert.kind,
        "severity": alert.severity.name,
        "condition": alert.condition.value,
        "handling": alert.handling.value,
        "progress": alert.progress or None,
        "owner": alert.owner or None,
        "outcome": alert.outcome or None,
        "person_id": alert.person_id or None,
        "device_id": alert.device_id or None,
        "verified": alert.verified,
        "late": alert.late,
        "occurrences": alert.occurrences,
        "raised_at": _iso(alert.raised_at_us),
        "updated_at": _iso(alert.updated_at_us),
        "occurred_at": _iso(alert.occurred_at_us),
        "resolved_at": None if alert.resolved_at_us is None else _iso(alert.resolved_at_us),
        "rule_id": alert.rule_id,
        "rule_version": alert.rule_version,
        "previous_id": alert.previous_id,
        "order": None,
    }
    if order is not None:
        order_id, status, state, category, requested_at_us, error = order
        told["order"] = {
            "order_id": order_id,
            "status": status or None,
            "state": state,
            "category": category,
            "number": alert.order_number,
            "requested_at": _iso(requested_at_us),
            "error": error or None,
        }
    return told


def list_alerts(
    connection: apsw.Connection,
    *,
    open_only: bool = False,
    person_id: str = "",
    kind: str = "",
    limit: int = 100,
    before_id: str = "",
) -> list[dict[str, Any]]:
    """Views, newest first; ``before_id`` is the last id of the page before. ``limit`` is held to 1 to 10,000."""
    asked, values = where(
        (open_only, OPEN_SQL, ()),
        (person_id, "alert.person_id = ?", (person_id,)),
        (kind, "alert.kind = ?", (kind,)),
        (before_id, "alert.id < ?", (before_id,)),
    )
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM alert{asked} ORDER BY id DESC LIMIT ?",  # noqa: S608 - columns of ours
        (*values, max(1, min(limit, 10_000))),
    )
    return [view(connection, alert) for alert in [alert_of(row) for row in rows]]


def show_alert(connection: apsw.Connection, alert_id: str) -> dict[str, Any]:
    """The view with evidence, position, service code, occurrences, transitions, orders and timers.

    Raises NotFoundError. At most the newest 1000 occurrences and transitions, oldest first.
    """
    alert = get(connection, alert_id)
    shown = view(connection, alert)
    shown["evidence"] = alert.evidence
    shown["position"] = alert.position
    shown["occurrence_list"] = _occurrences(connection, alert_id)
    shown["transitions"] = _transitions(connection, alert_id)
    shown["orders"] = _orders(connection, alert_id)
    shown["timers"] = [
        {"kind": kind, "due_at": iso(due)}
        for kind, due in connection.execute(
            "SELECT kind, due_at_us FROM timer WHERE alert_id = ? ORDER BY due_at_us", (alert_id,)
        )
    ]
    return shown


def _occurrences(connection: apsw.Connection, alert_id: str) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT seq, at_us, occurred_at_us, device_id, active, late, evidence FROM occurrence WHERE alert_id = ?"
        " ORDER BY at_us DESC, effect_id DESC LIMIT 1000",
        (alert_id,),
    ).fetchall()
    return [
        {
            "seq": seq,
            "at": iso(at_us),
            "occurred_at": iso(occurred_at_us),
            "device_id": device_id or None,
            "active": bool(active),
            "late": bool(late),
            "evidence": msgspec.json.decode(evidence),
        }
        for seq, at_us, occurred_at_us, device_id, active, late, evidence in reversed(rows)
    ]


def _transitions(connection: apsw.Connection, alert_id: str) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT body FROM audit WHERE alert_id = ? ORDER BY seq DESC LIMIT 1000", (alert_id,)
    ).fetchall()
    told = []
    for (body,) in reversed(rows):
        row = msgspec.json.decode(body)
        told.append(
            {
                "seq": row["seq"],
                "at": iso(row["at_us"]),
                "action": row["action"],
                "version": row["version"],
                "actor": row["actor"],
                "before": row["before"],
                "handling": None if row["after"] is None else row["after"]["handling"],
                "reason": row["reason"],
                "evidence": row["evidence"],
            }
        )
    return told


def _orders(connection: apsw.Connection, alert_id: str) -> list[dict[str, Any]]:
    rows: list[Any] = connection.execute(
        "SELECT number, category, service_code, code_used_at_us, order_id, status, requested_at_us FROM order_request"
        " WHERE alert_id = ? ORDER BY number",
        (alert_id,),
    ).fetchall()
    return [
        {
            "number": number,
            "category": category,
            "service_code": code,
            "code_used_at": None if used is None else iso(used),
            "order_id": order_id,
            "status": status or None,
            "requested_at": iso(requested),
            "history": [] if order_id is None else order_history(connection, order_id),
        }
        for number, category, code, used, order_id, status, requested in rows
    ]


def order_history(connection: apsw.Connection, order_id: str) -> list[dict[str, Any]]:
    """What the platform has said of an order, oldest first, at most the newest 200."""
    rows = connection.execute(
        "SELECT status, at_us, received_at_us, organization, worker, note FROM order_status WHERE order_id = ?"
        " ORDER BY id DESC LIMIT 200",
        (order_id,),
    ).fetchall()
    return [
        {
            "status": status,
            "at": iso(at_us),
            "received_at": iso(received),
            "organization": organization or None,
            "worker": worker or None,
            "note": note or None,
        }
        for status, at_us, received, organization, worker, note in reversed(rows)
    ]
