"""Reads the journal file from another process: what lies behind a sequence number, in order, in one snapshot."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import apsw
import msgspec
from msgspec import Struct, field

from gateway.model import Record
from gateway.storage.database import open_database
from gateway.storage.journal import CorruptBatch, decode_row

BYTES_LIMIT: Final = 16 << 20
TRANSITIONS_LIMIT: Final = 2_000


class Transition(Struct):
    """One audit row of an alert: its sequence number and its body."""

    seq: int
    body: dict[str, Any]


class Slice(Struct):
    """A stretch of the journal, ``after`` excluded, ``last_seq`` included; nothing in between is left out.

    ``damaged`` lists stretches that could not be read: first and last sequence number, and why.
    """

    after: int
    last_seq: int
    batches: list[tuple[int, list[Record]]] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    damaged: list[tuple[int, int, str]] = field(default_factory=list)
    rows: int = 0


class JournalReader:
    """A read-only view of the journal file. Not thread-safe."""

    def __init__(self, path: Path) -> None:
        self._connection = open_database(path, read_only=True)

    def close(self) -> None:
        self._connection.close()

    def bounds(self) -> tuple[int, int]:
        """The first and the last sequence number that the file has, (0, 0) when it is empty."""
        row = self._connection.execute(
            "SELECT coalesce((SELECT min(first_seq) FROM batch), 0),"
            " max(coalesce((SELECT last_seq FROM batch ORDER BY first_seq DESC LIMIT 1), 0),"
            " coalesce((SELECT max(seq) FROM audit), 0),"
            " coalesce((SELECT value FROM meta WHERE key = 'sequence_floor'), 0))"
        ).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def missing(self, seq: int) -> int:
        """How many numbers right behind ``seq`` the file no longer has: neither a record nor an audit row."""
        row = self._connection.execute(
            "WITH next AS (SELECT coalesce((SELECT first_seq FROM batch WHERE first_seq > ?1"
            " ORDER BY first_seq LIMIT 1), 0) AS first)"
            " SELECT CASE WHEN EXISTS (SELECT 1 FROM batch WHERE first_seq <= ?1 AND last_seq > ?1) THEN 0"
            " ELSE max(0, first - 1 - ?1 - (SELECT count(*) FROM audit WHERE seq > ?1 AND seq < first)) END FROM next",
            (seq,),
        ).fetchone()
        assert row is not None
        return int(row[0])

    def after(self, seq: int, limit: int) -> Slice:
        """What lies behind ``seq``: at least one batch if there is one, about ``limit`` records at most."""
        self._connection.execute("BEGIN")  # one snapshot for both tables
        try:
            return self._after(seq, limit)
        finally:
            self._connection.execute("COMMIT")

    def _after(self, seq: int, limit: int) -> Slice:
        found = Slice(after=seq, last_seq=seq)
        size, whole = 0, True
        for first, last, checksum, body in self._connection.execute(
            # The batch that holds seq itself, if seq is not its end, and all behind it.
            "SELECT first_seq, last_seq, checksum, body FROM batch WHERE first_seq >= coalesce("
            "(SELECT first_seq FROM batch WHERE first_seq <= ?1 ORDER BY first_seq DESC LIMIT 1), 0)"
            " AND last_seq > ?1 ORDER BY first_seq",
            (seq,),
        ):
            if found.rows and (found.rows + last - first + 1 > limit or size + len(body) > BYTES_LIMIT):
                whole = False
                break
            size += len(body)
            self._take(found, first, last, checksum, body)
        # Without a batch behind it the stretch is open: transitions may go on to the end of the file.
        upper = found.last_seq if not whole else 1 << 62
        audits: list[tuple[Any, ...]] = self._connection.execute(
            "SELECT seq, body FROM audit WHERE seq > ? AND seq <= ? AND alert_id IS NOT NULL ORDER BY seq LIMIT ?",
            (seq, upper, TRANSITIONS_LIMIT + 1),
        ).fetchall()
        if len(audits) > TRANSITIONS_LIMIT:
            audits = audits[:TRANSITIONS_LIMIT]
            self._cut(found, audits[-1][0])
        for number, body in audits:
            try:
                found.transitions.append(Transition(number, msgspec.json.decode(body, type=dict[str, Any])))
            except msgspec.DecodeError as error:
                found.damaged.append((number, number, f"audit row: {error}"))
            found.last_seq = max(found.last_seq, number)
        return found

    def _take(self, found: Slice, first: int, last: int, checksum: int, body: bytes) -> None:
        found.last_seq = last
        found.rows += last - first + 1
        read = decode_row(first, last, checksum, body)
        if isinstance(read, CorruptBatch):
            found.damaged.append((max(first, found.after + 1), last, f"journal batch: {read.reason}"))
            return
        records = read.records
        if first <= found.after:
            skip = found.after + 1 - first
            first, records = found.after + 1, records[skip:]
        found.batches.append((first, records))

    @staticmethod
    def _cut(found: Slice, last: int) -> None:
        """Leave out what lies behind ``last``."""
        found.batches = [(first, records[: last - first + 1]) for first, records in found.batches if first <= last]
        found.damaged = [(first, min(end, last), why) for first, end, why in found.damaged if first <= last]
        found.rows = sum(len(records) for _, records in found.batches)
        found.last_seq = last


FAILURES: Final = (apsw.Error,)
"""What reading the file may raise besides the storage errors of opening it."""
