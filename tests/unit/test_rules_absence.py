"""What did not happen, on days with and without a change of clocks."""

from __future__ import annotations

from gateway.care import CarePlan, CheckInDue, DeviceCare, Expectation, MeasurementDue, MotionExpected, Schedule, Window
from gateway.clock import from_us, iso
from gateway.model import Severity
from tests.rules_world import World, clears, only, raises, record, us


def _world(*expectations: Expectation, start: str = "2026-11-22T06:00:00+08:00", zone: str = "") -> World:
    return World([CarePlan(person_id="P-1", timezone=zone, expectations=expectations)], start=start)


def test_a_silent_device_is_a_technical_alert_and_its_return_clears_it() -> None:
    world = World(devices=[DeviceCare(device_id="D-1", person_id="P-1", heartbeat_s=600)])
    for _ in range(20):
        assert world.say(heart_rate_bpm=70) == []
        assert world.wait(600) == []
    last_us = world.now_us - 600_000_000
    found = only(world.wait(3600))
    assert (found.kind, found.severity, found.seq) == ("device_silent", Severity.P4, 0)
    assert found.occurred_at_us == last_us + 1800_000_000
    assert found.evidence["condition"] == "unknown"
    assert found.evidence["last_heard_us"] == last_us
    assert clears(world.say(heart_rate_bpm=70)) == ["device_silent"]
    assert world.say(heart_rate_bpm=70) == []
    assert raises(world.wait(1801)) == [("device_silent", "P4")]


def test_silence_around_a_person_at_high_risk_is_urgent() -> None:
    world = World([CarePlan(person_id="P-1", high_risk=True)], [DeviceCare(device_id="D-1", silent_after_s=7200)])
    world.say()
    assert world.wait(7199) == []
    assert raises(world.wait(2)) == [("device_silent", "P2")]


def test_a_device_that_speaks_only_when_used_is_never_silent() -> None:
    world = World(devices=[DeviceCare(device_id="D-1")])
    world.say()
    assert world.wait(30 * 86_400) == []


def test_silence_while_the_gateway_was_away_means_nothing_yet() -> None:
    world = World(devices=[DeviceCare(device_id="D-1", heartbeat_s=600)])
    world.say()
    world.now_us += 86_400_000_000
    world.engine.resume(world.now_us)
    assert world.wait(500) == []
    world.say()
    assert world.wait(1700) == []
    assert raises(world.wait(200)) == [("device_silent", "P4")]


def test_an_im_ok_that_does_not_come() -> None:
    world = _world(CheckInDue(expectation_id="morning", by="09:00"))
    world.say(signal="im_ok")
    assert world.wait_until("2026-11-22T23:00:00+08:00") == []
    found = only(world.wait_until("2026-11-23T09:00:05+08:00"))
    assert (found.kind, found.severity) == ("check_in_missed", Severity.P2)
    assert found.effect_id == f"t{us('2026-11-23T09:00:00+08:00')}:due.morning:P-1:check_in_missed"
    assert clears(world.say(signal="check_in")) == ["check_in_missed"]
    assert raises(world.wait_until("2026-11-24T12:00:00+08:00")) == [("check_in_missed", "P2")]


def test_an_expectation_needs_no_device_at_all() -> None:
    world = _world(CheckInDue(expectation_id="morning", by="09:00"))
    assert len(raises(world.wait_until("2026-11-25T12:00:00+08:00"))) == 4


def test_a_measurement_that_is_due() -> None:
    world = _world(
        MeasurementDue(expectation_id="bp", metric="systolic_mmhg", by="10:00", start="06:00", grace_minutes=60)
    )
    world.wait_until("2026-11-22T07:00:00+08:00")
    world.say(systolic_mmhg=130)
    assert world.wait_until("2026-11-22T23:00:00+08:00") == []
    world.say(systolic_mmhg=130)
    assert world.wait_until("2026-11-23T10:59:59+08:00") == []
    found = only(world.wait_until("2026-11-23T11:00:01+08:00"))
    assert (found.kind, found.severity, found.evidence["metric"]) == (
        "measurement_missed",
        Severity.P3,
        "systolic_mmhg",
    )


def test_a_measurement_that_was_stored_and_comes_in_time_counts() -> None:
    world = _world(MeasurementDue(expectation_id="bp", metric="systolic_mmhg", by="10:00", grace_minutes=120))
    world.wait_until("2026-11-22T11:00:00+08:00")
    world.say(systolic_mmhg=130, ago_s=3 * 3600, stored=True)
    assert world.wait_until("2026-11-22T13:00:00+08:00") == []


def test_only_the_days_of_the_plan_count() -> None:
    world = _world(CheckInDue(expectation_id="weekdays", by="09:00", days=(1, 2, 3, 4, 5)))  # 22 November is a Sunday
    assert world.wait_until("2026-11-23T08:59:00+08:00") == []
    assert raises(world.wait_until("2026-11-23T09:01:00+08:00")) == [("check_in_missed", "P2")]


def test_no_sign_of_activity_while_it_is_expected() -> None:
    day = Schedule(windows=(Window(start="07:00", until="21:00"),))
    world = _world(MotionExpected(expectation_id="day", schedule=day, within_minutes=240))
    world.wait_until("2026-11-22T08:00:00+08:00")
    world.say(signal="motion")
    assert world.wait_until("2026-11-22T11:59:00+08:00") == []
    world.say(signal="door_open")
    found = only(world.wait_until("2026-11-22T16:00:00+08:00"))
    assert (found.kind, found.severity) == ("no_activity", Severity.P2)
    assert found.occurred_at_us == us("2026-11-22T15:59:00+08:00")
    assert world.wait_until("2026-11-22T19:00:00+08:00") == []
    assert clears(world.say(signal="motion")) == ["no_activity"]
    assert world.wait_until("2026-11-23T10:59:00+08:00") == [], "the night does not count"
    assert raises(world.wait_until("2026-11-23T11:00:01+08:00")) == [("no_activity", "P2")]


def test_activity_is_missed_even_if_nothing_ever_came() -> None:
    day = Schedule(windows=(Window(start="07:00", until="21:00"),))
    world = _world(MotionExpected(expectation_id="day", schedule=day, within_minutes=240))
    assert raises(world.wait_until("2026-11-22T11:00:01+08:00")) == [("no_activity", "P2")]


def test_deadlines_follow_the_clocks_of_the_place() -> None:
    world = _world(CheckInDue(expectation_id="m", by="09:00"), start="2026-03-27T12:00:00+01:00", zone="Europe/Berlin")
    world.wait_until("2026-03-30T12:00:00+02:00")
    times = [iso(effect.occurred_at_us) for effect in [only([effect]) for effect in world.all]]
    assert times == ["2026-03-28T08:00:00.000Z", "2026-03-29T07:00:00.000Z", "2026-03-30T07:00:00.000Z"]


def test_a_deadline_in_the_hour_that_does_not_exist_or_exists_twice() -> None:
    spring = _world(CheckInDue(expectation_id="m", by="02:30"), start="2026-03-29T00:00:00+01:00", zone="Europe/Berlin")
    found = only(spring.wait_until("2026-03-29T12:00:00+02:00"))
    assert iso(found.occurred_at_us) == "2026-03-29T01:30:00.000Z"
    autumn = _world(CheckInDue(expectation_id="m", by="02:30"), start="2026-10-25T00:00:00+02:00", zone="Europe/Berlin")
    found = only(autumn.wait_until("2026-10-25T12:00:00+01:00"))
    assert from_us(found.occurred_at_us) == from_us(us("2026-10-25T02:30:00+02:00"))


def test_out_of_bed_at_night_for_too_long() -> None:
    world = World(start="2026-11-22T23:00:00+08:00")
    world.say(signal="bed_exit")
    assert world.wait(29 * 60) == []
    world.say(signal="bed_return")
    assert world.wait(3600) == []
    world.say(signal="bed_exit")
    assert raises(world.wait(1801)) == [("bed_not_returned", "P2")]
    assert clears(world.say(signal="bed_return")) == ["bed_not_returned"]
    world.wait_until("2026-11-23T10:00:00+08:00")
    world.say(signal="bed_exit")
    assert world.wait(7200) == []


def test_a_latched_signal_is_told_once_until_it_ends() -> None:
    world = World()
    assert raises(world.say(signal="low_battery")) == [("low_battery", "P4")]
    for _ in range(5):
        assert world.say(signal="low_battery") == []
        world.wait(60)
    assert clears(world.say(signal="battery_normal")) == ["low_battery"]
    assert raises(world.say(signal="low_battery")) == [("low_battery", "P4")]
    assert clears(world.put(record(world.now_us, signals={"low_battery": False}))) == ["low_battery"]


def test_every_call_for_a_service_counts() -> None:
    world = World()
    assert [raises(world.say(signal="service_call")) for _ in range(3)] == [[("service_call", "P2")]] * 3


def test_adding_a_person_and_changing_a_deadline_takes_effect() -> None:
    world = _world(CheckInDue(expectation_id="m", by="09:00"))
    plan = CarePlan(person_id="P-1", expectations=(CheckInDue(expectation_id="m", by="08:00"),), version=2)
    other = CarePlan(person_id="P-2", expectations=(CheckInDue(expectation_id="m", by="08:30"),))
    world.people.by_id = {"P-1": plan, "P-2": other}
    world.engine.reload(now_us=world.now_us)
    world.wait_until("2026-11-22T12:00:00+08:00")
    found = [(effect.person_id, iso(effect.occurred_at_us)) for effect in (only([effect]) for effect in world.all)]
    assert found == [("P-1", "2026-11-22T00:00:00.000Z"), ("P-2", "2026-11-22T00:30:00.000Z")]


def test_an_expectation_that_is_gone_is_not_missed() -> None:
    world = _world(CheckInDue(expectation_id="m", by="09:00"))
    world.people.by_id = {}
    world.engine.reload(now_us=world.now_us)
    assert world.wait(5 * 86_400) == []
