"""Many rows in one statement.

SQLite gives the interpreter away for each step of a statement, and with a busy loop the writer waits for it every
time: 1000 single upserts held the file for up to half a second, and an alarm's commit behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

ROWS: Final = 500
"""Rows of one statement; their values stay far below SQLite's 32,766 parameters."""


def upsert(
    connection: apsw.Connection, table: str, key: Sequence[str], value: str, rows: Sequence[Sequence[object]]
) -> None:
    """Insert rows of ``(*key, value)``, or replace the value where the key is there. Keys within rows are distinct."""
    one = f"({', '.join('?' * (len(key) + 1))})"
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        connection.execute(
            f"INSERT INTO {table} ({', '.join(key)}, {value}) VALUES {', '.join([one] * len(part))}"  # noqa: S608 - ours
            f" ON CONFLICT ({', '.join(key)}) DO UPDATE SET {value} = excluded.{value}",
            [each for row in part for each in row],
        )
