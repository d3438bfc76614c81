"""What is saved of the memory of seen messages, what retention may take, and that a full disk ends nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest
from structlog.testing import capture_logs

from device_profiles.loader import load_profiles
from gateway import housekeeping as module
from gateway.clock import VirtualClock, from_us
from gateway.config import JournalSection
from gateway.errors import StorageBrokenError, StorageError, StorageFullError
from gateway.housekeeping import Housekeeping
from gateway.ingest import JournalIngest
from gateway.model import DeviceBinding, Verdict
from gateway.storage import journal
from gateway.storage.database import FILE_NAME
from gateway.storage.dedup import Marks
from gateway.storage.writer import JournalWriter
from protocols.registry import CODECS
from tests.factory import T0_US, frame

T = TypeVar("T")
START = from_us(T0_US)


class Anyone:
    def device(self, device_id: str) -> DeviceBinding | None:
        return None if device_id == "nobody" else DeviceBinding(device_id, "carebell.native", "native", "P-1")

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return None


class History:
    def __init__(self) -> None:
        self.seq = 0

    def durable(self) -> int:
        return self.seq


class Life:
    """One life of a gateway: the file, ingest and housekeeping, as the daemon wires them."""

    def __init__(self, folder: Path, *, linger_max_s: float = 0.001, **section: Any) -> None:
        self.clock = VirtualClock(START)
        self.broken: list[StorageBrokenError] = []
        self.writer = JournalWriter(folder, on_broken=self.broken.append, reserve_bytes=65_536)
        self.marks = Marks()
        self.history = History()
        self.ingest = JournalIngest(
            codecs=CODECS, profiles=load_profiles([]), directory=Anyone(), marks=self.marks, journal=self.writer,
            clock=self.clock, linger_max_s=linger_max_s,
        )  # fmt: skip
        self.housekeeping = Housekeeping(
            writer=self.writer, marks=self.marks, clock=self.clock, settings=JournalSection(**section),
            outside_readers={"history": self.history}, settled=self.ingest.settled,
        )  # fmt: skip
        self.ingest.listen(self.housekeeping.observe)

    async def recover(self) -> None:
        await self.writer.read(self.housekeeping.recover)

    async def send(self, *numbers: int) -> int:
        """How many of these messages the journal took as new."""
        before = self.ingest.counters.records
        frames = [frame(b'{"seq":%d,"measurements":{"steps":%d}}' % (seq, seq)) for seq in numbers]
        assert await self.ingest.deliver(frames) is Verdict.ACCEPTED
        await self.ingest.settled()
        await asyncio.sleep(0.01)  # the listeners' turn
        return self.ingest.counters.records - before

    async def readers(self) -> dict[str, int]:
        return await self.writer.read(journal.readers)

    async def saved(self) -> int:
        """The bookmark of the memory of seen messages."""
        return (await self.readers()).get(module.READER, 0)


def play(
    folder: Path, story: Callable[[Life], Coroutine[Any, Any, None]], *, recover: bool = True, **options: Any
) -> None:
    async def main() -> None:
        life = Life(folder, **options)
        try:
            if recover:
                await life.recover()
            await story(life)
        finally:
            await life.writer.close()

    asyncio.run(main())


def test_resends_are_known_after_a_restart_from_the_saved_rows_and_from_the_journal(tmp_path: Path) -> None:
    async def first(life: Life) -> None:
        assert await life.send(1, 2, 3) == 3
        await life.housekeeping.save()
        assert await life.saved() == 3
        assert await life.send(4, 5) == 2  # committed behind the bookmark, and not saved

    async def second(life: Life) -> None:
        assert await life.send(2, 3, 4, 5) == 0
        assert await life.send(6) == 1

    play(tmp_path, first)
    play(tmp_path, second)


@pytest.mark.parametrize("cut", range(7))
def test_saving_at_any_time_neither_forgets_nor_doubles(tmp_path: Path, cut: int) -> None:
    """Save after ``cut`` of six messages, die without a word, and be sent everything again."""

    async def first(life: Life) -> None:
        for seq in range(6):
            if seq == cut:
                await life.housekeeping.save()
            assert await life.send(seq) == 1

    async def second(life: Life) -> None:
        assert await life.send(*range(6)) == 0
        assert await life.send(6, 7) == 2

    play(tmp_path, first)
    play(tmp_path, second)


def copy_of_the_disk(data_dir: Path, copies: Path) -> None:
    """What a crash just now would leave."""
    folder = copies / str(len(list(copies.iterdir())))
    folder.mkdir()
    for name in (FILE_NAME, f"{FILE_NAME}-wal"):
        (folder / name).write_bytes((data_dir / name).read_bytes())


def test_what_is_saved_is_in_the_journal(tmp_path: Path) -> None:
    """A message that waits for its commit while the memory is saved: a crash must not leave the one without the other.

    Else its resend would be taken for a duplicate, acknowledged, and be nowhere.
    """
    copies = tmp_path / "copies"
    copies.mkdir()

    async def first(life: Life) -> None:
        life.ingest._quick = 0  # no immediate commits: it lingers
        waits = life.ingest.offer([frame(b'{"seq":1,"measurements":{"steps":1}}')])
        assert not waits.done()
        written = life.writer.write

        async def write_and_copy(fn: Callable[[apsw.Connection], T]) -> T:
            result = await written(fn)
            copy_of_the_disk(tmp_path, copies)
            return result

        life.writer.write = write_and_copy  # type: ignore[method-assign]
        await life.housekeeping.save()

    play(tmp_path, first, linger_max_s=60.0)
    folders = sorted(copies.iterdir())
    assert folders
    for folder in folders:

        async def second(life: Life) -> None:
            await life.send(1)
            assert (await life.writer.read(journal.stat))["records"] == 1

        play(folder, second)


def test_after_a_failed_commit_the_memory_is_saved_later(tmp_path: Path) -> None:
    async def story(life: Life) -> None:
        assert await life.send(1) == 1
        settled = life.ingest.settled
        answers = [False]

        async def doubtful() -> bool:
            return await settled() and (answers.pop() if answers else True)

        life.housekeeping._settled = doubtful
        await life.housekeeping.save()
        assert await life.saved() == 0
        assert await life.writer.read(lambda c: c.execute("SELECT count(*) FROM mark").fetchone()) == (0,)
        await life.housekeeping.save()
        assert await life.saved() == 1
        assert await life.writer.read(lambda c: c.execute("SELECT count(*) FROM mark").fetchone()) == (1,)

    play(tmp_path, story)


def test_what_fails_between_two_turns_of_saving_is_not_saved_as_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEVICES_PER_TURN", 1)

    async def story(life: Life) -> None:
        assert await life.send(1) == 1
        lost = ("D-0001", 0, 2, 77)
        assert not life.marks.seen_number(*lost)
        life.marks.seen_number("D-0002", 0, 1, 1)
        asyncio.get_running_loop().call_soon(life.marks.forget_number, *lost)  # its commit fails, the next succeeds
        await life.housekeeping.save()
        assert await life.saved() == 0
        assert await life.writer.read(lambda c: c.execute("SELECT count(*) FROM mark").fetchone()) == (0,)
        await life.housekeeping.save()
        assert await life.saved() == 1
        again = Marks()
        await life.writer.read(lambda c: again.restore(c.execute("SELECT device_key, state FROM mark")))
        assert not again.seen_number(*lost)
        assert again.seen_number("D-0002", 0, 1, 1)

    play(tmp_path, story)


def test_what_could_not_be_written_is_written_next_time(tmp_path: Path) -> None:
    async def story(life: Life) -> None:
        await life.send(1)
        write = life.writer.write

        async def full(fn: Callable[[apsw.Connection], T]) -> T:
            raise StorageFullError("no space")

        life.writer.write = full  # type: ignore[method-assign]
        with pytest.raises(StorageFullError):
            await life.housekeeping.save()
        life.writer.write = write  # type: ignore[method-assign]
        await life.housekeeping.save()
        assert await life.saved() == 1

    play(tmp_path, story)

    async def second(life: Life) -> None:
        assert await life.send(1) == 0

    play(tmp_path, second)


def test_the_bookmark_moves_also_when_there_is_nothing_new_to_remember(tmp_path: Path) -> None:
    """Frames of nobody leave no memory; retention must not wait for one for ever."""

    async def story(life: Life) -> None:
        for _ in range(3):
            await life.ingest.deliver([frame(b'{"signals":["sos"]}', device_key="nobody")])
        await asyncio.sleep(0.01)
        await life.housekeeping.save()
        assert await life.saved() == 3

    play(tmp_path, story)


def test_many_devices_are_saved_in_slices_and_the_bookmark_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DEVICES_PER_WRITE", 10)

    async def story(life: Life) -> None:
        frames = [frame(b'{"seq":1,"measurements":{"steps":1}}', device_key=f"D-{number}") for number in range(35)]
        assert await life.ingest.deliver(frames) is Verdict.ACCEPTED
        await asyncio.sleep(0.01)
        calls: list[int] = []
        write = life.writer.write

        async def counted(fn: Callable[[apsw.Connection], T]) -> T:
            result = await write(fn)
            calls.append(await life.saved())
            return result

        life.writer.write = counted  # type: ignore[method-assign]
        await life.housekeeping.save()
        assert calls == [0, 0, 0, 0, 35]

    play(tmp_path, story)


def test_retention_waits_for_every_reader(tmp_path: Path) -> None:
    async def story(life: Life) -> None:
        await life.writer.write(lambda c: c.execute("INSERT INTO reader VALUES ('rules', 0, 0), ('history', 0, 0)"))
        for seq in range(1, 11):
            await life.send(seq)
        life.clock.advance(3 * 86_400)  # everything is too old
        await life.housekeeping.save()

        async def left() -> int:
            await life.housekeeping._prune()
            first: int = (await life.writer.read(journal.stat))["first_seq"]
            return first

        assert await left() == 1, "rules and history have finished nothing"
        await life.writer.write(lambda c: journal.set_reader(c, "rules", 10, 0))
        assert await left() == 1
        life.history.seq = 6
        await life.housekeeping._write_bookmarks()
        assert (await life.readers())["history"] == 6
        assert await left() == 7
        life.history.seq = 4
        await life.housekeeping._write_bookmarks()
        assert (await life.readers())["history"] == 6, "never backwards"
        life.history.seq = 10
        await life.housekeeping._write_bookmarks()
        assert await left() == 10, "the newest row stays"
        assert life.housekeeping.pruned_batches == 9

    play(tmp_path, story, keep_days=2)


def test_what_is_young_stays(tmp_path: Path) -> None:
    async def story(life: Life) -> None:
        for seq in range(1, 4):
            await life.send(seq)
        await life.writer.write(lambda c: journal.set_reader(c, "marks", 99, 0))
        life.clock.advance(86_400)
        await life.housekeeping._prune()
        assert life.housekeeping.pruned_batches == 0

    play(tmp_path, story, keep_days=2)


@pytest.mark.parametrize("error", [StorageError("another process holds the journal"), StorageFullError("no space")])
def test_a_write_that_cannot_be_now_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: StorageError
) -> None:
    for name in ("BOOKMARK_S", "SAVE_S", "PRUNE_S"):
        monkeypatch.setattr(module, name, 0.01)

    async def story(life: Life) -> None:
        write = life.writer.write

        async def fails(fn: Callable[[apsw.Connection], T]) -> T:
            raise error

        life.writer.write = fails  # type: ignore[method-assign]
        await life.send(1)
        life.history.seq = 1
        async with asyncio.TaskGroup() as group:
            running = group.create_task(life.housekeeping.run())
            with capture_logs() as logs:
                async with asyncio.timeout(60):
                    while not logs:
                        life.clock.advance(1)
                        await asyncio.sleep(0.02)
                for _ in range(8):
                    life.clock.advance(1)
                    await asyncio.sleep(0.02)
            assert not running.done()
            assert [line["event"] for line in logs] == ["housekeeping_not_written"], "told once"
            life.writer.write = write  # type: ignore[method-assign]
            async with asyncio.timeout(60):
                while (await life.readers()) != {"history": 1, "marks": 1}:
                    life.clock.advance(1)
                    await asyncio.sleep(0.02)
            running.cancel()

    play(tmp_path, story)


def test_a_broken_file_does_end_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BOOKMARK_S", 0.01)

    async def story(life: Life) -> None:
        async def broken(fn: Callable[[apsw.Connection], T]) -> T:
            raise StorageBrokenError("EIO")

        life.writer.write = broken  # type: ignore[method-assign]
        life.history.seq = 1
        with pytest.raises(StorageBrokenError):
            await life.housekeeping.run()

    play(tmp_path, story)
