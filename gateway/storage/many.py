"""Many rows in one statement.

SQLite gives the interpreter away for each step of a statement, and with a busy loop the writer waits for it every
time: 1000 single upserts held the file for up to half a second, and an alarm's commit behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw
import msgspec

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


def fetch(
    connection: apsw.Connection, columns: Sequence[str], rest: str, bindings: Sequence[Any] = ()
) -> list[list[Any]]:
    """Rows of ``SELECT columns rest`` (numbers, text and NULL, no blobs) in the order that ``rest`` gives, in one step.

    For readers beside a busy loop: row by row, 600 rows waited 600 times for the interpreter, a tenth of a second.
    """
    names = [f"c{number}" for number in range(len(columns))]
    inner = ", ".join(f"{column} AS {name}" for column, name in zip(columns, names, strict=True))
    row = connection.execute(
        f"SELECT json_group_array(json_array({', '.join(names)})) FROM (SELECT {inner} {rest})",  # noqa: S608 - ours
        bindings,
    ).fetchone()
    found: list[list[Any]] = msgspec.json.decode(row[0]) if row is not None else []
    return found
