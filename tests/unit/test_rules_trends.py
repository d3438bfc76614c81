"""Rates of change, a person's own baseline, and NEWS2 against its published table."""

from __future__ import annotations

import pytest

from gateway.care import CarePlan
from gateway.model import Effect
from rules import schema
from rules.kinds.score import ScoreRule
from tests.rules_world import DEFAULTS, World, clears, only, raises

_HEART = CarePlan(person_id="P-1", conditions=("heart_failure",))
_DAY_S = 86_400


def test_two_kilograms_in_three_days_with_heart_failure() -> None:
    world = World([_HEART])
    for weight in (70.0, 70.6, 71.2):
        assert world.say(weight_kg=weight) == []
        world.wait(_DAY_S * 0.9)
    found = only(world.say(weight_kg=72.1))
    assert (found.kind, found.severity.name) == ("weight_change", "P3")
    assert (found.evidence["then"], found.evidence["change"]) == (70.0, 2.1)
    assert world.say(weight_kg=72.2) == []
    world.wait(_DAY_S * 2.5)
    assert clears(world.say(weight_kg=72.0)) == ["weight_change"]


def test_a_slow_change_or_another_person_raises_nothing() -> None:
    slow = World([_HEART])
    for day in range(20):
        assert slow.say(weight_kg=70 + day * 0.5) == []
        slow.wait(_DAY_S)
    other = World()
    other.say(weight_kg=70)
    assert other.say(weight_kg=75) == []


def _normal_weeks(world: World) -> None:
    for hour in range(24 * 16):
        assert world.say(heart_rate_bpm=68 + (hour * 7 % 11)) == []
        world.wait(3600)


def test_a_pulse_that_leaves_the_persons_own_normal() -> None:
    world = World([_HEART])
    _normal_weeks(world)
    effects: list[Effect] = []
    for _ in range(24):
        effects += world.say(heart_rate_bpm=98)
        world.wait(3600)
    found = only(effects)
    assert (found.kind, found.severity.name) == ("heart_rate_unusual", "P3")
    assert 70 < found.evidence["baseline"] < 76
    effects = []
    for _ in range(24):
        effects += world.say(heart_rate_bpm=72)
        world.wait(3600)
    assert clears(effects) == ["heart_rate_unusual"]


def test_a_new_person_has_no_baseline_yet() -> None:
    world = World([_HEART])
    for _ in range(20):
        world.say(heart_rate_bpm=60)
        world.wait(3600)
    for _ in range(20):
        assert world.say(heart_rate_bpm=99) == []
        world.wait(3600)


_NORMAL = {
    "respiratory_rate_per_min": 16.0, "spo2_percent": 97.0, "x_oxygen": 0.0, "systolic_mmhg": 120.0,
    "heart_rate_bpm": 70.0, "x_consciousness": 0.0, "body_temperature_celsius": 36.8,
}  # fmt: skip


def _rule(*conditions: str) -> ScoreRule:
    item = DEFAULTS.scores["news2"]
    config: schema.Score = item.config
    return ScoreRule(config, item.version, frozenset(conditions))


# Metric, then value: points, from the table of the Royal College of Physicians (2017).
_NEWS2: dict[str, dict[float, int]] = {
    "respiratory_rate_per_min": {8: 3, 9: 1, 11: 1, 12: 0, 20: 0, 21: 2, 24: 2, 25: 3},
    "spo2_percent": {91: 3, 92: 2, 93: 2, 94: 1, 95: 1, 96: 0},
    "x_oxygen": {0: 0, 1: 2},
    "systolic_mmhg": {90: 3, 91: 2, 100: 2, 101: 1, 110: 1, 111: 0, 219: 0, 220: 3},
    "heart_rate_bpm": {40: 3, 41: 1, 50: 1, 51: 0, 90: 0, 91: 1, 110: 1, 111: 2, 130: 2, 131: 3},
    "x_consciousness": {0: 0, 1: 3},
    "body_temperature_celsius": {35.0: 3, 35.1: 1, 36.0: 1, 36.1: 0, 38.0: 0, 38.1: 1, 39.0: 1, 39.1: 2},
}


@pytest.mark.parametrize("metric", _NEWS2)
def test_news2_points(metric: str) -> None:
    for value, points in _NEWS2[metric].items():
        found = _rule().points({**_NORMAL, metric: value})
        assert found is not None
        assert found[metric] == points, value
        assert sum(found.values()) == points, value


def test_news2_scale_2() -> None:
    on_air = {83: 3, 84: 2, 85: 2, 86: 1, 87: 1, 88: 0, 92: 0, 93: 0, 97: 0}
    on_oxygen = {83: 3, 85: 2, 87: 1, 88: 0, 92: 0, 93: 1, 94: 1, 95: 2, 96: 2, 97: 3}
    for oxygen, table in ((0.0, on_air), (1.0, on_oxygen)):
        for value, points in table.items():
            found = _rule("copd").points({**_NORMAL, "spo2_percent": value, "x_oxygen": oxygen})
            assert found is not None
            assert found["spo2_percent"] == points, (oxygen, value)


@pytest.mark.parametrize("missing", _NORMAL)
def test_news2_is_never_computed_from_less(missing: str) -> None:
    bad = {**_NORMAL, "respiratory_rate_per_min": 30.0, "heart_rate_bpm": 140.0, "x_consciousness": 1.0}
    del bad[missing]
    world = World()
    world.say(**bad)  # type: ignore[arg-type]
    assert "news2_high" not in [kind for kind, _ in raises(world.all)]


def test_news2_alerts() -> None:
    world = World()
    assert world.say(**_NORMAL) == []  # type: ignore[arg-type]
    medium = {**_NORMAL, "x_consciousness": 1.0}
    assert ("news2_high", "P3") in raises(world.say(**medium))  # type: ignore[arg-type]
    high = {**medium, "x_oxygen": 1.0, "respiratory_rate_per_min": 24.0}
    assert ("news2_high", "P2") in raises(world.say(**high))  # type: ignore[arg-type]
    assert "news2_high" in clears(world.say(**_NORMAL))  # type: ignore[arg-type]
