"""The journal understood again: what differs, and what is lacking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from device_profiles.vectors import load_vectors
from gateway.clock import from_us, to_us
from gateway.errors import ParseError
from gateway.ingest import UNVERIFIED_FAULT
from gateway.model import Frame, Position, Reading, Report, Urgency
from gateway.ports import Codec
from gateway.replaying import compare
from gateway.replaying.compare import Part, Repair
from gateway.replaying.frames import Kept, frames_at, pages
from gateway.storage import journal
from gateway.storage.database import FILE_NAME
from protocols.registry import CODECS
from simulators.terminals.base import Facts, Place, Script
from simulators.terminals.registry import KINDS
from tests.ingest_world import Codec as Told
from tests.quick_file import quick_database
from tests.replay_world import AT_US, IMEI, SHIPPED, Devices, differing, journalled, look, raw, reader, report, told

# ---- the same codecs and profiles find nothing -----------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED.names())
def test_what_ingest_understood_is_understood_the_same_again(name: str) -> None:
    """Of a known device, of one that proved nothing, and of one that nobody knows."""
    codec = SHIPPED.codec_of(name)
    for device_key, verified in (("D-1", True), ("D-1", False), ("", True)):
        frames = [
            Frame("check", codec, f"vector {number}", vector.payload.encode() or bytes.fromhex(vector.payload_hex),
                  to_us(vector.received_at), device_key, verified)
            for number, vector in enumerate(load_vectors(SHIPPED.vectors_file(name)))
        ]  # fmt: skip
        devices = Devices(name)
        again = reader(devices)
        kept = journalled(frames, devices)
        assert kept
        assert differing(again, kept) == []


@pytest.mark.parametrize("protocol", sorted(set(KINDS) & set(CODECS)))
def test_a_conversation_is_understood_the_same_again(protocol: str) -> None:
    """What a login teaches holds for the frames behind it, which say neither who they are nor where their clock is."""
    script: Script = KINDS[protocol].script(IMEI)
    codec: Any = CODECS[protocol]
    facts = Facts(from_us(AT_US), Place(39.1235, 117.2011, 1.5, 90), ("sos",))
    framer, frames, key, context = codec.framer(), [], "", None
    for message in (*script.hello(facts.at), script.heartbeat(facts), script.report(facts)):
        for payload in framer.feed(message.payload):
            frame = Frame("tcp", protocol, "127.0.0.1:1", payload, AT_US, key, context=context)
            for parsed in codec.parse(frame):
                key, context = parsed.device_key or key, context if parsed.context is None else parsed.context
            frames.append(frame)
    devices = Devices(KINDS[protocol].profile)
    again = reader(devices)
    kept = journalled(frames, devices)
    assert any(one.urgency == Urgency.EMERGENCY for each in kept for one in each.records)
    assert differing(again, kept) == []


# ---- what is lacking -------------------------------------------------------------------------------------------------

VALUES = st.dictionaries(st.sampled_from(["heart_rate_bpm", "spo2_percent", "steps"]), st.sampled_from([1.0, 2.0]))
SIGNALS = st.dictionaries(st.sampled_from(["sos", "low_battery", "fall"]), st.booleans())
PLACES = st.none() | st.builds(Position, st.sampled_from([39.0, 39.5]), st.just(117.0), st.just(AT_US))
READINGS = st.none() | st.builds(Reading, st.sampled_from([AT_US, AT_US - 1]), VALUES, SIGNALS, PLACES)
FAULTS = st.none() | st.sampled_from(["a", "b"])


@st.composite
def frames_of(draw: st.DrawFn) -> list[Part]:
    count = draw(st.integers(1, 3))
    return [Part(number, "D-1", "D-1", draw(READINGS), draw(FAULTS)) for number in range(count)]


@given(frames_of(), frames_of(), st.booleans())
def test_what_is_added_was_lacking_and_is_lacking_no_more(was: list[Part], now: list[Part], changed: bool) -> None:
    finding = compare.compare(1, AT_US, was, now, also_changed=changed)
    if finding is None:
        return
    before, after = {part.part: part.reading for part in was}, {part.part: part.reading for part in now}
    for repair in finding.repairs:
        assert repair.reading.stored
        old, new = before.get(repair.part), after[repair.part]
        for name in compare.names(repair.reading):
            assert new is not None
            if name == compare.POSITION:
                assert repair.reading.position == new.position
            else:
                assert (repair.reading.measurements | repair.reading.signals)[name] == (new.measurements | new.signals)[
                    name
                ]
            if old is not None and not changed and name in compare.names(old):
                assert name in ("sos", "fall"), "an emergency that the record says is none"
                assert not old.signals[name]
    if finding.why:
        assert not any(compare.is_emergency(repair.reading) for repair in finding.repairs)
        return
    assert compare.decode(compare.encode(finding.repairs)) == finding.repairs
    again = compare.compare(1, AT_US, compare.merged(was, finding.repairs), now, also_changed=changed)
    assert again is None or again.why, "applied twice changes nothing"


def test_an_emergency_is_never_left_alone() -> None:
    was = [Part(0, "D-1", "D-1", Reading(AT_US, {"steps": 5.0}), None)]
    now = [Part(0, "D-1", "D-1", Reading(AT_US, {}, {"sos": True}), None)]
    finding = compare.compare(1, AT_US, was, now, also_changed=False)
    assert finding is not None
    assert (finding.why, finding.repairs[0].reading) == ("", Reading(AT_US, {}, {"sos": True}, stored=True))


def test_a_fault_that_is_none_any_more_is_repaired() -> None:
    (kept,) = journalled([raw()], Devices(), told(ValueError("bug")))
    found = look(kept, report(steps=5))
    assert found is not None
    assert (found.why, found.repairs) == ("", [Repair(0, "D-1", "D-1", Reading(AT_US, {"steps": 5.0}, stored=True))])
    nothing = look(kept, Report())
    assert nothing is not None
    assert nothing.repairs[0].reading == Reading(AT_US, stored=True)
    assert look(kept, ValueError("bug")) is None


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (ValueError("new"), compare.WOULD_BE_FAULT),
        (report(heart_rate_bpm=72), compare.WOULD_LOSE),
        (report(steps=5, spo2_percent=97, faults=["steps: odd"]), compare.WOULD_BE_FAULT),
        (report(steps=6), compare.READS_OTHERWISE),
        (report(AT_US - 1, steps=5), compare.READS_OTHERWISE),
        (report(AT_US - 1, steps=5, spo2_percent=97), compare.READS_OTHERWISE),
        (report(AT_US - 1, steps=5, signals={"sos": True}), ""),
        (report(steps=5, spo2_percent=97), ""),
    ],
)
def test_never_to_the_worse(now: Report | Exception, why: str) -> None:
    (kept,) = journalled([raw()], Devices(), told(report(steps=5)))
    found = look(kept, now)
    assert found is not None
    assert found.why == why


def test_other_values_are_added_when_asked_for() -> None:
    (kept,) = journalled([raw()], Devices(), told(report(steps=5)))
    found = look(kept, report(steps=6), changed=True)
    assert found is not None
    assert (found.why, found.repairs[0].reading.measurements) == ("", {"steps": 6.0})


def test_of_two_reports_only_the_one_that_is_lacking() -> None:
    (kept,) = journalled([raw()], Devices(), told(report(signals={"sos": True}), report(faults=["x"])))
    again = reader(Devices(), told(report(signals={"sos": True}), report(steps=5)))
    found = again.look_at(kept, [])
    assert found is not None
    assert [(repair.part, compare.names(repair.reading)) for repair in found.repairs] == [(1, ["steps"])]
    named = reader(Devices(), told(report(signals={"sos": True}), report(faults=["x"]), report(seq=7, steps=1)))
    repeated = named.look_at(kept, [])
    assert repeated is not None, "the frame had a fault: what stands behind that is new"
    (whole,) = journalled([raw()], Devices(), told(report(steps=1)))
    assert reader(Devices(), told(report(steps=1), report(seq=7, steps=2))).look_at(whole, []) is None


def test_who_proved_nothing_then_proves_nothing_now() -> None:
    (kept,) = journalled([raw(verified=False)], Devices(), told(ValueError("bug")))
    found = look(kept, report(steps=5, signals={"sos": True}))
    assert found is not None
    assert found.repairs == [Repair(0, "D-1", "D-1", Reading(AT_US, {}, {"sos": True}, stored=True), None)]
    assert found.now[0].fault == UNVERIFIED_FAULT


def test_nobody_gets_the_readings_of_another() -> None:
    (kept,) = journalled([raw()], Devices(), told(ValueError("bug")))
    for change in ({"person_id": "P-2"}, {"state": "retired"}):
        devices = Devices()
        devices.known["D-1"] = structs.replace(devices.known["D-1"], **change)
        found = look(kept, report(steps=5), devices=devices)
        assert found is not None
        assert found.why == compare.NOT_THEIRS


def test_a_terminal_that_got_no_answer_is_repaired_once() -> None:
    frames = [raw(at_us=AT_US + number) for number in range(3)]
    kept = journalled(frames, Devices(), told(ValueError("bug")))
    again = reader(Devices(), told(report(AT_US - 5, seq=9, steps=5)))
    found = [again.look_at(one, []) for one in kept]
    assert [one and one.why for one in found] == ["", compare.RESEND, compare.RESEND]
    assert [one and one.known for one in found] == [False, True, True]
    first = found[0]
    assert first is not None
    repaired = reader(Devices(), told(report(AT_US - 5, seq=9, steps=5)))
    assert repaired.look_at(kept[0], first.repairs) is None
    second = repaired.look_at(kept[1], [])
    assert second is not None
    assert second.why == compare.RESEND, "a repaired one is remembered too"


def test_two_presses_that_look_alike_are_two() -> None:
    kept = journalled([raw(), raw(at_us=AT_US + 1)], Devices(), told(ValueError("bug")))
    again = reader(Devices(), told(report(signals={"sos": True})))
    assert [found.why for one in kept if (found := again.look_at(one, [])) is not None] == ["", ""]


def test_a_frame_that_needs_what_was_said_before_it_is_left() -> None:
    class Spelled:
        """Reads only what its context has the key for."""

        name = "told"

        def parse(self, frame: Frame) -> Sequence[Report]:
            if (frame.context or {}).get("key") is None:
                raise ParseError("no key")
            return [report(steps=5)]

    keyed = structs.replace(raw(), context={"key": 1})
    codecs: dict[str, Codec] = {"told": Spelled()}
    (kept,) = journalled([keyed], Devices(), codecs)
    found = reader(Devices(), codecs).look_at(kept, [])
    assert found is not None
    assert found.why == compare.ALONE
    spelled = codecs["told"]
    taught = reader(Devices(), codecs)
    codecs["told"] = Told(structs.replace(report(steps=5), context={"key": 1}))  # as a login does
    assert taught.look_at(kept, []) is None
    codecs["told"] = spelled
    assert taught.look_at(kept, []) is None


def test_a_resend_whose_bytes_stand_elsewhere_is_not_looked_at() -> None:
    (kept,) = journalled([raw()], Devices(), told(report(steps=1), report(steps=2)))
    assert reader(Devices(), told()).can_read(kept)
    assert not reader(Devices(), told()).can_read(Kept(2, kept.records[1:]))
    assert not reader(Devices(), {}).can_read(kept)


# ---- frames of the file ----------------------------------------------------------------------------------------------


def test_frames_are_found_from_any_number(tmp_path: Path) -> None:
    first = journalled(
        [raw(), raw(at_us=AT_US + 1)], Devices(), told(report(steps=1), report(steps=2), report(steps=3))
    )
    connection = quick_database(tmp_path / FILE_NAME)
    with connection:
        for _ in range(3):
            journal.insert(connection, [one for kept in first for one in kept.records])
    starts = [1, 4, 7, 10, 13, 16]
    for begin in range(1, 19):
        for end in (begin, begin + 5, 18):
            found = [kept.seq for page in pages(connection, begin, end) for kept in page.frames]
            assert found == [start for start in starts if begin <= start <= end], (begin, end)
    parts = {seq: len(kept.records) for seq, kept in frames_at(connection, [13, 4, 5, 99, 1]).items()}
    assert parts == {1: 3, 4: 3, 13: 3}
    connection.close()
