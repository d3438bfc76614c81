"""Latencies, distances, the neighbourhood and its day, and what keeps simulated emergencies at home."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise
from typing import Any

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators import day
from simulators.board import Board
from simulators.devices import is_loopback
from simulators.geography import Spot, moved
from simulators.latency import Latencies
from simulators.neighbourhood import residents
from simulators.payloads import utc_now, write


@given(st.lists(st.floats(1e-5, 500), min_size=1, max_size=200), st.floats(0.01, 1))
def test_quantiles_are_two_percent_above_at_most(values: list[float], share: float) -> None:
    latencies = Latencies()
    for value in values:
        latencies.add(value)
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    told = latencies.quantile_s(share)
    assert told is not None
    assert exact * (1 - 1e-9) <= told <= exact * 1.02 * (1 + 1e-9)


def test_no_latencies() -> None:
    assert Latencies().quantile_s(0.5) is None
    assert Latencies().shown_ms()["p99"] is None


def haversine_m(a: Spot, b: Spot) -> float:
    north, east = math.radians(b.latitude - a.latitude), math.radians(b.longitude - a.longitude)
    chord = math.sin(north / 2) ** 2 + math.cos(math.radians(a.latitude)) * math.cos(math.radians(b.latitude)) * (
        math.sin(east / 2) ** 2
    )
    return 2 * 6_371_008.8 * math.asin(math.sqrt(chord))


@given(st.floats(-60, 60), st.floats(-170, 170), st.floats(-2000, 2000), st.floats(-2000, 2000))
def test_metres_on_the_ground(latitude: float, longitude: float, east_m: float, north_m: float) -> None:
    start = Spot(latitude, longitude)
    assert haversine_m(start, moved(start, east_m, north_m)) == pytest.approx(
        math.hypot(east_m, north_m), rel=0.01, abs=1
    )


def test_thirty_persons_whom_nobody_can_call() -> None:
    people = residents()
    assert len(people) == 30
    assert len({person.name for person in people}) == len({person.phone for person in people}) == 30
    for person in people:
        number = phonenumbers.parse(person.phone)
        assert phonenumbers.is_possible_number(number)
        assert not phonenumbers.is_valid_number(number)
    assert {device.profile for person in people for device in person.devices} == {
        "carebell.native", "generic.json_button", "generic.json_bp_cuff", "generic.json_gps_pendant",
        "generic.json_smoke_detector", "generic.json_bed_sensor",
    }  # fmt: skip
    assert {device.transport for person in people for device in person.devices} == {"mqtt", "http"}


def test_the_day_can_be_said_and_comes_in_order() -> None:
    people = residents()
    profiles = {device.device_id: device.profile for person in people for device in person.devices}
    moments = day.plan(people)
    assert day.plan(people) == moments
    for number, moment in enumerate(moments):
        assert day.DAWN_S <= moment.at_s <= day.DUSK_S
        if not moment.breaks_off:
            assert write(profiles[moment.device_id], moment.statement, number=number, boot=1, at=utc_now())
    assert all(earlier.at_s <= later.at_s for earlier, later in pairwise(moments))
    signals = Counter(signal for moment in moments for signal in moment.statement.signals)
    assert signals["sos"] >= 4
    assert {"fall", "smoke", "service_call", "call_cancelled", "low_battery"} <= set(signals)
    assert sum(moment.breaks_off for moment in moments) == 1


def test_no_step_of_the_walk_is_an_impossible_jump() -> None:
    """41 m/s (150 km/h) is what a rule takes for possible, and it sees no two fixes as less than a second apart."""
    walker = residents()[2]
    fixes = [moment.statement.position for moment in day.plan([*residents()]) if moment.person_id == walker.person_id]
    spots = [Spot(fix.latitude, fix.longitude) for fix in fixes if fix is not None]
    assert max(haversine_m(walker.home, spot) for spot in spots) > 420  # 300 m beyond a fence of 120 m
    assert all(haversine_m(a, b) - 20 < 41 for a, b in pairwise(spots))
    assert haversine_m(walker.home, spots[-1]) < 10


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
        ("10.0.0.1", False), ("0.0.0.0", False), ("carebell.example.org", False), ("localhost.example.org", False),
    ],
)  # fmt: skip
def test_what_is_this_machine(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_the_board_tells_alerts_and_keeps_orders(capsys: pytest.CaptureFixture[str]) -> None:
    def event(kind: str, action: str, order: dict[str, Any] | None) -> dict[str, Any]:
        data = {"id": "a1", "kind": "sos", "severity": "P1", "condition": "active", "handling": "raised"}
        return {
            "type": f"org.carebell.{kind}.v1",
            "data": data | {"person_id": "P-0001", "occurrences": 1, "order": order, "action": action},
        }

    board = Board({"P-0001": "王秀英"}, lambda: "10:40")
    with board:
        board.take(event("alert", "raise", None))
        board.take({"type": "org.carebell.observation.v1", "data": {"kind": "signal"}})
        board.take(event("order", "order_status", {"order_id": "O-1", "status": "arrived"}))
    assert "10:40" in (said := capsys.readouterr().out)
    assert "王秀英 紧急呼叫 sos P1 报警 raised" in said
    assert board.rows["a1"].alert["order"]["status"] == "arrived"
