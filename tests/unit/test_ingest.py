"""The road in: what becomes of frames, which of them are resends, and what is said of a commit that fails."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway.errors import ParseError, StorageBrokenError, StorageError
from gateway.ingest import UNVERIFIED_FAULT
from gateway.model import Frame, Reading, Report, Urgency, Verdict
from gateway.storage.dedup import NAMED
from tests.factory import T0_US, frame
from tests.ingest_world import SOS, STEP, Codec, Setting, other, play

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


def test_half_a_character_names_no_device_and_no_resend() -> None:
    r"""JSON's ``\ud800`` alone, as a codec may let it through: marks and records have to be written."""

    async def story(world: Setting) -> None:
        bad = Report("key \ud800", Reading(T0_US, {}, {"sos": True}), dedup_key="again \ud800", faults=["x \ud800"])
        (record,) = await world.take(Codec(bad), device_key="")
        (known,) = await world.take(Codec(bad))
        assert (record.device_key, record.fault, record.verified) == ("key ?", f"{UNVERIFIED_FAULT}; x ?", False)
        assert record.reading is not None
        assert record.reading.signals == {"sos": True}
        assert known.dedup_key == f"{NAMED}again ?"
        assert await world.take(Codec(bad)) == [], "a resend"

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
