"""What simulated devices say is what the gateway's own codecs and profiles understand."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.loader import load_profiles
from gateway.clock import to_us
from gateway.model import Frame, Reading, Report
from protocols.registry import CODECS
from simulators.payloads import PROFILES, CannotSayError, Place, Statement, write

NOW = datetime(2026, 11, 22, 1, 2, 3, 500_000, tzinfo=UTC)
KNOWN = load_profiles()

VOCABULARY: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], bool]] = {
    # profile: signals that go together in one message, measurements, whether it can tell a place
    "carebell.native": (("sos", "low_battery", "fall", "im_ok"), ("heart_rate_bpm", "spo2_percent", "steps"), True),
    "generic.json_button": (("sos",), ("battery_percent",), False),
    "generic.json_bp_cuff": (("device_fault",), ("systolic_mmhg", "diastolic_mmhg", "heart_rate_bpm"), False),
    "generic.json_gps_pendant": (
        ("sos", "fall", "low_battery", "device_removed", "geofence_exit", "no_motion", "power_off", "service_call",
         "device_worn", "power_on"),
        ("battery_percent", "steps"),
        True,
    ),
    "generic.json_smoke_detector": (("smoke", "tamper"), ("battery_percent", "temperature_celsius"), False),
    "generic.json_bed_sensor": (("bed_exit", "sos"), ("heart_rate_bpm", "respiratory_rate_per_min"), False),
}  # fmt: skip


def understood(profile: str, payload: bytes) -> tuple[Report, Reading]:
    at_us = to_us(NOW)
    codec = CODECS[KNOWN.codec_of(profile)]
    [report] = codec.parse(Frame("mqtt", codec.name, "127.0.0.1:1", payload, at_us, "D-1"))
    assert not report.faults, report.faults
    return report, KNOWN.explain(profile, report, at_us)


@st.composite
def statements(draw: st.DrawFn, profile: str) -> Statement:
    signals, metrics, placed = VOCABULARY[profile]
    chosen = draw(st.lists(st.sampled_from(signals), unique=True))
    values = {name: float(draw(st.integers(60, 90))) for name in draw(st.lists(st.sampled_from(metrics), unique=True))}
    place = None
    if placed and draw(st.booleans()):
        latitude, longitude = draw(st.integers(1_000, 60_000)) / 1000, draw(st.integers(1_000, 179_000)) / 1000
        place = Place(latitude, longitude, float(draw(st.integers(1, 500))), valid=draw(st.booleans()))
    if profile == "carebell.native" and not (chosen or values or place):
        chosen = ["im_ok"]  # an empty native message is a fault
    return Statement(tuple(chosen), (), values, place)


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_said_is_understood(profile: str) -> None:
    @given(statements(profile))
    def check(statement: Statement) -> None:
        payload = write(profile, statement, number=7, boot=1_800_000_000, at=NOW)
        _, reading = understood(profile, payload)
        assert {name for name, active in reading.signals.items() if active} >= set(statement.signals)
        raised_by_battery = {"low_battery", "battery_normal"}
        assert {name for name, active in reading.signals.items() if active} <= set(
            statement.signals
        ) | raised_by_battery
        assert {name: reading.measurements[name] for name in statement.measurements} == statement.measurements
        assert not reading.unknown
        place, fix = statement.position, reading.position
        assert (place is None) == (fix is None)
        if place is not None and fix is not None:
            assert [fix.latitude, fix.longitude] == pytest.approx([place.latitude, place.longitude])
            assert (fix.accuracy_m, fix.valid) == (place.accuracy_m, place.valid)

    check()


def test_every_profile_is_tried() -> None:
    assert set(VOCABULARY) == set(PROFILES)
    assert set(PROFILES) <= set(KNOWN.names())


@pytest.mark.parametrize(
    ("statement", "ended"),
    [(Statement(cleared=("smoke",)), "smoke"), (Statement(cleared=("tamper",)), "tamper")],
)
def test_a_condition_that_ended(statement: Statement, ended: str) -> None:
    _, reading = understood("generic.json_smoke_detector", write(
        "generic.json_smoke_detector", statement, number=1, boot=1, at=NOW))  # fmt: skip
    assert reading.signals[ended] is False


@pytest.mark.parametrize(
    ("profile", "statement", "text"),
    [
        ("generic.json_bp_cuff", Statement(("sos",)), "signal 'sos'"),
        ("generic.json_button", Statement(("sos", "test")), "signal 'test'"),
        ("generic.json_button", Statement(position=Place(39.1, 117.2)), "position"),
        ("generic.json_gps_pendant", Statement(measurements={"systolic_mmhg": 120}), "measurement 'systolic_mmhg'"),
        ("carebell.native", Statement(cleared=("smoke",)), "smoke"),
        ("acme.toaster", Statement(("sos",)), "acme.toaster"),
    ],
)
def test_what_a_device_has_no_words_for(profile: str, statement: Statement, text: str) -> None:
    with pytest.raises(CannotSayError, match=text):
        write(profile, statement, number=1, boot=1, at=NOW)


@pytest.mark.parametrize("profile", ["carebell.native", "generic.json_button", "generic.json_gps_pendant"])
def test_a_resend_is_a_duplicate_and_a_new_message_is_not(profile: str) -> None:
    """The cuff names a reading by its minute and values; detectors and bed sensors have nothing to name one by."""

    def named(number: int, boot: int) -> tuple[str, int, int]:
        report, _ = understood(profile, write(profile, Statement(("sos",)), number=number, boot=boot, at=NOW))
        return report.dedup_key, report.boot, report.seq

    assert named(1, 10) == named(1, 10) != ("", 0, -1)
    assert named(1, 10) != named(2, 10)
