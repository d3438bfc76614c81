"""The live state of devices and persons, by what is committed."""

from __future__ import annotations

from datetime import UTC, datetime

from gateway.clock import VirtualClock, iso, to_us
from gateway.live_states import LiveStates
from gateway.model import Committed, Reading, Record

START = datetime(2026, 11, 22, tzinfo=UTC)
NOW_US = to_us(START)
EARLIER_US = NOW_US - 86_400_000_000


def record(at_us: int, heart_rate: float, *, stored: bool = False) -> Record:
    reading = Reading(at_us, {"heart_rate_bpm": heart_rate}, stored=stored)
    return Record(at_us, "mqtt", "native", "", b"", "D-1", "", "P-1", "carebell.native", True, 0, "", reading)


def test_what_a_replay_tells_anew_is_no_contact_now() -> None:
    states = LiveStates(VirtualClock(START), lambda _: None)
    states.observe(Committed(1, [record(NOW_US, 72.0)]))
    states.observe(Committed(2, [record(EARLIER_US, 131.0, stored=True)]))
    device, person = states.device("D-1"), states.person("P-1")
    assert device["last_contact"] == iso(NOW_US)
    assert device["last_seq"] == 1
    assert person["readings"]["heart_rate_bpm"]["value"] == 72.0


def test_a_device_that_tells_what_it_stored_is_in_contact() -> None:
    states = LiveStates(VirtualClock(START), lambda _: None)
    states.observe(Committed(1, [record(EARLIER_US, 72.0)]))
    states.observe(Committed(2, [record(NOW_US, 131.0, stored=True)]))
    assert states.device("D-1")["last_contact"] == iso(NOW_US)
