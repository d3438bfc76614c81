"""The table ``order_promise``: by when an order or a repair is promised. Inside a transaction of the caller.

The promise counts from the report of the need, not from the order: a repair whose ticket was held back for a while is
still due on time. What follows when it is not kept is in alerts.supervision.
"""

from __future__ import annotations

from typing import Final

import apsw
from msgspec import Struct

from alerts.dossier import Timers
from alerts.policy import Policy
from alerts.rows import Alert
from alerts.timers import cancel

TIMERS: Final = ("order_accept", "order_due", "order_remind", "order_repeat", "order_recheck", "ticket")


class Made(Struct, frozen=True):
    """One row."""

    alert_id: str
    category: str
    reported_at_us: int
    due_at_us: int
    kept_at_us: int | None
    overdue_at_us: int | None


_COLUMNS: Final = ", ".join(Made.__struct_fields__)


def get(connection: apsw.Connection, alert_id: str) -> Made | None:
    row = connection.execute(
        f"SELECT {_COLUMNS} FROM order_promise WHERE alert_id = ?",  # noqa: S608 - columns of ours
        (alert_id,),
    ).fetchone()
    return None if row is None else Made(*row)


def begin(
    connection: apsw.Connection, alert: Alert, timers: Timers, category: str, now_us: int, policy: Policy, action: str
) -> None:
    """Somebody asked for this: promise it, unless an earlier promise of the alert is still to be kept.

    A second dispatch (``action`` redispatch) and another order behind one that has ended are promises of their own.
    """
    made = None if action == "raise" else get(connection, alert.id)
    if made is not None and made.kept_at_us is None and action != "redispatch" and made.category == category:
        return
    promise = policy.promises[category]
    reported_us = alert.raised_at_us if action in ("raise", "open_ticket") else now_us
    connection.execute(
        "INSERT INTO order_promise (alert_id, category, reported_at_us, due_at_us) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (alert_id) DO UPDATE SET category = excluded.category, reported_at_us = excluded.reported_at_us,"
        " due_at_us = excluded.due_at_us, kept_at_us = NULL, overdue_at_us = NULL",
        (alert.id, category, reported_us, reported_us + promise.due_us),
    )
    timers.arm("order_due", max(now_us, reported_us + promise.due_us))
    if promise.reminders_us:
        timers.arm("order_remind", max(now_us, reported_us + promise.reminders_us[0]))


def ordered(
    connection: apsw.Connection, alert: Alert, timers: Timers, category: str, now_us: int, policy: Policy
) -> None:
    """An order was asked of the platform: it is to be accepted in time. Too many of one kind are looked into."""
    timers.arm("order_accept", now_us + policy.promises[category].accept_us)
    (count,) = connection.execute(
        "SELECT count(*) FROM alert WHERE subject = ? AND kind = ? AND order_number > 0 AND raised_at_us > ?",
        (alert.subject, alert.kind, now_us - policy.repeat_window_us),
    ).fetchone() or (0,)
    if count >= policy.repeat_count and alert.order_number == 1:
        timers.arm("order_repeat", now_us)


def keep(connection: apsw.Connection, alert_id: str, now_us: int) -> bool:
    """It was done as promised, or done at last. False when there was nothing to keep."""
    connection.execute(
        "UPDATE order_promise SET kept_at_us = ? WHERE alert_id = ? AND kept_at_us IS NULL", (now_us, alert_id)
    )
    kept = connection.changes() == 1
    cancel(connection, alert_id, ("order_accept", "order_due", "order_remind"))
    return kept


def note_overdue(connection: apsw.Connection, alert_id: str, now_us: int) -> None:
    connection.execute(
        "UPDATE order_promise SET overdue_at_us = coalesce(overdue_at_us, ?) WHERE alert_id = ?", (now_us, alert_id)
    )


def end(timers: Timers) -> None:
    """The alert has ended: nobody waits for its order any more."""
    timers.cancel(TIMERS)


def resume(connection: apsw.Connection, alert_id: str, timers: Timers, now_us: int) -> None:
    """The alert is open again: what was promised and not kept is due again."""
    made = get(connection, alert_id)
    if made is not None and made.kept_at_us is None:
        timers.arm("order_due", max(now_us, made.due_at_us))
