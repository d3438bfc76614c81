"""What holds for every history: replays and restarts change nothing, and no press is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from itertools import islice
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.care import (
    CarePlan,
    CheckInDue,
    Circle,
    DeviceCare,
    Fence,
    MeasurementDue,
    MotionExpected,
    Schedule,
    ThresholdOverride,
    Window,
)
from gateway.clock import US_PER_S, from_us, to_us
from gateway.model import EMERGENCY_SIGNALS, METRICS, SIGNALS, Committed, Effect, Position, Raise, Record
from rules.engine import SETTLE_US, RulesEngine
from rules.local_time import in_force, next_change_us, next_start_us
from tests.rules_world import DEFAULTS, HOME, People, World, away, clears, home_fence, raises, record, us

START_US = us("2026-11-22T20:00:00+08:00")
_PARK = away(700)
_POND = away(150, 150)
_PLANS = (
    CarePlan(
        person_id="P-1",
        conditions=("heart_failure",),
        overrides=(
            ThresholdOverride(
                metric="spo2_percent", limits={"urgent_low": 88}, author="dr", reason="r",
                valid_to_us=START_US + 3 * 3600 * US_PER_S,
            ),
        ),
        fences=(
            home_fence(schedule=Schedule(windows=(Window(start="21:00", until="07:00"),))),
            Fence(fence_id="park", kind="allowed", consent=True,
                  shape=Circle(center=(_PARK[1], _PARK[0]), radius_m=300)),
            Fence(fence_id="pond", kind="forbidden", consent=True,
                  shape=Circle(center=(_POND[1], _POND[0]), radius_m=40)),
        ),
        expectations=(
            CheckInDue(expectation_id="ok", by="21:30"),
            MeasurementDue(expectation_id="bp", metric="systolic_mmhg", by="20:30", grace_minutes=30),
            MotionExpected(expectation_id="day", schedule=Schedule(), within_minutes=60),
        ),
    ),
    CarePlan(person_id="P-2", high_risk=True, fences=(home_fence(),)),
)  # fmt: skip
_DEVICES = (
    DeviceCare(device_id="D-1", person_id="P-1", heartbeat_s=300, battery_low_percent=30),
    DeviceCare(device_id="D-2", person_id="P-2", silent_after_s=1200),
)


def _engine() -> RulesEngine:
    return RulesEngine(DEFAULTS, People(_PLANS, _DEVICES))


_values = {
    "heart_rate_bpm": (72.0, 105.0, 140.0, 35.0, 300.0),
    "spo2_percent": (97.0, 92.0, 89.0, 80.0),
    "systolic_mmhg": (125.0, 155.0, 182.0, 199.0, 85.0),
    "diastolic_mmhg": (78.0, 95.0, 112.0, 130.0),
    "body_temperature_celsius": (36.6, 37.5, 39.4, 34.9),
    "blood_glucose_mmol_per_l": (5.5, 3.5, 2.5, 17.0),
    "weight_kg": (70.0, 73.0),
    "battery_percent": (80.0, 25.0, 10.0),
    "x_consciousness": (0.0, 1.0),
}
_measurements = st.fixed_dictionaries({}, optional={name: st.sampled_from(some) for name, some in _values.items()})
_signals = st.dictionaries(st.sampled_from(sorted(SIGNALS)), st.booleans(), max_size=2)
_places = st.sampled_from(
    [HOME, away(100), away(195), away(260), away(600), away(1200), _POND, away(40_000), (0.0, 0.0)]
)


@st.composite
def _histories(draw: st.DrawFn) -> list[Record]:
    """Records in the order of their reception, seconds to hours apart, with clocks and places of every sort."""
    records = []
    now_us = START_US
    for _ in range(draw(st.integers(1, 25))):
        now_us += draw(st.sampled_from([0, 1, 20, 70, 70, 310, 700, 1900, 4000])) * US_PER_S
        number = draw(st.sampled_from(["1", "1", "1", "2"]))
        age_s = draw(st.sampled_from([0, 0, 0, 0, 30, 1800, 7200, -4000, 10**8]))
        observed_us = now_us - age_s * US_PER_S
        position = None
        if draw(st.booleans()):
            lat, lon = draw(_places)
            position = Position(
                lat, lon, observed_us - draw(st.sampled_from([0, 0, 100])) * US_PER_S,
                draw(st.sampled_from([None, 8.0, 60.0, 900.0])),
                draw(st.sampled_from(["gnss", "gnss", "cell", "wifi"])),
                draw(st.sampled_from([True, True, True, False])),
            )  # fmt: skip
        records.append(
            record(
                now_us,
                device=f"D-{number}",
                person=f"P-{number}",
                measurements=draw(_measurements),
                signals=draw(_signals) if draw(st.integers(0, 3)) == 0 else {},
                position=position,
                observed_us=observed_us,
                stored=draw(st.sampled_from([False, False, False, True])),
                verified=draw(st.sampled_from([True, True, True, True, False])),
            )
        )
    return records


def _fold(engine: RulesEngine, records: list[Record], first_seq: int = 1) -> list[Effect]:
    effects: list[Effect] = []
    for number, item in enumerate(records):
        effects += engine.observe(Committed(first_seq + number, [item]))
    return effects


def _bytes(effects: list[Effect]) -> list[bytes]:
    return [msgspec.msgpack.encode(effect) for effect in effects]


_many = settings(max_examples=60, deadline=None)


@_many
@given(_histories(), st.data())
def test_how_records_are_grouped_and_when_ticks_come_changes_nothing(
    records: list[Record], data: st.DataObject
) -> None:
    one_by_one = _fold(_engine(), records)
    live = _engine()
    effects: list[Effect] = []
    done = 0
    while done < len(records):
        size = data.draw(st.integers(1, 5))
        group = records[done : done + size]
        effects += live.observe(Committed(done + 1, group))
        done += size
        # A daemon's clock: any time from now until the next record comes.
        next_us = records[done].received_at_us if done < len(records) else group[-1].received_at_us
        effects += live.tick(data.draw(st.integers(group[-1].received_at_us, next_us)) + SETTLE_US)
    assert _bytes(effects) == _bytes(one_by_one)
    assert live.failures.total() == 0
    names = [effect.effect_id for effect in effects]
    assert len(set(names)) == len(names), "an id is used twice"


@_many
@given(_histories(), st.integers(0, 25))
def test_a_restart_at_any_point_changes_nothing(records: list[Record], saved: int) -> None:
    """States are saved behind record ``saved``; the process dies at some time, and the tail is folded again."""
    saved = min(saved, len(records))
    whole = _engine()
    _fold(whole, records[:saved])
    rows: dict[tuple[str, str], bytes] = {}
    for rule_id, subject, state in whole.dirty():
        if state is not None:
            rows[rule_id, subject] = state
    rest = _fold(whole, records[saved:], saved + 1)
    again = _engine()
    again.restore((*key, state) for key, state in rows.items())
    assert _bytes(_fold(again, records[saved:], saved + 1)) == _bytes(rest)
    end_us = records[-1].received_at_us + 86_400 * US_PER_S
    assert _bytes(again.tick(end_us)) == _bytes(whole.tick(end_us))
    assert again.failures.total() == 0


@_many
@given(_histories())
def test_states_saved_in_steps_equal_states_saved_at_once(records: list[Record]) -> None:
    stepwise, at_once = _engine(), _engine()
    rows: dict[tuple[str, str], bytes] = {}
    for number, item in enumerate(records):
        stepwise.observe(Committed(number + 1, [item]))
        at_once.observe(Committed(number + 1, [item]))
        for rule_id, subject, state in stepwise.dirty():
            if state is None:
                rows.pop((rule_id, subject), None)
            else:
                rows[rule_id, subject] = state
    assert rows == {(rule_id, subject): state for rule_id, subject, state in at_once.dirty() if state is not None}
    assert list(stepwise.dirty()) == []


@_many
@given(_histories(), st.integers(0, 25), st.lists(st.integers(0, 3), max_size=25), st.booleans())
def test_states_taken_slowly_are_those_of_the_moment(
    records: list[Record], saved: int, steps: list[int], left: bool
) -> None:
    """However many rows are taken between records, they are what they were; an iterator that is left loses none."""
    slow, twin = _engine(), _engine()
    for engine in (slow, twin):
        _fold(engine, records[:saved])
    before = {row[:2]: row[2] for row in twin.dirty()}
    _fold(twin, records[saved:], saved + 1)
    taken: list[tuple[str, str, bytes | None]] = []
    rows = slow.dirty()
    for number, item in enumerate(records[saved:], saved + 1):
        taken += islice(rows, steps[number - saved - 1] if number - saved <= len(steps) else 0)
        slow.observe(Committed(number, [item]))
    if not left:
        taken += rows
        assert {row[:2]: row[2] for row in taken} == before
        assert len({row[:2] for row in taken}) == len(taken), "each state once"
    assert all(before[row[:2]] == row[2] for row in taken)
    after = {row[:2]: row[2] for row in [*taken, *slow.dirty()]}
    assert after == before | {row[:2]: row[2] for row in twin.dirty()}


@_many
@given(_histories())
def test_the_short_way_equals_the_long_one(records: list[Record]) -> None:
    """An engine that looks at every record with every machine finds what the index finds."""
    short, long = _engine(), _engine()
    effects: list[Effect] = []
    for number, item in enumerate(records):
        for device in long._devices.values():
            device.calm = False
            device.quick.clear()
        effects += long.observe(Committed(number + 1, [item]))
    assert _bytes(_fold(short, records)) == _bytes(effects)


class _BrokenRule:
    """Every machine fails."""

    def __call__(self, *args: object) -> None:
        raise ValueError(args)


@_many
@given(_histories(), st.booleans())
def test_no_press_is_ever_without_its_raise(records: list[Record], broken: bool) -> None:
    engine = _engine()
    if broken:
        engine._judge_known = _BrokenRule()  # type: ignore[method-assign,assignment]
    for seq, item in enumerate(records, 1):
        effects = engine.observe(Committed(seq, [item]))
        assert item.reading is not None
        pressed = {name for name, active in item.reading.signals.items() if active and name in EMERGENCY_SIGNALS}
        found = {e.kind: e for e in effects if isinstance(e, Raise) and e.seq == seq and e.kind in EMERGENCY_SIGNALS}
        assert found.keys() == pressed
        assert all(e.severity.name == ("P1" if item.verified else "P2") for e in found.values())


@_many
@given(
    st.sampled_from([("heart_rate_bpm", 101, 5), ("spo2_percent", 93, -2), ("systolic_mmhg", 150, 10)]),
    st.lists(st.tuples(st.floats(-3, 0.99), st.integers(1, 900)), min_size=1, max_size=60),
)
def test_values_that_stay_within_the_margin_never_chatter(
    limit: tuple[str, float, float], steps: list[tuple[float, int]]
) -> None:
    """Shares of the margin: below 0 is past the limit, up to 1 is back inside but not yet by the margin."""
    metric, edge, margin = limit
    world = World()
    for share, wait_s in steps:
        world.say(metric, edge - share * margin)
        world.wait(wait_s)
    assert clears(world.all) == []
    severities = [severity for _, severity in raises(world.all)]
    span_s = sum(wait for _, wait in steps)
    assert len(severities) <= 2 + span_s // 14_400
    assert severities == sorted(severities, reverse=True)


@_many
@given(
    st.lists(
        st.tuples(st.floats(0, 229), st.floats(0, 360), st.floats(1, 190), st.integers(5, 2000)),
        min_size=1,
        max_size=40,
    )
)
def test_a_fence_never_alarms_within_its_margin(fixes: list[tuple[float, float, float, int]]) -> None:
    from math import cos, radians, sin

    world = World([CarePlan(person_id="P-1", fences=(home_fence(200),))])
    for metres, bearing, accuracy_m, wait_s in fixes:
        at = away(metres * cos(radians(bearing)), metres * sin(radians(bearing)))
        world.say(at=at, accuracy_m=accuracy_m)
        world.wait(wait_s)
    assert world.all == []


@_many
@given(st.lists(st.tuples(st.floats(231, 2000), st.floats(0, 360)), min_size=1, max_size=10))
def test_a_fence_always_alarms_when_fixes_stay_outside(fixes: list[tuple[float, float]]) -> None:
    from math import cos, radians, sin

    world = World([CarePlan(person_id="P-1", fences=(home_fence(200),))])
    world.say(at=HOME)
    world.wait(3600)
    for metres, bearing in [*fixes, fixes[-1]]:
        at = away(metres * cos(radians(bearing)), metres * sin(radians(bearing)))
        world.say(at=at, accuracy_m=5.0)
        world.wait(300)
    assert ("geofence_exit", "P2") in raises(world.all)
    assert len(raises(world.all)) == 1


_zones = st.sampled_from(["Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
_walls = st.builds("{:02}:{:02}".format, st.integers(0, 23), st.sampled_from([0, 15, 30, 45]))
_moments = st.integers(to_us(datetime(2026, 1, 1, tzinfo=ZoneInfo("UTC"))) // US_PER_S, 1_830_000_000)


@settings(max_examples=150, deadline=None)
@given(_zones, _walls, _walls, _moments)
@example("Europe/Berlin", "02:00", "03:00", 1_774_746_000)  # the hour that does not exist
@example("Europe/Berlin", "02:30", "02:30", 1_792_888_200)  # the hour that exists twice
def test_a_schedule_is_in_force_when_the_wall_clock_says_so(zone: str, start: str, until: str, at_s: int) -> None:
    place = ZoneInfo(zone)
    wall = from_us(at_s * US_PER_S).astimezone(place)
    noon = datetime.combine(wall.date(), datetime.min.time(), place) + timedelta(hours=12)
    offsets = {(noon + timedelta(days=d)).utcoffset() for d in (-1, 0, 1)}
    schedule = Schedule(windows=(Window(start=start, until=until),))
    text = wall.strftime("%H:%M")
    expected = start <= text < until if start < until else (text >= start or text < until or start == until)
    if len(offsets) == 1:  # days on which clocks change have examples of their own
        assert in_force(schedule, at_s * US_PER_S, place) is expected
    change_us = next_change_us(schedule, at_s * US_PER_S, place)
    start_us = next_start_us(schedule, at_s * US_PER_S, place)
    assert change_us is not None
    assert start_us is not None
    assert at_s * US_PER_S < change_us <= start_us <= (at_s + 50 * 3600) * US_PER_S


@settings(max_examples=50, deadline=None)
@given(_zones, _walls, st.dates(date(2026, 1, 1), date(2027, 12, 31)))
def test_a_daily_deadline_comes_exactly_once_a_day(zone: str, by: str, day: date) -> None:
    plan = CarePlan(
        person_id="P-1",
        timezone=zone,
        expectations=(CheckInDue(expectation_id="x", by=by if by > "00:00" else "00:15"),),
    )
    start = datetime.combine(day, datetime.min.time(), ZoneInfo(zone))
    world = World([plan], start=start.isoformat())
    world.wait_until((start + timedelta(days=5)).isoformat())
    times = [effect.occurred_at_us for effect in world.all if isinstance(effect, Raise)]
    found = [from_us(at_us).astimezone(ZoneInfo(zone)).date() for at_us in times]
    assert found == [day + timedelta(days=number) for number in range(5)]


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(METRICS)), st.floats(allow_nan=True, allow_infinity=True)), st.data())
def test_no_value_makes_a_rule_fail(measurements: dict[str, float], data: st.DataObject) -> None:
    engine = _engine()
    numbers: Callable[[], Any] = lambda: data.draw(st.floats(allow_nan=True, allow_infinity=True))  # noqa: E731
    for seq in range(1, 4):
        at_us = START_US + seq * 60 * US_PER_S
        position = Position(numbers(), numbers(), at_us, numbers())
        engine.observe(Committed(seq, [record(at_us, measurements=measurements, position=position)]))
    assert engine.failures.total() == 0
