"""The process that copies the journal into PostgreSQL: ``python -m gateway.storage.history.worker``.

Its settings come as one line of JSON on standard input (a connection string has no place in a command line); its state
goes out as lines of JSON on standard output. It ends with its parent, or on SIGTERM after the transaction at hand.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Final

import msgspec
import psycopg
from msgspec import Struct

from gateway.errors import CarebellError, NewerSchemaError
from gateway.storage import launch
from gateway.storage.history import maintenance, schema
from gateway.storage.history.dialect import Connection
from gateway.storage.history.reader import FAILURES, JournalReader, Slice
from gateway.storage.history.writer import BookmarkMovedError, HistoryWriter

LINGER_S: Final = 0.1
FULL_ROWS: Final = 5_000
LIMIT_ROWS: Final = 10_000
RETRY_FIRST_S: Final = 0.2
RETRY_MAX_S: Final = 10.0
STATUS_EVERY_S: Final = 0.5


class Settings(Struct, kw_only=True):
    """What the parent tells the worker."""

    journal: str
    dsn: str
    site: str
    parent_pid: int
    retention_days: int = 400
    maintain_every_s: float = 60.0


class Status(Struct):
    """What the worker tells its parent. Counters are since the worker's start.

    ``bookmark`` is the last sequence number whose row can be seen, ``durable`` the last that the journal may forget,
    ``journal_seq`` the last one in the journal.
    """

    ok: bool = False
    text: str = "starting"
    bookmark: int = 0
    durable: int = 0
    journal_seq: int = 0
    rows: int = 0
    faults: int = 0
    refused: int = 0


class Worker:
    """Copies until told to stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._status = Status()
        self._told = Status()
        self._told_at_s = 0.0
        self._stop = threading.Event()
        self._gap = ""

    def stop(self, *_: object) -> None:
        self._stop.set()

    def run(self) -> None:
        delay_s = RETRY_FIRST_S
        while not self._stop.is_set():
            started_s = time.monotonic()
            try:
                self._session()
            except BookmarkMovedError:
                self._fail("another worker writes for this site")
            except psycopg.Error as error:
                self._fail(f"PostgreSQL: {schema.reason(error)}")
            except NewerSchemaError as error:
                self._fail(str(error))
                delay_s = RETRY_MAX_S
            except (CarebellError, *FAILURES) as error:
                self._fail(f"journal: {error}")
            if time.monotonic() - started_s > RETRY_MAX_S:
                delay_s = RETRY_FIRST_S
            self._stop.wait(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay_s = min(delay_s * 2, RETRY_MAX_S)

    def _session(self) -> None:
        """From connecting until something fails or we are told to stop. The bookmark is read anew each time."""
        connection: Connection = schema.connect(self._settings.dsn)
        try:
            dialect = schema.migrate(connection)
            writer = HistoryWriter(connection, dialect, self._settings.site)
            with maintenance.running(self._settings.dsn, dialect.name, self._settings) as upkeep:
                reader = JournalReader(Path(self._settings.journal))
                try:
                    self._check_bounds(reader, writer)
                    self._copy(reader, writer, upkeep)
                finally:
                    reader.close()
        finally:
            connection.close()

    def _check_bounds(self, reader: JournalReader, writer: HistoryWriter) -> None:
        _, last = reader.bounds()
        if writer.bookmark > last:
            raise CarebellError(
                f"the history is at {writer.bookmark}, but the journal ends at {last}: it is another site's history, "
                "or an older journal took this one's place; use another database, or another name for the site"
            )
        missing = reader.missing(writer.bookmark)
        self._gap = (
            f"{missing} numbers behind {writer.bookmark} left the journal before they were copied" if missing else ""
        )

    def _copy(self, reader: JournalReader, writer: HistoryWriter, upkeep: maintenance.Upkeep) -> None:
        while not self._stop.is_set():
            began_s = time.monotonic()
            part = reader.after(writer.bookmark, LIMIT_ROWS)
            if part.last_seq > part.after:
                self._write(writer, part)
            else:
                writer.flush_if_due()
            self._status.ok = True
            self._status.text = upkeep.complaint or self._gap or "copying"
            self._report(reader, writer)
            if os.getppid() != self._settings.parent_pid:
                return self.stop()
            if part.rows < FULL_ROWS:
                self._stop.wait(max(0.0, began_s + LINGER_S - time.monotonic()))
        return None

    def _write(self, writer: HistoryWriter, part: Slice) -> None:
        packed = writer.pack(part)
        refused = writer.write(packed)
        self._status.rows += len(packed.observations)
        self._status.faults += packed.faults
        self._status.refused += refused

    def _report(self, reader: JournalReader, writer: HistoryWriter) -> None:
        status = self._status
        status.bookmark, status.durable = writer.bookmark, writer.durable
        now_s = time.monotonic()
        if status.ok != self._told.ok or (now_s - self._told_at_s >= STATUS_EVERY_S and status != self._told):
            status.journal_seq = reader.bounds()[1]
            self._tell()

    def _fail(self, text: str) -> None:
        self._status.ok, self._status.text = False, text
        if self._status != self._told:
            self._tell()

    def _tell(self) -> None:
        self._told = msgspec.structs.replace(self._status)
        self._told_at_s = time.monotonic()
        try:
            sys.stdout.buffer.write(msgspec.json.encode(self._status) + b"\n")
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            self.stop()


def main() -> None:
    settings = msgspec.json.decode(sys.stdin.buffer.readline(), type=Settings)
    launch.die_with_parent(signal.SIGKILL, settings.parent_pid)
    launch.give_way()
    worker = Worker(settings)
    signal.signal(signal.SIGTERM, worker.stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    gc.freeze()
    gc.disable()  # batches are trees without cycles; reference counts free them, and the collector would walk them
    worker.run()


if __name__ == "__main__":
    main()
