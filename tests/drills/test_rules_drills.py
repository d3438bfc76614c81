"""Whole stories on a virtual clock: what a call center would see of a day, of a restart, of a busy fleet."""

from __future__ import annotations

from gateway.care import CarePlan, CheckInDue, DeviceCare
from gateway.clock import US_PER_S, iso
from gateway.model import Committed, Effect, Raise
from rules.engine import RulesEngine
from tests.rules_world import DEFAULTS, HOME, People, World, away, clears, home_fence, raises, record, us


def _story(effects: list[Effect]) -> list[tuple[str, str, str]]:
    return [
        (iso(effect.received_at_us)[11:16], effect.kind, effect.severity.name)
        for effect in effects
        if isinstance(effect, Raise)
    ]


def test_a_rising_blood_pressure() -> None:
    world = World(start="2026-11-22T00:00:00+00:00")
    for systolic, diastolic in (
        (138, 82),
        (152, 88),
        (154, 89),
        (183, 96),
        (186, 99),
        (196, 104),
        (172, 92),
        (138, 79),
    ):
        world.say(systolic_mmhg=systolic, diastolic_mmhg=diastolic)
        world.wait(300)
    assert _story(world.all) == [("00:10", "blood_pressure_high", "P3"), ("00:20", "blood_pressure_high", "P2")]
    assert clears(world.all) == ["blood_pressure_high"]


def test_a_walk_out_of_the_fence_and_back() -> None:
    world = World([CarePlan(person_id="P-1", fences=(home_fence(),))], start="2026-11-22T00:00:00+00:00")
    for metres in (0, 40, 120, 190, 240, 300, 380, 460, 390, 250, 120, 40, 0):
        world.say(at=away(metres), accuracy_m=8)
        world.wait(60)
    assert _story(world.all) == [("00:05", "geofence_exit", "P2")]
    assert clears(world.all) == ["geofence_exit"]


def test_a_drifting_receiver_at_home_all_night() -> None:
    """Fixes that scatter by their accuracy, a cell in between, and two wild ones: nobody is woken."""
    world = World([CarePlan(person_id="P-1", fences=(home_fence(150),))])
    for number in range(600):
        north = (number * 37 % 300) - 150
        east = (number * 53 % 240) - 120
        world.say(at=away(north * 0.9, east * 0.9), accuracy_m=10 + number % 60)
        if number in (100, 400):
            world.say(at=away(9000, 4000), accuracy_m=20)
        if number % 50 == 0:
            world.say(at=away(800), accuracy_m=1500, source="cell")
        world.wait(60)
    assert world.all == []


def test_a_restart_in_the_middle_of_an_alarm_tells_nothing_twice() -> None:
    plans = [
        CarePlan(person_id="P-1", fences=(home_fence(),), expectations=(CheckInDue(expectation_id="m", by="09:00"),))
    ]
    devices = [DeviceCare(device_id="D-1", heartbeat_s=600)]
    world = World(plans, devices)
    world.say(at=HOME)
    world.wait(600)
    world.say(at=away(700), spo2_percent=88)
    world.wait(60)
    world.say(at=away(720), spo2_percent=88)
    assert sorted(raises(world.all)) == [("geofence_exit", "P2"), ("spo2_low", "P2")]
    rows = [(rule_id, subject, state) for rule_id, subject, state in world.engine.dirty() if state is not None]
    world.engine = RulesEngine(DEFAULTS, People(plans, devices))
    world.engine.restore(rows)
    world.all.clear()
    for metres in (740, 760):
        world.wait(60)
        world.say(at=away(metres), spo2_percent=88)
    assert world.all == []
    for metres in (100, 90):
        world.wait(120)
        world.say(at=away(metres), spo2_percent=96)
    assert sorted(clears(world.all)) == ["geofence_exit", "spo2_low"]
    assert raises(world.wait_until("2026-11-22T09:00:05+08:00"))[-1] == ("check_in_missed", "P2")


def test_a_state_that_cannot_be_read_starts_afresh_and_stops_nothing() -> None:
    world = World()
    world.say(spo2_percent=88)
    world.say(spo2_percent=88)
    rows = [(rule_id, subject, state or b"") for rule_id, subject, state in world.engine.dirty()]
    engine = RulesEngine(DEFAULTS, People())
    engine.restore([(rule_id, subject, state[:-3]) for rule_id, subject, state in rows] + [("gone", "P-1", b"\xc1")])
    at_us = us("2026-11-22T09:00:00+08:00")
    records = [record(at_us + number * US_PER_S, measurements={"spo2_percent": 88.0}) for number in range(3)]
    assert raises(engine.observe(Committed(10, records))) == [("spo2_low", "P2")]
    pressed = engine.observe(Committed(20, [record(at_us, signals={"sos": True})]))
    assert raises(pressed) == [("sos", "P1")]


def test_a_fleet_that_comes_back_after_an_outage_is_no_storm() -> None:
    """A thousand devices speak again after the gateway was away for a day: nobody is called silent."""
    devices = [DeviceCare(device_id=f"D-{number}", heartbeat_s=300) for number in range(1000)]
    world = World(devices=devices)
    world.put(*[record(world.now_us, device=f"D-{number}", person=f"P-{number}") for number in range(1000)])
    world.now_us += 86_400 * US_PER_S
    world.engine.resume(world.now_us)
    world.wait(240)
    world.put(*[record(world.now_us, device=f"D-{number}", person=f"P-{number}") for number in range(999)])
    assert raises(world.wait(660)) == [("device_silent", "P4")]
