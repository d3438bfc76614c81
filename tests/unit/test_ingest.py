"""The road in: what becomes of frames, when they are committed, and what is said of a commit that fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway import ingest as module
from gateway.clock import SystemClock
from gateway.errors import ParseError, ProfileError, StorageBrokenError, StorageError
from gateway.ingest import UNVERIFIED_FAULT, JournalIngest
from gateway.model import Committed, DeviceBinding, Frame, Reading, Record, Report, Urgency, Verdict
from gateway.storage.dedup import Marks
from protocols.codecs.native import NativeCodec
from tests.factory import T0_US, frame

SOS = b'{"seq":%d,"signals":["sos"]}'
STEP = b'{"seq":%d,"measurements":{"steps":%d}}'


class Journal:
    """An Appender that commits at once, later, or not at all."""

    def __init__(self) -> None:
        self.held = False
        self.waiting: list[tuple[list[Record], Callable[[int | StorageError], None]]] = []
        self.commits: list[list[Record]] = []
        self.submitted: list[tuple[int, bool]] = []
        self.seq = 0

    def submit(self, records: Sequence[Record], done: Callable[[int | StorageError], None], *, emergency: bool) -> None:
        self.submitted.append((len(records), emergency))
        self.waiting.append((list(records), done))
        if not self.held:
            asyncio.get_running_loop().call_soon(self.commit)

    def commit(self, error: StorageError | None = None, *, count: int = 1_000_000) -> None:
        """The oldest ``count`` submissions, together."""
        batch, self.waiting = self.waiting[:count], self.waiting[count:]
        for records, done in batch:
            first = self.seq + 1
            if error is None and records:
                self.seq += len(records)
                self.commits.append(records)
            done(error or first)

    @property
    def records(self) -> list[Record]:
        return [record for records in self.commits for record in records]


class Devices:
    """A directory."""

    def __init__(self) -> None:
        self.known = {
            "D-0001": DeviceBinding("D-0001", "carebell.native", "native", "P-0001"),
            "D-0002": DeviceBinding("D-0002", "vendor.model", "fields", "P-0002"),
            "D-gone": DeviceBinding("D-gone", "carebell.native", "native", "P-0003", state="retired"),
        }

    def device(self, device_id: str) -> DeviceBinding | None:
        return self.known.get(device_id)

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return self.known["D-0002"] if key == "IMEI-2" else None


class Codec:
    """Gives what it is told to, or raises it."""

    name = "told"

    def __init__(self, *outcome: Report | Exception) -> None:
        self.outcome = outcome

    def parse(self, frame: Frame) -> Sequence[Report]:
        if self.outcome and isinstance(self.outcome[0], Exception):
            raise self.outcome[0]
        return [report for report in self.outcome if isinstance(report, Report)]


class Profile:
    """Understands ``{"alarm": true}``."""

    def explain(self, profile: str, report: Report, received_at_us: int) -> Reading:
        if profile != "vendor.model":
            raise ProfileError(f"there is no profile {profile!r}")
        assert report.fields is not None
        if "bad" in report.fields:
            report.faults = [*(report.faults or []), "bad: unusable"]
        return Reading(received_at_us, {}, {"sos": True} if report.fields.get("alarm") else {})


class Setting:
    def __init__(self, **options: Any) -> None:
        self.journal = Journal()
        self.devices = Devices()
        self.codecs: dict[str, Any] = {"native": NativeCodec()}
        self.seen: list[Committed] = []
        self.ingest = JournalIngest(
            codecs=self.codecs, profiles=Profile(), directory=self.devices, marks=Marks(), journal=self.journal,
            clock=SystemClock(), **options,
        )  # fmt: skip
        self.ingest.listen(self.see)

    def see(self, committed: Committed) -> None:
        self.seen.append(committed)

    async def take(self, codec: Codec, *, device_key: str = "D-0001", verified: bool = True) -> list[Record]:
        """The records of one frame through this codec."""
        before = len(self.journal.records)
        self.codecs["told"] = codec
        given = Frame("tcp", "told", "127.0.0.1:1", b"raw", T0_US, device_key, verified)
        assert await self.ingest.deliver([given]) is Verdict.ACCEPTED
        return self.journal.records[before:]


def play(story: Callable[[Setting], Coroutine[Any, Any, None]], **options: Any) -> None:
    async def main() -> None:
        await story(Setting(**options))

    asyncio.run(main())


def other(device_key: str, payload: bytes, *, verified: bool = True, **changes: Any) -> Frame:
    return Frame("mqtt", "native", "127.0.0.1:5000", payload, T0_US, device_key, verified, **changes)


# ---- what a record says ----------------------------------------------------------------------------------------------


def test_a_frame_becomes_a_record_of_its_device_and_person() -> None:
    async def story(world: Setting) -> None:
        assert await world.ingest.deliver([frame(SOS % 1)]) is Verdict.ACCEPTED
        (record,) = world.journal.records
        assert (record.device_id, record.person_id, record.profile) == ("D-0001", "P-0001", "carebell.native")
        assert (record.verified, record.urgency, record.dedup_key) == (True, Urgency.EMERGENCY, "1")
        assert (record.payload, record.fault, record.part) == (SOS % 1, None, 0)
        await world.ingest.close()
        assert [(part.first_seq, part.records) for part in world.seen] == [(1, [record])]

    play(story)


def test_what_cannot_be_read_is_kept_with_its_reason() -> None:
    async def story(world: Setting) -> None:
        (record,) = await world.take(Codec(ParseError("not a frame of this protocol")))
        assert (record.fault, record.payload, record.reading) == ("not a frame of this protocol", b"raw", None)
        (record,) = await world.take(Codec())  # a heartbeat, say: nothing to report, nothing wrong
        assert (record.fault, record.payload) == (None, b"raw")
        with capture_logs() as logs:
            (record,) = await world.take(Codec(ZeroDivisionError("a bug")))
        assert record.fault == "told failed: ZeroDivisionError: a bug"
        assert record.payload == b"raw"
        assert [(line["event"], line["log_level"]) for line in logs] == [("codec_failed", "error")]
        assert "a bug" not in str(logs), "the text of an exception may hold anything"

    play(story)


def test_a_codec_that_does_not_exist_loses_nothing() -> None:
    async def story(world: Setting) -> None:
        given = Frame("tcp", "no_such_codec", "x", b"raw", T0_US, "D-0001")
        with capture_logs():
            assert await world.ingest.deliver([given]) is Verdict.ACCEPTED
        assert world.journal.records[0].payload == b"raw"
        assert "no_such_codec" in str(world.journal.records[0].fault)

    play(story)


def test_reports_share_a_frame_and_each_is_judged_alone() -> None:
    async def story(world: Setting) -> None:
        readings = [Reading(T0_US, {"steps": 1.0}), Reading(T0_US, {}, {"sos": True}), Reading(T0_US, {"steps": 2.0})]
        reports = [Report("D-0001", reading, seq=number) for number, reading in enumerate(readings)]
        reports[0].faults = ["a: wrong", "b: wrong"]
        records = await world.take(Codec(*reports))
        assert [record.part for record in records] == [0, 1, 2]
        assert [record.payload for record in records] == [b"raw", b"", b""], "the raw bytes are kept once"
        assert [record.urgency for record in records] == [Urgency.ROUTINE, Urgency.EMERGENCY, Urgency.ROUTINE]
        assert [record.fault for record in records] == ["a: wrong; b: wrong", None, None]

    play(story)


def test_the_payload_may_name_the_device() -> None:
    async def story(world: Setting) -> None:
        (record,) = await world.take(Codec(Report("IMEI-2", fields={"alarm": True})), device_key="")
        assert (record.device_id, record.person_id, record.profile) == ("D-0002", "P-0002", "vendor.model")
        assert (record.verified, record.urgency) == (True, Urgency.EMERGENCY)
        (record,) = await world.take(Codec(Report("IMEI-9", fields={"alarm": True})), device_key="")
        assert (record.device_id, record.device_key, record.verified) == ("", "IMEI-9", False)
        (record,) = await world.take(
            Codec(Report("IMEI-9", fields={"alarm": True}, model_hint="vendor.model")), device_key=""
        )
        assert record.reading is not None, "a hint at the model is enough to understand a stranger's press"
        assert record.reading.signals == {"sos": True}

    play(story)


def test_a_profile_that_does_not_fit_is_a_fault_beside_the_others() -> None:
    async def story(world: Setting) -> None:
        (record,) = await world.take(Codec(Report(fields={"alarm": True})))
        assert record.fault == "there is no profile 'carebell.native'"
        (record,) = await world.take(Codec(Report(fields={}, faults=["crc: wrong"])))
        assert record.fault == "crc: wrong; there is no profile 'carebell.native'"
        (record,) = await world.take(Codec(Report(fields={"alarm": 1, "bad": 1})), device_key="D-0002")
        assert (record.fault, record.urgency) == ("bad: unusable", Urgency.EMERGENCY)

    play(story)


@pytest.mark.parametrize(
    ("device_key", "verified"), [("D-0001", False), ("D-none", True), ("D-none", False), ("D-gone", True)]
)
def test_of_an_unproved_frame_only_the_emergency_is_used(device_key: str, verified: bool) -> None:
    async def story(world: Setting) -> None:
        payload = (
            b'{"seq":1,"signals":["sos","door_open"],"measurements":{"steps":1},'
            b'"position":{"latitude":39,"longitude":117}}'
        )
        await world.ingest.deliver([other(device_key, payload, verified=verified)])
        await world.ingest.deliver([other(device_key, STEP % (2, 1), verified=verified)])
        press, steps = world.journal.records
        assert press.reading is not None
        assert (press.reading.signals, press.reading.measurements) == ({"sos": True}, {})
        assert press.reading.position is not None
        assert (press.verified, press.fault, press.urgency) == (False, UNVERIFIED_FAULT, Urgency.EMERGENCY)
        assert press.dedup_key == ""
        assert (steps.reading, steps.fault, steps.payload) == (None, UNVERIFIED_FAULT, STEP % (2, 1))
        assert (press.device_id, press.device_key) == ("" if device_key == "D-none" else device_key, device_key)

    play(story)


def test_an_impostor_does_not_use_up_the_numbers_of_a_device() -> None:
    async def story(world: Setting) -> None:
        for verified in (False, False, True, True):
            await world.ingest.deliver([other("D-0001", SOS % 1, verified=verified)])
        assert [record.verified for record in world.journal.records] == [False, False, True]

    play(story)


# ---- duplicates ------------------------------------------------------------------------------------------------------


def test_what_is_a_resend() -> None:
    async def story(world: Setting) -> None:
        async def kept(*frames: Frame) -> int:
            before = len(world.journal.records)
            assert await world.ingest.deliver(frames) is Verdict.ACCEPTED
            return len(world.journal.records) - before

        assert await kept(frame(SOS % 7), frame(SOS % 7)) == 1, "in one delivery"
        assert await kept(frame(SOS % 7)) == 0, "in another one"
        assert await kept(frame(b'{"seq":7,"signals":["fall"]}')) == 1, "another content"
        assert await kept(frame(b'{"seq":7,"boot":1,"signals":["sos"]}')) == 1, "another boot"
        assert await kept(frame(b'{"signals":["sos"]}'), frame(b'{"signals":["sos"]}')) == 2, "two presses"
        assert await kept(other("D-0001", b'{"signals":["sos"]}', redelivered=True)) == 0, "told by the transport"
        assert await kept(other("D-0001", b'{"signals":["fall"]}', redelivered=True)) == 1, "its first never came"
        assert await kept(other("D-0001", b'{"signals":["sos"]}', idempotency_key="k")) == 1
        assert await kept(other("D-0001", b'{"signals":["sos"]}', idempotency_key="k")) == 0
        assert await kept(other("D-0002", b'{"signals":["sos"]}', idempotency_key="k")) == 1, "another device"
        keys = [record.dedup_key for record in world.journal.records]
        assert keys == ["7", "7", "1:7", "", "", "", "key:k", "key:k"]
        counters = world.ingest.counters
        assert counters.records + counters.duplicates == 12

    play(story)


def test_parts_of_a_named_frame_do_not_take_each_other_for_resends() -> None:
    async def story(world: Setting) -> None:
        two = b'[{"signals":["sos"]},{"signals":["sos"]}]'
        for _ in range(2):
            await world.ingest.deliver([other("D-0001", two, idempotency_key="k")])
        assert [record.dedup_key for record in world.journal.records] == ["key:k", "key:k/1"]

    play(story)


def test_a_resend_waits_for_its_original() -> None:
    async def story(world: Setting) -> None:
        world.journal.held = True
        first = world.ingest.offer([frame(SOS % 1)])
        second = world.ingest.offer([frame(SOS % 1)])
        await asyncio.sleep(0.01)
        assert not first.done()
        assert not second.done()
        assert world.journal.submitted == [(1, True), (0, True)]
        world.journal.commit(count=1)
        assert (first.done(), second.done()) == (True, False)
        world.journal.commit(count=1)
        assert (first.result(), second.result()) == (Verdict.ACCEPTED, Verdict.ACCEPTED)

    play(story)


@pytest.mark.parametrize("error", [StorageError("busy"), StorageBrokenError("EIO")])
def test_a_resend_whose_original_failed_is_not_accepted(error: StorageError) -> None:
    async def story(world: Setting) -> None:
        world.journal.held = True
        first = world.ingest.offer([frame(SOS % 1)])
        second = world.ingest.offer([frame(SOS % 1)])  # looks like a resend, but nobody has the original
        neighbour = world.ingest.offer([other("D-0002", SOS % 1)])
        assert second is not first
        world.journal.commit(error, count=1)
        world.journal.commit()
        assert (first.result(), second.result()) == (Verdict.RETRY, Verdict.RETRY)
        assert neighbour.result() is Verdict.ACCEPTED
        world.journal.held = False
        assert await world.ingest.deliver([frame(SOS % 1)]) is Verdict.ACCEPTED, "it is new again"
        assert [record.device_id for record in world.journal.records] == ["D-0002", "D-0001"]
        assert world.ingest.counters.refused == 1

    play(story)


def test_a_failed_commit_forgets_keys_too() -> None:
    async def story(world: Setting) -> None:
        world.journal.held = True
        frames = [other("D-0001", b'{"signals":["sos"]}', idempotency_key="k"), frame(b'{"signals":["fall"]}')]
        verdict = world.ingest.offer(frames)
        world.journal.commit(StorageError("busy"))
        assert verdict.result() is Verdict.RETRY
        world.journal.held = False
        again = [frames[0], other("D-0001", b'{"signals":["fall"]}', redelivered=True)]
        assert await world.ingest.deliver(again) is Verdict.ACCEPTED
        assert len(world.journal.records) == 2

    play(story)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(1, 6), min_size=1, max_size=3), st.sampled_from(["commit", "fail", "wait", "gather"])
        ),
        max_size=14,
    )
)
def test_accepted_is_on_disk_once_whatever_fails(steps: list[tuple[list[int], str]]) -> None:
    """Commits come in order, some fail: what was accepted is in the journal, and nothing is there twice."""

    async def story(world: Setting) -> None:
        world.journal.held = True
        offered: list[tuple[asyncio.Future[Verdict], list[bytes]]] = []
        for numbers, then in steps:
            payloads = [SOS % seq if seq % 3 == 0 else STEP % (seq, seq) for seq in numbers]
            offered.append((world.ingest.offer([frame(payload) for payload in payloads]), payloads))
            if then != "gather":
                world.ingest._flush()
            if then in ("commit", "fail"):
                world.journal.commit(StorageError("no") if then == "fail" else None, count=1)
        world.ingest._flush()
        world.journal.commit()
        kept = [record.payload for record in world.journal.records]
        assert len(kept) == len(set(kept))
        for verdict, payloads in offered:
            assert verdict.done()
            if verdict.result() is Verdict.ACCEPTED:
                assert set(payloads) <= set(kept)
        await world.ingest.close()

    play(story)


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
        async with asyncio.timeout(5):
            assert await verdicts[0] is Verdict.ACCEPTED
        assert world.journal.submitted == [(50, False)]

    play(story, linger_max_s=0.05)


def test_a_lone_device_after_a_quiet_time_does_not_wait_for_company() -> None:
    async def story(world: Setting) -> None:
        async with asyncio.timeout(5):
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
        async with asyncio.timeout(5):
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
        async with asyncio.timeout(5):
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
