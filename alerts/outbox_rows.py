"""The table ``outbox``. Synchronous functions inside a transaction of the caller."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import apsw
import msgspec

from alerts.channel import Dispatch
from gateway import audit
from gateway.clock import iso
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.filters import where
from gateway.model import Actor

STATES: Final = ("pending", "sending", "retry", "done", "dead", "superseded")
TRIES_THAT_HOLD_ORDER: Final = 3
"""A dispatch that failed this often no longer holds back later ones of its order key: no emergency waits for it."""
CARE_PRIORITY: Final = 5
PRIORITIES: Final = (1, 2, 3, 4, CARE_PRIORITY)
"""Severities, and behind all of them what is said in care."""
FARTHEST_RETRY_US: Final = 600 * 1_000_000

_EACH_PRIORITY: Final = "(SELECT column1 AS priority FROM (VALUES (1), (2), (3), (4), (5)))"
_OF_PRIORITY: Final = (
    "FROM outbox WHERE destination = :destination AND priority = each.priority AND state IN ('pending', 'retry')"
)
_DUE: Final = (
    "SELECT json_group_array(json_array(destinations.value, each.priority))"  # noqa: S608 - constants of ours
    f" FROM json_each(:destinations) AS destinations, {_EACH_PRIORITY} AS each"
    " WHERE EXISTS (SELECT 1 FROM outbox WHERE destination = destinations.value AND priority = each.priority"
    " AND state IN ('pending', 'retry') AND next_at_us <= :now_us)"
)
_NEXT_DUE: Final = (
    f"SELECT min((SELECT min(next_at_us) {_OF_PRIORITY} AND next_at_us > :after_us))"  # noqa: S608 - as above
    f" FROM {_EACH_PRIORITY} AS each"
)

_COLUMNS: Final = (
    "id, lane, destination, order_key, priority, idempotency_key, alert_id, payload, attempt, uncertain,"
    " created_at_us, expires_at_us"
)
_NAMES: Final = tuple(_COLUMNS.split(", "))
_ENQUEUE: Final = (
    "INSERT INTO outbox (lane, destination, order_key, priority, idempotency_key, alert_id, payload, state,"
    " attempt, uncertain, next_at_us, last_error, created_at_us, expires_at_us)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, 'pending', 0, 0, ?, '', ?, ?)"
)
_ENQUEUE_ONCE: Final = f"{_ENQUEUE} ON CONFLICT (idempotency_key) DO NOTHING"


def enqueue(
    connection: apsw.Connection,
    *,
    lane: str,
    destination: str,
    order_key: str,
    priority: int,
    idempotency_key: str,
    alert_id: str,
    payload: Mapping[str, Any],
    now_us: int,
    expires_at_us: int | None = None,
    once: bool = False,
) -> int:
    """Write one dispatch; due at once, given up after ``expires_at_us``. Returns its id.

    ``once``: nothing is written where its key is known already; 0 says so.
    """
    connection.execute(
        _ENQUEUE_ONCE if once else _ENQUEUE,
        (
            lane, destination, order_key, priority, idempotency_key, alert_id,
            msgspec.json.encode(payload).decode(), now_us, now_us, expires_at_us,
        ),
    )  # fmt: skip
    return int(connection.last_insert_rowid()) if connection.changes() == 1 else 0


def recover(connection: apsw.Connection, now_us: int) -> int:
    """At start: what a crash left in ``sending`` may have had its effect. Returns how many there were."""
    connection.execute(
        "UPDATE outbox SET state = 'retry', uncertain = 1, next_at_us = ? WHERE state = 'sending'", (now_us,)
    )
    recovered = connection.changes()
    connection.execute(
        "UPDATE outbox SET next_at_us = ? WHERE state IN ('pending', 'retry') AND next_at_us > ?",
        (now_us, now_us + FARTHEST_RETRY_US),  # a wrong clock set it
    )
    return recovered


def claim(connection: apsw.Connection, destination: str, limit: int, now_us: int) -> list[Dispatch]:
    """Take up to ``limit`` due dispatches: the highest priority first, then the longest due.

    A dispatch waits for earlier ones of its destination, lane and order key, unless those have a lower priority (an
    emergency does not wait for anything less) or have already failed TRIES_THAT_HOLD_ORDER times.
    """
    return claim_each(connection, {destination: limit}, now_us)[destination]


def claim_each(connection: apsw.Connection, limits: Mapping[str, int], now_us: int) -> dict[str, list[Dispatch]]:
    """``claim`` for each of these destinations: one statement more than there are priorities with something due."""
    taken: dict[str, list[Dispatch]] = {destination: [] for destination in limits}
    for destination, priority in _due(connection, limits, now_us):
        room = limits[destination] - len(taken[destination])
        if room > 0:
            rows: list[Any] = connection.execute(_TAKE, (destination, priority, now_us, room)).fetchall()
            rows.sort(key=lambda row: (row[-1], row[0]))
            taken[destination] += [_dispatch(row[:-1]) for row in rows]
    return taken


_TAKE: Final = (
    "UPDATE outbox SET state = 'sending', attempt = attempt + 1 WHERE id IN (SELECT id FROM outbox AS o"  # noqa: S608 - ours
    " WHERE destination = ? AND priority = ? AND next_at_us <= ? AND state IN ('pending', 'retry')"
    " AND NOT EXISTS (SELECT 1 FROM outbox AS e WHERE e.destination = o.destination"
    " AND e.lane = o.lane AND e.order_key = o.order_key"
    " AND e.id < o.id AND e.priority <= o.priority AND e.state IN ('pending', 'sending', 'retry')"
    f" AND NOT (e.state = 'retry' AND e.attempt >= {TRIES_THAT_HOLD_ORDER})) ORDER BY next_at_us, id LIMIT ?)"
    f" RETURNING {_COLUMNS}, next_at_us"
)


def _due(connection: apsw.Connection, destinations: Iterable[str], now_us: int) -> list[tuple[str, int]]:
    """Of which destinations and priorities something is due, the highest priority of each destination first."""
    asked = {"destinations": msgspec.json.encode(list(destinations)).decode(), "now_us": now_us}
    row: Any = connection.execute(_DUE, asked).fetchone()
    return sorted(msgspec.json.decode(row[0], type=list[tuple[str, int]]))


def _dispatch(row: tuple[Any, ...]) -> Dispatch:
    values = dict(zip(_NAMES, row, strict=True))
    values["payload"] = msgspec.json.decode(values["payload"])
    values["uncertain"] = bool(values["uncertain"])
    return Dispatch(**values)


def next_due_us(connection: apsw.Connection, destination: str, after_us: int) -> int | None:
    """When the next dispatch becomes due, of those that become so after ``after_us``."""
    row = connection.execute(_NEXT_DUE, {"destination": destination, "after_us": after_us}).fetchone()
    return None if row is None else row[0]


def finish_done(connection: apsw.Connection, dispatch_id: int, now_us: int) -> None:
    connection.execute(
        "UPDATE outbox SET state = 'done', last_error = '', done_at_us = ? WHERE id = ?", (now_us, dispatch_id)
    )


def finish_retry(
    connection: apsw.Connection, dispatch_id: int, next_at_us: int, reason: str, *, uncertain: bool
) -> None:
    """Back into the queue. ``uncertain`` stays once it is set."""
    connection.execute(
        "UPDATE outbox SET state = 'retry', next_at_us = ?, last_error = ?, uncertain = max(uncertain, ?) WHERE id = ?",
        (next_at_us, reason[:500], int(uncertain), dispatch_id),
    )


def finish_dead(connection: apsw.Connection, dispatch_id: int, reason: str, now_us: int) -> None:
    connection.execute(
        "UPDATE outbox SET state = 'dead', last_error = ?, done_at_us = ? WHERE id = ?",
        (reason[:500], now_us, dispatch_id),
    )


def withdraw(connection: apsw.Connection, alert_id: str, now_us: int, grace_us: int) -> list[int]:
    """The alert has ended: what nobody can have received is superseded; what may have arrived gets ``grace_us`` more.

    Returns the ids of what was superseded.
    """
    rows: list[Any] = connection.execute(
        "UPDATE outbox SET state = 'superseded', done_at_us = ? WHERE alert_id = ? AND state IN ('pending', 'retry')"
        " AND uncertain = 0 RETURNING id",
        (now_us, alert_id),
    ).fetchall()
    connection.execute(
        "UPDATE outbox SET expires_at_us = ? WHERE alert_id = ? AND state IN ('pending', 'sending', 'retry')",
        (now_us + grace_us, alert_id),
    )
    return [row[0] for row in rows]


def keep(connection: apsw.Connection, alert_id: str) -> None:
    """The alert is open (again): its orders no longer expire; its ladders begin anew and make messages of their own."""
    connection.execute(
        "UPDATE outbox SET expires_at_us = NULL WHERE alert_id = ? AND state IN ('pending', 'sending', 'retry')"
        " AND lane <> 'notify'",
        (alert_id,),
    )


def supersede(connection: apsw.Connection, alert_id: str, lane: str, ladder: str, now_us: int) -> None:
    """What has not gone out of this lane, and of this ladder if one is named, is no longer needed."""
    asked, values = where(
        (True, "alert_id = ? AND lane = ? AND uncertain = 0 AND state IN ('pending', 'retry')", (alert_id, lane)),
        (ladder, "payload ->> 'ladder' = ?", (ladder,)),
    )
    connection.execute(
        f"UPDATE outbox SET state = 'superseded', done_at_us = ?{asked}",  # noqa: S608 - columns of ours
        (now_us, *values),
    )


def finish_superseded(connection: apsw.Connection, dispatch_id: int, reason: str, now_us: int) -> None:
    connection.execute(
        "UPDATE outbox SET state = 'superseded', last_error = ?, done_at_us = ? WHERE id = ?",
        (reason[:500], now_us, dispatch_id),
    )


def is_any_due(connection: apsw.Connection, destination: str, now_us: int) -> bool:
    """Whether something is to be sent, or is being sent, to this destination now."""
    row = connection.execute(
        "SELECT 1 FROM outbox WHERE destination = ? AND (state = 'sending'"
        " OR (state IN ('pending', 'retry') AND next_at_us <= ?)) LIMIT 1",
        (destination, now_us),
    ).fetchone()
    return row is not None


def attempts_of(connection: apsw.Connection, idempotency_key: str) -> int:
    """How often this dispatch was tried; 0 when it is unknown."""
    row = connection.execute("SELECT attempt FROM outbox WHERE idempotency_key = ?", (idempotency_key,)).fetchone()
    return 0 if row is None else int(row[0])


def state_of(connection: apsw.Connection, idempotency_key: str) -> str:
    """The state of this dispatch; ``done`` for one that was delivered and is no longer kept."""
    row = connection.execute("SELECT state FROM outbox WHERE idempotency_key = ?", (idempotency_key,)).fetchone()
    return "done" if row is None else str(row[0])


def is_any_sending(connection: apsw.Connection) -> bool:
    """Whether the answer to some dispatch may be about to be written down."""
    return connection.execute("SELECT 1 FROM outbox WHERE state = 'sending' LIMIT 1").fetchone() is not None


def shift(connection: apsw.Connection, by_us: int) -> None:
    """Move every retry, after the wall clock was set back."""
    connection.execute("UPDATE outbox SET next_at_us = next_at_us + ? WHERE state IN ('pending', 'retry')", (by_us,))


def revive(connection: apsw.Connection, idempotency_key: str, now_us: int) -> bool:
    """Try a dead dispatch again, under its old key. False when it is not dead."""
    connection.execute(
        "UPDATE outbox SET state = 'retry', next_at_us = ?, done_at_us = NULL WHERE idempotency_key = ?"
        " AND state = 'dead'",
        (now_us, idempotency_key),
    )
    return connection.changes() == 1


def list_outbox(connection: apsw.Connection, *, state: str = "", limit: int = 100) -> list[dict[str, Any]]:
    """Dispatches, newest first, as JSON-ready dicts. Raises UsageError for an unknown state."""
    if state and state not in STATES:
        raise UsageError(f"unknown state {state!r}; known are {', '.join(STATES)}")
    asked, values = where((state, "state = ?", (state,)))
    rows = connection.execute(f"{_VIEW_SQL}{asked} ORDER BY id DESC LIMIT ?", (*values, max(1, min(limit, 10_000))))
    return [_view(row) for row in rows]


_VIEW_SQL: Final = (
    "SELECT id, lane, destination, priority, state, alert_id, attempt, uncertain, next_at_us, expires_at_us,"
    " last_error, created_at_us, done_at_us, idempotency_key FROM outbox"
)


def show(connection: apsw.Connection, dispatch_id: int) -> dict[str, Any]:
    """One dispatch. Raises NotFoundError."""
    row = connection.execute(f"{_VIEW_SQL} WHERE id = ?", (dispatch_id,)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no dispatch {dispatch_id} in the outbox")
    return _view(row)


def _view(row: tuple[Any, ...]) -> dict[str, Any]:
    (dispatch_id, lane, destination, priority, state, alert_id, attempt, uncertain, next_at_us, expires_at_us,
     error, created_at_us, done_at_us, key) = row  # fmt: skip
    return {
        "id": dispatch_id,
        "lane": lane,
        "destination": destination,
        "priority": f"P{priority}",
        "state": state,
        "alert_id": alert_id,
        "attempts": attempt,
        "uncertain": bool(uncertain),
        "next_at": iso(next_at_us) if state in ("pending", "retry") else None,
        "expires_at": None if expires_at_us is None else iso(expires_at_us),
        "error": error or None,
        "created_at": iso(created_at_us),
        "done_at": None if done_at_us is None else iso(done_at_us),
        "idempotency_key": key,
    }


def act(
    connection: apsw.Connection, dispatch_id: int, action: str, *, actor: Actor, reason: str, now_us: int
) -> dict[str, Any]:
    """``retry`` (same key) or ``discard`` a dead dispatch; audited. Raises NotFoundError, ConflictError, UsageError."""
    if action not in ("retry", "discard"):
        raise UsageError(f"unknown action {action!r}: retry or discard")
    if action == "discard" and not reason.strip():
        raise UsageError("say why it is discarded: the reason is kept in the audit record")
    before = show(connection, dispatch_id)
    if before["state"] != "dead":
        raise ConflictError(f"dispatch {dispatch_id} is {before['state']}; {action} is for dead ones")
    if action == "retry":
        revive(connection, before["idempotency_key"], now_us)
    else:
        connection.execute("UPDATE outbox SET state = 'superseded', done_at_us = ? WHERE id = ?", (now_us, dispatch_id))
        connection.execute(
            "UPDATE order_request SET finished = 1, updated_at_us = ? WHERE alert_id = ? AND idempotency_key = ?",
            (now_us, before["alert_id"], before["idempotency_key"]),
        )
    after = show(connection, dispatch_id)
    audit.append(
        connection,
        at_us=now_us,
        actor=actor,
        action=f"outbox_{action}",
        subject=f"outbox/{dispatch_id}",
        before={"state": "dead", "error": before["error"]},
        after={"state": after["state"], "alert_id": after["alert_id"]},
        reason=reason[:500],
    )
    return after


def depth(connection: apsw.Connection) -> dict[tuple[str, str], int]:
    """How many unfinished or dead dispatches there are, by destination and state."""
    rows = connection.execute(
        "SELECT destination, state, count(*) FROM outbox WHERE state IN ('pending', 'sending', 'retry', 'dead')"
        " GROUP BY destination, state"
    )
    return {(destination, state): count for destination, state, count in rows}
