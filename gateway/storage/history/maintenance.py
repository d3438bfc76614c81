"""History's upkeep: roll-ups, partitions ahead, retention. A thread of the worker with its own connection.

PostgreSQL does the work, so the thread costs the worker nothing, and a long roll-up never holds up copying.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Final, Protocol

import psycopg

from gateway.storage.history import schema
from gateway.storage.history.dialect import Native, Timescale

LOCK_KEY: Final = 0x63626C32  # one at a time, whoever runs it
STATEMENT_TIMEOUT_S: Final = 1800.0


class Schedule(Protocol):
    """The part of the worker's settings that upkeep reads."""

    retention_days: int
    maintain_every_s: float


class Upkeep:
    """What upkeep complains about, "" when all is well."""

    def __init__(self) -> None:
        self.complaint = ""


@contextlib.contextmanager
def running(dsn: str, dialect: str, schedule: Schedule) -> Iterator[Upkeep]:
    """Upkeep in a thread for as long as the block runs."""
    stop, upkeep = threading.Event(), Upkeep()
    thread = threading.Thread(target=_loop, args=(dsn, dialect, schedule, stop, upkeep), daemon=True)
    thread.start()
    try:
        yield upkeep
    finally:
        stop.set()


def once(dsn: str, dialect: str, retention_days: int) -> int:
    """One round now; returns how many hours were rolled up. Raises psycopg.Error."""
    with contextlib.closing(schema.connect(dsn, statement_timeout_s=STATEMENT_TIMEOUT_S)) as connection:
        row = connection.execute("SELECT pg_try_advisory_lock(%s)", (LOCK_KEY,)).fetchone()
        if row is None or not row[0]:
            return 0
        return (Timescale() if dialect == Timescale.name else Native()).maintain(connection, retention_days)


def _loop(dsn: str, dialect: str, schedule: Schedule, stop: threading.Event, upkeep: Upkeep) -> None:
    while not stop.is_set():
        try:
            once(dsn, dialect, schedule.retention_days)
            upkeep.complaint = ""
        except psycopg.Error as error:
            upkeep.complaint = f"copying; upkeep failed: {schema.reason(error)}"
        stop.wait(schedule.maintain_every_s)
