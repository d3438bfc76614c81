"""The journal's rows, its writer thread, and what happens when the file or the disk is not what it should be."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import apsw
import pytest
from structlog.testing import capture_logs

from gateway import audit
from gateway.errors import NewerSchemaError, StorageBrokenError, StorageError
from gateway.model import Actor, Committed
from gateway.storage import integrity, journal
from gateway.storage.database import FILE_NAME, open_database
from gateway.storage.writer import JournalWriter
from tests.factory import T0_US, record
from tests.power_cut import LossyVFS


def insert(connection: apsw.Connection, *numbers: int) -> int:
    connection.execute("BEGIN IMMEDIATE")
    seq = journal.insert(connection, [record(number) for number in numbers])
    connection.execute("COMMIT")
    return seq


def read_all(connection: apsw.Connection, seq: int = 0) -> list[int]:
    numbers = []
    for part in journal.read_after(connection, seq, 1000):
        assert isinstance(part, Committed)
        numbers += [part.first_seq + offset for offset in range(len(part.records))]
    return numbers


def test_records_come_back_as_they_were_and_in_order(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    assert insert(connection, 1, 2, 3) == 1
    assert insert(connection, 4) == 4
    parts = list(journal.read_after(connection, 0))
    assert [part.records for part in parts if isinstance(part, Committed)] == [
        [record(1), record(2), record(3)],
        [record(4)],
    ]
    for seq in range(5):
        assert read_all(connection, seq) == list(range(seq + 1, 5))


def test_audit_rows_share_the_sequence(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    insert(connection, 1, 2)
    with connection:
        seq = audit.append(connection, at_us=T0_US, actor=Actor("system", "test"), action="noted", subject="key/1")
    assert seq == 3
    assert insert(connection, 3) == 4
    assert journal.last_seq(connection) == 4
    assert read_all(connection, 1) == [2, 4]
    assert list(audit.verify(connection)) == []
    connection.execute("UPDATE audit SET body = replace(body, 'noted', 'moved')")
    assert "was changed" in next(iter(audit.verify(connection)))


def test_a_removed_audit_row_is_noticed(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    for number in range(3):
        with connection:
            audit.append(connection, at_us=T0_US, actor=Actor("system", "t"), action="a", subject=f"key/{number}")
    connection.execute("DELETE FROM audit WHERE seq = 2")
    assert list(audit.verify(connection)) == [
        "audit row 3 does not follow the row before it: one or more rows were removed or replaced"
    ]


def test_a_damaged_row_is_named_and_does_not_hide_the_ones_behind_it(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    insert(connection, 1, 2)
    insert(connection, 3)
    connection.execute("UPDATE batch SET body = zeroblob(length(body)) WHERE first_seq = 1")
    damaged, whole = journal.read_after(connection, 0)
    assert isinstance(damaged, journal.CorruptBatch)
    assert (damaged.first_seq, damaged.last_seq) == (1, 2)
    assert isinstance(whole, Committed)


def test_retention_waits_for_the_slowest_reader_and_keeps_the_newest_row(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    for number in range(1, 11):
        insert(connection, number)
    everything = {"older_than_us": T0_US * 2, "max_bytes": 1 << 40}
    assert journal.prune(connection, **everything) == 0, "without readers nothing is finished"
    journal.set_reader(connection, "rules", 10, T0_US)
    journal.set_reader(connection, "history", 4, T0_US)
    assert journal.prune(connection, **everything) == 4
    assert read_all(connection) == [5, 6, 7, 8, 9, 10]
    journal.set_reader(connection, "history", 10, T0_US)
    assert journal.prune(connection, older_than_us=0, max_bytes=1 << 40) == 0, "neither old nor too many"
    assert journal.prune(connection, older_than_us=0, max_bytes=1) == 5, "too many"
    assert read_all(connection) == [10]
    assert insert(connection, 11) == 11
    journal.set_reader(connection, "history", 3, T0_US)
    assert journal.readers(connection) == {"rules": 10, "history": 10}, "a bookmark never goes back"


def test_a_file_of_a_newer_carebell_is_refused_and_left_alone(tmp_path: Path) -> None:
    open_database(tmp_path / FILE_NAME).close()
    raw = apsw.Connection(str(tmp_path / FILE_NAME))
    raw.pragma("user_version", 9999)
    raw.close()
    with pytest.raises(NewerSchemaError, match="9999"):
        open_database(tmp_path / FILE_NAME)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"not a database" * 500)
    with pytest.raises(StorageBrokenError):
        open_database(tmp_path / FILE_NAME)


def with_writer(
    tmp_path: Path,
    story: Callable[[JournalWriter, list[StorageBrokenError]], Coroutine[Any, Any, None]],
    **options: Any,
) -> None:
    async def main() -> None:
        broken: list[StorageBrokenError] = []
        writer = JournalWriter(tmp_path, on_broken=broken.append, **{"reserve_bytes": 65536, **options})
        try:
            await story(writer, broken)
        finally:
            await writer.close()

    asyncio.run(main())


async def submit(writer: JournalWriter, *numbers: int, emergency: bool = False) -> int | StorageError:
    done: asyncio.Future[int | StorageError] = asyncio.get_running_loop().create_future()
    writer.submit([record(number) for number in numbers], done.set_result, emergency=emergency)
    return await done


def test_jobs_share_a_commit_and_one_that_fails_takes_nobody_along(tmp_path: Path) -> None:
    async def story(writer: JournalWriter, broken: list[StorageBrokenError]) -> None:
        def bad(connection: apsw.Connection) -> None:
            connection.execute("INSERT INTO meta VALUES ('left', 'behind')")
            raise ValueError("mine")

        async def failing() -> str:
            with pytest.raises(ValueError, match="mine"):
                await writer.write(bad)
            return "failed"

        async with asyncio.TaskGroup() as group:
            first = group.create_task(submit(writer, 1, 2))
            middle = group.create_task(failing())
            last = group.create_task(writer.write(journal.last_seq))
        assert (first.result(), middle.result(), last.result()) == (1, "failed", 2)
        assert await writer.read(lambda connection: list(connection.execute("SELECT * FROM meta"))) == []
        assert await submit(writer) == 0, "an empty batch is not an error"
        assert not broken

    with_writer(tmp_path, story)


def test_readers_see_a_snapshot_and_cannot_write(tmp_path: Path) -> None:
    async def story(writer: JournalWriter, broken: list[StorageBrokenError]) -> None:
        await submit(writer, 1)
        with pytest.raises(apsw.ReadOnlyError):
            await writer.read(lambda connection: connection.execute("DELETE FROM batch"))
        assert await writer.read(journal.last_seq) == 1

    with_writer(tmp_path, story)


def test_after_a_failed_fsync_nothing_is_acknowledged_any_more(tmp_path: Path) -> None:
    vfs = LossyVFS("lossy-sync")

    async def story(writer: JournalWriter, broken: list[StorageBrokenError]) -> None:
        assert await submit(writer, 1) == 1
        vfs.fail_sync = True
        assert isinstance(await submit(writer, 2), StorageBrokenError)
        vfs.fail_sync = False
        assert isinstance(await submit(writer, 3), StorageBrokenError), "not even when the disk seems well again"
        with pytest.raises(StorageBrokenError):
            await writer.write(journal.last_seq)
        await asyncio.sleep(0)
        assert len(broken) == 1

    with_writer(tmp_path, story, vfs=vfs.name)


def damage(path: Path, marker: bytes) -> None:
    data = bytearray(path.read_bytes())
    at = data.index(marker)
    data[at : at + len(marker)] = bytes(byte ^ 0xFF for byte in marker)
    path.write_bytes(data)


def test_a_flipped_byte_is_found_at_start_put_aside_and_the_rest_saved(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    for number in range(1, 51):
        insert(connection, number)
    with connection:
        audit.append(connection, at_us=T0_US, actor=Actor("system", "t"), action="kept", subject="key/1")
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()
    assert integrity.check(tmp_path) == []
    damage(tmp_path / FILE_NAME, b'{"seq":30}')
    faults = integrity.check(tmp_path)
    assert faults == ["batch 30: its checksum does not match its content"]
    folder = integrity.quarantine(tmp_path, faults, T0_US)
    assert (folder / FILE_NAME).exists()
    assert "sequence numbers 30 to 30 are lost" in (folder / "report.txt").read_text()
    assert integrity.check(tmp_path) == []
    saved = open_database(tmp_path / FILE_NAME)
    assert read_all(saved) == [*range(1, 30), *range(31, 51)]
    assert list(audit.verify(saved)) == []


def test_a_file_cut_to_pieces_is_put_aside_and_a_new_one_begun(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    for number in range(1, 200):
        insert(connection, number)
    connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
    connection.close()
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:20_000] + b"\xa5" * 30_000)
    integrity.suspect(tmp_path)
    faults = integrity.check(tmp_path)
    assert faults
    integrity.quarantine(tmp_path, faults, T0_US)
    assert integrity.check(tmp_path) == []
    fresh = open_database(path)
    assert insert(fresh, 1) >= 1


def test_checksums_are_crc_32(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    insert(connection, 1)
    ((checksum, body),) = connection.execute("SELECT checksum, body FROM batch")
    assert checksum == zlib.crc32(body)


def test_what_no_store_can_hold_is_mended_and_stops_nobody() -> None:
    """A codec that lets through what MessagePack cannot say: the emergency stays, and so do the neighbours."""
    deep: dict[str, Any] = {}
    for _ in range(5000):
        deep = {"in": deep}
    unknown = {"half \ud800": "\udfff", "big": 2**80, "list": [1, "\ud800", object()], "deep": deep, "good": "门"}
    bad = record(1, device_id="D-1", signal="sos")
    assert bad.reading is not None
    bad.reading.unknown = unknown
    bad.device_key, bad.fault = "key \ud800", "fault \udc00"
    before, behind = record(0, device_id="D-0"), record(2, device_id="D-2")
    with capture_logs() as logs:
        first, second, third = journal.decode_batch(journal.encode_batch([before, bad, behind]))
    assert (first, third) == (before, behind)
    assert second == bad, "who judges it judges what is stored"
    assert second.reading is not None
    assert second.reading.signals == {"sos": True}
    kept = second.reading.unknown
    assert kept is not None
    assert (kept["half ?"], kept["list"], kept["good"], "big" in kept) == ("?", [1, "?", None], "门", False)
    assert (second.device_key, second.fault) == ("key ?", f"fault ?; {journal.MENDED}")
    assert [(line["event"], line["device"]) for line in logs] == [("record_mended", "D-1")]
