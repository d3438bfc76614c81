"""How long the call log is kept (DB4110 5.10: recordings 3 months, call logs 3 years), and what holds it for longer.

Deleting is audited in the transaction that deletes. Functions run inside a transaction of the caller.
"""

from __future__ import annotations

import re
from typing import Any, Final

import apsw
from msgspec import Struct

from gateway import audit
from gateway.clock import US_PER_S, iso
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Actor
from gateway.storage.calls import HELD

LEAST_RECORDING_DAYS: Final = 92
LEAST_CALL_DAYS: Final = 1096
DAY_US: Final = 86_400 * US_PER_S
BATCH: Final = 500
JOB: Final = Actor("system", "call_retention")
_SUBJECT: Final = re.compile(r"(call/[1-9][0-9]{0,15}|(?:alert|person)/[A-Za-z0-9._-]{1,128})")
_EXISTS: Final = {
    "call": "SELECT 1 FROM attempt WHERE id = ?",
    "alert": "SELECT 1 FROM alert WHERE id = ?",
    "person": "SELECT 1 FROM person WHERE id = ?",
}
_CLOCK_KEY: Final = "call_retention_at_us"


class Retention(Struct, frozen=True, kw_only=True):
    """Days. Raises UsageError for less than the standard demands: it can only be raised."""

    recording_days: int = LEAST_RECORDING_DAYS
    call_days: int = LEAST_CALL_DAYS

    def __post_init__(self) -> None:
        if self.recording_days < LEAST_RECORDING_DAYS or self.call_days < LEAST_CALL_DAYS:
            raise UsageError(
                f"recordings are kept {LEAST_RECORDING_DAYS} days or longer, call logs {LEAST_CALL_DAYS} or longer"
            )


class Deleted(Struct, frozen=True):
    """How much was deleted. ``more``: there may be more that is due."""

    calls: int
    recordings: int
    more: bool


def prune(
    connection: apsw.Connection, retention: Retention, now_us: int, passed_us: int, limit: int = BATCH
) -> Deleted:
    """Delete up to ``limit`` recordings' references and ``limit`` calls that are past their time and not held.

    ``passed_us`` is how much time has really passed since the last call, as far as the caller knows: age counts by a
    calendar of its own that never goes faster, so that a wall clock set wrong by years deletes nothing early.
    A call outlives its recordings. The sound itself is with whoever recorded it.
    """
    at_us = _advance(connection, now_us, passed_us)
    recordings = _forget_recordings(connection, retention, at_us, now_us, limit)
    calls = _forget_calls(connection, retention, at_us, now_us, limit)
    return Deleted(calls, recordings, more=limit in (calls, recordings))


def _advance(connection: apsw.Connection, now_us: int, passed_us: int) -> int:
    """The calendar of retention: at most now, and at most ``passed_us`` later than it was."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_CLOCK_KEY,)).fetchone()
    at_us = now_us if row is None else min(now_us, int(row[0]) + max(passed_us, 0))
    if row is None or at_us != row[0]:
        connection.execute(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (_CLOCK_KEY, at_us),
        )
    return at_us


def _forget_recordings(connection: apsw.Connection, retention: Retention, at_us: int, now_us: int, limit: int) -> int:
    before_us = at_us - retention.recording_days * DAY_US
    rows: list[Any] = connection.execute(
        "SELECT call_recording.serial, call_recording.attempt_id, call_recording.provider, call_recording.reference"  # noqa: S608 - SQL of ours
        " FROM call_recording LEFT JOIN attempt USING (attempt_id, provider)"
        f" WHERE call_recording.recorded_at_us < ? AND NOT (attempt.id IS NOT NULL AND {HELD})"
        " ORDER BY call_recording.recorded_at_us LIMIT ?",
        (before_us, limit),
    ).fetchall()
    for serial, attempt_id, provider, reference in rows:
        connection.execute("DELETE FROM call_recording WHERE serial = ?", (serial,))
        connection.execute("DELETE FROM attempt_told WHERE attempt_id = ? AND recording = ?", (attempt_id, reference))
        connection.execute(
            "UPDATE attempt SET recording = '' WHERE attempt_id = ? AND provider = ?", (attempt_id, provider)
        )
    if rows:
        _note(connection, "recordings_deleted", [row[0] for row in rows], retention.recording_days, before_us, now_us)
    return len(rows)


def _forget_calls(connection: apsw.Connection, retention: Retention, at_us: int, now_us: int, limit: int) -> int:
    before_us = at_us - retention.call_days * DAY_US
    rows: list[Any] = connection.execute(
        "SELECT attempt.id, attempt.attempt_id FROM attempt WHERE attempt.created_at_us < ?"  # noqa: S608 - SQL of ours
        " AND max(attempt.started_at_us, coalesce(attempt.ended_at_us, 0)) < ?"
        " AND NOT EXISTS (SELECT 1 FROM call_recording WHERE call_recording.attempt_id = attempt.attempt_id"
        " AND call_recording.provider = attempt.provider)"
        f" AND NOT {HELD} ORDER BY attempt.created_at_us LIMIT ?",
        (before_us, before_us, limit),
    ).fetchall()
    connection.executemany("DELETE FROM attempt WHERE id = ?", [(row[0],) for row in rows])
    connection.executemany(
        "DELETE FROM attempt_told WHERE attempt_id = ?1 AND NOT EXISTS"
        " (SELECT 1 FROM attempt WHERE attempt.attempt_id = ?1)",
        [(attempt_id,) for attempt_id in {row[1] for row in rows}],
    )
    if rows:
        _note(connection, "calls_deleted", [row[0] for row in rows], retention.call_days, before_us, now_us)
    return len(rows)


def _note(connection: apsw.Connection, action: str, numbers: list[int], days: int, before_us: int, now_us: int) -> None:
    audit.append(
        connection,
        at_us=now_us,
        actor=JOB,
        action=action,
        subject="calls",
        after={"count": len(numbers), "numbers": numbers, "kept_days": days, "before": iso(before_us)},
        reason="kept as long as required",
    )


# ---- holds -----------------------------------------------------------------------------------------------------------


def hold(connection: apsw.Connection, subject: str, *, reason: str, actor: Actor, now_us: int) -> dict[str, Any]:
    """Keep what a subject has in the call log, now and later, until the hold is released; audited.

    ``subject`` is call/<id>, alert/<id> or person/<id>. Raises UsageError for another or without a reason,
    NotFoundError when there is no such thing, ConflictError when it is held already.
    """
    reason = _said(reason)
    if not _SUBJECT.fullmatch(subject):
        raise UsageError("what is held is call/<id>, alert/<id> or person/<id>")
    kind, _, name = subject.partition("/")
    row = connection.execute(_EXISTS[kind], (int(name) if kind == "call" else name,)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no {subject}")
    try:
        connection.execute(
            "INSERT INTO legal_hold (subject, reason, actor, placed_at_us) VALUES (?, ?, ?, ?)",
            (subject, reason, _name_of(actor), now_us),
        )
    except apsw.ConstraintError as error:
        raise ConflictError(f"{subject} is held already") from error
    number = connection.last_insert_rowid()
    audit.append(
        connection, at_us=now_us, actor=actor, action="hold_placed", subject=subject, after={"hold": number},
        reason=reason,
    )  # fmt: skip
    return _hold(connection, number)


def release(connection: apsw.Connection, number: int, *, reason: str, actor: Actor, now_us: int) -> dict[str, Any]:
    """End a hold: what is past its time goes with the next housekeeping; audited.

    Raises UsageError without a reason, NotFoundError, and ConflictError when it was released before.
    """
    reason = _said(reason)
    view = _hold(connection, number)
    if view["released_at"] is not None:
        raise ConflictError(f"hold {number} was released at {view['released_at']}")
    connection.execute(
        "UPDATE legal_hold SET released_at_us = ?, released_by = ?, release_reason = ? WHERE id = ?",
        (now_us, _name_of(actor), reason, number),
    )
    audit.append(
        connection, at_us=now_us, actor=actor, action="hold_released", subject=view["subject"],
        before={"hold": number}, reason=reason,
    )  # fmt: skip
    return _hold(connection, number)


def holds(connection: apsw.Connection, *, released: bool = False, limit: int = 1000) -> list[dict[str, Any]]:
    """Holds in force, oldest first; with ``released`` those that ended as well."""
    rows = connection.execute(
        f"{_HOLDS} WHERE ? OR released_at_us IS NULL ORDER BY id LIMIT ?", (released, max(1, min(limit, 10_000)))
    )
    return [_hold_view(row) for row in rows]


_HOLDS: Final = (
    "SELECT id, subject, reason, actor, placed_at_us, released_at_us, released_by, release_reason FROM legal_hold"
)


def _hold(connection: apsw.Connection, number: int) -> dict[str, Any]:
    row = connection.execute(f"{_HOLDS} WHERE id = ?", (number,)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no hold {number}")
    return _hold_view(row)


def _hold_view(row: tuple[Any, ...]) -> dict[str, Any]:
    number, subject, reason, actor, placed_at_us, released_at_us, released_by, release_reason = row
    return {
        "hold": number,
        "subject": subject,
        "reason": reason,
        "placed_by": actor,
        "placed_at": iso(placed_at_us),
        "released_at": None if released_at_us is None else iso(released_at_us),
        "released_by": released_by or None,
        "release_reason": release_reason or None,
    }


def _said(reason: str) -> str:
    said = " ".join(reason.split())[:500]
    if not said:
        raise UsageError("say why: the reason is kept with the hold and in the audit record")
    return said


def _name_of(actor: Actor) -> str:
    return f"{actor.type}/{actor.id}"
