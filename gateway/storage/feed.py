"""Events behind a sequence number, records and audit rows merged into the one order they happened in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

import apsw
import structlog

from gateway.events import of_audit, of_record
from gateway.ports import NearStore
from gateway.storage.journal import CorruptBatch, last_seq, read_after

POLL_S: Final = 0.25
BATCHES: Final = 8
NUMBERS: Final = 20_000  # examined at most before others get their turn, events or not

log = structlog.get_logger("feed")


def events_after(connection: apsw.Connection, site: str, seq: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Events behind ``seq``, about ``limit`` of them and no number torn apart; and the number that was reached.

    There may be more behind that number, also when no event was found on the way to it.
    """
    events: list[dict[str, Any]] = []
    reached = seq
    for examined, (number, produced) in enumerate(_merged(connection, site, seq)):
        if len(events) >= limit or examined >= NUMBERS:
            break
        events.extend(produced)
        reached = number
    return events, reached


def _merged(connection: apsw.Connection, site: str, seq: int) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    batches = list(read_after(connection, seq, BATCHES))
    # Behind the last batch that was read there may be more records: audit rows beyond it have to wait for them.
    horizon = last_seq(connection) if len(batches) < BATCHES else batches[-1].last_seq
    audit = iter(
        connection.execute("SELECT seq, body FROM audit WHERE seq > ? AND seq <= ? ORDER BY seq", (seq, horizon))
    )
    waiting = next(audit, None)
    for batch in batches:
        while waiting is not None and waiting[0] < batch.first_seq:
            yield waiting[0], list(of_audit(site, waiting[0], waiting[1]))
            waiting = next(audit, None)
        if isinstance(batch, CorruptBatch):
            log.error("batch_corrupt", first_seq=batch.first_seq, last_seq=batch.last_seq, reason=batch.reason)
            yield batch.last_seq, []
            continue
        for offset, record in enumerate(batch.records):
            yield batch.first_seq + offset, list(of_record(site, batch.first_seq + offset, record))
    while waiting is not None:
        yield waiting[0], list(of_audit(site, waiting[0], waiting[1]))
        waiting = next(audit, None)


def transitions_after(connection: apsw.Connection, site: str, seq: int, limit: int) -> list[dict[str, Any]]:
    """The events behind ``seq`` that are no observations; numbers of records are passed over without being read."""
    events: list[dict[str, Any]] = []
    for number, body in connection.execute("SELECT seq, body FROM audit WHERE seq > ? ORDER BY seq", (seq,)):
        if len(events) >= limit:
            break
        events.extend(of_audit(site, number, body))
    return events


class JournalFeed:
    """Implements ``ports.EventFeed`` over the file, so that it sees what other processes commit as well."""

    def __init__(self, store: NearStore, site: str, *, poll_s: float = POLL_S) -> None:
        """``poll_s``: how soon it notices what nobody tells it."""
        self._store = store
        self._site = site
        self._poll_s = poll_s
        self._last_seq = 0
        self._changed = asyncio.Event()

    def last_seq(self) -> int:
        return self._last_seq

    def committed(self, seq: int) -> None:
        """The journal has come to this number."""
        if seq > self._last_seq:
            self._last_seq = seq
            self._changed.set()
            self._changed = asyncio.Event()

    async def after(self, seq: int, limit: int) -> list[dict[str, Any]]:
        events, reached = await self._store.read(lambda connection: events_after(connection, self._site, seq, limit))
        while not events and reached > seq:  # numbers without events must not look like the end
            seq = reached
            events, reached = await self._store.read(
                lambda connection, seq=seq: events_after(connection, self._site, seq, limit)  # type: ignore[misc]
            )
        return events

    async def transitions(self, seq: int, limit: int) -> list[dict[str, Any]]:
        return await self._store.read(lambda connection: transitions_after(connection, self._site, seq, limit))

    async def wait(self, seq: int) -> None:
        while self._last_seq <= seq:
            await self._changed.wait()

    async def run(self) -> None:
        """Notice what others committed: the alert service, the CLI. Raises StorageError."""
        while True:
            self.committed(await self._store.glance(last_seq))
            await asyncio.sleep(self._poll_s)
