"""What the engine makes of fields, beyond what the shipped profiles use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from device_profiles.conversions import CONVERSIONS
from device_profiles.loader import Profiles, load_profiles
from gateway.clock import iso
from gateway.errors import ProfileError, UsageError
from gateway.model import Position, Reading, Report

RECEIVED_AT_US = 1_795_309_323_000_000
HEAD = """
id = "acme.thing"
vendor = "acme"
model = "thing"
kind = "other"
codec = "json"
transports = ["mqtt"]
title = { zh = "设备", en = "Thing" }
"""


def profiles_of(tmp_path: Path, body: str) -> Profiles:
    (tmp_path / "thing.toml").write_text(HEAD + body, encoding="utf-8")
    return load_profiles([tmp_path])


def explain(tmp_path: Path, body: str, fields: dict[str, Any]) -> tuple[Reading, Report]:
    report = Report(fields=fields)
    return profiles_of(tmp_path, body).explain("acme.thing", report, RECEIVED_AT_US), report


@pytest.mark.parametrize(
    ("name", "value", "converted"),
    [  # from tables and calculators, not from the code
        ("none", 7, 7),
        ("fahrenheit_to_celsius", 98.6, 37.0),
        ("fahrenheit_to_celsius", -40, -40),
        ("kelvin_to_celsius", 310.15, 37.0),
        ("kpa_to_mmhg", 16, 120.0099),
        ("mg_per_dl_to_mmol_per_l", 100, 5.5507),
        ("kg_per_l_to_mmol_per_l", 0.001, 5.5507),
        ("mol_per_l_to_mmol_per_l", 0.0055, 5.5),
        ("knots_to_m_per_s", 10, 5.1444),
        ("km_per_h_to_m_per_s", 90, 25),
        ("miles_per_h_to_m_per_s", 60, 26.8224),
        ("km_to_m", 1.2, 1200),
        ("feet_to_m", 1000, 304.8),
        ("millivolts_to_volts", 3712, 3.712),
        ("grams_to_kg", 71_250, 71.25),
        ("pounds_to_kg", 150, 68.0389),
        ("jin_to_kg", 120, 60),
        ("ratio_to_percent", 0.97, 97),
        ("seconds_to_minutes", 25_200, 420),
        ("hours_to_minutes", 7.5, 450),
    ],
)
def test_conversions(tmp_path: Path, name: str, value: float, converted: float) -> None:
    reading, _ = explain(tmp_path, f'raises = []\nfields.v = {{ metric = "x_v", convert = "{name}" }}', {"v": value})
    assert reading.measurements == {"x_v": converted}


def test_every_conversion_is_tested() -> None:
    (marks,) = [mark for mark in test_conversions.pytestmark if mark.name == "parametrize"]  # type: ignore[attr-defined]  # pytest puts it there
    assert {row[0] for row in marks.args[1]} == set(CONVERSIONS)


@pytest.mark.parametrize(
    ("time", "value", "at"),
    [
        ('format = "epoch_s"', 1795309320, "2026-11-22T01:02:00.000Z"),
        ('format = "epoch_s"', "1795309320.5", "2026-11-22T01:02:00.500Z"),
        ('format = "epoch_ms"', 1795309320123, "2026-11-22T01:02:00.123Z"),
        ('format = "epoch_us"', 1795309320123456, "2026-11-22T01:02:00.123Z"),
        ('format = "rfc3339"', "2026-11-22T09:02:00+08:00", "2026-11-22T01:02:00.000Z"),
        ('format = "rfc3339"\nzone = "Asia/Shanghai"', "2026-11-22T09:02:00", "2026-11-22T01:02:00.000Z"),
        ('format = "%d%m%y%H%M%S"\nzone = "Asia/Shanghai"', "221126090200", "2026-11-22T01:02:00.000Z"),
        ('format = "%Y%m%d%H%M%S"', 20261122010200, "2026-11-22T01:02:00.000Z"),
        ('format = "%Y-%m-%d %H:%M:%S %z"', "2026-11-22 09:02:00 +0800", "2026-11-22T01:02:00.000Z"),
    ],
)
def test_times(tmp_path: Path, time: str, value: object, at: str) -> None:
    body = f'raises = []\n[time]\nfield = "t"\n{time}\n[fields.s]\nmetric = "steps"'
    reading, report = explain(tmp_path, body, {"t": value, "s": 1})
    assert iso(reading.observed_at_us) == at
    assert report.at_us == reading.observed_at_us
    assert report.faults is None


@pytest.mark.parametrize("value", [True, [], {}, "soon", 0, -1, 1e300, 10**30, "9" * 400, "0001-01-01T00:00:00+23:59"])
@pytest.mark.parametrize("form", ["epoch_s", "epoch_ms", "rfc3339", "%Y%m%d"])
def test_bad_times_are_a_fault_and_the_time_of_receipt_counts(tmp_path: Path, form: str, value: object) -> None:
    body = f'raises = []\n[time]\nfield = "t"\nformat = "{form}"\n[fields.s]\nmetric = "steps"'
    reading, report = explain(tmp_path, body, {"t": value, "s": 1})
    assert reading.observed_at_us == RECEIVED_AT_US
    assert report.at_us == 0
    assert report.faults == [f"t: not a time as {form}"]


def test_every_bit_is_decoded_and_zero_bits_clear(tmp_path: Path) -> None:
    body = """
raises = ["sos", "fall", "smoke", "heat", "low_battery"]
[fields.flags]
bits = { 0 = "sos", 1 = ["smoke", "heat"], 2 = "low_battery", 40 = "fall" }
clear_bits = [1]
hexadecimal = true
missing = [65535]
"""
    for text, signals in (
        (0, {"smoke": False, "heat": False}),
        (7, {"sos": True, "smoke": True, "heat": True, "low_battery": True}),
        ("10000000001", {"sos": True, "smoke": False, "heat": False, "fall": True}),
        ("0x2", {"smoke": True, "heat": True}),
        (65535, {}),
    ):
        reading, report = explain(tmp_path, body, {"flags": text})
        assert reading.signals == signals
        assert report.faults is None
    not_bits: list[Any] = ["0xg", -1, 1.5, True, [], {}]
    for bad in not_bits:
        reading, report = explain(tmp_path, body, {"flags": bad})
        assert reading.signals == {}
        assert reading.unknown == {"flags": bad}
        assert report.faults == ["flags: not a whole number of bits"]


def test_scale_and_offset_before_the_conversion(tmp_path: Path) -> None:
    body = """
raises = []
[fields.t]
metric = "temperature_celsius"
scale = 0.1
offset = -40
convert = "fahrenheit_to_celsius"
"""
    reading, _ = explain(tmp_path, body, {"t": 1080})
    assert reading.measurements == {"temperature_celsius": 20.0}


def test_nested_arrays_and_what_is_left_over(tmp_path: Path) -> None:
    body = 'raises = ["sos"]\nignore = ["net.*", "ver"]\n[fields."a[].b[].c"]\nvalues = { help = "sos" }'
    fields = {"a": [{"b": [{"c": "help"}, {"c": None}]}, {"b": 3}, 4], "net": {"x": 1}, "ver": 2, "z": 5}
    reading, report = explain(tmp_path, body, fields)
    assert reading.signals == {"sos": True}
    assert reading.unknown == {"a[1].b": 3, "a[2]": 4, "z": 5}
    assert report.faults == ["a[1].b: not an array", "a[2]: not an object"]


PLACE = """
raises = []
[position]
latitude = "y"
longitude = "x"
accuracy_m = "acc"
scale = 0.000001
datum_by = { field = "map", values = { 0 = "wgs84", 1 = "gcj02", 2 = "bd09" } }
source_by = { field = "how", values = { A = "gnss", L = "cell" } }
valid = { field = "fix", values = ["A", 1] }
"""


def test_a_scaled_position_in_a_chinese_datum(tmp_path: Path) -> None:
    fields = {"y": 31175304, "x": "121531542", "acc": 9, "map": 1, "how": "L", "fix": "V"}
    reading, report = explain(tmp_path, PLACE, fields)
    assert report.faults is None
    place = reading.position
    assert place is not None
    assert (place.latitude, place.longitude) == pytest.approx((31.1774276, 121.5272106), abs=2e-6)
    assert (place.accuracy_m, place.source, place.valid) == (9.0, "cell", False)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"y": 1}, "x: not a number of degrees"),
        ({"y": "north", "x": 1}, "y: not a number of degrees"),
        ({"y": 91_000_000, "x": 1}, "y: not on Earth"),
        ({"y": 0, "x": "0.0"}, "y: 0, 0 is what a receiver without a fix sends"),
    ],
)
def test_positions_that_are_none(tmp_path: Path, fields: dict[str, Any], fault: str) -> None:
    reading, report = explain(tmp_path, PLACE, fields)
    assert reading.position is None
    assert report.faults == [fault]


def test_an_unknown_datum_makes_a_place_less_sure(tmp_path: Path) -> None:
    reading, report = explain(tmp_path, PLACE, {"y": 1000000, "x": 2000000, "map": 9, "acc": -4, "how": "?"})
    assert reading.position == Position(1.0, 2.0, RECEIVED_AT_US, 700.0, "gnss", valid=True)
    assert report.faults == [
        "acc: not a number of metres",
        "map: a value without a meaning in this profile",
        "how: a value without a meaning in this profile",
    ]


def test_dedup_needs_every_field(tmp_path: Path) -> None:
    body = 'raises = []\ndedup.fields = ["boot", "n"]\n[stored]\nfield = "old"\nvalues = [1]'
    _, report = explain(tmp_path, body, {"boot": "A", "n": 7, "old": 1})
    assert (report.dedup_key, report.stored) == ("a|7", True)
    _, report = explain(tmp_path, body, {"n": 7})
    assert (report.dedup_key, report.stored) == ("", False)


def test_a_reading_is_passed_through_untouched() -> None:
    profiles = load_profiles()
    reading = Reading(5, {"steps": 1.0}, {"sos": True}, None, {"fw": "1", "hw": "2"})
    assert profiles.explain("carebell.native", Report(reading=reading), RECEIVED_AT_US) is reading
    assert profiles.explain("no.such_profile", Report(reading=reading), RECEIVED_AT_US) is reading
    assert profiles.unknown_fields["carebell.native"] == 2


def test_unknown_fields_are_counted() -> None:
    profiles = load_profiles()
    for _ in range(3):
        profiles.explain("generic.json_button", Report(fields={"a": 1, "b": {"c": 2}}), RECEIVED_AT_US)
    assert profiles.unknown_fields["generic.json_button"] == 6


def test_fields_and_a_reading_together() -> None:
    reading = Reading(5, {"steps": 1.0}, {"sos": True}, Position(1, 2, 5), {"raw": 1})
    report = Report(reading=reading, fields={"press": "single", "odd": 1})
    merged = load_profiles().explain("generic.json_button", report, RECEIVED_AT_US)
    assert merged.signals == {"sos": True, "service_call": True}
    assert (merged.measurements, merged.position) == (reading.measurements, reading.position)
    assert merged.unknown == {"raw": 1, "odd": 1}


def test_refusals() -> None:
    profiles = load_profiles()
    with pytest.raises(ProfileError, match=r"no profile 'generic\.json_buttn'; did you mean generic\.json_button\?"):
        profiles.explain("generic.json_buttn", Report(fields={}), RECEIVED_AT_US)
    with pytest.raises(ProfileError, match="explains no fields"):
        profiles.explain("carebell.native", Report(fields={}), RECEIVED_AT_US)
    with pytest.raises(ProfileError, match="neither observations nor fields"):
        profiles.explain("carebell.native", Report(faults=["x"]), RECEIVED_AT_US)
    with pytest.raises(UsageError, match=r"known: .*carebell\.native"):
        profiles.codec_of("zzz")
    assert profiles.get("zzz") is None


def test_faults_and_measurements_are_bounded(tmp_path: Path) -> None:
    lines = "\n".join(f'[fields.f{number}]\nmetric = "x_{number}"' for number in range(100))
    reading, report = explain(tmp_path, "raises = []\n" + lines, {f"f{number}": number for number in range(100)})
    assert len(reading.measurements) == 64
    assert report.faults is not None
    assert len(report.faults) == 17
    assert report.faults[-1] == "and 20 more faults"
