"""Writes stretches of the journal into PostgreSQL, each in one transaction with the bookmark."""

from __future__ import annotations

import contextlib
import struct
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import psycopg
from msgspec import Struct, field

from gateway.storage.history.copyrows import (
    HEADER,
    LATEST_US,
    OBSERVATION_COLUMNS,
    SIGNAL_COLUMNS,
    TRAILER,
    RowPacker,
    effective_us,
    json_bytes,
)
from gateway.storage.history.dialect import HOUR_US, Connection, Native, Timescale
from gateway.storage.history.reader import Slice, Transition
from gateway.storage.history.schema import reason

DURABLE_EVERY_S: Final = 1.0
DATA_CLASSES: Final = frozenset({"22", "23", "54"})  # SQLSTATE: data exception, integrity violation, limit exceeded
NO_PARTITION: Final = "23514"

Insert = Callable[[Connection, str, Sequence[str], Sequence[bytes]], None]
"""Insert rows, each in binary COPY format, into a table."""


class BookmarkMovedError(Exception):
    """Somebody else wrote behind our bookmark: read it again. Handler: the worker."""


class Packed(Struct):
    """A stretch of the journal as rows. ``refused`` lists what cannot be a row: first and last number, and why."""

    after: int
    last_seq: int
    observations: list[bytes] = field(default_factory=list)
    signals: list[bytes] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    refused: list[tuple[int, int, str]] = field(default_factory=list)
    hours: set[int] = field(default_factory=set)
    faults: int = 0


def copy_rows(connection: Connection, table: str, columns: Sequence[str], rows: Sequence[bytes]) -> None:
    """Binary COPY."""
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} ({', '.join(columns)}) FROM STDIN BINARY".encode()) as copy,
    ):
        copy.write(HEADER + b"".join(rows) + TRAILER)


class HistoryWriter:
    """Writes for one site over one connection. A psycopg.Error of a method leaves nothing half written."""

    def __init__(
        self, connection: Connection, dialect: Native | Timescale, site: str, *, insert: Insert = copy_rows
    ) -> None:
        self._connection = connection
        self._dialect = dialect
        self._insert = insert
        connection.execute("INSERT INTO site (name) VALUES (%s) ON CONFLICT (name) DO NOTHING", (site,))
        row = connection.execute("SELECT id, bookmark FROM site WHERE name = %s", (site,)).fetchone()
        assert row is not None
        self._site_id: int = row[0]
        self.bookmark: int = row[1]
        self.durable = 0  # what the journal may forget: known to be on PostgreSQL's disk
        self._durable_at_s = 0.0
        self._packer = RowPacker(self._site_id)
        self._flush()

    def pack(self, part: Slice) -> Packed:
        """Rows of a stretch of the journal. Bad records are listed, not raised."""
        packed = Packed(part.after, part.last_seq, transitions=part.transitions, refused=list(part.damaged))
        observation, rows, hours = self._packer.observation, packed.observations, packed.hours
        for first_seq, records in part.batches:
            for seq, record in enumerate(records, first_seq):
                reading = record.reading
                if reading is None:
                    packed.faults += 1
                    continue
                try:
                    rows.append(observation(seq, record, reading))
                    if reading.signals:
                        packed.signals += self._packer.signals(seq, record, reading)
                except (struct.error, OverflowError, ValueError, TypeError) as error:
                    if rows and seq_of_observation(rows[-1]) == seq:
                        rows.pop()  # its signals failed: both or none
                    packed.refused.append((seq, seq, f"cannot be a row: {error}"))
                    continue
                hours.add(effective_us(record.received_at_us, min(reading.observed_at_us, LATEST_US)) // HOUR_US)
        return packed

    def write(self, packed: Packed) -> int:
        """Write it and move the bookmark, in one transaction; return how many rows PostgreSQL refused.

        Raises BookmarkMovedError when the bookmark is not where the stretch begins, psycopg.Error when nothing is known
        to be written: then connect anew and read the bookmark, which tells.
        """
        refused = list(packed.refused)
        try:
            self._write(packed, refused, careful=False)
        except psycopg.Error as error:
            self._dialect.forget()
            if not is_data_error(error) or self._connection.broken:
                raise
            refused = list(packed.refused)
            self._write(packed, refused, careful=True)
        self.bookmark = packed.last_seq
        return len(refused)

    def flush_if_due(self) -> None:
        """While idle: make sure that PostgreSQL's disk has all that was written, so that ``durable`` catches up."""
        if self.durable < self.bookmark and time.monotonic() - self._durable_at_s >= DURABLE_EVERY_S:
            self._flush()

    def _flush(self) -> None:
        with self._connection.transaction():
            self._connection.execute("SET LOCAL synchronous_commit = on")  # also flushes every commit before it
            self._connection.execute("UPDATE site SET bookmark = bookmark WHERE id = %s", (self._site_id,))
        self.durable, self._durable_at_s = self.bookmark, time.monotonic()

    def _write(self, packed: Packed, refused: list[tuple[int, int, str]], *, careful: bool) -> None:
        connection = self._connection
        synchronous = time.monotonic() - self._durable_at_s >= DURABLE_EVERY_S
        with connection.transaction():
            connection.execute(
                "SET LOCAL synchronous_commit = on" if synchronous else "SET LOCAL synchronous_commit = off"
            )
            row = connection.execute("SELECT bookmark FROM site WHERE id = %s FOR UPDATE", (self._site_id,)).fetchone()
            if row is None or row[0] != packed.after:
                raise BookmarkMovedError
            self._dialect.make_room(connection, packed.hours)
            for table, columns, rows in (
                ("observation", OBSERVATION_COLUMNS, packed.observations),
                ("signal", SIGNAL_COLUMNS, packed.signals),
            ):
                if rows and careful:
                    self._insert_carefully(table, columns, rows, refused)
                elif rows:
                    self._insert(connection, table, columns, rows)
            for transition in packed.transitions:
                self._write_transition(transition, refused, careful=careful)
            if refused:
                connection.cursor().executemany(
                    "INSERT INTO refused (site_id, first_seq, last_seq, reason) VALUES (%s, %s, %s, %s)",
                    [(self._site_id, first, last, why.replace("\0", "")[:500]) for first, last, why in refused],
                )
            self._dialect.mark(connection, packed.hours, packed.last_seq)
            connection.execute("UPDATE site SET bookmark = %s WHERE id = %s", (packed.last_seq, self._site_id))
        if synchronous:
            self.durable, self._durable_at_s = packed.last_seq, time.monotonic()

    def _insert_carefully(
        self, table: str, columns: Sequence[str], rows: Sequence[bytes], refused: list[tuple[int, int, str]]
    ) -> None:
        """Halve what PostgreSQL refuses until only the bad rows are left out."""
        try:
            with self._connection.transaction():
                self._insert(self._connection, table, columns, rows)
        except psycopg.Error as error:
            if not is_data_error(error) or self._connection.broken:
                raise
            if len(rows) > 1:
                half = len(rows) // 2
                self._insert_carefully(table, columns, rows[:half], refused)
                self._insert_carefully(table, columns, rows[half:], refused)
                return
            seq = seq_of_observation(rows[0]) if table == "observation" else seq_of_signal(rows[0])
            refused.append((seq, seq, f"{table}: {reason(error)}"))

    def _write_transition(self, transition: Transition, refused: list[tuple[int, int, str]], *, careful: bool) -> None:
        try:
            with self._connection.transaction() if careful else contextlib.nullcontext():
                self._upsert(transition)
        except psycopg.Error as error:
            if not careful or not is_data_error(error) or self._connection.broken:
                raise
            refused.append((transition.seq, transition.seq, f"transition: {reason(error)}"))

    def _upsert(self, transition: Transition) -> None:
        body = transition.body
        actor = body.get("actor") or {}
        view = body.get("after") or {}
        common = {
            "site_id": self._site_id,
            "seq": transition.seq,
            "at_us": body.get("at_us") or 0,
            "alert_id": _text(body.get("alert_id")) or "",
            "version": body.get("version") or 0,
        }
        self._connection.execute(
            "INSERT INTO alert_transition (site_id, seq, at, alert_id, version, action, actor_type, actor_id,"
            " reason, body)"
            " VALUES (%(site_id)s, %(seq)s, timestamptz 'epoch' + %(at_us)s * interval '1 microsecond', %(alert_id)s,"
            " %(version)s, %(action)s, %(actor_type)s, %(actor_id)s, %(reason)s, %(body)s::jsonb)",
            common
            | {
                "action": _text(body.get("action")) or "",
                "actor_type": _text(actor.get("type")),
                "actor_id": _text(actor.get("id")),
                "reason": _text(body.get("reason")),
                "body": json_bytes(body).decode(),
            },
        )
        self._connection.execute(
            "INSERT INTO alert (id, version, site_id, seq, kind, severity, condition, handling, person_id, device_id,"
            " raised_at, changed_at, view) VALUES (%(alert_id)s, %(version)s, %(site_id)s, %(seq)s, %(kind)s,"
            " %(severity)s, %(condition)s, %(handling)s, %(person_id)s, %(device_id)s, %(raised_at)s,"
            " timestamptz 'epoch' + %(at_us)s * interval '1 microsecond', %(view)s::jsonb)"
            " ON CONFLICT (id) DO UPDATE SET version = EXCLUDED.version, site_id = EXCLUDED.site_id,"
            " seq = EXCLUDED.seq,"
            " kind = EXCLUDED.kind, severity = EXCLUDED.severity, condition = EXCLUDED.condition,"
            " handling = EXCLUDED.handling, person_id = EXCLUDED.person_id, device_id = EXCLUDED.device_id,"
            " raised_at = EXCLUDED.raised_at, changed_at = EXCLUDED.changed_at, view = EXCLUDED.view"
            " WHERE (alert.version, alert.seq) < (EXCLUDED.version, EXCLUDED.seq)",
            common
            | {
                name: _text(view.get(name))
                for name in ("kind", "severity", "condition", "handling", "person_id", "device_id")
            }
            | {"raised_at": _time(view.get("raised_at")), "view": json_bytes(view).decode()},
        )


def is_data_error(error: psycopg.Error) -> bool:
    """Whether these rows will never be taken, as against a server that cannot take any now."""
    state = error.sqlstate or ""
    return state[:2] in DATA_CLASSES and state != NO_PARTITION


def seq_of_observation(row: bytes) -> int:
    """The sequence number in a packed row of observation (see copyrows: its place is fixed)."""
    return int.from_bytes(row[22:30], "big", signed=True)


def seq_of_signal(row: bytes) -> int:
    """The sequence number in a packed row of signal."""
    return int.from_bytes(row[27:35], "big", signed=True)


def _text(value: Any) -> str | None:
    return None if value is None or value == "" else str(value).replace("\0", "\ufffd")


def _time(value: Any) -> datetime | None:
    with contextlib.suppress(TypeError, ValueError):
        at = datetime.fromisoformat(value)
        return at if at.tzinfo is not None else None
    return None
