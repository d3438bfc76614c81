"""Looks for open emergencies that nobody would ever hear of again, and acts. Inside a transaction of the caller."""

from __future__ import annotations

from typing import Any

import apsw
import structlog

from alerts import rows
from alerts.lifecycle import transition
from alerts.policy import Policy, reminds
from alerts.rows import Alert
from gateway.model import Actor

_log = structlog.get_logger(__name__)
AUDITOR = Actor("system", "auditor")


def without_next_step(connection: apsw.Connection, *, with_ladders: bool = False) -> list[Alert]:
    """Open alerts that must be told until somebody has them, and for which nothing is ever due.

    Stricter than "a timer, an unsent dispatch or an owner": a dispatch may wait for ever and an owner may forget, so
    each of these alerts always has a timer (one that waits for its order tells nobody of the alert: it does not
    count), and each of its ladders that runs has one of its own. ``with_ladders``: an alert that nobody has taken has
    to have ladders, too (a command or an older carebell may have raised it without).
    """
    found: list[Any] = connection.execute(
        f"SELECT {rows.COLUMNS} FROM alert WHERE {rows.OPEN_SQL}"  # noqa: S608 - columns of ours
        " AND (NOT EXISTS (SELECT 1 FROM timer WHERE timer.alert_id = alert.id"
        " AND timer.kind NOT LIKE 'order_%' AND timer.kind <> 'ticket')"
        " OR (alert.handling = 'raised' AND EXISTS (SELECT 1 FROM ladder WHERE ladder.alert_id = alert.id"
        " AND (ladder.state = 'running' OR (ladder.state = 'paused' AND ladder.name = 'operator'))"
        " AND NOT EXISTS (SELECT 1 FROM timer WHERE timer.alert_id = alert.id"
        " AND timer.kind = 'ladder_' || ladder.name)))"
        " OR (alert.handling = 'raised' AND EXISTS (SELECT 1 FROM ladder WHERE ladder.alert_id = alert.id"
        " AND ladder.taken_by <> '' AND NOT EXISTS (SELECT 1 FROM timer WHERE timer.alert_id = alert.id"
        " AND timer.kind = 'family_hold')))"
        " OR (? AND alert.handling = 'raised'"
        " AND NOT EXISTS (SELECT 1 FROM ladder WHERE ladder.alert_id = alert.id)"
        " AND NOT EXISTS (SELECT 1 FROM suppressed_alert WHERE suppressed_alert.alert_id = alert.id))) ORDER BY id",
        (with_ladders,),
    ).fetchall()
    return [alert for alert in map(rows.alert_of, found) if reminds(alert)]


def restore(connection: apsw.Connection, now_us: int, policy: Policy) -> list[str]:
    """Give each such alert its timer again, with an audit row and an ERROR; returns their ids."""
    lost = without_next_step(connection, with_ladders=policy.reach is not None)
    for alert in lost:
        _log.error("emergency_without_next_step", alert_id=alert.id, handling=alert.handling.value)
        transition(
            connection, alert.id, "restore", expected_version=None, actor=AUDITOR, now_us=now_us, policy=policy,
            note="nothing was due for it",
        )  # fmt: skip
    return [alert.id for alert in lost]


def prune(connection: apsw.Connection, now_us: int, keep_us: int, limit: int = 500) -> int:
    """Remove delivered and superseded dispatches older than ``keep_us``; what they did stands in alerts and audit."""
    connection.execute(
        "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE state IN ('done', 'superseded')"
        " AND done_at_us < ? ORDER BY id LIMIT ?)",
        (now_us - keep_us, limit),
    )
    return connection.changes()
