"""The only place where SQL differs with and without the timescaledb extension.

Both dialects give the same tables (``observation``, ``signal``) and the same names for the hourly figures:
``observation_hour`` (one wide row for each person and hour) and ``metric_hour`` (one row for each metric of it).
"""

# ruff: noqa: S608 - every name that is put into SQL here is one of ours (metrics, partitions), never data

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol

import psycopg

from gateway.model import METRICS

HOUR_US: Final = 3_600_000_000
DAY_US: Final = 24 * HOUR_US
PARTITION_PREFIX: Final = "observation_p"
COMPRESS_AFTER: Final = "7 days"
FIGURES_KEPT_TIMES: Final = 5
"""Hourly figures are kept this many times longer than the rows that they were made of."""
PARTITION_LOCK_KEY: Final = 0x63626C33
ROLL_AFTER: Final = "5 minutes"

Connection = psycopg.Connection[tuple[Any, ...]]


class Dialect(Protocol):
    """What the rest of history asks. Every method runs on a connection whose search_path is carebell's schema."""

    name: str
    partitioned: str  # what follows the column list of observation

    def derive(self, connection: Connection) -> None:
        """Create or extend what is computed from observation, for the metrics that this version knows."""
        ...

    def make_room(self, connection: Connection, hours: Iterable[int]) -> None:
        """In the writer's transaction, before it inserts rows of these hours (since 1970)."""
        ...

    def mark(self, connection: Connection, hours: Iterable[int], last_seq: int) -> None:
        """In the writer's transaction, after it inserted rows of these hours."""
        ...

    def maintain(self, connection: Connection, retention_days: int) -> int:
        """Roll up, make partitions ahead and drop what is older than ``retention_days`` (0: keep for ever).

        Commits as it goes; returns how many hours were rolled up.
        """
        ...


def wide_aggregates() -> str:
    """The aggregates of an hour of one person, as a select list."""
    parts = ["count(latitude)::bigint AS position_count"]
    for metric in METRICS:
        parts += [
            f"count({metric})::bigint AS {metric}_count",
            f"min({metric}) AS {metric}_min",
            f"max({metric}) AS {metric}_max",
            f"sum({metric}) AS {metric}_sum",
        ]
    return ", ".join(parts)


def wide_columns() -> list[tuple[str, str]]:
    """Names and types of what ``wide_aggregates`` selects."""
    columns = [("position_count", "bigint")]
    for metric in METRICS:
        columns.append((f"{metric}_count", "bigint"))
        columns += [(f"{metric}_{what}", "double precision") for what in ("min", "max", "sum")]
    return columns


def metric_hour_view() -> str:
    """The long form of ``observation_hour``."""
    rows = ", ".join(f"('{metric}', {metric}_count, {metric}_min, {metric}_max, {metric}_sum)" for metric in METRICS)
    return (
        "CREATE VIEW metric_hour AS SELECT hour, person_id, v.metric, v.count, v.min, v.max, v.sum / v.count AS mean"
        f" FROM observation_hour CROSS JOIN LATERAL (VALUES {rows}) AS v (metric, count, min, max, sum)"
        " WHERE v.count > 0"
    )


class Native:
    """PostgreSQL alone: range partitions by day, roll-ups computed by ``maintain``."""

    name = "native"
    partitioned = "PARTITION BY RANGE (effective_at)"

    def __init__(self) -> None:
        self._days: set[int] = set()

    def derive(self, connection: Connection) -> None:
        names = [name for name, _ in wide_columns()]
        _run(
            connection,
            "CREATE TABLE IF NOT EXISTS dirty_hour (hour timestamptz PRIMARY KEY, mark bigint NOT NULL)",
            "CREATE TABLE IF NOT EXISTS rolled_hour (hour timestamptz NOT NULL, person_id text NOT NULL,"
            " PRIMARY KEY (person_id, hour))",
            "CREATE INDEX IF NOT EXISTS rolled_hour_by_hour ON rolled_hour USING brin (hour)",
            "ALTER TABLE rolled_hour "
            + ", ".join(f"ADD COLUMN IF NOT EXISTS {name} {kind}" for name, kind in wide_columns()),
            "DROP VIEW IF EXISTS metric_hour",
            "DROP VIEW IF EXISTS observation_hour",
            # Hours that are not rolled up yet are counted from the rows themselves, so that the answer is always whole.
            f"CREATE VIEW observation_hour AS SELECT hour, person_id, {', '.join(names)} FROM rolled_hour r"
            " WHERE NOT EXISTS (SELECT FROM dirty_hour d WHERE d.hour = r.hour)"
            f" UNION ALL SELECT d.hour, o.person_id, {wide_aggregates()} FROM dirty_hour d JOIN observation o"
            " ON o.effective_at >= d.hour AND o.effective_at < d.hour + interval '1 hour'"
            " WHERE o.person_id IS NOT NULL GROUP BY d.hour, o.person_id",
            metric_hour_view(),
        )

    def make_room(self, connection: Connection, hours: Iterable[int]) -> None:
        for day in {hour // 24 for hour in hours} - self._days:
            _make_partition(connection, day)
            self._days.add(day)

    def forget(self) -> None:
        """After a rollback: partitions of this session may not exist."""
        self._days.clear()

    def mark(self, connection: Connection, hours: Iterable[int], last_seq: int) -> None:
        rows = [(_hour_text(hour), last_seq) for hour in sorted(hours)]
        if rows:
            connection.cursor().executemany(
                "INSERT INTO dirty_hour (hour, mark) VALUES (%s::timestamptz, %s)"
                " ON CONFLICT (hour) DO UPDATE SET mark = EXCLUDED.mark",
                rows,
            )

    def maintain(self, connection: Connection, retention_days: int) -> int:
        today = int(datetime.now(UTC).timestamp()) // 86_400
        with connection.transaction():
            for day in (today, today + 1):
                _make_partition(connection, day)
        rolled = 0
        first_kept_day = today - retention_days if retention_days > 0 else 0
        due = connection.execute(
            # What is about to be dropped is not rolled up again: that would take its figures away with it.
            "SELECT hour::text, mark FROM dirty_hour WHERE hour >= %s::timestamptz"
            f" AND hour + interval '1 hour' < now() - interval '{ROLL_AFTER}' ORDER BY hour".encode(),
            (_hour_text(first_kept_day * 24),),
        ).fetchall()
        for hour, mark in due:
            self._roll(connection, str(hour), mark)
            rolled += 1
        if retention_days > 0:
            self._drop_older(connection, first_kept_day)
            figures = _hour_text((today - retention_days * FIGURES_KEPT_TIMES) * 24)
            connection.execute("DELETE FROM rolled_hour WHERE hour < %s::timestamptz", (figures,))
        return rolled

    def _roll(self, connection: Connection, hour: str, mark: object) -> None:
        """Compute one hour anew. Rows that arrive meanwhile change its mark, and it stays on the list."""
        with connection.transaction():
            connection.execute("DELETE FROM rolled_hour WHERE hour = %s::timestamptz", (hour,))
            names = ", ".join(name for name, _ in wide_columns())
            connection.execute(
                f"INSERT INTO rolled_hour (hour, person_id, {names})"
                f" SELECT %(hour)s::timestamptz, person_id, {wide_aggregates()} FROM observation"
                " WHERE effective_at >= %(hour)s::timestamptz"
                " AND effective_at < %(hour)s::timestamptz + interval '1 hour'"
                " AND person_id IS NOT NULL GROUP BY person_id".encode(),
                {"hour": hour},
            )
            connection.execute("DELETE FROM dirty_hour WHERE hour = %s::timestamptz AND mark = %s", (hour, mark))

    def _drop_older(self, connection: Connection, first_kept_day: int) -> None:
        first_kept = _partition(first_kept_day)
        names = connection.execute(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = 'observation'::regclass AND c.relname < %s ORDER BY 1",
            (first_kept,),
        ).fetchall()
        for (name,) in names:
            with connection.transaction():
                connection.execute("SET LOCAL lock_timeout = '2s'")  # a long query first; the next round takes it
                connection.execute(f"DROP TABLE {name}".encode())
        cutoff = _hour_text(first_kept_day * 24)
        with connection.transaction():
            connection.execute("DELETE FROM signal WHERE effective_at < %s::timestamptz", (cutoff,))
            connection.execute("DELETE FROM dirty_hour WHERE hour < %s::timestamptz", (cutoff,))


class Timescale:
    """The extension does the work: hypertables, compression, continuous aggregates, policies in the background."""

    name = "timescale"
    partitioned = ""

    def derive(self, connection: Connection) -> None:
        _run(
            connection,
            "SELECT create_hypertable('observation', 'effective_at', chunk_time_interval => interval '1 day',"
            " create_default_indexes => false, if_not_exists => true)",
            "SELECT create_hypertable('signal', 'effective_at', chunk_time_interval => interval '7 days',"
            " create_default_indexes => false, if_not_exists => true)",
            "ALTER TABLE observation SET (timescaledb.compress, timescaledb.compress_segmentby = 'person_id',"
            " timescaledb.compress_orderby = 'effective_at DESC, seq DESC')",
            f"SELECT add_compression_policy('observation', interval '{COMPRESS_AFTER}', if_not_exists => true)",
            "DROP VIEW IF EXISTS metric_hour",
            "DROP MATERIALIZED VIEW IF EXISTS observation_hour",
            "CREATE MATERIALIZED VIEW observation_hour"
            " WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS"
            f" SELECT time_bucket(interval '1 hour', effective_at) AS hour, person_id, {wide_aggregates()}"
            " FROM observation WHERE person_id IS NOT NULL GROUP BY 1, 2 WITH NO DATA",
            metric_hour_view(),
        )

    def make_room(self, connection: Connection, hours: Iterable[int]) -> None:
        """Chunks make themselves."""

    def forget(self) -> None:
        """Nothing is remembered."""

    def mark(self, connection: Connection, hours: Iterable[int], last_seq: int) -> None:
        """The extension keeps its own log of changes."""

    def maintain(self, connection: Connection, retention_days: int) -> int:
        """Give the policies their ages; one that has its age is left alone: a new one would begin its rounds anew.

        Rows that are about to be dropped are not aggregated again: that would take their figures away with them.
        """
        kept = f"interval '{retention_days} days'" if retention_days > 0 else None
        figures = f"interval '{retention_days * FIGURES_KEPT_TIMES} days'" if retention_days > 0 else None
        reach = f"interval '{max(retention_days - 1, 2)} days'" if retention_days > 0 else "NULL"
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (PARTITION_LOCK_KEY,))
            for table, age in (("observation", kept), ("signal", kept), ("observation_hour", figures)):
                if not self._has(connection, "policy_retention", "drop_after", table, age or "NULL"):
                    _run(connection, f"SELECT remove_retention_policy('{table}', if_exists => true)")
                    if age is not None:
                        _run(connection, f"SELECT add_retention_policy('{table}', {age})")
            if not self._has(
                connection, "policy_refresh_continuous_aggregate", "start_offset", "observation_hour", reach
            ):
                _run(
                    connection,
                    "SELECT remove_continuous_aggregate_policy('observation_hour', if_exists => true)",
                    f"SELECT add_continuous_aggregate_policy('observation_hour', start_offset => {reach}::interval,"
                    " end_offset => interval '1 hour', schedule_interval => interval '15 minutes')",
                )
        return 0

    @staticmethod
    def _has(connection: Connection, policy: str, key: str, table: str, age: str) -> bool:
        """Whether there is such a policy with this age (NULL: without one)."""
        row = connection.execute(
            "SELECT count(*) FROM timescaledb_information.jobs j"
            " LEFT JOIN timescaledb_information.continuous_aggregates c"
            " ON c.materialization_hypertable_name = j.hypertable_name WHERE j.proc_name = %s"
            " AND coalesce(c.view_schema, j.hypertable_schema) = current_schema()"
            " AND coalesce(c.view_name, j.hypertable_name) = %s"
            f" AND (j.config ->> %s)::interval IS NOT DISTINCT FROM {age}::interval".encode(),
            (policy, table, key),
        ).fetchone()
        return row == (1,)


def choose(connection: Connection, recorded: str | None) -> Native | Timescale:
    """The dialect that the schema was made with; for a new schema the extension where the server offers it whole."""
    if recorded is not None:
        return Timescale() if recorded == Timescale.name else Native()
    offered = connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb'").fetchone()
    if offered is None:
        return Native()
    try:
        with connection.transaction():
            connection.execute("CREATE EXTENSION IF NOT EXISTS timescaledb SCHEMA public")
            row = connection.execute("SELECT current_setting('timescaledb.license', true)").fetchone()
    except psycopg.Error:  # not preloaded, or not ours to create: the server works without it
        return Native()
    if row is None or row[0] != "timescale":  # the Apache build has neither compression nor continuous aggregates
        return Native()
    return Timescale()


def _run(connection: Connection, *statements: str) -> None:
    for statement in statements:
        connection.execute(statement.encode())


def _hour_text(hour: int) -> str:
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour)).isoformat()


def _partition(day: int) -> str:
    return PARTITION_PREFIX + _hour_text(day * 24)[:10].replace("-", "")


def _make_partition(connection: Connection, day: int) -> None:
    """Made beside the table and then attached, which readers do not wait for."""
    name = _partition(day)
    connection.execute("SELECT pg_advisory_xact_lock(%s)", (PARTITION_LOCK_KEY,))  # writer and upkeep both make them
    if connection.execute("SELECT to_regclass(%s) IS NOT NULL", (name,)).fetchone() == (True,):
        return
    _run(
        connection,
        f"CREATE TABLE {name} (LIKE observation INCLUDING DEFAULTS)",
        f"ALTER TABLE observation ATTACH PARTITION {name}"
        f" FOR VALUES FROM ('{_hour_text(day * 24)}') TO ('{_hour_text(day * 24 + 24)}')",
    )
