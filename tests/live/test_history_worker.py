"""The worker against a real PostgreSQL: every row once, whatever dies, and nothing bad blocks what stands behind it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import psycopg
import pytest

from gateway.errors import NewerSchemaError
from gateway.model import METRICS, Position
from gateway.storage.embedded import EmbeddedPostgres
from gateway.storage.history import schema, writer
from gateway.storage.history.copyrows import METRIC_COLUMNS, OBSERVATION_COLUMNS
from gateway.storage.history.dialect import Connection
from gateway.storage.history.process import HistoryProcess
from gateway.storage.history.reader import JournalReader
from gateway.storage.history.worker import Settings
from gateway.storage.history.writer import BookmarkMovedError, HistoryWriter
from tests.live.history_support import DAY_US, Journal, Server, connected, now_us, open_folder, record, rows, until

pytestmark = pytest.mark.live

TABLE = "SELECT count(*), count(DISTINCT seq), coalesce(min(seq), 0), coalesce(max(seq), 0) FROM observation"


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


@contextlib.asynccontextmanager
async def history(journal: Journal, dsn: str) -> AsyncIterator[HistoryProcess]:
    process = HistoryProcess(journal.path, lambda: dsn, "default", maintain_every_s=3600)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(process.run())
        try:
            yield process
        finally:
            running.cancel()
    assert process.pid is None


def test_a_record_arrives_whole(server: Server, journal: Journal) -> None:
    async def main() -> None:
        dsn, at = server.database(), now_us()
        every = {name: float(number) for number, name in enumerate(METRICS, 1)}
        journal.append(
            [
                record(
                    {**every, "x_mood": 3.5}, signals={"sos": True, "low_battery": False},
                    position=Position(39.1, 117.2, at - 5, 12.0), unknown={"key\0": ["\0", 1]},
                    at_us=at - 1, received_us=at,
                ),
                record({}, device="", person="", at_us=at + DAY_US, received_us=at),
                msgspec.structs.replace(record(), reading=None, fault="unreadable"),
            ]
        )  # fmt: skip
        view = {"id": "A-1", "kind": "sos", "severity": "P1", "raised_at": "2026-11-22T01:02:03.250Z"}
        journal.transition("A-1", 1, {**view, "handling": "raised"})
        journal.transition("A-1", 2, {**view, "handling": "accepted"}, action="accept")
        async with history(journal, dsn) as process:
            await until(lambda: process.bookmark() == 5, "everything is copied")
            await until(lambda: process.durable() == 5, "it is known to be on disk while nothing else happens")
            assert process.state() == (True, "copying")
            assert process.status().faults == 1
        with connected(dsn) as connection:
            cursor = connection.execute("SELECT * FROM observation ORDER BY seq")
            names = [column.name for column in cursor.description or ()]
            first, second = (dict(zip(names, row, strict=True)) for row in cursor.fetchall())
        assert {name: first[name] for name in METRICS} == every
        assert first["extra"] == {"metrics": {"x_mood": 3.5}, "unknown": {"key\ufffd": ["\ufffd", 1]}}
        assert (first["latitude"], first["longitude"], first["position_accuracy_m"]) == (39.1, 117.2, 12.0)
        assert first["effective_at"] == first["observed_at"] < first["received_at"]
        assert second["device_key"] == "imei-1"
        assert second["person_id"] is None
        assert second["observed_at"] > second["effective_at"] == second["received_at"]
        assert rows(dsn, "SELECT seq, signal, active FROM signal ORDER BY signal") == [
            (1, "low_battery", False), (1, "sos", True),
        ]  # fmt: skip
        assert rows(dsn, "SELECT id, version, handling, seq FROM alert") == [("A-1", 2, "accepted", 5)]
        assert rows(dsn, "SELECT seq, version, action, actor_id FROM alert_transition ORDER BY seq") == [
            (4, 1, "raise", "emergency"), (5, 2, "accept", "emergency"),
        ]  # fmt: skip

    asyncio.run(main())


def test_kill_9_in_the_middle_again_and_again(server: Server, journal: Journal) -> None:
    async def main() -> None:
        dsn = server.database()
        total = 0
        for _ in range(80):
            journal.append([record({"steps": float(total + number)}) for number in range(500)])
            total += 500
        async with history(journal, dsn) as process:
            for _ in range(4):
                bookmark = process.bookmark()
                await until(lambda seen=bookmark: process.bookmark() > seen and process.pid, "some progress")  # type: ignore[misc]
                assert process.pid is not None
                os.kill(process.pid, signal.SIGKILL)
                await until(lambda: not process.state()[0], "its death is seen")
                if process.bookmark() == total:  # it was faster than its murderer: there is more to do
                    journal.append([record({"steps": float(total + number)}) for number in range(500)])
                    total += 500
            await until(lambda: process.bookmark() == total, "everything is copied")
        assert rows(dsn, TABLE) == [(total, total, 1, total)]
        # Each row is the record of its number.
        assert rows(dsn, "SELECT count(*) FROM observation WHERE steps = seq - 1") == [(total,)]

    asyncio.run(main())


def test_postgresql_away_for_a_while(journal: Journal) -> None:
    async def main(folder: Path) -> None:
        postgres = EmbeddedPostgres(folder)
        dsn = await postgres.start()
        async with history(journal, dsn) as process:
            journal.append([record({"steps": 0.0})])
            await until(lambda: process.bookmark() == 1, "the first row")
            # A crash, not a shutdown: commits that were not flushed are gone, and the bookmark with them.
            journal.append([record({"steps": 1.0})])
            await until(lambda: process.bookmark() == 2, "the second row")
            os.kill(int((folder / "postgresql/data/postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            for number in range(2, 300):
                journal.append([record({"steps": float(number)})])
            await until(lambda: not process.state()[0], "the outage is told")
            await postgres.stop()
            await postgres.start()
            await until(lambda: process.bookmark() == 300, "the backlog is copied")
            assert process.state()[0]
        assert rows(dsn, TABLE) == [(300, 300, 1, 300)]
        assert rows(dsn, "SELECT count(*) FROM observation WHERE steps = seq - 1") == [(300,)]
        await postgres.stop()

    with open_folder() as folder:
        asyncio.run(main(folder))


def test_damage_and_poison_do_not_block(server: Server, journal: Journal) -> None:
    """A batch with a wrong checksum, and readings that PostgreSQL cannot hold."""

    async def main() -> None:
        dsn = server.database()
        journal.append([record({"steps": 1.0})])
        bad = journal.append([record({"steps": 2.0})])
        with journal.connection:
            journal.connection.execute("UPDATE batch SET checksum = checksum + 1 WHERE first_seq = ?", (bad,))
        journal.append(
            [record(person="P\0", device="D\0", unknown={"a": "\0"}), record(received_us=2**62), record({"steps": 5.0})]
        )
        journal.transition("A-\0", 1, {"kind": "\0", "raised_at": "yesterday", "note": "\0"})
        async with history(journal, dsn) as process:
            await until(lambda: process.bookmark() == 6, "everything is copied")
            assert process.status().refused == 2
            assert process.state()[0]
        assert rows(dsn, "SELECT seq, person_id FROM observation ORDER BY seq") == [
            (1, "P-0001"), (3, "P\ufffd"), (5, "P-0001"),
        ]  # fmt: skip
        assert rows(dsn, "SELECT first_seq, last_seq FROM refused ORDER BY first_seq") == [(2, 2), (4, 4)]
        assert rows(dsn, "SELECT id, kind FROM alert") == [("A-\ufffd", "\ufffd")]

    asyncio.run(main())


def test_rows_that_postgresql_refuses_are_found_one_by_one(server: Server, journal: Journal) -> None:
    """Poison that our own checks do not know of: a trigger that refuses some values stands for it."""
    dsn = server.database()
    poison = {7, 8, 99, 200}
    journal.append([record({"steps": float(number)}) for number in range(1, 201)])
    journal.transition("A-1", 1, {})
    with connected(dsn) as connection:
        dialect = schema.migrate(connection)
        connection.execute(
            "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            f" IF NEW.seq IN ({', '.join(map(str, poison))}) THEN RAISE SQLSTATE '22P05' USING MESSAGE = 'poison';"
            " END IF; RETURN NEW; END $$".encode()
        )
        connection.execute("CREATE TRIGGER poison BEFORE INSERT ON observation FOR EACH ROW EXECUTE FUNCTION poison()")
        history_writer = HistoryWriter(connection, dialect, "default")
        reader = JournalReader(journal.path)
        refused = history_writer.write(history_writer.pack(reader.after(0, 1000)))
        reader.close()
        assert refused == 4
        assert set(rows(dsn, "SELECT first_seq FROM refused")) == {(seq,) for seq in poison}
        assert HistoryWriter(connection, dialect, "default").bookmark == 201
    assert rows(dsn, TABLE) == [(196, 196, 1, 199)]


def test_two_workers_of_one_site_cannot_both_write(server: Server, journal: Journal) -> None:
    dsn = server.database()
    journal.append([record({"steps": 1.0})])
    with connected(dsn) as one, connected(dsn) as other:
        dialect = schema.migrate(one)
        first, second = HistoryWriter(one, dialect, "default"), HistoryWriter(other, schema.migrate(other), "default")
        reader = JournalReader(journal.path)
        part = reader.after(0, 1000)
        reader.close()
        first.write(first.pack(part))
        with pytest.raises(BookmarkMovedError):
            second.write(second.pack(part))
        # Another site has its own numbers.
        third = HistoryWriter(other, schema.migrate(other), "elsewhere")
        third.write(third.pack(part))
    assert rows(dsn, "SELECT name, bookmark FROM site ORDER BY name") == [("default", 1), ("elsewhere", 1)]
    assert rows(dsn, "SELECT count(*), count(DISTINCT site_id) FROM observation") == [(2, 2)]


def test_an_unknown_commit_is_settled_by_the_bookmark(server: Server, journal: Journal) -> None:
    """The server commits and the connection breaks before we hear of it."""
    dsn = server.database()
    journal.append([record({"steps": 1.0})])
    reader = JournalReader(journal.path)
    with connected(dsn) as connection, connected(dsn) as killer:
        dialect = schema.migrate(connection)
        history_writer = HistoryWriter(connection, dialect, "default")

        def breaking(on: Connection, table: str, columns: object, packed: object) -> None:
            writer.copy_rows(on, table, OBSERVATION_COLUMNS, packed)  # type: ignore[arg-type]
            on.execute("UPDATE site SET bookmark = 1")
            on.execute("COMMIT")  # behind the writer's back: done, but the writer will not know
            killer.execute("SELECT pg_terminate_backend(%s)", (on.info.backend_pid,))

        broken = HistoryWriter(connection, dialect, "default", insert=breaking)
        assert broken.bookmark == history_writer.bookmark == 0
        with pytest.raises(psycopg.OperationalError):
            broken.write(broken.pack(reader.after(0, 1000)))
    with connected(dsn) as connection:
        again = HistoryWriter(connection, schema.migrate(connection), "default")
        part = reader.after(again.bookmark, 1000)
        assert part.last_seq == part.after == 1
    reader.close()
    assert rows(dsn, TABLE) == [(1, 1, 1, 1)]


def test_a_newer_schema_is_refused_and_left_alone(server: Server, journal: Journal) -> None:
    async def main() -> None:
        dsn = server.database()
        with connected(dsn) as connection:
            schema.migrate(connection)
            schema.migrate(connection)  # again: nothing to do
            connection.execute("UPDATE schema_version SET version = 99")
            with pytest.raises(NewerSchemaError, match="99"):
                schema.migrate(connection)
        journal.append([record()])
        async with history(journal, dsn) as process:
            await until(lambda: "version 99" in process.state()[1], "the worker says why")
            assert not process.state()[0]
        assert rows(dsn, "SELECT count(*) FROM observation") == [(0,)]

    asyncio.run(main())


def test_a_history_of_another_journal_is_refused(server: Server, journal: Journal) -> None:
    async def main() -> None:
        dsn = server.database()
        journal.append([record()])
        with connected(dsn) as connection:
            HistoryWriter(connection, schema.migrate(connection), "default")
            connection.execute("UPDATE site SET bookmark = 500")
        async with history(journal, dsn) as process:
            await until(lambda: "the journal ends at 1" in process.state()[1], "the worker says why")
            assert not process.state()[0]

    asyncio.run(main())


def test_kill_9_of_the_daemon_takes_the_worker_along(server: Server, journal: Journal, tmp_path: Path) -> None:
    dsn = server.database()
    script = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom gateway.storage.history.process import HistoryProcess\n"
        "process = HistoryProcess(Path(sys.argv[1]), lambda: sys.argv[2], 'default')\n"
        "async def tell():\n while process.bookmark() < 1: await asyncio.sleep(0.02)\n print(process.pid, flush=True)\n"
        "async def main():\n async with asyncio.TaskGroup() as g:\n"
        "  g.create_task(process.run()); g.create_task(tell())\n"
        "asyncio.run(main())\n"
    )
    journal.append([record()])
    daemon = subprocess.Popen([sys.executable, "-c", script, str(journal.path), dsn], stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    line = ""
    while not line.strip().isdigit():
        line = daemon.stdout.readline()
        assert line
    daemon.kill()
    daemon.wait()
    daemon.stdout.close()
    worker = Path("/proc") / line.strip()
    deadline = time.monotonic() + 60
    with contextlib.suppress(OSError):  # it went while we looked
        while "Z" not in (worker / "stat").read_text().rpartition(")")[2].split()[0]:
            assert time.monotonic() < deadline, "the worker outlived its daemon"
            time.sleep(0.02)


def test_settings_do_not_appear_in_the_command_line() -> None:
    assert "dsn" in {field.name for field in msgspec.structs.fields(Settings)}
    assert set(METRIC_COLUMNS) <= set(OBSERVATION_COLUMNS)
