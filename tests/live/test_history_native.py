"""Partitions, roll-ups and retention on PostgreSQL alone, and the questions behind the API."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import iso
from gateway.errors import StorageError, UsageError
from gateway.model import METRICS, Position, Record
from gateway.storage.history import maintenance, queries, schema
from gateway.storage.history.queries import PostgresHistory
from gateway.storage.history.reader import JournalReader
from gateway.storage.history.writer import HistoryWriter
from tests.live.history_support import DAY_US, HOUR_US, MINUTE_US, Journal, Server, connected, now_us, record, rows

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    filled = Journal(tmp_path)
    yield filled
    filled.close()


def copy(journal: Journal, dsn: str) -> None:
    """All of the journal, without a process."""
    reader = JournalReader(journal.path)
    with connected(dsn) as connection:
        writer = HistoryWriter(connection, schema.migrate(connection), "default")
        while (part := reader.after(writer.bookmark, 1000)).last_seq > part.after:
            assert writer.write(writer.pack(part)) == 0
    reader.close()


def partitions(dsn: str) -> list[str]:
    found = rows(dsn, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'observation'::regclass")
    return sorted(name for (name,) in found)


def name_of(at_us: int) -> str:
    return f"observation_p{datetime.fromtimestamp(at_us // 1_000_000, UTC):%Y%m%d}"


def test_partitions_are_made_as_needed_and_mad_clocks_make_none(server: Server, journal: Journal) -> None:
    dsn, now = server.database(), now_us()
    old = now - 20 * DAY_US
    journal.append(
        [
            record({"steps": 1}, at_us=now, received_us=now),
            record({"steps": 2}, at_us=now - 5 * DAY_US, received_us=now),  # buffered by the device
            record({"steps": 3}, at_us=0, received_us=now),  # clock never set
            record({"steps": 4}, at_us=now + 400 * DAY_US, received_us=now),  # clock ahead
            record({"steps": 5}, at_us=2**62, received_us=now),  # no time at all
            record({"steps": 6}, at_us=old, received_us=old),
        ]
    )
    copy(journal, dsn)
    assert partitions(dsn) == sorted({name_of(now), name_of(now - 5 * DAY_US), name_of(old)})
    assert [at for (at,) in rows(dsn, "SELECT effective_at = received_at FROM observation ORDER BY seq")] == [
        True, False, True, True, True, True,
    ]  # fmt: skip
    before = now_us()
    maintenance.once(dsn, "native", 10)
    assert partitions(dsn) in [
        sorted({name_of(now), name_of(now - 5 * DAY_US), name_of(today), name_of(today + DAY_US)})
        for today in (before, now_us())  # another day, when midnight came between
    ]
    assert rows(dsn, "SELECT count(*) FROM observation") == [(5,)]


def an_hour_of_each(person: str, hour_us: int, count: int, dice: random.Random) -> list[Record]:
    return [
        record(
            {"heart_rate_bpm": dice.uniform(50, 120), **({"spo2_percent": 97.0} if dice.random() < 0.3 else {})},
            person=person, at_us=(at := hour_us + dice.randrange(HOUR_US)), received_us=at + 1,
        )
        for _ in range(count)
    ]  # fmt: skip


HOURLY = (
    "SELECT extract(epoch FROM hour)::bigint, person_id, metric, count, min, max, round(mean::numeric, 6)"
    " FROM metric_hour ORDER BY 1, 2, 3"
)
BY_HAND = (
    "SELECT extract(epoch FROM date_trunc('hour', effective_at))::bigint, person_id, v.metric, count(*), min(value),"
    " max(value), round(avg(value)::numeric, 6) FROM observation,"
    " LATERAL (VALUES ('heart_rate_bpm', heart_rate_bpm), ('spo2_percent', spo2_percent)) AS v (metric, value)"
    " WHERE value IS NOT NULL AND person_id IS NOT NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"
)


def test_hourly_figures_are_whole_before_and_after_the_roll_up(server: Server, journal: Journal) -> None:
    dsn, dice = server.database(), random.Random(5)
    this_hour = (now_us() + 10 * MINUTE_US) // HOUR_US * HOUR_US  # it does not end while we look
    for back in (3, 2, 0):
        for person in ("P-0001", "P-0002", ""):
            journal.append(an_hour_of_each(person, this_hour - back * HOUR_US, 20, dice))
    copy(journal, dsn)
    assert rows(dsn, HOURLY) == rows(dsn, BY_HAND)
    assert maintenance.once(dsn, "native", 0) == 2
    assert rows(dsn, "SELECT count(*) FROM dirty_hour") == [(1,)]  # the hour that is not over
    assert rows(dsn, "SELECT count(*) FROM rolled_hour") == [(4,)]
    assert rows(dsn, HOURLY) == rows(dsn, BY_HAND)
    # Late rows change an hour that was rolled up already.
    journal.append(an_hour_of_each("P-0001", this_hour - 3 * HOUR_US, 5, dice))
    copy(journal, dsn)
    assert rows(dsn, HOURLY) == rows(dsn, BY_HAND)
    assert maintenance.once(dsn, "native", 0) == 1
    assert rows(dsn, HOURLY) == rows(dsn, BY_HAND)


def test_figures_outlive_their_rows(server: Server, journal: Journal) -> None:
    dsn, dice = server.database(), random.Random(7)
    hour = now_us() // HOUR_US * HOUR_US
    for back_days in (100, 40, 1):
        journal.append(an_hour_of_each("P-0001", hour - back_days * DAY_US, 5, dice))
    copy(journal, dsn)
    expected = rows(dsn, BY_HAND)
    assert maintenance.once(dsn, "native", 0) == 3
    maintenance.once(dsn, "native", 30)
    assert rows(dsn, "SELECT count(*) FROM observation") == [(5,)]
    assert rows(dsn, HOURLY) == expected
    maintenance.once(dsn, "native", 10)  # figures are kept for 50 days then
    assert rows(dsn, HOURLY) == [row for row in expected if row[0] * 1_000_000 > hour - 50 * DAY_US]
    # A row that comes for a day that is gone does not overwrite its figures.
    journal.append(an_hour_of_each("P-0001", hour - 40 * DAY_US, 1, dice))
    copy(journal, dsn)
    maintenance.once(dsn, "native", 10)
    assert rows(dsn, HOURLY) == [row for row in expected if row[0] * 1_000_000 > hour - 50 * DAY_US]


def test_rows_that_come_during_a_roll_up_are_not_forgotten(server: Server, journal: Journal) -> None:
    dsn, dice = server.database(), random.Random(6)
    hour = now_us() // HOUR_US * HOUR_US - 5 * HOUR_US
    journal.append(an_hour_of_each("P-0001", hour, 5, dice))
    copy(journal, dsn)
    with connected(dsn) as connection:
        dialect = schema.migrate(connection)
        [(text, mark)] = rows(dsn, "SELECT hour::text, mark FROM dirty_hour")
        journal.append(an_hour_of_each("P-0001", hour, 5, dice))
        copy(journal, dsn)  # between looking and rolling up
        dialect._roll(connection, text, mark)  # type: ignore[union-attr]
    assert rows(dsn, "SELECT count(*) FROM dirty_hour") == [(1,)]
    assert rows(dsn, HOURLY) == rows(dsn, BY_HAND)


# ---- questions -------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "QUERY_LIMIT_S", 60.0)


def ask(dsn: str | None, question: Any) -> Any:
    async def main() -> Any:
        history = PostgresHistory(lambda: dsn)
        try:
            return await question(history)
        finally:
            await history.close()

    return asyncio.run(main())


def test_latest(server: Server, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    dsn, now = server.database(), now_us()
    long_ago = now - 40 * HOUR_US
    journal.append(
        [
            record({"weight_kg": 61.5}, at_us=long_ago, received_us=long_ago, device="D-0009",
                   position=Position(39.0, 117.0, long_ago, 8.0)),
            record({"heart_rate_bpm": 70, "x_mood": 2}, at_us=now - 9 * MINUTE_US, received_us=now),
            record({"heart_rate_bpm": 75}, at_us=now - 8 * MINUTE_US, received_us=now, signals={"sos": True}),
            record({"heart_rate_bpm": 65}, at_us=now - DAY_US, received_us=now),  # buffered: newer row, older value
            record({"heart_rate_bpm": 99}, person="P-0002", received_us=now),
            record({}, at_us=now - MINUTE_US, received_us=now, signals={"sos": False}),
        ]
    )  # fmt: skip
    copy(journal, dsn)
    for newest in (1000, 3):  # 3: all that is older must be found by the hourly figures
        monkeypatch.setattr(queries, "NEWEST_ROWS", newest)
        monkeypatch.setattr(queries, "_LATEST", queries._LATEST.replace("LIMIT 1000", f"LIMIT {newest}"))
        told = ask(dsn, lambda history: history.latest("P-0001"))
        assert told["person_id"] == "P-0001"
        assert {name: one["value"] for name, one in told["metrics"].items()} == {
            "heart_rate_bpm": 75, "weight_kg": 61.5, "x_mood": 2,
        }  # fmt: skip
        heart_rate = told["metrics"]["heart_rate_bpm"]
        assert heart_rate["unit"] == METRICS["heart_rate_bpm"].ucum
        assert heart_rate["at"] == iso(now - 8 * MINUTE_US)
        assert heart_rate["received_at"] == iso(now)
        assert told["metrics"]["weight_kg"]["device_id"] == "D-0009"
        assert told["signals"]["sos"]["active"] is False
        assert told["position"]["latitude"] == 39.0
        assert told["position"]["at"] == iso(long_ago)
    empty = ask(dsn, lambda history: history.latest("nobody"))
    assert empty == {"person_id": "nobody", "metrics": {}, "signals": {}, "position": None}


def test_series_raw_and_bucketed(server: Server, journal: Journal) -> None:
    dsn = server.database()
    start = (now_us() - 6 * HOUR_US) // HOUR_US * HOUR_US
    values = [float(50 + number) for number in range(60)]
    journal.append(
        [
            record(
                {"heart_rate_bpm": value, "x_odd": value}, at_us=start + 4 * number * MINUTE_US, received_us=now_us()
            )
            for number, value in enumerate(values)
        ]
    )
    copy(journal, dsn)

    def series(metric: str, to_us: int, bucket_s: int | None, limit: int = 1000) -> Any:
        return ask(dsn, lambda history: history.series("P-0001", metric, start, to_us, bucket_s, limit))

    for metric in ("heart_rate_bpm", "x_odd"):
        points = series(metric, start + 40 * MINUTE_US, None)
        assert [point["value"] for point in points] == values[:10]
        assert points[1] == {"at": iso(start + 4 * MINUTE_US), "value": 51, "device_id": "D-0001"}
        assert [point["value"] for point in series(metric, start + DAY_US, None, 3)] == values[:3]
        expected = [
            {"at": iso(start + hour * HOUR_US), "count": 15, "min": part[0], "max": part[-1], "mean": sum(part) / 15}
            for hour in range(4)
            for part in [values[15 * hour : 15 * hour + 15]]
        ]
        assert series(metric, start + DAY_US, 3600) == expected
        maintenance.once(dsn, "native", 0)
        assert series(metric, start + DAY_US, 3600) == expected
        assert series(metric, start + DAY_US, 3600, 2) == expected[:2]
        assert series(metric, start + DAY_US - 1, 3600) == expected  # not whole hours: from the rows
        assert [bucket["count"] for bucket in series(metric, start + HOUR_US, 1200)] == [5, 5, 5]
    assert series("steps", start + DAY_US, None) == []


def test_positions_are_geojson(server: Server, journal: Journal) -> None:
    dsn, now = server.database(), now_us()
    for number in range(3):
        place = Position(39.0 + number, 117.0, now - 9, None, "wifi", valid=number > 0)
        journal.append([record(position=place, at_us=now - 9 + number, received_us=now)])
    journal.append([record({"steps": 1})])
    copy(journal, dsn)
    told = ask(dsn, lambda history: history.positions("P-0001", now - HOUR_US, now + HOUR_US, 2))
    assert told["type"] == "FeatureCollection"
    assert [one["geometry"] for one in told["features"]] == [
        {"type": "Point", "coordinates": [117.0, 39.0]}, {"type": "Point", "coordinates": [117.0, 40.0]},
    ]  # fmt: skip
    assert [one["properties"]["valid"] for one in told["features"]] == [False, True]
    assert told["features"][0]["properties"]["source"] == "wifi"


@pytest.mark.parametrize(
    ("metric", "from_us", "to_us", "bucket_s", "limit"),
    [
        ("heart_rate", 0, 1, None, 10),
        ("x_'; DROP TABLE observation", 5, 5, None, 10),
        ("steps", 0, 1, None, 0),
        ("steps", 0, 1, None, 10_001),
        ("steps", 0, 1, 0, 10),
        ("steps", 0, 1, 10**9, 10),
        ("steps", 0, 10**30, None, 10),
    ],
)
def test_what_cannot_be_asked(
    server: Server, metric: str, from_us: int, to_us: int, bucket_s: int | None, limit: int
) -> None:
    with pytest.raises(UsageError):
        ask(server.base, lambda history: history.series("P-0001", metric, from_us, to_us, bucket_s, limit))


def test_a_database_that_is_away_or_empty(server: Server, tmp_path: Path) -> None:
    for dsn in (None, f"host={tmp_path} dbname=none", server.database()):
        with pytest.raises(StorageError):
            ask(dsn, lambda history: history.latest("P-0001"))


def test_connections_are_bounded_and_survive_a_restart(server: Server, journal: Journal) -> None:
    async def main() -> None:
        dsn = server.database()
        journal.append([record({"steps": 1})])
        copy(journal, dsn)
        history = PostgresHistory(lambda: dsn)
        async with asyncio.TaskGroup() as group:
            for _ in range(30):
                group.create_task(history.latest("P-0001"))
        ours = "FROM pg_stat_activity WHERE application_name = 'carebell-queries' AND datname = current_database()"
        assert 1 <= rows(dsn, f"SELECT count(*) {ours}")[0][0] <= queries.CONNECTIONS
        rows(dsn, f"SELECT pg_terminate_backend(pid, 60000) {ours}")
        assert (await history.latest("P-0001"))["metrics"]["steps"]["value"] == 1
        await history.close()

    asyncio.run(main())
