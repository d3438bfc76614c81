"""Stored data, slow clocks and clocks from the future."""

from __future__ import annotations

import pytest

from gateway.care import CarePlan
from gateway.model import Raise
from rules import timing
from tests.rules_world import HOME, World, away, clears, home_fence, only, raises

_DAY_S = 86_400


def test_late_data_raises_once_per_kind_and_upload() -> None:
    world = World()
    for minutes in range(120, 60, -5):
        world.say(systolic_mmhg=205, diastolic_mmhg=100, ago_s=minutes * 60, stored=True)
    found = only(world.all)
    assert (found.kind, found.severity.name, found.late) == ("blood_pressure_high", "P2", True)
    assert found.received_at_us - found.occurred_at_us == 7_200_000_000
    world.wait(3600)
    world.say(systolic_mmhg=205, ago_s=7200, stored=True)
    assert len(raises(world.all)) == 2


def test_late_data_leaves_live_state_alone() -> None:
    world = World()
    world.say(spo2_percent=90)
    world.say(spo2_percent=90)
    assert raises(world.all) == [("spo2_low", "P2")]
    for minutes in (60, 50, 40):
        assert world.say(spo2_percent=98, ago_s=minutes * 60, stored=True) == []
    assert world.say(spo2_percent=90) == []
    world.say(spo2_percent=97)
    assert clears(world.say(spo2_percent=97)) == ["spo2_low"]


def test_late_severity_may_still_rise_within_an_upload() -> None:
    world = World()
    assert raises(world.say(blood_glucose_mmol_per_l=3.5, ago_s=7200, stored=True)) == [("blood_glucose_low", "P3")]
    assert raises(world.say(blood_glucose_mmol_per_l=2.5, ago_s=6600, stored=True)) == [("blood_glucose_low", "P2")]
    assert world.say(blood_glucose_mmol_per_l=2.5, ago_s=6000, stored=True) == []


def test_confirmation_of_late_data_counts_in_its_own_time() -> None:
    world = World()
    for minutes in (30, 25, 20):
        world.say(heart_rate_bpm=105, ago_s=minutes * 60, stored=True)
    assert [(effect.kind, effect.late) for effect in world.all if isinstance(effect, Raise)] == [
        ("heart_rate_high", True)
    ]


def test_a_late_reading_that_still_waited_for_another_is_told_when_the_upload_ends() -> None:
    world = World()
    assert world.say(heart_rate_bpm=150, ago_s=7200, stored=True) == []
    found = only(world.wait(700))
    assert (found.kind, found.severity.name, found.late) == ("heart_rate_high", "P2", True)
    assert world.wait(7200) == []


def test_a_late_walk_out_of_the_fence_is_told_as_late_and_moves_nothing() -> None:
    world = World([CarePlan(person_id="P-1", fences=(home_fence(),))])
    world.say(at=HOME)
    world.say(at=HOME)
    found = []
    for minutes, metres in ((90, 0), (80, 600), (70, 900), (60, 1200), (50, 0), (40, 0), (30, 700)):
        found += world.say(at=away(metres), ago_s=minutes * 60, stored=True)
    assert [(effect.kind, effect.late) for effect in found if isinstance(effect, Raise)] == [("geofence_exit", True)]
    assert clears(found) == []
    assert world.say(at=HOME) == []
    assert raises(world.say(at=away(40))) == []


@pytest.mark.parametrize("skew_s", [-3650 * _DAY_S, -_DAY_S, -3600, 3600, _DAY_S, 500 * _DAY_S, 20_000 * _DAY_S])
def test_a_wrong_clock_mutes_no_threshold(skew_s: float) -> None:
    """Live records of a device whose clock is wrong by a constant, in either direction."""
    world = World()
    for _ in range(4):
        world.say(spo2_percent=89, ago_s=skew_s)
        world.wait(60)
    found = [effect for effect in world.all if isinstance(effect, Raise)]
    assert [(effect.kind, effect.severity.name, effect.late) for effect in found] == [("spo2_low", "P2", False)]


def test_one_record_from_the_future_blinds_nothing() -> None:
    world = World([CarePlan(person_id="P-1", fences=(home_fence(),))])
    world.say(at=HOME, spo2_percent=97, ago_s=-400 * _DAY_S)
    world.wait(60)
    world.say(at=HOME, spo2_percent=97)
    world.wait(60)
    assert raises(world.say(at=away(550))) == [("geofence_exit", "P2")]
    world.say(spo2_percent=89)
    assert raises(world.say(spo2_percent=89)) == [("spo2_low", "P2")]


def test_which_time_a_record_is_judged_by() -> None:
    now_us, minute_us = 1_795_000_000_000_000, 60_000_000

    def judge(observed_us: int, *, stored: bool = False, lag: int | None = None, ago: int = 0) -> tuple[bool, int]:
        found = timing.judge(now_us, observed_us, stored=stored, known_lag_us=lag, known_lag_at_us=now_us - ago)
        return found.late, found.at_us

    assert judge(now_us) == (False, now_us)
    assert judge(now_us - 5 * minute_us) == (False, now_us)
    assert judge(now_us - 6 * minute_us) == (True, now_us - 6 * minute_us)
    assert judge(now_us + minute_us * 600) == (False, now_us)
    assert judge(0) == (False, now_us), "a clock that was never set"
    assert judge(now_us - minute_us, stored=True) == (True, now_us - minute_us)
    assert judge(0, stored=True) == (True, now_us)
    hour = 60 * minute_us
    assert judge(now_us - hour, lag=hour, ago=minute_us) == (False, now_us), "a slow clock"
    assert judge(now_us - hour, lag=hour, ago=1000)[0], "an upload, too fast to be live"
    assert judge(now_us - hour, lag=2 * hour, ago=minute_us)[0], "an upload, at another distance"
