"""What the event bus keeps in the journal's file: the journal's name, and what its consumers have not finished."""

from __future__ import annotations

import secrets
from typing import Final

import apsw

from gateway.storage.journal import last_seq

_IDENTITY: Final = "journal_id"
_FLOOR: Final = "eventbus_floor"


def identity(connection: apsw.Connection) -> str:
    """What tells this journal from any other; made at the first call. Needs a write transaction."""
    connection.execute("INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)", (_IDENTITY, secrets.token_hex(16)))
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_IDENTITY,)).fetchone()
    assert row is not None
    return str(row[0])


def floor(connection: apsw.Connection) -> int | None:
    """The number behind which some consumer group had not finished, None when nobody waited."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (_FLOOR,)).fetchone()
    return None if row is None else int(row[0])


def save_floor(connection: apsw.Connection, seq: int | None) -> None:
    if seq is None:
        connection.execute("DELETE FROM meta WHERE key = ?", (_FLOOR,))
    else:
        connection.execute(
            "INSERT INTO meta (key, value) VALUES (?, ?)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE value <> excluded.value",
            (_FLOOR, seq),
        )


def seq_before(connection: apsw.Connection, at_us: int) -> int:
    """The number behind which every record was received at ``at_us`` or later, as far as clocks rose.

    It may lie a part of a commit before that. A binary search: the journal has no index by time.
    """
    low, high = 0, last_seq(connection)
    while low < high:
        middle = (low + high + 1) // 2
        row = connection.execute(
            "SELECT last_seq, received_at_us FROM batch WHERE first_seq >= ? ORDER BY first_seq LIMIT 1", (middle,)
        ).fetchone()
        if row is None or row[1] >= at_us:
            high = middle - 1
        else:
            low = max(middle, min(int(row[0]), high))
    return low
