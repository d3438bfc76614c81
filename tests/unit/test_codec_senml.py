"""SenML: RFC 8428's rules, canonical meanings, and that nothing breaks it."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ParseError
from gateway.model import METRICS, SIGNALS, Frame, Report
from protocols.codecs import cbor
from protocols.codecs.senml import SenmlCodec

NOW_US = 1_795_309_323_000_000
CODEC = SenmlCodec()


def parse(payload: bytes) -> list[Report]:
    return list(CODEC.parse(Frame("coap", "senml", "t", payload, NOW_US, "D-1")))


def pack(*records: dict[str, Any]) -> bytes:
    return json.dumps(list(records)).encode()


LABELS = {"bver": -1, "bn": -2, "bt": -3, "bu": -4, "bv": -5, "bs": -6, "n": 0, "u": 1, "v": 2, "vs": 3, "vb": 4,
          "s": 5, "t": 6, "ut": 7, "vd": 8}  # fmt: skip


def as_cbor(*records: dict[str, Any]) -> bytes:
    return cbor2.dumps([{LABELS.get(label, label): value for label, value in record.items()} for record in records])


BASES = (
    {"bn": "urn:dev:mac:0024befffe804ff1/", "bt": 1_795_309_320.0, "bu": "Cel", "bver": 10, "n": "temperature",
     "v": 21.5},
    {"n": "heart_rate", "u": "beat/min", "v": 72},
    {"n": "sos", "vb": True, "t": -60},
    {"n": "battery", "u": "%EL", "v": 80},
)  # fmt: skip


@pytest.mark.parametrize("payload", [pack(*BASES), as_cbor(*BASES)], ids=["json", "cbor"])
def test_base_values_and_times(payload: bytes) -> None:
    now, earlier = parse(payload)
    assert now.reading is not None
    assert now.reading.measurements == {"temperature_celsius": 21.5, "heart_rate_bpm": 72, "battery_percent": 80}
    assert now.reading.observed_at_us == now.at_us == 1_795_309_320_000_000
    assert earlier.reading is not None
    assert earlier.reading.signals == {"sos": True}
    assert earlier.at_us == 1_795_309_260_000_000
    assert now.faults is None


@pytest.mark.parametrize(
    ("record", "metric", "value"),
    [
        ({"n": "temperature", "u": "K", "v": 295.15}, "temperature_celsius", 22.0),
        ({"n": "body_temperature", "u": "Cel", "v": 36.6}, "body_temperature_celsius", 36.6),
        ({"n": "systolic", "u": "kPa", "v": 16}, "systolic_mmhg", 120.0099),
        ({"n": "spo2", "u": "/", "v": 0.97}, "spo2_percent", 97.0),
        ({"n": "speed", "u": "km/h", "v": 36}, "speed_m_per_s", 10.0),
        ({"n": "battery", "u": "V", "v": 3.6}, "battery_volts", 3.6),
        ({"n": "anything", "u": "%EL", "v": 41}, "battery_percent", 41),
        ({"n": "heart_rate", "u": "Hz", "v": 1.2}, "heart_rate_bpm", 72.0),
        ({"bn": "heart_rate_bpm", "bv": 60, "v": 12}, "heart_rate_bpm", 72),
        ({"bn": "steps", "s": 5200}, "steps", 5200),
        ({"n": "rssi_dbm", "v": -97}, "rssi_dbm", -97),
        ({"n": "glucose", "u": "mg/dL", "v": 97}, "blood_glucose_mmol_per_l", 5.3842),
    ],
)
def test_units(record: dict[str, Any], metric: str, value: float) -> None:
    (report,) = parse(pack(record))
    assert report.reading is not None
    assert report.reading.measurements == {metric: pytest.approx(value, abs=1e-3)}


def test_a_unit_that_is_not_the_metrics_is_a_fault_and_the_value_is_kept() -> None:
    (report,) = parse(pack({"n": "heart_rate", "u": "Cel", "v": 36.6}))
    assert report.reading is not None
    assert report.reading.measurements == {}
    assert report.reading.unknown == {"heart_rate": 36.6}
    assert report.faults == ["heart_rate: in Cel, which is no unit of heart_rate_bpm"]


def test_a_place_of_two_records() -> None:
    (report,) = parse(pack({"n": "lat", "u": "lat", "v": 39.1235}, {"n": "lon", "u": "lon", "v": 117.2011}))
    assert report.reading is not None
    assert report.reading.position is not None
    assert (report.reading.position.latitude, report.reading.position.longitude) == (39.1235, 117.2011)
    (half,) = parse(pack({"n": "lat", "v": 39.1}, {"n": "sos", "vb": True}))
    assert half.reading is not None
    assert half.reading.signals == {"sos": True}
    assert half.faults == ["position: one coordinate alone"]


@pytest.mark.parametrize(
    "record",
    [
        {"n": "sos", "v": "not a number"}, {"n": "sos", "vb": "yes"}, {"n": "urn:dev:mac:0024befffe804ff1/sos", "v": 1},
        {"n": "signal", "vs": "sos"}, {"n": "SOS", "vs": "alarm"}, {"n": "sos", "vb": True, "t": "yesterday"},
        {"n": "sos", "vb": True, "t": 9e300}, {"n": "sos", "v": []}, {"n": "urn:dev:mac:0024befffe804ff1_sos", "v": 1},
    ],
)  # fmt: skip
def test_a_press_counts_whatever_is_wrong_with_it(record: dict[str, Any]) -> None:
    (report,) = parse(pack(record, {"n": 7, "v": 1}, {"n": "x", "new_": 1, "v": 2}))
    assert report.reading is not None
    assert report.reading.signals == {"sos": True}
    assert report.faults is not None


def test_what_must_be_understood_is_not_guessed() -> None:
    reports = parse(pack({"n": "heart_rate", "v": 400, "scale_": 10}, {"n": "heart_rate", "v": 70}))
    assert reports[0].reading is not None
    assert reports[0].reading.measurements == {"heart_rate_bpm": 70}
    assert reports[0].faults == ["[0]: scale_ must be understood, and is not"]


def test_identity_of_rfc_9039() -> None:
    (report,) = CODEC.parse(
        Frame("coap", "senml", "t", pack({"bn": "urn:dev:imei:861234567890123/", "n": "sos", "vb": True}), NOW_US)
    )
    assert report.device_key == "861234567890123"


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{", b"true", b"\x80", b"\x9f", b"\x81\x00", b"\xff", b"[1,2]", b"\x5b" + b"\xff" * 8]
)
def test_what_is_no_pack(payload: bytes) -> None:
    with pytest.raises(ParseError):
        parse(payload)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda tail: b"\x82\xa3" + tail))
def test_any_bytes_give_reports_or_a_parse_error(payload: bytes) -> None:
    check_total(payload)


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), st.binary(max_size=4)
)
_RECORDS = st.dictionaries(
    st.sampled_from([*LABELS, "vlo", "x_", "extra"]),
    st.one_of(_VALUES, st.sampled_from(["sos", "temperature", "lat", "lon", "urn:dev:mac:00/", "Cel", "%EL"])),
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(st.lists(_RECORDS, max_size=5))
def test_any_records_give_reports_or_a_parse_error(records: list[dict[str, Any]]) -> None:
    check_total(as_cbor(*records))
    printable = [{key: value for key, value in one.items() if not isinstance(value, bytes)} for one in records]
    check_total(pack(*printable))


def check_total(payload: bytes) -> None:
    try:
        reports = parse(payload)
    except ParseError:
        return
    assert reports
    for report in reports:
        json.dumps(report.faults)
        if report.reading is not None:
            assert set(report.reading.signals) <= SIGNALS
            assert set(report.reading.measurements) <= set(METRICS)
            for metric, value in report.reading.measurements.items():
                assert METRICS[metric].lowest <= value <= METRICS[metric].highest


# ---- CBOR against cbor2 ----------------------------------------------------------------------------------------------

_ITEMS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=10)
    | st.binary(max_size=10),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text(max_size=4) | st.integers(0, 99), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(_ITEMS)
def test_cbor_reads_what_cbor2_writes(item: Any) -> None:
    assert cbor.read(cbor2.dumps(item)) == item


@pytest.mark.parametrize(
    ("written", "item"),
    [
        ("9f0102ff", [1, 2]), ("7f616161626163ff", "abc"), ("7f61616162ff", "ab"), ("5f41014102ff", b"\1\2"),
        ("bf6161019fff", None), ("bf616101ff", {"a": 1}), ("c11a514b67b0", 1363896240), ("f93c00", 1.0), ("f7", None),
        ("d9d9f78101", [1]),
    ],
)  # fmt: skip
def test_cbor_of_indefinite_length_and_tags(written: str, item: Any) -> None:
    if item is None and written != "f7":
        with pytest.raises(ParseError):
            cbor.read(bytes.fromhex(written))
    else:
        assert cbor.read(bytes.fromhex(written)) == item


def test_cbor_bounds() -> None:
    for hostile in (b"\x9b" + b"\x7f" * 8, b"\x81" * 40, b"\x9f" * 60_000, b"\xc1" * 60_000, b"\x7b" + b"\xff" * 8):
        with pytest.raises(ParseError):
            cbor.read(hostile)
