"""Rows of ``feed_endpoint``. Synchronous functions on a connection."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import apsw

from gateway.clock import iso
from gateway.errors import ConflictError, NotFoundError
from gateway.storage.journal import last_seq, set_reader

READER: Final = "webhook:"


def prepare(connection: apsw.Connection, names: Collection[str], at_us: int) -> None:
    """Enter endpoints that are new (they begin with what happens from now on), forget those that are gone."""
    marks = ", ".join("?" * len(names))
    connection.execute(f"DELETE FROM feed_endpoint WHERE name NOT IN ({marks})", tuple(names))  # noqa: S608 - placeholders
    newest = last_seq(connection)
    for name in names:
        connection.execute(
            "INSERT OR IGNORE INTO feed_endpoint VALUES (?, 'active', ?, NULL, 0, '', ?)", (name, newest, at_us)
        )
        state, seq = _row(connection, name)
        if state == "active":
            set_reader(connection, READER + name, seq, at_us)


def position(connection: apsw.Connection, name: str) -> tuple[str, int]:
    """``active`` or ``disabled``, and the last number whose events it has. Raises NotFoundError."""
    return _row(connection, name)


def moved(connection: apsw.Connection, name: str, seq: int, at_us: int) -> None:
    """It has everything up to this number, and works."""
    connection.execute(
        "UPDATE feed_endpoint SET seq = ?, failing_since_us = NULL, attempts = 0, reason = '', updated_at_us = ?"
        " WHERE name = ?",
        (seq, at_us, name),
    )
    set_reader(connection, READER + name, seq, at_us)


def failed(connection: apsw.Connection, name: str, seq: int, reason: str, at_us: int) -> int:
    """One more attempt in vain, behind this number; returns since when it has failed."""
    connection.execute(
        "UPDATE feed_endpoint SET seq = ?, failing_since_us = coalesce(failing_since_us, ?), attempts = attempts + 1,"
        " reason = ?, updated_at_us = ? WHERE name = ?",
        (seq, at_us, reason[:300], at_us, name),
    )
    set_reader(connection, READER + name, seq, at_us)
    row = connection.execute("SELECT failing_since_us FROM feed_endpoint WHERE name = ?", (name,)).fetchone()
    return at_us if row is None else int(row[0])


def disable(connection: apsw.Connection, name: str, at_us: int) -> None:
    """Tell it nothing more, and let retention forget what it did not take."""
    connection.execute("UPDATE feed_endpoint SET state = 'disabled', updated_at_us = ? WHERE name = ?", (at_us, name))
    connection.execute("DELETE FROM reader WHERE name = ?", (READER + name,))


def resume(connection: apsw.Connection, name: str, *, skip: bool, at_us: int) -> dict[str, Any]:
    """Tell it events again, from where it was as far as the journal still has them, or with ``skip`` from now on.

    Raises NotFoundError, ConflictError when it is not disabled.
    """
    state, seq = _row(connection, name)
    if state == "active":
        raise ConflictError(f"the endpoint {name!r} is not disabled")
    if skip:
        seq = last_seq(connection)
    connection.execute(
        "UPDATE feed_endpoint SET state = 'active', seq = ?, failing_since_us = NULL, attempts = 0, updated_at_us = ?"
        " WHERE name = ?",
        (seq, at_us, name),
    )
    set_reader(connection, READER + name, seq, at_us)
    return next(row for row in listed(connection) if row["name"] == name)


def listed(connection: apsw.Connection) -> list[dict[str, Any]]:
    """Every endpoint, JSON-ready."""
    newest = last_seq(connection)
    found = connection.execute(
        "SELECT name, state, seq, failing_since_us, attempts, reason, updated_at_us FROM feed_endpoint ORDER BY name"
    )
    return [
        {
            "name": name,
            "state": state,
            "seq": seq,
            "behind": max(0, newest - seq),
            "failing_since": None if since is None else iso(since),
            "attempts": attempts,
            "reason": reason,
            "updated_at": iso(updated),
        }
        for name, state, seq, since, attempts, reason, updated in found
    ]


def _row(connection: apsw.Connection, name: str) -> tuple[str, int]:
    row = connection.execute("SELECT state, seq FROM feed_endpoint WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NotFoundError(f"there is no endpoint {name!r}")
    return str(row[0]), int(row[1])
