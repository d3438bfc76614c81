"""The table of repairs, on a connection of the caller's: written by the command, worked off by the daemon."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import apsw
import msgspec

from gateway.replaying.compare import Repair, decode

Key = tuple[int, int]
"""Number and round."""


class Waiting(msgspec.Struct):
    """A repair that is not done. ``offered_after`` is set when it may be in the journal, behind that number."""

    seq: int
    round: int
    repairs: list[Repair]
    offered_after: int | None

    @property
    def reference(self) -> str:
        """What the new record's dedup key says: the number that it repairs."""
        return reference(self.seq, self.round)


def reference(seq: int, round_: int) -> str:
    return f"replay:{seq}" if round_ == 1 else f"replay:{seq}:{round_}"


def exists(connection: apsw.Connection) -> bool:
    """Whether the file has the table: a journal that is only read may be of an older carebell."""
    return connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'replay'").fetchone() is not None


def known(connection: apsw.Connection, first_seq: int, last_seq: int) -> dict[int, list[list[Repair]]]:
    """The repairs, by round, of each number in a range, done or waiting."""
    found: dict[int, list[list[Repair]]] = {}
    rows = connection.execute("SELECT seq, body FROM replay WHERE seq BETWEEN ? AND ? ORDER BY seq, round",
                              (first_seq, last_seq))  # fmt: skip
    for seq, body in rows:
        found.setdefault(seq, []).append(_repairs(body))
    return found


def put(connection: apsw.Connection, rows: Iterable[tuple[int, int, bytes, bool]], at_us: int) -> int:
    """Take in (seq, round, body, whether it is done with that); return how many were new."""
    before = connection.total_changes()
    connection.executemany(
        "INSERT OR IGNORE INTO replay (seq, round, queued_at_us, body, done_at_us) VALUES (?, ?, ?, ?, ?)",
        [(seq, round_, at_us, body, at_us if done else None) for seq, round_, body, done in rows],
    )
    return connection.total_changes() - before


def waiting(connection: apsw.Connection, limit: int) -> list[Waiting]:
    """The oldest that are not done."""
    rows: list[Any] = list(
        connection.execute(
            "SELECT seq, round, body, offered_after FROM replay WHERE done_at_us IS NULL ORDER BY seq, round LIMIT ?",
            (limit,),
        )
    )
    return [Waiting(seq, round_, _repairs(body), after) for seq, round_, body, after in rows]


def count_waiting(connection: apsw.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM replay WHERE done_at_us IS NULL").get)


def set_offered(connection: apsw.Connection, keys: Sequence[Key], after: int | None) -> None:
    connection.executemany(
        "UPDATE replay SET offered_after = ? WHERE seq = ? AND round = ?", [(after, *key) for key in keys]
    )


def set_done(connection: apsw.Connection, keys: Sequence[Key], at_us: int) -> None:
    connection.executemany(
        "UPDATE replay SET done_at_us = ? WHERE seq = ? AND round = ?", [(at_us, *key) for key in keys]
    )


def drop(connection: apsw.Connection, keys: Sequence[Key]) -> None:
    connection.executemany("DELETE FROM replay WHERE seq = ? AND round = ?", keys)


def forget(connection: apsw.Connection) -> None:
    """What is done and whose records have left the journal."""
    connection.execute(
        "DELETE FROM replay WHERE done_at_us IS NOT NULL AND seq < (SELECT coalesce(min(first_seq), 0) FROM batch)"
    )


def _repairs(body: bytes) -> list[Repair]:
    """Nothing for a body that an older carebell wrote in another way: then the frame is looked at anew."""
    try:
        return decode(body)
    except msgspec.DecodeError:
        return []
