"""Many rows in one statement."""

from __future__ import annotations

import apsw
import pytest

from gateway.storage.many import ROWS, upsert


@pytest.mark.parametrize("count", [0, 1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 7])
def test_rows_are_inserted_or_replaced_in_few_statements(count: int) -> None:
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t (a TEXT, b TEXT, v BLOB, PRIMARY KEY (a, b)) STRICT")
    connection.execute("INSERT INTO t VALUES ('0', 'x', x'00'), ('other', 'x', x'01')")
    statements = 0

    def count_them(_cursor: object, _sql: str, _bindings: object) -> bool:
        nonlocal statements
        statements += 1
        return True

    connection.exec_trace = count_them
    upsert(connection, "t", ("a", "b"), "v", [(str(number), "x", b"new%d" % number) for number in range(count)])
    connection.exec_trace = None
    assert statements == -(-count // ROWS)
    found = {row[0]: row[1] for row in connection.execute("SELECT a, v FROM t")}
    expected = {"0": b"\0", "other": b"\1"} | {str(number): b"new%d" % number for number in range(count)}
    assert found == expected
