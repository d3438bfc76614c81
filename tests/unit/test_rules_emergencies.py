"""An emergency signal is raised whatever else is true."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from gateway.care import CarePlan, DeviceCare
from gateway.model import EMERGENCY_SIGNALS, Clear, Committed, Position, Raise, Severity
from rules.engine import RulesEngine
from tests.rules_world import DEFAULTS, HOME, World, clears, only, raises, record


@pytest.mark.parametrize("signal", sorted(EMERGENCY_SIGNALS))
def test_each_emergency_signal_raises_a_p1(signal: str) -> None:
    found = only(World().say(signal=signal))
    assert (found.kind, found.severity, found.verified, found.late) == (signal, Severity.P1, True, False)
    assert found.effect_id == f"r1:signal.{signal}:{signal}"


def test_every_signal_of_a_set_is_raised() -> None:
    world = World()
    signals = {"sos": True, "low_battery": True, "fall": True, "tamper": True}
    assert sorted(raises(world.put(record(world.now_us, signals=signals)))) == [
        ("fall", "P1"), ("low_battery", "P4"), ("sos", "P1"), ("tamper", "P4"),
    ]  # fmt: skip


def test_every_press_is_raised_again() -> None:
    world = World()
    effects = [world.say(signal="sos") for _ in range(5)]
    assert [raises(effect) for effect in effects] == [[("sos", "P1")]] * 5
    assert len({only(effect).effect_id for effect in effects}) == 5


def test_an_unverified_press_is_a_p2_that_says_so() -> None:
    found = only(World().say(signal="sos", verified=False))
    assert (found.kind, found.severity, found.verified) == ("sos", Severity.P2, False)


def test_an_unknown_device_is_never_verified() -> None:
    found = only(World().say(signal="sos", device="", person=""))
    assert (found.severity, found.verified) == (Severity.P2, False)


def test_an_unverified_record_moves_no_state() -> None:
    world = World()
    world.say(signal="sos")
    assert world.say(signal="call_cancelled", verified=False) == []
    assert world.say("systolic_mmhg", 230, verified=False) == []
    assert raises(world.say(signal="service_call", verified=False)) == [("service_call", "P3")]


def test_cancelling_annotates_and_a_press_in_the_same_record_still_counts() -> None:
    world = World()
    effects = world.put(record(world.now_us, signals={"sos": True, "call_cancelled": True}))
    assert raises(effects) == [("sos", "P1")]
    assert clears(effects) == ["sos", "service_call"]
    ended = world.put(record(world.now_us, signals={"smoke": False}))
    assert [type(effect) for effect in ended] == [Clear]
    assert clears(ended) == ["smoke"]


def test_a_press_needs_no_position_and_gets_the_last_known_one() -> None:
    world = World()
    assert only(world.say(signal="sos")).position is None
    world.say(at=HOME)
    place = only(world.say(signal="sos")).position
    assert place is not None
    assert (place.latitude, place.longitude, place.valid) == (*HOME, False)


@pytest.mark.parametrize("ago_s", [-86_400 * 3650, -3600, 3600, 86_400 * 20_000])
def test_a_wrong_clock_does_not_hide_a_press(ago_s: float) -> None:
    world = World()
    assert raises(world.say(signal="sos", ago_s=ago_s)) == [("sos", "P1")]


def test_a_stored_press_is_raised_and_marked_late() -> None:
    found = only(World().say(signal="sos", ago_s=7200, stored=True))
    assert (found.severity, found.late) == (Severity.P1, True)
    assert found.received_at_us - found.occurred_at_us == 7200 * 1_000_000


class _BrokenPeople:
    """A registry that fails at everything."""

    def plan(self, person_id: str) -> CarePlan | None:
        raise RuntimeError(person_id)

    def device_care(self, device_id: str) -> DeviceCare | None:
        raise RuntimeError(device_id)

    def plans(self) -> Iterable[CarePlan]:
        raise RuntimeError


def test_a_press_is_raised_when_everything_else_fails() -> None:
    engine = RulesEngine(DEFAULTS, _BrokenPeople())
    world = World()
    records = [
        record(world.now_us, measurements={"heart_rate_bpm": 70}),
        record(world.now_us, signals={"sos": True}, position=Position(0, 0, 0)),
    ]
    effects = engine.observe(Committed(7, records))
    assert [(type(effect), effect.seq) for effect in effects] == [(Raise, 8)]
    assert engine.failures.total() >= 2


def test_test_and_signs_of_life_raise_nothing() -> None:
    world = World()
    for signal in ("test", "connection_lost", "motion", "im_ok", "check_in", "power_on", "power_off", "vibration"):
        assert world.say(signal=signal) == []
