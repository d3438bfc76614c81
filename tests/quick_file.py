"""A journal file for tests that are not about the disk: its schema is made once, and no commit waits for the disk."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import apsw

from gateway.storage.database import FILE_NAME, open_database


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / FILE_NAME
        open_database(path).close()
        return path.read_bytes()


def quick_database(path: Path) -> apsw.Connection:
    """The journal at ``path``, made when there is none, with ``synchronous=OFF``."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_empty())
    connection = open_database(path)
    connection.pragma("synchronous", "off")
    return connection
