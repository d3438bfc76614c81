"""Default bands, confirmation, hysteresis, overrides and readings that cannot be believed."""

from __future__ import annotations

import pytest

from gateway.care import CarePlan, DeviceCare, ThresholdOverride
from gateway.model import Position, Severity
from tests.rules_world import HOME, World, clears, home_fence, only, raises, record, us


def test_a_cuff_reading_of_198_over_110_is_urgent_at_once() -> None:
    found = only(World().say(systolic_mmhg=198, diastolic_mmhg=110))
    assert (found.kind, found.severity) == ("blood_pressure_high", Severity.P2)
    assert found.rule_id == "blood-pressure"
    assert found.rule_version == "cn-elder-default-v1"
    evidence = found.evidence
    assert (evidence["value"], evidence["limit"], evidence["op"], evidence["unit"]) == (198, 180, ">=", "mm[Hg]")
    assert "referral" in evidence["source"]
    assert evidence["values"] == {"systolic_mmhg": 198, "diastolic_mmhg": 110}


def test_a_first_urgent_cuff_reading_asks_for_a_second_and_silence_makes_it_urgent() -> None:
    world = World()
    first = only(world.say(systolic_mmhg=184, diastolic_mmhg=95))
    assert (first.severity, first.evidence["repeat_requested"]) == (Severity.P3, True)
    assert world.wait(14 * 60) == []
    late = only(world.wait(2 * 60))
    assert (late.kind, late.severity, late.seq) == ("blood_pressure_high", Severity.P2, 0)
    assert late.evidence["confirmed_by"] == "no other reading for 900 s"
    assert late.received_at_us == first.received_at_us + 900 * 1_000_000
    assert late.effect_id == f"t{late.received_at_us}:blood-pressure:P-1:blood_pressure_high"


def test_a_second_urgent_cuff_reading_confirms() -> None:
    world = World()
    world.say(systolic_mmhg=184, diastolic_mmhg=95)
    world.wait(300)
    assert raises(world.say(systolic_mmhg=186, diastolic_mmhg=96)) == [("blood_pressure_high", "P2")]
    assert world.wait(3600) == []


def test_a_normal_second_cuff_reading_ends_it() -> None:
    world = World()
    world.say(systolic_mmhg=184, diastolic_mmhg=88)
    world.wait(300)
    assert clears(world.say(systolic_mmhg=136, diastolic_mmhg=78)) == ["blood_pressure_high"]
    assert world.wait(3600) == []


def test_only_the_value_that_was_past_its_limit_ends_it() -> None:
    """A cuff that then tells the systolic pressure alone says nothing of the diastolic one."""
    world = World()
    world.say(systolic_mmhg=125, diastolic_mmhg=78)
    assert raises(world.say(diastolic_mmhg=112)) == [("blood_pressure_high", "P3")]
    assert world.say(systolic_mmhg=125) == []
    assert clears(world.say(systolic_mmhg=124, diastolic_mmhg=80)) == ["blood_pressure_high"]


def test_an_ordinary_value_is_looked_at_while_another_value_of_its_rule_is_past_a_limit() -> None:
    world = World()
    world.say(systolic_mmhg=125, diastolic_mmhg=78)
    world.say(diastolic_mmhg=112)
    looked_at = world.engine.slow_records
    world.say(systolic_mmhg=125)
    assert world.engine.slow_records == looked_at + 1


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ({"spo2_percent": [91, 91]}, ("spo2_low", "P2")),
        ({"spo2_percent": [93, 92]}, ("spo2_low", "P3")),
        ({"heart_rate_bpm": [131, 90, 131]}, ("heart_rate_high", "P2")),
        ({"heart_rate_bpm": [40, 39]}, ("heart_rate_low", "P2")),
        ({"blood_glucose_mmol_per_l": [2.9]}, ("blood_glucose_low", "P2")),
        ({"blood_glucose_mmol_per_l": [3.0]}, ("blood_glucose_low", "P3")),
        ({"blood_glucose_mmol_per_l": [16.7]}, ("blood_glucose_high", "P2")),
        ({"blood_glucose_mmol_per_l": [11.1]}, ("blood_glucose_high", "P3")),
        ({"body_temperature_celsius": [39.1]}, ("body_temperature_high", "P3")),
        ({"systolic_mmhg": [80]}, ("blood_pressure_low", "P2")),
        ({"systolic_mmhg": [90]}, ("blood_pressure_low", "P3")),
        ({"diastolic_mmhg": [120]}, ("blood_pressure_high", "P2")),
        ({"respiratory_rate_per_min": [25, 26]}, ("respiratory_rate_high", "P2")),
        ({"respiratory_rate_per_min": [8, 7]}, ("respiratory_rate_low", "P2")),
    ],
)
def test_limits_are_inclusive_as_written(readings: dict[str, list[float]], expected: tuple[str, str]) -> None:
    world = World()
    effects = []
    for metric, values in readings.items():
        for value in values:
            effects = world.say(metric, value)
            world.wait(60)
    assert raises(effects) == [expected]


@pytest.mark.parametrize(
    ("metric", "value"),
    [
        ("heart_rate_bpm", 51), ("heart_rate_bpm", 100), ("spo2_percent", 94), ("systolic_mmhg", 101),
        ("systolic_mmhg", 149), ("diastolic_mmhg", 89), ("body_temperature_celsius", 37.2),
        ("body_temperature_celsius", 36.1), ("blood_glucose_mmol_per_l", 4.0), ("blood_glucose_mmol_per_l", 11.0),
        ("respiratory_rate_per_min", 12), ("respiratory_rate_per_min", 20), ("battery_percent", 16),
    ],
)  # fmt: skip
def test_values_just_inside_raise_nothing_and_cost_nothing(metric: str, value: float) -> None:
    world = World()
    world.say()
    before = world.engine.slow_records
    for _ in range(5):
        assert world.say(metric, value) == []
        assert world.wait(600) == []
    assert world.engine.slow_records == before


def test_an_advisory_pulse_must_last_ten_minutes() -> None:
    world = World()
    for _ in range(10):
        assert world.say(heart_rate_bpm=105) == []
        world.wait(60)
    assert raises(world.say(heart_rate_bpm=105)) == [("heart_rate_high", "P3")]
    world = World()
    for pulse in (105, 105, 99, 105, 105):
        assert world.say(heart_rate_bpm=pulse) == []
        world.wait(180)


def test_one_urgent_pulse_and_then_nothing_is_told_in_the_end() -> None:
    world = World()
    assert world.say(heart_rate_bpm=150) == []
    assert raises(world.wait(901)) == [("heart_rate_high", "P2")]
    world = World()
    world.say(heart_rate_bpm=150)
    world.wait(30)
    world.say(heart_rate_bpm=80)
    assert world.wait(3600) == []


def test_a_second_temperature_within_five_minutes_confirms_nothing() -> None:
    world = World()
    assert raises(world.say(body_temperature_celsius=39.4)) == [("body_temperature_high", "P3")]
    world.wait(60)
    assert world.say(body_temperature_celsius=39.4) == []
    world.wait(240)
    assert raises(world.say(body_temperature_celsius=39.4)) == [("body_temperature_high", "P2")]


def test_an_alarm_stands_until_the_value_is_back_by_the_margin() -> None:
    world = World()
    world.say(spo2_percent=90)
    assert raises(world.say(spo2_percent=90)) == [("spo2_low", "P2")]
    for value in (92, 94, 91, 94, 90, 94, 94):
        assert world.say(spo2_percent=value) == []
        world.wait(10)
    assert world.say(spo2_percent=95) == []
    assert clears(world.say(spo2_percent=95)) == ["spo2_low"]


def test_severity_rises_from_advisory_to_urgent() -> None:
    world = World()
    world.say(spo2_percent=93)
    assert raises(world.say(spo2_percent=93)) == [("spo2_low", "P3")]
    world.say(spo2_percent=90)
    assert raises(world.say(spo2_percent=90)) == [("spo2_low", "P2")]


def test_a_standing_danger_is_told_again_after_hours() -> None:
    world = World()
    world.say(systolic_mmhg=200)
    world.wait(3600)
    assert world.say(systolic_mmhg=201) == []
    world.wait(4 * 3600)
    assert raises(world.say(systolic_mmhg=201)) == [("blood_pressure_high", "P2")]


@pytest.mark.parametrize(
    "values",
    [
        {"systolic_mmhg": 310.0},
        {"systolic_mmhg": 190.0, "diastolic_mmhg": 195.0},
        {"systolic_mmhg": 120.0, "diastolic_mmhg": 120.0},
        {"systolic_mmhg": float("nan")},
        {"spo2_percent": 20.0},
        {"heart_rate_bpm": 0.0},
    ],
)
def test_what_cannot_be_is_no_clinical_alarm_but_a_technical_one_when_it_repeats(values: dict[str, float]) -> None:
    world = World()
    assert world.say(**values) == []  # type: ignore[arg-type]
    assert world.say(**values) == []  # type: ignore[arg-type]
    assert raises(world.say(**values)) == [("measurement_implausible", "P4")]  # type: ignore[arg-type]
    assert world.say(**values) == []  # type: ignore[arg-type]


def test_conditions_choose_their_bands() -> None:
    copd = World([CarePlan(person_id="P-1", conditions=("copd",))])
    for _ in range(3):
        assert copd.say(spo2_percent=88) == []
    copd.say(spo2_percent=83)
    assert raises(copd.say(spo2_percent=83)) == [("spo2_low", "P2")]
    diabetes = World([CarePlan(person_id="P-1", conditions=("diabetes",))])
    assert raises(diabetes.say(blood_glucose_mmol_per_l=3.9)) == [("blood_glucose_low", "P2")]


def _override(**more: object) -> CarePlan:
    values: dict[str, object] = {
        "metric": "systolic_mmhg", "limits": {"advisory_high": 165, "urgent_high": 200, "advisory_low": None},
        "author": "dr-7", "reason": "long-standing hypertension", "version": 3, **more,
    }  # fmt: skip
    return CarePlan(person_id="P-1", overrides=(ThresholdOverride(**values),))  # type: ignore[arg-type]


def test_a_persons_own_limits_go_first_and_are_named() -> None:
    world = World([_override()])
    assert world.say(systolic_mmhg=164) == []
    assert world.say(systolic_mmhg=98) == []
    found = only(world.say(systolic_mmhg=212))
    assert found.severity is Severity.P2
    assert found.evidence["limit"] == 200
    assert found.evidence["override"] == {"author": "dr-7", "reason": "long-standing hypertension", "version": 3}
    assert found.rule_version == "cn-elder-default-v1+P-1.3"
    assert raises(World([_override()]).say(diastolic_mmhg=125)) == [("blood_pressure_high", "P2")]


def test_an_override_holds_while_it_is_valid() -> None:
    end = us("2026-11-22T09:00:00+08:00")
    world = World([_override(valid_to_us=end)])
    assert world.say(systolic_mmhg=164) == []
    world.wait(3601)
    world.say(systolic_mmhg=164)
    assert raises(world.say(systolic_mmhg=164)) == [("blood_pressure_high", "P3")]
    begins = World([_override(valid_from_us=end)])
    begins.say(systolic_mmhg=120)
    begins.wait(3601)
    assert begins.say(systolic_mmhg=164) == []


def test_battery_limits_are_the_devices_own() -> None:
    world = World(devices=[DeviceCare(device_id="D-1", battery_low_percent=30)])
    assert raises(world.say(battery_percent=29)) == [("low_battery", "P4")]
    assert world.say(battery_percent=33) == []
    assert clears(world.say(battery_percent=36)) == ["low_battery"]
    assert world.say(battery_percent=29, device="D-2") == []
    assert raises(world.say(battery_percent=15, device="D-2")) == [("low_battery", "P4")]


def test_a_device_of_nobody_is_judged_by_the_defaults() -> None:
    found = only(World().say(systolic_mmhg=198, person=""))
    assert (found.kind, found.person_id, found.device_id) == ("blood_pressure_high", "", "D-1")


def test_two_persons_do_not_share_a_state() -> None:
    world = World()
    world.say(spo2_percent=90)
    assert world.say(spo2_percent=90, person="P-2", device="D-2") == []
    assert raises(world.say(spo2_percent=90)) == [("spo2_low", "P2")]


def test_a_repeat_from_another_device_of_the_person_confirms() -> None:
    world = World()
    world.say(spo2_percent=90)
    assert raises(world.say(spo2_percent=90, device="D-2")) == [("spo2_low", "P2")]


def test_a_reload_keeps_what_stands_and_records_the_new_version() -> None:
    world = World()
    world.say(spo2_percent=90)
    assert raises(world.say(spo2_percent=90)) == [("spo2_low", "P2")]
    world.people.by_id["P-1"] = _override(version=4)
    world.engine.reload(now_us=world.now_us)
    assert world.say(spo2_percent=90) == []
    assert world.say(systolic_mmhg=164) == []
    assert only(world.say(systolic_mmhg=215)).rule_version == "cn-elder-default-v1+P-1.4"
    world.engine.reload(world.rules)
    assert world.say(systolic_mmhg=216) == []
    world.say(spo2_percent=96)
    assert clears(world.say(spo2_percent=96)) == ["spo2_low"]


def test_a_rule_that_fails_is_counted_and_keeps_nothing_else_from_judging(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("rules.kinds.signal.SignalRule.step", fail)
    monkeypatch.setattr("rules.kinds.geofence.AreaRule.step", fail)
    world = World([CarePlan(person_id="P-1", fences=(home_fence(),))])
    effects = world.put(
        record(
            world.now_us,
            measurements={"systolic_mmhg": 210.0},
            signals={"tamper": True, "sos": True},
            position=Position(*HOME, world.now_us),
        )
    )
    assert sorted(raises(effects)) == [("blood_pressure_high", "P2"), ("sos", "P1")]
    assert world.engine.failures == {"tamper": 1, "geofence": 1}


def test_the_limits_of_a_person_are_told_as_they_hold_now() -> None:
    own = ThresholdOverride(metric="heart_rate_bpm", limits={"advisory_high": 95.0}, author="Dr. Li", reason="blocker")
    over = ThresholdOverride(
        metric="spo2_percent", limits={"advisory_low": 85.0}, author="Dr. Li", reason="copd",
        valid_to_us=us("2026-11-01T00:00:00+08:00"),
    )  # fmt: skip
    world = World([CarePlan(person_id="P-1", overrides=(own, over))])
    found = {
        (each["metric"], each["side"], each["level"]): (each["limit"], each["own"])
        for each in world.engine.limits("P-1", world.now_us)
    }
    general = {
        (each["metric"], each["side"], each["level"]): (each["limit"], each["own"])
        for each in world.engine.limits("P-nobody", world.now_us)
    }
    assert found["heart_rate_bpm", "high", "advisory"] == (95.0, True)
    assert general["heart_rate_bpm", "high", "advisory"][1] is False
    assert found["spo2_percent", "low", "advisory"] == general["spo2_percent", "low", "advisory"]
    assert found["systolic_mmhg", "high", "urgent"] == (180.0, False)
