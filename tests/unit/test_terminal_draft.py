"""A report in the making takes whatever a terminal says."""

from __future__ import annotations

import math

import pytest

from gateway.model import Frame
from protocols.codecs.terminal import ALARMS, Draft, clean_text, decimal, degrees_minutes, number

FRAME = Frame("test", "gt06", "test", b"", 1_795_309_323_000_000, "K-1")


def test_emergencies_stand_first() -> None:
    draft = Draft(FRAME)
    draft.alarm("low_battery", "vibration", "fall", "sos", "braking")
    reading = draft.report().reading
    assert reading is not None
    assert list(reading.signals) == ["sos", "fall", "low_battery", "vibration"]
    assert reading.unknown == {"alarms": ["braking"]}
    assert reading.observed_at_us == FRAME.received_at_us


def test_every_alarm_with_a_signal_names_one_of_the_model() -> None:
    from gateway.model import SIGNALS

    assert set(ALARMS.values()) <= SIGNALS


def test_impossible_values_are_faults() -> None:
    draft = Draft(FRAME)
    draft.measure("battery_percent", 101)
    draft.measure("heart_rate_bpm", math.nan)
    draft.measure("steps", None)
    draft.place(91.0, 0.0)
    draft.place(0.0, 0.0)
    report = draft.report()
    assert report.reading is None
    assert report.faults is not None
    assert [fault.split(":")[0] for fault in report.faults] == ["battery_percent", "heart_rate_bpm", "position"]


def test_nothing_grows_without_a_bound() -> None:
    draft = Draft(FRAME)
    for number_ in range(1000):
        draft.keep(f"member_{number_}", "x" * 10_000)
        draft.cell(460, 0, 1, number_ + 1)
        draft.wifi(bytes([1, 2, 3, 4, number_ >> 8, number_ & 255]), -60)
        draft.fault("x", "y" * 1000)
    report = draft.report()
    assert report.reading is not None
    assert report.reading.unknown is not None
    assert len(report.reading.unknown) <= 65
    assert max(len(str(value)) for value in report.reading.unknown.values()) < 10_000
    assert report.faults is not None
    assert len(report.faults) == 16


def test_networks_and_leftovers_are_json() -> None:
    draft = Draft(FRAME)
    draft.cell(460, 0, 0, 0)
    draft.cell(460, 0, 1, 2, -70, "lte")
    draft.wifi("AA-BB-CC-DD-EE-FF ", name="x\0y")
    draft.wifi(bytes(6))
    draft.keep("raw", b"\x01\x02")
    draft.keep("huge", 2**70)
    draft.keep("odd", math.inf)
    draft.keep("text", "a\0\ud800")
    reading = draft.report().reading
    assert reading is not None
    assert reading.unknown == {
        "network": [
            {"mcc": 460, "mnc": 0, "lac": 1, "cid": 2, "rssi": -70, "radio": "lte"},
            {"bssid": "aa:bb:cc:dd:ee:ff", "name": "xy"},
        ],
        "raw": "0102",
        "huge": str(2**70),
        "text": "a?",
    }


def test_numbers() -> None:
    assert [number(text) for text in ("12", "-3", " +4 ", "", "1.5", "١", "1" * 19)] == [
        12,
        -3,
        4,
        None,
        None,
        None,
        None,
    ]
    assert (number("1F", base=16), number("xyz", base=16)) == (31, None)
    assert [decimal(text) for text in ("1.5", "-2", ".5", "1e3", "nan", "")] == [1.5, -2.0, 0.5, None, None, None]
    assert degrees_minutes("3907.4100", "N") == 39.1235
    assert degrees_minutes("11712.0660", "W") == pytest.approx(-117.2011)
    assert degrees_minutes("x") is None
    assert clean_text("a\0b\ud800") == "ab?"
