"""A PostgreSQL for the history tests, and a journal to fill."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import apsw
import psycopg
from psycopg.conninfo import make_conninfo

from gateway import audit
from gateway.model import Actor, Position, Reading, Record
from gateway.storage.database import FILE_NAME, open_database
from gateway.storage.embedded import EmbeddedPostgres
from gateway.storage.history import schema
from gateway.storage.history.dialect import Connection
from gateway.storage.journal import insert

T = TypeVar("T")

MINUTE_US = 60_000_000
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US


def now_us() -> int:
    return time.time_ns() // 1000


@contextlib.contextmanager
def open_folder(name: str = "") -> Iterator[Path]:
    """A folder that PostgreSQL's user may enter when the tests run as root; a pytest that starts closes its own."""
    with tempfile.TemporaryDirectory(prefix=f"carebell-test-{name}", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


class Server:
    """An embedded PostgreSQL in a thread of its own, with a database for each test."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self.folder = self._stack.enter_context(open_folder())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.postgres = EmbeddedPostgres(self.folder)
        self.base = self._call(self.postgres.start())

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(180)

    def database(self) -> str:
        """A new database; its connection string."""
        name = f"t_{uuid.uuid4().hex}"
        with psycopg.connect(self.base, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return make_conninfo(self.base, dbname=name)

    def close(self) -> None:
        self._call(self.postgres.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
        self._stack.close()


class Journal:
    """A journal file that a test fills by hand."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        self.connection: apsw.Connection = open_database(self.path)

    def append(self, records: Sequence[Record]) -> int:
        """One commit; returns its first sequence number."""
        with self.connection:
            first = insert(self.connection, records)
        return first  # noqa: RET504 - mypy believes that the block may swallow exceptions

    def transition(
        self, alert_id: str, version: int, view: dict[str, Any] | None, *, action: str = "raise", alert: bool = True
    ) -> int:
        """One audit row; ``alert`` False makes it one that history does not want."""
        with self.connection:
            seq = audit.append(
                self.connection,
                at_us=now_us(),
                actor=Actor("rule", "emergency"),
                action=action,
                subject=f"alert/{alert_id}",
                alert_id=alert_id if alert else None,
                version=version,
                after=view,
            )
        return seq  # noqa: RET504 - as above

    def close(self) -> None:
        self.connection.close()


def record(
    measurements: dict[str, float] | None = None,
    *,
    person: str = "P-0001",
    device: str = "D-0001",
    at_us: int | None = None,
    received_us: int | None = None,
    signals: dict[str, bool] | None = None,
    position: Position | None = None,
    unknown: dict[str, Any] | None = None,
) -> Record:
    received = now_us() if received_us is None else received_us
    return Record(
        received, "mqtt", "native", "127.0.0.1:1", b"{}", device, device or "imei-1", person, "carebell.native",
        True, 0, "",
        Reading(received if at_us is None else at_us, measurements or {}, signals or {}, position, unknown),
    )  # fmt: skip


@contextlib.contextmanager
def connected(dsn: str) -> Iterator[Connection]:
    with contextlib.closing(schema.connect(dsn)) as connection:
        yield connection


def rows(dsn: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connected(dsn) as connection:
        return connection.execute(query.encode(), parameters or None).fetchall()


async def until(condition: Callable[[], Any], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        await asyncio.sleep(0.02)
