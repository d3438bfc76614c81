"""Heartbeats of telecare units: each is a sign of life and nothing else, and three that stay away are an alert."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from device_profiles.loader import load_profiles
from gateway.care import DeviceCare
from gateway.model import Frame, Reading
from protocols.registry import CODECS
from simulators.scaip import Unit, mrq
from simulators.terminals.dc09 import framed
from tests.rules_world import World, clears, raises, record

PROFILES = load_profiles([])


def null(_number: int) -> bytes:
    """A link test of a unit whose clock stands still."""
    return framed('"NULL"0000R1L1#1111[]_01:02:03,11-22-2026')


def heartbeat(_number: int) -> bytes:
    """One whose reference is always the same."""
    return Unit("1111", "192.0.2.7:5060").message(mrq(mty="PI", ref="1", cid="1111", dty="2"))


@pytest.mark.parametrize(
    ("codec", "profile", "say"),
    [
        ("dc09", "telecare.dc09_unit", null),
        ("scaip", "telecare.scaip_unit", heartbeat),
        ("scaip", "telecare.scaip_inline_unit", heartbeat),
    ],
)
def test_a_silent_unit_is_a_technical_alert(codec: str, profile: str, say: Callable[[int], bytes]) -> None:
    known = PROFILES.get(profile)
    assert known is not None
    heartbeat_s = known.heartbeat_s
    assert heartbeat_s
    world = World(devices=[DeviceCare(device_id="D-1", person_id="P-1", heartbeat_s=heartbeat_s)])
    names = set()

    def live(number: int) -> Reading:
        (report,) = CODECS[codec].parse(Frame("tcp", codec, "192.0.2.7:5060", say(number), world.now_us))
        names.add(report.dedup_key)
        reading = report.reading or PROFILES.explain(profile, report, world.now_us)
        assert not reading.signals
        return reading

    for number in range(6):
        kept = record(world.now_us)
        kept.reading = live(number)
        assert world.put(kept) == []
        assert world.wait(heartbeat_s) == []
    assert len(names) == 6, "a heartbeat that looks like the last one is a sign of life, too"
    assert raises(world.wait(3 * heartbeat_s)) == [("device_silent", "P4")]
    kept = record(world.now_us)
    kept.reading = live(7)
    assert clears(world.put(kept)) == ["device_silent"]
