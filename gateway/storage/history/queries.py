"""Questions to the time series. PostgreSQL makes the JSON, so that a long answer does not hold the loop."""

# ruff: noqa: S608 - every name that is put into SQL here is one of ours (metrics, columns); data goes as parameters

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import msgspec
import psycopg

from gateway import clock
from gateway.errors import StorageError, UsageError
from gateway.model import METRICS
from gateway.storage.history.schema import SESSION, reason

ROWS_LIMIT: Final = 10_000
BUCKET_LIMIT_S: Final = 31 * 86_400
NEWEST_ROWS: Final = 1_000
QUERY_LIMIT_S: Final = 5.0
CONNECTIONS: Final = 4
HOUR_US: Final = 3_600_000_000

_Connection = psycopg.AsyncConnection[tuple[Any, ...]]

_VALUES: Final = ", ".join(f"('{metric}', {metric})" for metric in METRICS)
_ISO: Final = """'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"'"""


def _iso(column: str) -> str:
    return f"to_char({column} AT TIME ZONE 'UTC', {_ISO})"


_TIMES: Final = (
    f"'at', {_iso('effective_at')}, 'observed_at', {_iso('observed_at')}, 'received_at', {_iso('received_at')},"
    " 'device_id', device_id, 'stored', stored, 'verified', verified"
)
_POSITION: Final = (
    "json_build_object('latitude', latitude, 'longitude', longitude, 'accuracy_m', position_accuracy_m,"
    f" 'source', position_source, 'valid', position_valid, {_TIMES})"
)

_LATEST: Final = f"""
WITH newest AS MATERIALIZED (
    SELECT * FROM observation WHERE person_id = %(person)s ORDER BY effective_at DESC, seq DESC LIMIT {NEWEST_ROWS}
), of_metric AS (
    SELECT DISTINCT ON (v.metric) v.metric, json_build_object('value', v.value, {_TIMES}) AS told
    FROM newest CROSS JOIN LATERAL (
        SELECT * FROM (VALUES {_VALUES}) AS m (metric, value) WHERE m.value IS NOT NULL
        UNION ALL
        SELECT key, value::text::double precision FROM jsonb_each(extra -> 'metrics')
        WHERE jsonb_typeof(value) = 'number'
    ) AS v (metric, value)
    ORDER BY v.metric, effective_at DESC, seq DESC
), recent_signals AS (
    SELECT * FROM signal WHERE person_id = %(person)s ORDER BY effective_at DESC, seq DESC LIMIT {NEWEST_ROWS}
), of_signal AS (
    SELECT DISTINCT ON (signal) signal, json_build_object('active', active, {_TIMES}) AS told
    FROM recent_signals ORDER BY signal, effective_at DESC, seq DESC
)
SELECT json_build_object(
    'rows', (SELECT count(*) FROM newest),
    'metrics', (SELECT coalesce(json_object_agg(metric, told), '{{}}') FROM of_metric),
    'signals', (SELECT coalesce(json_object_agg(signal, told), '{{}}') FROM of_signal),
    'position', (SELECT {_POSITION} FROM newest WHERE latitude IS NOT NULL ORDER BY effective_at DESC, seq DESC LIMIT 1)
)::text"""

_LAST_HOURS: Final = (
    "SELECT json_build_object("
    + ", ".join(
        f"'{name}', extract(epoch FROM max(hour) FILTER (WHERE {name}_count > 0))" for name in (*METRICS, "position")
    )
    + ")::text FROM observation_hour WHERE person_id = %(person)s"
)

_IN_HOUR: Final = (
    "FROM observation WHERE person_id = %(person)s AND effective_at >= to_timestamp(%(hour)s)"
    " AND effective_at < to_timestamp(%(hour)s + 3600)"
)

_POSITIONS: Final = f"""
SELECT coalesce(json_agg(json_build_object(
    'type', 'Feature',
    'geometry', json_build_object('type', 'Point', 'coordinates', json_build_array(longitude, latitude)),
    'properties', json_build_object('at', {_iso("effective_at")}, 'observed_at', {_iso("position_at")},
        'accuracy_m', position_accuracy_m, 'source', position_source, 'valid', position_valid, 'device_id', device_id)
) ORDER BY effective_at, seq), '[]')::text
FROM (SELECT * FROM observation WHERE person_id = %(person)s AND effective_at >= %(from)s AND effective_at < %(to)s
      AND latitude IS NOT NULL ORDER BY effective_at, seq LIMIT %(limit)s) AS o"""


class PostgresHistory:
    """Implements ``ports.HistoryQueries``. ``dsn`` gives the connection string, None while there is no server.

    A person's points are ordered by the time the device told, or by the time of receipt where the device's clock cannot
    be right (see ``copyrows.effective_us``); that time is ``at`` in every answer.
    Each method raises StorageError when the database is away, busy or slow, UsageError for what cannot be asked.
    """

    def __init__(self, dsn: Callable[[], str | None]) -> None:
        self._dsn = dsn
        self._idle: list[_Connection] = []
        self._slots = asyncio.Semaphore(CONNECTIONS)

    async def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            await self._idle.pop().close()

    async def latest(self, person_id: str) -> dict[str, Any]:
        """The newest value of each metric and signal and the newest position, each with its times and device.

        ``{"person_id", "metrics": {metric: {"value", "unit", "at", ...}}, "signals": {signal: {"active", ...}},
        "position": {...} | None}``.
        """
        answer: dict[str, Any] = {"person_id": person_id}
        found = await self._ask(_LATEST, {"person": person_id})
        if found.pop("rows") >= NEWEST_ROWS:
            await self._look_further_back(person_id, found)
        answer.update(found)
        for metric, told in answer["metrics"].items():
            told["unit"] = METRICS[metric].ucum if metric in METRICS else None
        return answer

    async def _look_further_back(self, person_id: str, found: dict[str, Any]) -> None:
        """What the newest rows do not tell: the hourly figures know the last hour that had it."""
        hours = await self._ask(_LAST_HOURS, {"person": person_id})
        for name, hour in hours.items():
            if hour is None or name in found["metrics"] or (name == "position" and found["position"] is not None):
                continue
            column, told = ("latitude", _POSITION) if name == "position" else (
                name, f"json_build_object('value', {name}, {_TIMES})",
            )  # fmt: skip
            row = await self._ask(
                f"SELECT {told}::text {_IN_HOUR} AND {column} IS NOT NULL ORDER BY effective_at DESC, seq DESC LIMIT 1",
                {"person": person_id, "hour": hour},
            )
            if row is None:
                continue
            if name == "position":
                found["position"] = row
            else:
                found["metrics"][name] = row

    async def series(
        self, person_id: str, metric: str, from_us: int, to_us: int, bucket_s: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Points from ``from_us`` until before ``to_us``, oldest first, at most ``limit`` (1 to 10,000).

        Raw: ``at``, ``value``, ``device_id``. With ``bucket_s`` (1 s to 31 days; buckets begin at multiples of it
        since 1970): ``at``, ``count``, ``min``, ``max``, ``mean``.
        """
        parameters = _span(person_id, from_us, to_us, limit)
        if metric in METRICS:
            value = metric
        elif metric.startswith("x_"):
            value = "(extra -> 'metrics' ->> %(metric)s)::double precision"
            parameters["metric"] = metric
        else:
            raise UsageError(f"unknown metric {metric!r}")
        if bucket_s is None:
            inner = (
                f"SELECT effective_at, seq, {value} AS value, device_id FROM observation WHERE {_WHERE}"
                f" AND {value} IS NOT NULL ORDER BY effective_at, seq LIMIT %(limit)s"
            )
            item = f"json_build_object('at', {_iso('effective_at')}, 'value', value, 'device_id', device_id)"
            order = "effective_at, seq"
        else:
            if not 1 <= bucket_s <= BUCKET_LIMIT_S:
                raise UsageError(f"bucket must be 1 to {BUCKET_LIMIT_S} seconds")
            parameters["bucket"] = bucket_s
            whole_hours = bucket_s % 3600 == 0 and from_us % HOUR_US == 0 and to_us % HOUR_US == 0
            inner = _rolled(metric) if whole_hours and metric in METRICS else _binned(value)
            item = f"json_build_object('at', {_iso('b')}, 'count', n, 'min', low, 'max', high, 'mean', mean)"
            order = "b"
        query = f"SELECT coalesce(json_agg({item} ORDER BY {order}), '[]')::text FROM ({inner}) AS o"
        return list(await self._ask(query, parameters))

    async def positions(self, person_id: str, from_us: int, to_us: int, limit: int) -> dict[str, Any]:
        """A GeoJSON FeatureCollection of points (RFC 7946: longitude first), oldest first, at most ``limit``."""
        features = await self._ask(_POSITIONS, _span(person_id, from_us, to_us, limit))
        return {"type": "FeatureCollection", "features": features}

    # ---- connections -------------------------------------------------------------------------------------------------

    async def _ask(self, query: str, parameters: Mapping[str, Any]) -> Any:
        """The JSON that the query's only column holds, None without a row."""
        try:
            async with asyncio.timeout(QUERY_LIMIT_S * 2), self._connection() as connection:
                cursor = await connection.execute(query.encode(), parameters)
                row = await cursor.fetchone()
        except TimeoutError as error:
            raise StorageError("the history is busy: no answer in time") from error
        except psycopg.errors.QueryCanceled as error:
            raise StorageError(f"the history needed more than {QUERY_LIMIT_S:g} s: ask for less") from error
        except psycopg.Error as error:
            raise StorageError(f"the history is away: {reason(error)}") from error
        return None if row is None else msgspec.json.decode(row[0])

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        async with self._slots:
            connection = await self._take()
            try:
                yield connection
            except BaseException:
                await connection.close()
                raise
            self._idle.append(connection)

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            try:
                await connection.execute("SELECT 1")  # PostgreSQL may have been restarted since
            except psycopg.Error:
                await connection.close()
            else:
                return connection
        dsn = self._dsn()
        if dsn is None:
            raise StorageError("the history is away: PostgreSQL is not running yet")
        connection = await psycopg.AsyncConnection.connect(
            dsn, autocommit=True, connect_timeout=5, application_name="carebell-queries"
        )
        timeout = f"SET statement_timeout = {round(QUERY_LIMIT_S * 1000)}"
        for statement in (*SESSION, "SET default_transaction_read_only = on", timeout):
            await connection.execute(statement.encode())
        return connection


_WHERE: Final = "person_id = %(person)s AND effective_at >= %(from)s AND effective_at < %(to)s"


def _span(person_id: str, from_us: int, to_us: int, limit: int) -> dict[str, Any]:
    if not 1 <= limit <= ROWS_LIMIT:
        raise UsageError(f"limit must be 1 to {ROWS_LIMIT}")
    if to_us <= from_us:
        raise UsageError("the end of the period must be after its beginning")
    try:
        return {"person": person_id, "from": clock.from_us(from_us), "to": clock.from_us(to_us), "limit": limit}
    except (OverflowError, ValueError, OSError) as error:
        raise UsageError("a time outside of the years 1 to 9999") from error


def _binned(value: str) -> str:
    return (
        f"SELECT date_bin(%(bucket)s * interval '1 second', effective_at, timestamptz 'epoch') AS b,"
        f" count({value}) AS n, min({value}) AS low, max({value}) AS high, avg({value}) AS mean"
        f" FROM observation WHERE {_WHERE} AND {value} IS NOT NULL GROUP BY 1 ORDER BY 1 LIMIT %(limit)s"
    )


def _rolled(metric: str) -> str:
    """The same from the hourly figures."""
    return (
        "SELECT date_bin(%(bucket)s * interval '1 second', hour, timestamptz 'epoch') AS b,"
        f" sum({metric}_count)::bigint AS n, min({metric}_min) AS low, max({metric}_max) AS high,"
        f" sum({metric}_sum) / sum({metric}_count) AS mean FROM observation_hour"
        " WHERE person_id = %(person)s AND hour >= %(from)s AND hour < %(to)s"
        f" AND {metric}_count > 0 GROUP BY 1 ORDER BY 1 LIMIT %(limit)s"
    )
