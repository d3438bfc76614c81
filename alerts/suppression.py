"""Alerts that are kept but not escalated, for a bounded time: test mode, maintenance, inhibition.

An emergency is never suppressed outside test mode; test mode lasts at most 30 minutes. In the caller's transaction.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import apsw

from alerts import rows
from alerts.dossier import Dossier
from alerts.policy import HOUR_US, MINUTE_US, Policy, Steps
from alerts.rows import Alert
from alerts.states import Handling, is_emergency
from gateway import audit
from gateway.clock import iso
from gateway.errors import NotFoundError, UsageError
from gateway.model import Actor

LONGEST_TEST_US: Final = 30 * MINUTE_US
LONGEST_MAINTENANCE_US: Final = 24 * HOUR_US
INHIBITION_US: Final = 10 * MINUTE_US
"""After so long it is looked again whether the masking alert is still open."""

_MAY: Final = {
    "test": frozenset({"admin", "supervisor", "installer"}),
    "maintenance": frozenset({"admin", "supervisor"}),
}
_LONGEST_US: Final = {"test": LONGEST_TEST_US, "maintenance": LONGEST_MAINTENANCE_US}
_LIFTED_BY: Final = frozenset({"accept", "assign", "escalate", "resolve", "reopen", "unmask", "end_test", "lower"})
_CANCEL: Final = frozenset({"remind", "progress"})


class Masked(Steps, frozen=True):
    """What follows a change of a suppressed alert: only the timer that ends the suppression."""

    kind: str = ""
    cause: str = ""
    until_us: int = 0


def start(
    connection: apsw.Connection,
    kind: Literal["test", "maintenance"],
    subject: str,
    until_us: int,
    *,
    actor: Actor,
    reason: str,
    now_us: int,
) -> int:
    """Begin test mode or maintenance of ``device/<id>``, ``person/<id>`` or ``site/<site>``; audited. Returns its id.

    Test mode: installer, supervisor, admin; a device or a person; at most 30 minutes. Maintenance: supervisor, admin;
    at most 24 h. Raises UsageError.
    """
    role = actor.role or actor.type
    if kind not in _MAY:
        raise UsageError(f"unknown kind {kind!r}: test or maintenance")
    if role not in _MAY[kind]:
        raise UsageError(f"{role} may not start {kind}; {', '.join(sorted(_MAY[kind]))} may")
    if not 0 < until_us - now_us <= _LONGEST_US[kind]:
        raise UsageError(f"{kind} lasts more than nothing and at most {_LONGEST_US[kind] // MINUTE_US} minutes")
    if not reason.strip():
        raise UsageError(f"say why: the reason of {kind} is kept in the audit record")
    scope = subject.partition("/")[0]
    if scope not in ("device", "person", "site") or (kind == "test" and scope == "site"):
        raise UsageError(f"{kind} is for device/<id> or person/<id>" + (", or site/<site>" * (kind != "test")))
    connection.execute(
        "INSERT INTO suppression (kind, subject, from_us, until_us, actor, reason) VALUES (?, ?, ?, ?, ?, ?)",
        (kind, subject, now_us, until_us, actor.id, reason.strip()[:500]),
    )
    number = int(connection.last_insert_rowid())
    audit.append(
        connection, at_us=now_us, actor=actor, action=f"{kind}_started", subject=subject, reason=reason.strip()[:500],
        after={"id": number, "until": iso(until_us)},
    )  # fmt: skip
    return number


def stop(connection: apsw.Connection, number: int, *, actor: Actor, now_us: int) -> None:
    """End it before its time; what it suppressed is looked at now. Raises NotFoundError."""
    row = connection.execute(
        "UPDATE suppression SET until_us = ? WHERE id = ? AND until_us > ? RETURNING kind, subject",
        (now_us, number, now_us),
    ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no test mode or maintenance {number} in force")
    connection.execute("UPDATE suppressed_alert SET until_us = ? WHERE cause = ?", (now_us, str(number)))
    connection.execute(
        "UPDATE timer SET due_at_us = ? WHERE kind = 'unmask' AND alert_id IN"
        " (SELECT alert_id FROM suppressed_alert WHERE cause = ?)",
        (now_us, str(number)),
    )
    audit.append(connection, at_us=now_us, actor=actor, action=f"{row[0]}_ended", subject=row[1], after={"id": number})


def in_force(connection: apsw.Connection, now_us: int) -> list[dict[str, Any]]:
    """What is suppressed now, for the banner of the console."""
    return [
        {"id": number, "kind": kind, "subject": subject, "until": iso(until), "actor": actor, "reason": reason}
        for number, kind, subject, until, actor, reason in connection.execute(
            "SELECT id, kind, subject, until_us, actor, reason FROM suppression WHERE from_us <= ? AND until_us > ?"
            " ORDER BY id",
            (now_us, now_us),
        )
    ]


def find(connection: apsw.Connection, alert: Alert, now_us: int, policy: Policy) -> Masked | None:
    """What suppresses an alert that is about to be raised; None for nothing."""
    emergency = is_emergency(alert.kind, alert.severity)
    row = connection.execute(
        "SELECT id, kind, until_us FROM suppression WHERE subject IN (?, ?, ?) AND from_us <= ? AND until_us > ?"
        " AND (kind = 'test' OR NOT ?) ORDER BY kind = 'test' DESC, until_us DESC LIMIT 1",
        (f"device/{alert.device_id}", f"person/{alert.person_id}", f"site/{policy.site}", now_us, now_us, emergency),
    ).fetchone()
    if row is not None:
        until_us = min(int(row[2]), now_us + _LONGEST_US[row[1]])
        return _masked(str(row[1]), str(row[0]), until_us, now_us)
    if emergency or policy.reach is None:
        return None
    for inhibit in policy.reach.book.inhibits:
        if alert.kind in inhibit.masks:
            for other in rows.open_alerts_of_device(connection, alert.device_id) if alert.device_id else ():
                if other.kind == inhibit.while_open:
                    return _masked("inhibition", other.id, now_us + INHIBITION_US, now_us)
    return None


def _masked(kind: str, cause: str, until_us: int, now_us: int) -> Masked:
    return Masked(arm={"unmask": until_us - now_us}, cancel=_CANCEL, kind=kind, cause=cause, until_us=until_us)


def still_masks(connection: apsw.Connection, dossier: Dossier, after: Alert, action: str) -> Masked | None:
    """Whether a changed alert stays suppressed. A person who acts lifts it, and so does becoming an emergency."""
    masking = dossier.masking
    if masking is None:
        return None
    emergency = masking.kind != "test" and is_emergency(after.kind, after.severity)
    if action in _LIFTED_BY or emergency or after.handling is not Handling.RAISED:
        connection.execute("DELETE FROM suppressed_alert WHERE alert_id = ?", (after.id,))
        dossier.masking = None
        dossier.timers.cancel(("unmask",))
        return None
    return Masked(cancel=_CANCEL, kind=masking.kind, cause=masking.cause, until_us=masking.until_us)


def note(connection: apsw.Connection, alert: Alert, masked: Masked, now_us: int) -> str:
    """Keep that an alert is suppressed; returns by what."""
    connection.execute(
        "INSERT OR IGNORE INTO suppressed_alert (alert_id, kind, cause, since_us, until_us) VALUES (?, ?, ?, ?, ?)",
        (alert.id, masked.kind, masked.cause, now_us, masked.until_us),
    )
    return f"{masked.kind}/{masked.cause}"


def is_suppressed(connection: apsw.Connection, alert_id: str) -> bool:
    return connection.execute("SELECT 1 FROM suppressed_alert WHERE alert_id = ?", (alert_id,)).fetchone() is not None


def over(connection: apsw.Connection, alert: Alert, now_us: int) -> str:
    """What the end of its time means: ``end_test``, ``unmask``, or "" to look again later."""
    row = connection.execute(
        "SELECT kind, cause, until_us FROM suppressed_alert WHERE alert_id = ?", (alert.id,)
    ).fetchone()
    if row is None:
        return ""
    kind, cause, until_us = row
    if kind == "inhibition":
        other = connection.execute(
            f"SELECT 1 FROM alert WHERE id = ? AND {rows.OPEN_SQL} AND raised_at_us > ?",  # noqa: S608 - ours
            (cause, now_us - LONGEST_MAINTENANCE_US),
        ).fetchone()
        return "unmask" if other is None else ""
    if kind == "test":
        real = connection.execute(
            "SELECT 1 FROM occurrence WHERE alert_id = ? AND active = 1 AND at_us > ?", (alert.id, until_us)
        ).fetchone()
        return "end_test" if real is None else "unmask"
    return "unmask"
