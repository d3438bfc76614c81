"""The judge: whatever the moment of death, each effect is found, and found again only under the same id."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway import judge as module
from gateway.clock import VirtualClock, from_us
from gateway.errors import StorageBrokenError, StorageError
from gateway.judge import Judge
from gateway.model import Committed, Effect, Raise, Severity
from gateway.storage import journal
from gateway.storage.database import FILE_NAME
from tests.factory import T0_US, record
from tests.mqtt_wire import FileStore

T = TypeVar("T")
EVERY = 3


class CountingEngine:
    """Raises at every third record of a device: judging a record twice, or not at all, gives other effects."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.changed: set[str] = set()
        self.wake_us: int | None = None

    def observe(self, committed: Committed) -> list[Effect]:
        effects: list[Effect] = []
        for seq, item in enumerate(committed.records, committed.first_seq):
            count = self.counts[item.device_id] = self.counts.get(item.device_id, 0) + 1
            self.changed.add(item.device_id)
            if count % EVERY == 0:
                effects.append(effect(f"{item.device_id}:{count // EVERY}:{seq}", seq))
        return effects

    def tick(self, now_us: int) -> list[Effect]:
        self.wake_us = None
        return [effect(f"timer:{now_us}", 0)]

    def next_wake_us(self) -> int | None:
        return self.wake_us

    def dirty(self) -> Sequence[tuple[str, str, bytes | None]]:
        rows = [("count", device_id, b"%d" % self.counts[device_id]) for device_id in sorted(self.changed)]
        self.changed.clear()
        return rows

    def restore(self, rows: Iterable[tuple[str, str, bytes]]) -> None:
        for _, device_id, state in rows:
            self.counts[device_id] = int(state)


def effect(effect_id: str, seq: int) -> Effect:
    return Raise(
        effect_id=effect_id, kind="sos", severity=Severity.P1, person_id="P", device_id="D", seq=seq,
        occurred_at_us=T0_US, received_at_us=T0_US, rule_id="count", rule_version="1",
    )  # fmt: skip


class Alerts:
    """Effects in memory until they are drained; then on the disk that outlives everybody."""

    def __init__(self, disk: list[str]) -> None:
        self.disk = disk
        self.waiting: list[Effect] = []
        self.gate = asyncio.Event()
        self.gate.set()

    def submit(self, effects: Sequence[Effect]) -> None:
        self.waiting += effects

    async def drained(self) -> None:
        await self.gate.wait()
        self.write()

    def write(self) -> None:
        self.disk += [item.effect_id for item in self.waiting]
        self.waiting.clear()


class Life:
    """The judge of one process life on a file that outlives it."""

    def __init__(self, folder: Path, disk: list[str]) -> None:
        self.store = FileStore(folder / FILE_NAME)
        self.engine = CountingEngine()
        self.alerts = Alerts(disk)
        self.clock = VirtualClock(from_us(T0_US))
        self.judge = Judge(engine=self.engine, alerts=self.alerts, store=self.store, clock=self.clock)

    async def recover(self) -> int:
        return await self.store.read(self.judge.recover)

    async def commit(self, *devices: str) -> Committed:
        """Records on disk, as ingest tells of them."""
        records = [record(number, device_id=device_id) for number, device_id in enumerate(devices)]
        first: int = await self.store.write(lambda connection: journal.insert(connection, records))
        return Committed(first, records)

    async def observe(self, *devices: str) -> None:
        self.judge.observe(await self.commit(*devices))

    async def saved(self) -> tuple[int, dict[str, int]]:
        readers = await self.store.read(journal.readers)
        rows = await self.store.read(lambda c: list(c.execute("SELECT subject, state FROM rule_state")))
        return readers.get(module.READER, 0), {subject: int(state) for subject, state in rows}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.lists(st.sampled_from("ABC"), min_size=1, max_size=5).map(tuple),  # a commit of records
            st.sampled_from(["save", "die", "effects written", "die before judging"]),
        ),
        max_size=30,
    )
)
def test_no_effect_is_lost_or_doubled_at_any_cut(story: list[tuple[str, ...] | str]) -> None:
    async def main(folder: Path) -> list[str]:
        disk: list[str] = []
        life = Life(folder, disk)
        for step in story:
            if isinstance(step, tuple):
                await life.observe(*step)
            elif step == "save":
                await life.judge.save()
            elif step == "effects written":
                life.alerts.write()
            else:
                if step == "die before judging":
                    await life.commit("A", "B")
                life.store.close()
                life = Life(folder, disk)
                await life.recover()
        life.store.close()
        life = Life(folder, disk)
        await life.recover()
        life.alerts.write()
        life.store.close()
        return disk

    with tempfile.TemporaryDirectory() as name:
        disk = asyncio.run(main(Path(name)))
    whole = CountingEngine()
    devices: list[str] = []
    for step in story:
        devices += step if isinstance(step, tuple) else ["A", "B"] if step == "die before judging" else []
    expected = whole.observe(Committed(1, [record(1, device_id=device_id) for device_id in devices]))
    assert list(dict.fromkeys(disk)) == [item.effect_id for item in expected], "each one, in the order of the journal"


def test_recover_counts_what_it_judged_and_begins_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    async def main() -> None:
        life = Life(tmp_path, [])
        await life.observe("A", "A")
        await life.judge.save()
        assert await life.saved() == (2, {"A": 2})
        await life.commit("A", "B", "A")
        await life.store.write(lambda c: journal.set_reader(c, module.READER, 3, 0))  # one of the three was judged
        await life.store.write(lambda c: c.execute("UPDATE rule_state SET state = ?", (b"3",)))
        life.store.close()
        life = Life(tmp_path, [])
        assert await life.recover() == 2
        assert life.judge.seq == 5
        assert life.engine.counts == {"A": 4, "B": 1}
        life.store.close()

    asyncio.run(main())


def test_a_damaged_row_does_not_stop_the_recovery(tmp_path: Path) -> None:
    async def main() -> None:
        life = Life(tmp_path, [])
        for _ in range(3):
            await life.commit("A", "A")
        await life.store.write(
            lambda c: c.execute("UPDATE batch SET body = zeroblob(length(body)) WHERE first_seq = 3")
        )
        with capture_logs() as logs:
            assert await life.recover() == 6
        assert [(line["event"], line["first_seq"], line["last_seq"]) for line in logs] == [("batch_corrupt", 3, 4)]
        assert life.engine.counts == {"A": 4}
        life.store.close()

    asyncio.run(main())


def test_the_state_waits_for_its_effects_and_is_that_of_its_bookmark(tmp_path: Path) -> None:
    async def main() -> None:
        disk: list[str] = []
        life = Life(tmp_path, disk)
        await life.observe("A", "A", "A")
        life.alerts.gate.clear()
        async with asyncio.TaskGroup() as group:
            saving = group.create_task(life.judge.save())
            await asyncio.sleep(0.02)
            assert not saving.done()
            assert await life.saved() == (0, {}), "the effect is not on disk yet"
            await life.observe("A", "B")  # while it waits
            life.alerts.gate.set()
        assert disk == ["A:1:3"]
        assert await life.saved() == (3, {"A": 3}), "as it was then, not as it is now"
        await life.judge.save()
        assert await life.saved() == (5, {"A": 4, "B": 1})
        life.store.close()

    asyncio.run(main())


def test_what_could_not_be_saved_is_saved_with_the_next(tmp_path: Path) -> None:
    async def main() -> None:
        life = Life(tmp_path, [])
        await life.observe("A", "B")
        life.store.broken = True
        with pytest.raises(StorageError):
            await life.judge.save()
        life.store.broken = False
        await life.observe("B")
        await life.judge.save()
        assert await life.saved() == (3, {"A": 1, "B": 2})
        written = life.store.write

        async def never(fn: Callable[[apsw.Connection], T]) -> T:
            raise AssertionError("there is nothing to write")

        life.store.write = never  # type: ignore[method-assign]
        await life.judge.save()
        life.store.write = written  # type: ignore[method-assign]
        life.store.close()

    asyncio.run(main())


def test_states_that_ended_are_removed(tmp_path: Path) -> None:
    async def main() -> None:
        life = Life(tmp_path, [])
        await life.observe("A", "B")
        await life.judge.save()
        life.engine.dirty = lambda: [("count", "A", None)]  # type: ignore[method-assign]
        await life.judge.save()
        assert await life.saved() == (2, {"B": 1})
        life.store.close()

    asyncio.run(main())


def test_run_fires_what_is_due_and_outlives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.005)
    monkeypatch.setattr(module, "SAVE_S", 0.01)

    async def main() -> None:
        life = Life(tmp_path, [])
        await life.observe("A")
        life.engine.wake_us = T0_US + 5_000_000
        life.store.broken = True
        async with asyncio.TaskGroup() as group:
            with capture_logs() as logs:
                running = group.create_task(life.judge.run())
                await asyncio.sleep(0.05)
                assert life.alerts.waiting == [], "not due"
                life.clock.advance(6)
                async with asyncio.timeout(60):
                    while not logs or life.judge.ticked_us < T0_US + 6_000_000:
                        await asyncio.sleep(0.01)
                await asyncio.sleep(0.05)
            assert [line["event"] for line in logs] == ["rules_not_saved"], "told once"
            assert life.judge.ticked_us == T0_US + 6_000_000
            told = [*life.alerts.disk, *(item.effect_id for item in life.alerts.waiting)]
            assert told == [f"timer:{T0_US + 6_000_000}"]
            life.store.broken = False
            async with asyncio.timeout(60):
                while await life.saved() != (1, {"A": 1}):
                    await asyncio.sleep(0.01)
            running.cancel()
        life.store.close()

    asyncio.run(main())


def test_run_ends_with_a_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TICK_S", 0.005)
    monkeypatch.setattr(module, "SAVE_S", 0.0)

    async def main() -> None:
        life = Life(tmp_path, [])

        async def broken(fn: Callable[[apsw.Connection], T]) -> T:
            raise StorageBrokenError("EIO")

        await life.observe("A")
        life.store.write = broken  # type: ignore[method-assign]
        with pytest.raises(StorageBrokenError):
            await life.judge.run()
        life.store.close()

    asyncio.run(main())


class Doer:
    """A follower that has something to do for every record of device A."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.busy = False

    def __call__(self, committed: Committed) -> None:
        self.heard += [record.device_id for record in committed.records]

    def is_open(self) -> bool:
        return self.busy


def test_the_bookmark_does_not_pass_what_a_follower_has_still_to_do(tmp_path: Path) -> None:
    async def main() -> None:
        life, doer = Life(tmp_path, []), Doer()
        life.judge.follow(doer)
        await life.observe("A")
        await life.judge.save()
        doer.busy = True
        await life.observe("A", "B")
        await life.judge.save()
        assert await life.saved() == (1, {"A": 1})
        life.store.close()
        life, doer = Life(tmp_path, []), Doer()
        life.judge.follow(doer)
        assert await life.recover() == 2
        assert doer.heard == ["A", "B"], "it hears again what nobody knows to be done"
        await life.judge.save()
        assert await life.saved() == (3, {"A": 2, "B": 1})
        life.store.close()

    asyncio.run(main())
