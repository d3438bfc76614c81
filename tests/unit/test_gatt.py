"""GATT: numbers, dates, times of storage, record access, against values worked out by hand from the formats."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import iso, to_us
from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.bits import Cursor
from protocols.codecs import gatt_values as values
from protocols.codecs.gatt import GattCodec, packed

NOW = datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)
NOW_US = to_us(NOW)
DAY_BEFORE = bytes.fromhex("ea070b15091e00")  # 2026-11-21 09:30:00


def parse(*said: tuple[int, str], **context: Any) -> list[Report]:
    payload = b"".join(packed(uuid, bytes.fromhex(value)) for uuid, value in said)
    return list(GattCodec().parse(Frame("test", "gatt", "test", payload, NOW_US, "D-1", context=context or None)))


def fields(uuid: int, value: str, **context: Any) -> dict[str, Any]:
    (report,) = parse((uuid, value), **context)
    assert report.fields is not None
    return report.fields


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "value"),
    [("7800", 120), ("0102", 513), ("6EF1", 36.6), ("A0F0", 16.0), ("01FE", -51.1), ("FFFF", -0.1), ("0070", 0)],
)
def test_sfloat(sent: str, value: float) -> None:
    assert values.sfloat(int.from_bytes(bytes.fromhex(sent), "little")) == values.Number(value)


@pytest.mark.parametrize(
    ("sent", "value"), [("6E0100FF", 36.6), ("01FE03FC", 26.1633), ("FFFFFF00", -1), ("01000002", 100)]
)
def test_float(sent: str, value: float) -> None:
    assert values.float32(int.from_bytes(bytes.fromhex(sent), "little")) == values.Number(value)


@pytest.mark.parametrize(
    ("short", "long", "quality"),
    [
        (0x07FF, 0x007FFFFF, "nan"),
        (0x0800, 0x00800000, "nres"),
        (0x07FE, 0x007FFFFE, "+inf"),
        (0x0802, 0x00800002, "-inf"),
        (0x0801, 0x00800001, "reserved"),
    ],
)
def test_what_is_no_number(short: int, long: int, quality: str) -> None:
    assert values.sfloat(short) == values.float32(long) == values.Number(None, quality)


@settings(deadline=None)
@given(st.integers(-2045, 2045), st.integers(-8, 7))
def test_every_sfloat_is_the_nearest_float_to_its_decimal(mantissa: int, exponent: int) -> None:
    raw = int.from_bytes(values.to_sfloat(mantissa, exponent), "little")
    assert values.sfloat(raw).value == (float(Decimal(mantissa).scaleb(exponent)) if raw != 0x07FF else None)


@settings(deadline=None)
@given(st.integers(0, 0xFFFFFFFF))
def test_any_float_is_a_finite_number_or_says_why_not(raw: int) -> None:
    number = values.float32(raw)
    assert (number.value is None) == bool(number.quality)
    assert number.value is None or math.isfinite(number.value)


# ---- dates -----------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.datetimes(datetime(1970, 1, 3), datetime(2200, 1, 1)),  # noqa: DTZ001 - a device has no zone
    st.sampled_from(["Asia/Shanghai", "Europe/Paris", "America/St_Johns", "no such zone"]),
)
def test_dates_are_local_times(at: datetime, zone_name: str) -> None:
    zone = values.zone_of(zone_name)
    shown = values.date_time(Cursor(values.date_time_bytes(at)), zone)
    wanted = at.replace(microsecond=0)
    assert shown.text == wanted.isoformat()
    assert shown.at_us == to_us(wanted.replace(tzinfo=zone).astimezone(UTC))


@pytest.mark.parametrize("sent", ["00000000000000", "ea070d01000000", "ea070b00091e00", "ea07021e000000"])
def test_a_date_that_is_none_is_a_text(sent: str) -> None:
    assert values.date_time(Cursor(bytes.fromhex(sent)), UTC).at_us == 0


def test_the_time_that_is_written_to_a_device() -> None:
    """2026-11-22 09:02:03.5 in Shanghai, a Sunday; worked out by hand from Current Time."""
    sent = values.current_time(NOW_US + 500_000, values.zone_of("Asia/Shanghai"))
    assert sent.hex() == "ea070b160902030780" + "02"


# ---- when it was measured --------------------------------------------------------------------------------------------


def test_a_stored_measurement_has_its_own_time() -> None:
    (report,) = parse((0x2A35, "02" + "8700" + "5500" + "6600" + DAY_BEFORE.hex()))
    assert iso(report.at_us) == "2026-11-21T01:30:00.000Z"
    assert report.stored
    assert report.faults is None


def test_the_zone_is_that_of_the_person() -> None:
    (report,) = parse((0x2A35, "02" + "8700" + "5500" + "6600" + DAY_BEFORE.hex()), zone="Europe/Paris")
    assert iso(report.at_us) == "2026-11-21T08:30:00.000Z"


def test_a_measurement_of_a_moment_ago_is_not_stored() -> None:
    (report,) = parse((0x2A1C, "02" + "6e0100ff" + "ea070b16090000"))
    assert iso(report.at_us) == "2026-11-22T01:00:00.000Z"
    assert not report.stored


def test_a_clock_known_to_be_wrong_is_corrected() -> None:
    (report,) = parse((0x2A1C, "02" + "6e0100ff" + "e5070b15091e00"), clock_skew_s=-157_766_400)  # 1826 days behind
    assert iso(report.at_us) == "2026-11-21T01:30:00.000Z"
    assert report.stored
    assert report.faults == ["device_time: the device's clock is wrong by -157766400 s; its time is corrected by that"]


def test_a_time_in_the_future_gives_way_to_that_of_receipt() -> None:
    (report,) = parse((0x2A1C, "02" + "6e0100ff" + "ee070b15091e00"))
    assert report.at_us == 0
    assert report.fields is not None
    assert report.fields["device_time"] == "2030-11-21T09:30:00"
    assert report.faults


def test_how_wrong_the_clock_is() -> None:
    said = fields(0x2A2B, "ea070b160a0203" + "070000")
    assert said == {"clock": "2026-11-22T10:02:03", "clock_skew_s": 3600}


# ---- what belongs together, what does not count ----------------------------------------------------------------------


def test_a_context_joins_the_measurement_of_its_number() -> None:
    measured = "13" + "0700" + DAY_BEFORE.hex() + "0a00" + "5fb0" + "11"
    reports = parse((0x2A18, measured), (0x2A34, "02" + "0700" + "01"), (0x2A34, "02" + "0800" + "02"))
    assert [report.fields and report.fields.get("meal") for report in reports] == ["before", "after"]
    assert iso(reports[0].at_us) == "2026-11-21T01:40:00.000Z"
    assert reports[0].fields is not None
    assert reports[0].fields["glucose"] == pytest.approx(95e-5)


@pytest.mark.parametrize(
    ("status", "usable"),
    [("0000", True), ("8000", True), ("0001", True), ("2000", False), ("4000", False), ("a000", True)]
    + [(f"{1 << bit:04x}"[2:] + f"{1 << bit:04x}"[:2], False) for bit in range(10, 16)],
)
def test_which_saturation_counts(status: str, usable: bool) -> None:
    said = fields(0x2A5F, "04" + "6100" + "4800" + status)
    assert ("spo2" in said) is usable
    assert usable or said["unusable"]["spo2"] == 97


def test_control_solution_and_no_contact_are_no_readings() -> None:
    assert "glucose" not in fields(0x2A18, "02" + "0700" + DAY_BEFORE.hex() + "5fb0" + "1a")
    assert "heart_rate" not in fields(0x2A37, "0448")


def test_a_value_that_comes_again_has_the_same_name() -> None:
    one, two = (parse((0x2A35, "02" + "8700" + "5500" + "6600" + DAY_BEFORE.hex()))[0].dedup_key for _ in range(2))
    assert one == two != ""
    assert parse((0x2A35, "008700" + "5500" + "6600"))[0].dedup_key == ""


def test_record_access() -> None:
    assert values.report_from(0x0102).hex() == "0103010201"
    assert values.access_answer(bytes.fromhex("06000101")) == values.AccessAnswer(1, values.SUCCESS)
    assert values.access_answer(bytes.fromhex("06000106")).code == values.NO_RECORDS
    assert values.access_answer(bytes.fromhex("05002a00")).count == 42
    for bad in ("", "06", "0700", "060001"):
        with pytest.raises(ParseError):
            values.access_answer(bytes.fromhex(bad))
