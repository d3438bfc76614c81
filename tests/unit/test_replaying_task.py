"""What waits to be repaired gets into the journal once, late, and behind what devices say now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest
from msgspec import structs

from gateway.care import DeviceCare
from gateway.clock import VirtualClock, from_us
from gateway.ingest import JournalIngest
from gateway.model import Reading, Record, Urgency
from gateway.replaying import compare, queue
from gateway.replaying.compare import Repair
from gateway.replaying.frames import pages
from gateway.replaying.reader import is_repair
from gateway.replaying.task import SLICE, Replaying
from gateway.storage import journal
from gateway.storage.database import FILE_NAME
from gateway.storage.dedup import Marks
from gateway.storage.writer import JournalWriter
from tests.quick_file import quick_database
from tests.replay_world import AT_US, SHIPPED, Devices, journalled, raw, report, told
from tests.rules_world import World, clears, raises, record

# ---- the daemon's part -----------------------------------------------------------------------------------------------


class Life:
    """A journal with one frame that could not be read, and what repairs it."""

    def __init__(self, folder: Path) -> None:
        quick_database(folder / FILE_NAME).close()
        self.clock = VirtualClock(from_us(AT_US))
        self.writer = JournalWriter(folder, on_broken=lambda _error: None, reserve_bytes=4096)
        self.devices = Devices()
        self.groups: list[tuple[list[Record], bool]] = []
        self.ingest = JournalIngest(
            codecs=told(ValueError("bug")), profiles=SHIPPED, directory=self.devices, marks=Marks(), journal=self,
            clock=self.clock, linger_max_s=0.001,
        )  # fmt: skip
        self.replaying = Replaying(ingest=self.ingest, store=self.writer, directory=self.devices, clock=self.clock)

    def submit(self, records: Sequence[Record], done: Callable[..., None], *, emergency: bool) -> None:
        self.groups.append((list(records), emergency))
        self.writer.submit(records, done, emergency=emergency)

    async def queue(self, seq: int, *, device_id: str = "D-1", **said: Any) -> None:
        lacking = report(**said).reading
        assert lacking is not None
        lacking.stored = True
        body = compare.encode([Repair(0, device_id, device_id, lacking)])
        await self.writer.write(lambda connection: queue.put(connection, [(seq, 1, body, False)], AT_US))

    async def work_off(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        async with asyncio.TaskGroup() as group, asyncio.timeout(60):
            running = group.create_task(self.replaying.run())
            while await self.waiting():
                await asyncio.sleep(0.01)
            running.cancel()

    async def waiting(self) -> int:
        return await self.writer.read(queue.count_waiting)

    async def repairs(self) -> list[tuple[int, Record]]:
        """Number and record of what a replay brought in."""

        def read(connection: apsw.Connection) -> list[tuple[int, Record]]:
            found = [kept for page in pages(connection, 0, 1 << 60) for kept in page.frames]
            return [(kept.seq, kept.records[0]) for kept in found if is_repair(kept)]

        return await self.writer.read(read)


def live(tmp_path: Path, story: Callable[[Life], Awaitable[None]]) -> None:
    async def main() -> None:
        life = Life(tmp_path)
        try:
            await story(life)
        finally:
            await life.ingest.close()
            await life.writer.close()

    asyncio.run(main())


def test_a_repair_is_late_data_of_the_same_frame(tmp_path: Path) -> None:
    async def story(life: Life) -> None:
        await life.ingest.deliver([raw(payload=b"one"), raw(payload=b"two")])
        await life.queue(1, steps=5)
        await life.queue(2, signals={"sos": True})
        life.groups.clear()
        await life.work_off()
        repairs = {one.dedup_key: one for _, one in await life.repairs()}
        assert repairs["key:replay:1"] == Record(
            AT_US, "tcp", "told", "127.0.0.1:1", b"one", "D-1", "D-1", "P-1", "carebell.native", True,
            Urgency.ROUTINE, "key:replay:1", Reading(AT_US, {"steps": 5.0}, stored=True),
        )  # fmt: skip
        assert repairs["key:replay:2"].urgency == Urgency.EMERGENCY
        groups = [([one.dedup_key for one in records], emergency) for records, emergency in life.groups if records]
        assert groups == [(["key:replay:2"], True), (["key:replay:1"], False)], "each in its own haste"

    live(tmp_path, story)


@pytest.mark.parametrize("verified", [True, False])
@pytest.mark.parametrize("committed", [True, False])
def test_a_death_between_commit_and_note_does_no_harm(tmp_path: Path, *, verified: bool, committed: bool) -> None:
    async def story(life: Life) -> None:
        await life.ingest.deliver([raw(verified=verified)])
        await life.queue(1, signals={"sos": True})
        if committed:
            await life.work_off()
            assert len(await life.repairs()) == 1
        # As a process leaves it that dies behind the commit, or before it; the next one remembers nothing.
        await life.writer.write(
            lambda connection: connection.execute("UPDATE replay SET done_at_us = NULL, offered_after = 1").fetchall()
        )
        other = JournalIngest(
            codecs={}, profiles=SHIPPED, directory=life.devices, marks=Marks(), journal=life, clock=life.clock
        )
        life.replaying = Replaying(ingest=other, store=life.writer, directory=life.devices, clock=life.clock)
        await life.work_off()
        assert [one.reading and one.reading.signals for _, one in await life.repairs()] == [{"sos": True}]

    live(tmp_path, story)


@pytest.mark.parametrize("change", ["person", "retired", "gone", "record"])
def test_what_cannot_be_repaired_any_more_is_left(tmp_path: Path, change: str) -> None:
    async def story(life: Life) -> None:
        await life.ingest.deliver([raw()])
        binding = life.devices.known["D-1"]
        if change == "person":
            life.devices.known["D-1"] = structs.replace(binding, person_id="P-2")
        elif change == "retired":
            life.devices.known["D-1"] = structs.replace(binding, state="retired")
        elif change == "gone":
            life.devices.known.clear()
        await life.queue(77 if change == "record" else 1, steps=5)
        await life.work_off()
        assert await life.repairs() == []
        count = await life.writer.read(lambda connection: connection.execute("SELECT count(*) FROM replay").get)
        assert count == 0, "the next look finds it again and says why it is left alone"

    live(tmp_path, story)


def test_more_than_a_slice_in_order_and_each_once(tmp_path: Path) -> None:
    async def story(life: Life) -> None:
        for number in range(SLICE + 5):
            await life.ingest.deliver([raw(at_us=AT_US + number)])
        for number in range(SLICE + 5):
            await life.queue(number + 1, at_us=AT_US + number, steps=number)
        await life.queue(3, steps=1)  # a second command at the same time
        await life.work_off()
        repairs = await life.repairs()
        assert [one.dedup_key for _, one in repairs] == [f"key:replay:{number + 1}" for number in range(SLICE + 5)]
        assert [one.received_at_us for _, one in repairs] == [AT_US + number for number in range(SLICE + 5)]

    live(tmp_path, story)


def test_what_has_left_the_journal_is_forgotten(tmp_path: Path) -> None:
    connection = quick_database(tmp_path / FILE_NAME)
    (kept,) = journalled([raw()], Devices(), told(report(steps=1)))
    with connection:
        for _ in range(3):
            journal.insert(connection, kept.records)
        assert queue.put(connection, [(1, 1, b"", True), (2, 1, b"\xff", False), (3, 1, b"", True)], AT_US) == 3
        assert queue.put(connection, [(3, 1, b"", False)], AT_US) == 0
        connection.execute("DELETE FROM batch WHERE first_seq < 3")
        queue.forget(connection)
    assert connection.execute("SELECT seq FROM replay ORDER BY seq").fetchall() == [(2,), (3,)]
    assert queue.waiting(connection, 10) == [queue.Waiting(2, 1, [], None)], "a body of another version says nothing"
    connection.close()


# ---- the rules -------------------------------------------------------------------------------------------------------


def test_what_is_told_anew_does_not_let_its_device_speak() -> None:
    """Neither is a silent device heard again, nor one that speaks found silent since then."""
    for silent in (False, True):
        world = World(devices=[DeviceCare(device_id="D-1", person_id="P-1", heartbeat_s=600)])
        world.say(heart_rate_bpm=70)
        then_us = world.now_us
        world.wait(6 * 3600)
        if not silent:
            world.say(heart_rate_bpm=70)
        effects = world.put(
            record(then_us, device="D-1", person="P-1", signals={"sos": True}, observed_us=then_us, stored=True)
        )
        assert [(effect.kind, effect.late) for effect in effects if hasattr(effect, "late")] == [("sos", True)]
        assert "device_silent" not in clears(effects)
        later = world.wait(1700)
        assert raises(later) == [], "it was heard when it was heard"
        assert raises(world.wait(200)) == ([] if silent else [("device_silent", "P4")])
