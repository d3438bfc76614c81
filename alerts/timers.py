"""The table ``timer``: what is due for an alert. Times are UTC microseconds; an alert has one timer of a kind.

Beside a transition (alerts.lifecycle), which changes the timers of its dossier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import apsw
from msgspec import Struct


class Timer(Struct, frozen=True):
    """One row. ``epoch`` counts how often it has fired since it was armed afresh."""

    id: int
    alert_id: str
    kind: str
    due_at_us: int
    epoch: int


def arm(connection: apsw.Connection, alert_id: str, kind: str, due_at_us: int, epoch: int = 0) -> None:
    """Set the timer of this kind, in place of an earlier one."""
    connection.execute(
        "INSERT INTO timer (alert_id, kind, due_at_us, epoch) VALUES (?, ?, ?, ?) ON CONFLICT (alert_id, kind)"
        " DO UPDATE SET due_at_us = excluded.due_at_us, epoch = excluded.epoch",
        (alert_id, kind, due_at_us, epoch),
    )


def cancel(connection: apsw.Connection, alert_id: str, kinds: Iterable[str]) -> None:
    asked = (alert_id, *kinds)
    marks = ", ".join("?" * (len(asked) - 1))
    connection.execute(f"DELETE FROM timer WHERE alert_id = ? AND kind IN ({marks})", asked)  # noqa: S608 - marks alone


def next_due_us(connection: apsw.Connection) -> int | None:
    """When the next timer is due, None when there is none."""
    row = connection.execute("SELECT min(due_at_us) FROM timer").fetchone()
    return None if row is None else row[0]


def take_due(connection: apsw.Connection, now_us: int, limit: int) -> list[Timer]:
    """Remove and return what is due, earliest first. Firing happens in the same transaction, so each fires once."""
    rows: list[Any] = connection.execute(
        "DELETE FROM timer WHERE id IN (SELECT id FROM timer WHERE due_at_us <= ? ORDER BY due_at_us, id LIMIT ?)"
        " RETURNING id, alert_id, kind, due_at_us, epoch",
        (now_us, limit),
    ).fetchall()
    return sorted((Timer(*row) for row in rows), key=lambda timer: (timer.due_at_us, timer.id))


def has_any(connection: apsw.Connection, alert_id: str) -> bool:
    return connection.execute("SELECT 1 FROM timer WHERE alert_id = ? LIMIT 1", (alert_id,)).fetchone() is not None


def shift(connection: apsw.Connection, by_us: int) -> None:
    """Move every timer, after the wall clock was set back: what remained to wait still remains."""
    connection.execute("UPDATE timer SET due_at_us = due_at_us + ?", (by_us,))


def pull_in(connection: apsw.Connection, now_us: int, longest_us: Callable[[str], int]) -> int:
    """Bring timers that are further away than their kind allows (a wrong clock set them) to that bound; count them."""
    pulled = 0
    kinds: list[Any] = connection.execute("SELECT DISTINCT kind FROM timer").fetchall()
    for (kind,) in kinds:
        bound = now_us + longest_us(kind)
        connection.execute("UPDATE timer SET due_at_us = ? WHERE kind = ? AND due_at_us > ?", (bound, kind, bound))
        pulled += connection.changes()
    return pulled
