"""The road in: when frames are committed, who hears of it, and how it ends."""

from __future__ import annotations

import asyncio

import pytest

from gateway import ingest as module
from gateway.model import Verdict
from tests.factory import frame
from tests.ingest_world import SOS, STEP, Setting, other, play

# ---- when it is committed --------------------------------------------------------------------------------------------


def test_an_emergency_does_not_wait_and_takes_along_what_does() -> None:
    async def story(world: Setting) -> None:
        world.ingest._quick = 0  # the stock of immediate commits is used up
        waits = world.ingest.offer([frame(STEP % (1, 1))])
        assert world.journal.submitted == []
        press = world.ingest.offer([frame(SOS % 2)])
        assert world.journal.submitted == [(1, False), (1, True)], "at once, in the same turn of the loop"
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert waits.done()
        assert press.done()
        assert [record.dedup_key for record in world.journal.records] == ["1", "2"]

    play(story, linger_max_s=30.0)


def test_an_emergency_leaves_behind_what_is_of_others() -> None:
    async def story(world: Setting) -> None:
        world.ingest._quick = 0
        waits = world.ingest.offer([other("D-0002", STEP % (1, 1))])
        press = world.ingest.offer([frame(SOS % 2)])
        assert world.journal.submitted == [(1, True)]
        await press
        assert not waits.done()
        await world.ingest.close()
        assert waits.result() is Verdict.ACCEPTED
        assert [record.device_id for record in world.journal.records] == ["D-0001", "D-0002"]

    play(story, linger_max_s=30.0)


def test_a_resend_with_an_emergency_does_not_overtake_its_original() -> None:
    async def story(world: Setting) -> None:
        world.ingest._quick = 0
        waits = world.ingest.offer([other("D-0001", b'{"measurements":{"steps":1}}', idempotency_key="k")])
        again = world.ingest.offer([other("D-0001", b'{"signals":["sos"]}', idempotency_key="k")])
        assert world.journal.submitted == [(1, False), (0, True)]
        await waits
        await again

    play(story, linger_max_s=30.0)


def test_an_urgent_signal_does_not_wait_either() -> None:
    async def story(world: Setting) -> None:
        world.ingest._quick = 0
        world.ingest.offer([frame(b'{"seq":1,"signals":["service_call"]}')])
        assert world.journal.submitted == [(1, False)]

    play(story, linger_max_s=30.0)


def test_routine_frames_share_a_commit_within_the_linger() -> None:
    async def story(world: Setting) -> None:
        world.ingest._quick = 0
        verdicts = [world.ingest.offer([frame(STEP % (seq, 1))]) for seq in range(50)]
        assert len(set(map(id, verdicts))) == 1, "one future for all"
        assert not verdicts[0].done()
        async with asyncio.timeout(30):
            assert await verdicts[0] is Verdict.ACCEPTED
        assert world.journal.submitted == [(50, False)]

    play(story, linger_max_s=0.05)


def test_a_lone_device_after_a_quiet_time_does_not_wait_for_company() -> None:
    async def story(world: Setting) -> None:
        async with asyncio.timeout(30):
            assert await world.ingest.deliver([frame(STEP % (1, 1))]) is Verdict.ACCEPTED

    play(story, linger_max_s=60.0)


def test_while_a_commit_is_on_its_way_the_next_one_fills() -> None:
    async def story(world: Setting) -> None:
        world.journal.held = True
        world.ingest.offer([frame(STEP % (0, 1))])
        world.ingest._flush()
        for seq in range(1, 20):
            world.ingest.offer([frame(STEP % (seq, 1))])
        await asyncio.sleep(0.03)
        assert world.journal.submitted == [(1, False)]
        world.journal.commit()
        async with asyncio.timeout(30):
            while len(world.journal.submitted) < 2:
                await asyncio.sleep(0.002)
        assert world.journal.submitted == [(1, False), (19, False)]

    play(story, linger_max_s=0.01)


def test_a_full_group_goes_without_waiting() -> None:
    async def story(world: Setting) -> None:
        world.ingest._quick = 0
        for start in range(0, module.GROUP_RECORDS, 100):
            world.ingest.offer([frame(STEP % (seq, 1)) for seq in range(start, start + 100)])
        assert world.journal.submitted == [(module.GROUP_RECORDS, False)]

    play(story, linger_max_s=60.0)


# ---- listeners, cancellation, the end --------------------------------------------------------------------------------


def test_listeners_get_every_record_once_in_order_and_in_slices() -> None:
    async def story(world: Setting) -> None:
        frames = [frame(STEP % (seq, 1)) for seq in range(1, 1001)]
        for start in range(0, 1000, 250):
            assert await world.ingest.deliver(frames[start : start + 250]) is Verdict.ACCEPTED
        await world.ingest.close()
        assert max(len(part.records) for part in world.seen) <= module.SLICE
        numbers = [part.first_seq + offset for part in world.seen for offset in range(len(part.records))]
        assert numbers == list(range(1, 1001))
        told = [record for part in world.seen for record in part.records]
        assert told == world.journal.records

    play(story)


def test_an_emergency_is_handed_over_with_its_verdict_and_behind_what_came_before_it() -> None:
    async def story(world: Setting) -> None:
        heard: list[int] = []
        world.ingest.listen(lambda committed: heard.extend(range(committed.first_seq, committed.last_seq + 1)))
        before = world.ingest.offer([frame(STEP % (number, 1)) for number in range(3 * module.SLICE)])
        press = world.ingest.offer([frame(SOS % 9999)])
        press.add_done_callback(lambda _future: heard.append(0))
        while not press.done():
            await asyncio.sleep(0)
        assert before.done()
        assert heard[: 3 * module.SLICE + 1] == list(range(1, 3 * module.SLICE + 2))

    play(story, linger_max_s=30.0)


def test_the_backlog_of_listeners_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKLOG", 500)

    async def story(world: Setting) -> None:
        world.journal.held = True
        for start in range(0, 3000, 300):
            world.ingest.offer([frame(STEP % (seq, 1)) for seq in range(start, start + 300)])
            world.ingest._flush()
        world.journal.commit()  # all in one turn of the loop: nothing is handed over by itself
        assert world.ingest._backlog_records <= 500
        assert sum(len(part.records) for part in world.seen) >= 2500

    play(story)


def test_whoever_waits_may_be_cancelled_without_harm_to_others() -> None:
    async def story(world: Setting) -> None:
        world.journal.held = True
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await world.ingest.deliver([frame(SOS % 1)])
        shared = world.ingest.offer([frame(SOS % 2)])
        world.journal.commit()
        assert shared.result() is Verdict.ACCEPTED
        assert [record.dedup_key for record in world.journal.records] == ["1", "2"], "the frames are kept all the same"

    play(story)


def test_close_commits_what_waits_and_refuses_what_comes_then() -> None:
    async def story(world: Setting) -> None:
        world.ingest._quick = 0
        waits = world.ingest.offer([frame(STEP % (1, 1))])
        assert not waits.done()
        await world.ingest.close()
        assert waits.result() is Verdict.ACCEPTED
        assert [part.first_seq for part in world.seen] == [1], "and the listeners have it"
        assert await world.ingest.deliver([frame(SOS % 2)]) is Verdict.RETRY
        assert len(world.journal.records) == 1
        await world.ingest.close()

    play(story, linger_max_s=60.0)


def test_a_delivery_of_nothing_is_answered() -> None:
    async def story(world: Setting) -> None:
        async with asyncio.timeout(30):
            assert await world.ingest.deliver([]) is Verdict.ACCEPTED

    play(story)


def test_counters_add_up() -> None:
    async def story(world: Setting) -> None:
        await world.ingest.deliver([frame(SOS % 1), frame(SOS % 1), frame(b"?"), other("D-none", b"{}")])
        counters = world.ingest.counters.as_dict()
        assert counters == {
            "frames": 4, "records": 3, "duplicates": 1, "faults": 2, "refused": 0, "emergencies": 3, "unverified": 1,
        }  # fmt: skip

    play(story)
