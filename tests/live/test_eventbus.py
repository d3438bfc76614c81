"""The event bus on a real Redis that is killed, emptied and started again (contracts, section 4)."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

from gateway.clock import SystemClock
from gateway.feeding import open_redis
from gateway.live_states import LiveStates
from gateway.model import Committed, Record
from gateway.storage import eventbus, eventbus_state, journal
from gateway.storage.eventbus import BOOKMARK, DEVICES, STREAM, EventBus, partition_of
from gateway.storage.feed import JournalFeed
from tests.factory import T0_US, record
from tests.live.api_harness import FileStore
from tests.live.http_harness import run, until
from tests.live.redis_server import RedisServer, redis_server

pytestmark = pytest.mark.live
PARTITIONS = 4


@dataclass
class World:
    store: FileStore
    feed: JournalFeed
    bus: EventBus
    live: LiveStates
    server: RedisServer
    client: Any

    async def commit(self, *records: Record) -> int:
        first = await self.store.write(lambda c: journal.insert(c, list(records)))
        last = first + len(records) - 1
        self.feed.committed(last)
        return last

    async def people(self, count: int, *, start: int = 0) -> int:
        """A record of each of so many people; returns the last number."""
        found = [record(start + number) for number in range(count)]
        for number, each in enumerate(found):
            each.person_id, each.device_id = f"P-{number}", f"D-{number}"
        return await self.commit(*found)

    async def expected(self) -> list[str]:
        """The id of every event of the journal."""
        found: list[str] = []
        while events := await self.feed.after(int(found[-1].partition("-")[0]) if found else 0, 1000):
            found += [event["id"] for event in events]
        return found

    def streams(self) -> dict[str, list[tuple[str, dict[str, Any]]]]:
        return {
            key: [(entry, json.loads(fields["event"])) for entry, fields in self.client.xrange(key)]
            for key in (f"{STREAM}{number}" for number in range(PARTITIONS))
        }

    def ids(self) -> list[str]:
        return sorted((entry for rows in self.streams().values() for entry, _ in rows), key=place)


def place(event_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in event_id.split("-"))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(eventbus, "MAINTAIN_S", 0.05)
    monkeypatch.setattr(eventbus, "PAUSE_FIRST_S", 0.02)
    monkeypatch.setattr(eventbus, "PAUSE_MAX_S", 0.1)
    with redis_server(tmp_path / "redis") as it:
        yield it


@asynccontextmanager
async def world(folder: Path, server: RedisServer, **options: Any) -> AsyncIterator[World]:
    store, clock = FileStore(folder), SystemClock()
    feed = JournalFeed(store, "default")
    live = LiveStates(clock, lambda _device: 600.0)
    settings: dict[str, Any] = {"partitions": PARTITIONS, "max_entries": 1000, "republish_hours": 1e6} | options
    bus = EventBus(
        feed=feed, store=store, clock=clock, site="default", connect=open_redis(server.url), live=live, **settings
    )
    it = World(store, feed, bus, live, server, server.client())
    feed.committed(await store.read(journal.last_seq))
    async with asyncio.TaskGroup() as group:
        task = group.create_task(bus.run())
        try:
            yield it
        finally:
            task.cancel()
    it.client.close()
    async with asyncio.timeout(60):
        while True:
            try:
                store.connection.close()
                break
            except apsw.ThreadingViolationError:  # a read whose task was cancelled is still on its way
                await asyncio.sleep(0.01)


def published(it: World, seq: int) -> Callable[[], bool]:
    return lambda: it.bus.seq >= seq and it.bus.state()[0]


def test_events_are_in_their_persons_partition_under_their_own_ids(tmp_path: Path, server: RedisServer) -> None:
    async def main() -> None:
        async with world(tmp_path / "j", server) as it:
            last = await it.people(50)
            await until(published(it, last))
            expected = await it.expected()
            assert it.ids() == expected
            for key, rows in it.streams().items():
                assert [entry for entry, _ in rows] == sorted((entry for entry, _ in rows), key=place)
                for entry, event in rows:
                    assert entry == event["id"]
                    assert key == f"{STREAM}{partition_of(event, PARTITIONS)}"
            assert it.client.hget(BOOKMARK, "seq") == str(last)
            assert it.client.hget(BOOKMARK, "partitions") == str(PARTITIONS)

    run(main())


def test_redis_away_loses_nothing_and_holds_nobody(tmp_path: Path, server: RedisServer) -> None:
    async def main() -> None:
        async with world(tmp_path / "j", server) as it:
            await until(published(it, await it.people(5)))
            server.kill()
            for number in range(20):
                last = await it.people(5, start=number * 5)  # commits go on
            await until(lambda: not it.bus.state()[0])
            assert "away" in it.bus.state()[1]
            assert "wait" in it.bus.state()[1]
            server.start()
            await until(published(it, last))
            assert it.ids() == await it.expected()
            assert it.bus.republished == 0

    run(main())


@pytest.mark.parametrize("how", ["flushall", "one stream", "the bookmark", "an old copy"])
def test_what_redis_lost_is_published_again(tmp_path: Path, server: RedisServer, how: str) -> None:
    async def main() -> None:
        async with world(tmp_path / "j", server) as it:
            await until(published(it, await it.people(20)))
            if how == "an old copy":
                server.kill()
                shutil.copytree(server.folder, tmp_path / "copy")
                server.start()
            await until(published(it, await it.people(20)))
            if how == "flushall":
                it.client.flushall()
            elif how == "one stream":
                it.client.delete(f"{STREAM}1")
            elif how == "the bookmark":
                it.client.delete(BOOKMARK)
            else:
                server.kill()
                shutil.rmtree(server.folder)
                shutil.copytree(tmp_path / "copy", server.folder)
                server.start()
            expected = await it.expected()
            async with asyncio.timeout(60):
                while it.ids() != expected:  # each id once, although most were published twice
                    await asyncio.sleep(0.02)
            await until(published(it, await it.people(3)))
            assert it.ids() == await it.expected()

    run(main())


def test_a_gateway_that_was_killed_goes_on_where_redis_is(tmp_path: Path, server: RedisServer) -> None:
    async def main() -> None:
        async with world(tmp_path / "j", server) as it:
            await until(published(it, await it.people(10)))
        async with world(tmp_path / "j", server) as it:
            await it.people(10)
            await until(published(it, 20))
            assert it.ids() == await it.expected()
            assert it.bus.published == 10  # not the others again

    run(main())


def test_streams_of_somebody_else_are_left_alone(tmp_path: Path, server: RedisServer) -> None:
    async def main() -> None:
        async with world(tmp_path / "j", server) as it:
            await until(published(it, await it.people(3)))
            before = it.ids()
        async with world(tmp_path / "k", server) as other:
            await other.people(3)
            await until(lambda: "another journal" in other.bus.state()[1])
            assert other.ids() == before

    run(main())


def test_trimming_never_passes_what_a_group_has_not_finished(tmp_path: Path, server: RedisServer) -> None:
    async def main() -> None:
        async with world(tmp_path / "j", server, partitions=1, max_entries=10) as it:
            await until(published(it, await it.people(5)))
            key = f"{STREAM}0"
            it.client.xgroup_create(key, "slow", id="0")
            (_, entries), *_ = it.client.xreadgroup("slow", "c", {key: ">"}, count=3)
            await until(published(it, await it.people(60)))
            await until(lambda: it.bus.behind == 65)
            await asyncio.sleep(0.2)
            assert it.client.xlen(key) == 65, "the group has finished nothing"
            it.client.xack(key, "slow", entries[0][0], entries[1][0])
            await until(lambda: it.client.xinfo_stream(key)["first-entry"][0] == entries[2][0])
            while found := it.client.xreadgroup("slow", "c", {key: ">"}, count=100):
                it.client.xack(key, "slow", *(entry for entry, _ in found[0][1]))
            it.client.xack(key, "slow", entries[2][0])
            await until(lambda: it.client.xlen(key) == 10)
            assert it.bus.state()[0]

    run(main())


def test_the_live_state_is_in_redis(tmp_path: Path, server: RedisServer) -> None:
    async def main() -> None:
        async with world(tmp_path / "j", server) as it:
            each = record(1)
            await it.commit(each)
            it.live.observe(Committed(1, [each]))
            await until(lambda: bool(it.client.hget(DEVICES, "D-0001")))
            told = json.loads(it.client.hget(DEVICES, "D-0001") or "")
            assert told["readings"]["heart_rate_bpm"][0] == 61
        async with world(tmp_path / "j", server) as it:
            await until(lambda: it.live.device("D-0001")["last_seq"] == 1)
            assert it.live.person("P-0001")["readings"]["heart_rate_bpm"]["value"] == 61

    run(main())


def test_the_reference_consumer_handles_each_event_once(tmp_path: Path, server: RedisServer) -> None:
    path = Path(__file__).resolve().parents[2] / "docs" / "consumer.py"
    spec = importlib.util.spec_from_file_location("reference_consumer", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    async def main() -> None:
        async with world(tmp_path / "j", server) as it:
            await until(published(it, await it.people(30)))
            seen = module.Seen(str(tmp_path / "consumer.sqlite3"))
            failures = iter([True])

            def handle(stream: str, event: dict[str, Any]) -> None:
                seen.store(stream, event)
                if event["id"] == "17-0" and next(failures, False):
                    raise RuntimeError("the backend's database is away")

            consumer = module.Consumer(server.url, "backend", "b-1", seen, handle)

            async def drain() -> None:
                idle = 0
                while idle < 3:
                    try:
                        idle = 0 if await asyncio.to_thread(consumer.poll, 20) else idle + 1
                    except RuntimeError:
                        idle = 0

            await drain()
            await until(published(it, await it.people(10)))
            await drain()
            it.client.flushall()
            expected = await it.expected()
            async with asyncio.timeout(60):
                while it.ids() != expected:
                    await asyncio.sleep(0.02)
            last = await it.people(10)
            await until(published(it, last))
            await drain()
            rows = seen.database.execute("SELECT id FROM event").fetchall()  # its primary key: twice would have failed
            found = sorted((row[0] for row in rows), key=place)
            assert found == await it.expected()
            consumer.client.close()
            seen.database.close()

    run(main())


def test_the_number_before_a_time(tmp_path: Path) -> None:
    async def main() -> None:
        store = FileStore(tmp_path)
        for number in range(1, 40):
            await store.write(
                lambda c, n=number: journal.insert(c, [record(k, at_us=T0_US + n * 1_000_000) for k in range(3)])  # type: ignore[misc]
            )
        for number in range(42):
            found = await store.read(lambda c, n=number: eventbus_state.seq_before(c, T0_US + n * 1_000_000))  # type: ignore[misc]
            exact = 3 * max(0, min(number - 1, 39))
            assert exact - 2 <= found <= exact  # never behind it; it may lie within a commit
        assert await store.write(eventbus_state.identity) == await store.write(eventbus_state.identity)
        store.connection.close()

    run(main())
