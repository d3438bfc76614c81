"""Fences: accuracy, margin, confirmation, jumps, schedules, shapes and datums."""

from __future__ import annotations

import pytest

from gateway import datum
from gateway.care import CarePlan, Circle, Corridor, Fence, LonLat, Polygon, Schedule, Window
from gateway.model import Position
from rules.geometry import Ground
from tests.rules_world import HOME, World, away, clears, home_fence, only, raises, record, us


def _world(*fences: Fence, start: str = "2026-11-22T08:00:00+08:00") -> World:
    return World([CarePlan(person_id="P-1", fences=fences or (home_fence(),))], start=start)


def _at_home(world: World) -> None:
    world.say(at=HOME)
    world.wait(60)
    world.say(at=HOME)
    world.wait(60)


def test_an_exit_needs_two_fixes_over_a_minute() -> None:
    world = _world()
    _at_home(world)
    assert world.say(at=away(280)) == []
    assert world.wait(70) == []
    found = only(world.say(at=away(290)))
    assert (found.kind, found.severity.name, found.rule_version) == ("geofence_exit", "P2", "care-default-v1+home.1")
    assert found.evidence["fences"] == [{"id": "home", "kind": "home", "version": 1}]
    assert 85 <= found.evidence["away_m"] <= 95
    assert found.position is not None
    assert world.say(at=away(300)) == []


def test_two_fixes_and_then_nothing_become_an_exit_by_themselves() -> None:
    world = _world()
    _at_home(world)
    world.say(at=away(280))
    world.wait(20)
    assert world.say(at=away(280)) == []
    assert raises(world.wait(60)) == [("geofence_exit", "P2")]


def test_one_fix_far_away_is_enough() -> None:
    world = _world()
    _at_home(world)
    assert raises(world.say(at=away(550))) == [("geofence_exit", "P2")]


@pytest.mark.parametrize(("metres", "accuracy_m"), [(229, 5), (280, 90), (600, 150)])
def test_within_margin_or_accuracy_nothing_happens(metres: float, accuracy_m: float) -> None:
    world = _world()
    _at_home(world)
    for _ in range(10):
        if metres < 500:
            assert world.say(at=away(metres), accuracy_m=accuracy_m) == []
        world.wait(120)


def test_a_return_needs_two_fixes_surely_inside() -> None:
    world = _world()
    _at_home(world)
    world.say(at=away(550))
    world.wait(300)
    assert world.say(at=away(195)) == []
    world.wait(60)
    assert world.say(at=away(100)) == []
    world.wait(60)
    assert clears(world.say(at=away(90))) == ["geofence_exit"]


def test_an_impossible_jump_is_left_out() -> None:
    world = _world()
    _at_home(world)
    assert world.say(at=away(50_000)) == []
    world.wait(10)
    assert world.say(at=HOME) == []
    world.wait(600)
    assert world.say(at=HOME) == []


def test_fixes_that_are_none_are_left_out() -> None:
    world = _world()
    _at_home(world)
    assert world.say(at=(0.0, 0.0)) == []
    world.wait(3600)
    far = away(5000)
    invalid = Position(far[0], far[1], world.now_us, 5.0, "gnss", valid=False)
    assert world.put(record(world.now_us, position=invalid)) == []
    old = Position(far[0], far[1], world.now_us - 3_600_000_000, 5.0)
    assert world.put(record(world.now_us, position=old)) == []


def test_the_first_fix_is_silent_inside_and_confirmed_outside() -> None:
    world = _world()
    assert world.say(at=HOME) == []
    outside = _world()
    assert raises(outside.say(at=away(2000))) == [("geofence_exit", "P2")]
    near = _world()
    assert near.say(at=away(280)) == []


def test_cells_alone_make_a_suspicion_slowly() -> None:
    world = _world()
    _at_home(world)
    for _ in range(2):
        assert world.say(at=away(2000), accuracy_m=1000, source="cell") == []
        world.wait(310)
    found = only(world.say(at=away(2000), accuracy_m=1000, source="cell"))
    assert (found.severity.name, found.evidence["suspected"]) == ("P3", True)
    world.wait(60)
    assert raises(world.say(at=away(2000), accuracy_m=10)) == [("geofence_exit", "P2")]


def test_a_cell_fix_that_could_be_home_says_nothing() -> None:
    world = _world()
    _at_home(world)
    for _ in range(6):
        assert world.say(at=away(900), accuracy_m=1000, source="cell") == []
        world.wait(600)


def test_an_older_fix_never_flips_the_state() -> None:
    world = _world()
    world.say(at=HOME)
    world.wait(240)
    world.say(at=HOME)
    there = away(600)
    for _ in range(3):
        old = Position(there[0], there[1], world.now_us - 120_000_000, 5.0)
        assert world.put(record(world.now_us, position=old)) == []


def test_a_fence_without_consent_or_on_pause_does_nothing() -> None:
    for fence in (home_fence(consent=False), home_fence(paused_until_us=us("2026-11-22T12:00:00+08:00"))):
        world = _world(fence)
        world.say(at=HOME)
        world.wait(600)
        assert world.say(at=away(3000)) == []
        world.wait(600)
        assert world.say(at=away(3000)) == []


def test_a_pause_ends_by_itself() -> None:
    world = _world(home_fence(paused_until_us=us("2026-11-22T12:00:00+08:00")))
    world.say(at=HOME)
    world.wait_until("2026-11-22T12:00:01+08:00")
    assert raises(world.say(at=away(3000))) == [("geofence_exit", "P2")]


def test_a_fence_for_the_night_speaks_when_the_night_begins() -> None:
    night = Schedule(windows=(Window(start="22:00", until="06:00"),))
    world = _world(home_fence(schedule=night), start="2026-11-22T20:00:00+08:00")
    _at_home(world)
    assert world.say(at=away(1000)) == []
    world.wait(600)
    assert world.say(at=away(1000)) == []
    found = only(world.wait_until("2026-11-22T22:00:10+08:00"))
    assert found.occurred_at_us == us("2026-11-22T22:00:00+08:00")
    assert found.position is not None
    assert found.position.valid is False
    assert clears(world.wait_until("2026-11-23T06:00:10+08:00")) == ["geofence_exit"]


def test_a_person_may_be_in_any_allowed_area() -> None:
    there = away(600)
    park = Fence(fence_id="park", kind="allowed", shape=Circle(center=(there[1], there[0]), radius_m=400), consent=True)
    world = _world(home_fence(), park)
    _at_home(world)
    for metres in (300, 550, 900, 600):
        assert world.say(at=away(metres)) == []
        assert world.wait(300) == []
    assert raises(world.say(at=away(1800))) == [("geofence_exit", "P2")]


def _ring(*corners: tuple[float, float]) -> tuple[LonLat, ...]:
    points = [away(north, east) for north, east in corners]
    return tuple((lon, lat) for lat, lon in [*points, points[0]])


def test_a_forbidden_area_alarms_inside() -> None:
    pond = Fence(
        fence_id="pond", kind="forbidden", consent=True,
        shape=Polygon(coordinates=(_ring((300, -20), (300, 20), (340, 20), (340, -20)),)),
    )  # fmt: skip
    world = _world(pond)
    world.say(at=HOME)
    world.wait(300)
    assert world.say(at=away(320), accuracy_m=8) == []
    world.wait(10)
    found = only(world.say(at=away(321), accuracy_m=8))
    assert (found.kind, found.severity.name) == ("geofence_forbidden", "P2")
    world.wait(300)
    world.say(at=away(200))
    world.wait(70)
    assert clears(world.say(at=away(200))) == ["geofence_forbidden"]


def test_signed_distances_of_the_shapes() -> None:
    square = Ground(
        Fence(
            fence_id="f", kind="allowed",
            shape=Polygon(coordinates=(
                _ring((-100, -100), (-100, 100), (100, 100), (100, -100)),
                _ring((-20, -20), (-20, 20), (20, 20), (20, -20)),
            )),
        )
    )  # fmt: skip
    assert square.signed_distance_m(*away(0, 150)) == pytest.approx(50, abs=1)
    assert square.signed_distance_m(*away(0, 60)) == pytest.approx(-40, abs=1)
    assert square.signed_distance_m(*HOME) == pytest.approx(20, abs=1), "the hole is outside"
    way = Ground(
        Fence(fence_id="f", kind="allowed", shape=Corridor(coordinates=_ring((0, 0), (0, 1000))[:2], width_m=40))
    )
    assert way.signed_distance_m(*away(0, 500)) == pytest.approx(-20, abs=1)
    assert way.signed_distance_m(*away(70, 500)) == pytest.approx(50, abs=1)
    circle = Ground(home_fence(200))
    assert circle.signed_distance_m(*HOME) == pytest.approx(-200, abs=1)
    assert circle.signed_distance_m(*away(0, 260)) == pytest.approx(60, abs=1)


def test_a_fence_drawn_on_a_shifted_map_is_put_back() -> None:
    lat, lon = datum.wgs84_to_gcj02(*HOME)
    ground = Ground(home_fence(200, shape=Circle(center=(lon, lat), radius_m=200), datum="gcj02"))
    assert ground.signed_distance_m(*HOME) == pytest.approx(-200, abs=1)
    wrong = Ground(home_fence(200, shape=Circle(center=(lon, lat), radius_m=200)))
    assert wrong.signed_distance_m(*HOME) > 100


def test_a_wrong_clock_does_not_hide_an_exit() -> None:
    for skew_s in (-86_400 * 30, 7200):
        world = _world()
        for _ in range(3):
            world.say(at=HOME, ago_s=skew_s)
            world.wait(60)
        world.say(at=away(550), ago_s=skew_s)
        world.wait(60)
        world.say(at=away(560), ago_s=skew_s)
        assert ("geofence_exit", "P2") in raises(world.all), skew_s
