"""Any bytes and any JSON: reports or a ParseError; and an emergency survives whatever stands beside it."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ParseError
from gateway.model import EMERGENCY_SIGNALS, METRICS, SIGNALS, Frame, Report
from protocols.codecs.native_tolerant import read_tolerantly
from protocols.registry import CODECS

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(st.characters(codec=None), max_size=20)
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SIGNAL = st.sampled_from(sorted(SIGNALS))
METRIC = st.sampled_from(sorted(METRICS)) | st.from_regex(r"x_[a-z]{1,5}", fullmatch=True) | st.text(max_size=6)
PLACE = st.fixed_dictionaries(
    {},
    optional={
        "latitude": st.floats(-95, 95) | JSON,
        "longitude": st.floats(-190, 190) | JSON,
        "accuracy_m": st.integers(-5, 500) | JSON,
        "source": st.sampled_from(["gnss", "cell", "wifi", "manual", "radar"]) | JSON,
        "datum": st.sampled_from(["wgs84", "gcj02", "bd09", "none"]) | JSON,
        "valid": st.booleans() | JSON,
    },
)
MESSAGE = st.fixed_dictionaries(
    {},
    optional={
        "seq": st.integers(-1, 2**32) | JSON,
        "boot": st.integers(-1, 2**32) | st.text(max_size=70) | JSON,
        "at": st.datetimes().map(lambda at: at.isoformat() + "Z") | st.text(max_size=30) | JSON,
        "signals": st.lists(SIGNAL | JSON, max_size=5) | JSON,
        "measurements": st.dictionaries(METRIC, st.floats(-10, 500) | st.integers() | JSON, max_size=6) | JSON,
        "position": PLACE | JSON,
        "stored": st.booleans() | JSON,
        "extra": JSON,
    },
)
REAL_EXAMPLE = (
    b'{"seq":17,"at":"2026-11-22T01:02:03.250Z","signals":["sos"],"measurements":{"heart_rate_bpm":72,"steps":4},'
    b'"position":{"latitude":39.1235,"longitude":117.2011,"accuracy_m":12,"source":"gnss","datum":"gcj02"}}'
)
PLATFORMS = (
    b'{"imei":"860000000000001","dev_id":"7","at":1795309323000,"type":1,"ds_id":"3347_0_5501","value":3}',
    b'{"imei":"860000000000001","dev_id":"7","at":1795309323000,"type":2,"status":1}',
    (
        b'{"IMEI":"860000000000001","deviceId":"7","timestamp":1795309323000,"messageType":"dataReport",'
        b'"payload":{"sos":1,"battery":"low"}}'
    ),
)
"""Messages of operators' platforms (OneNET, CTWing)."""


def frame(payload: bytes) -> Frame:
    return Frame("test", "any", "test", payload, 1_795_309_323_000_000, "D-0001")


def outcome(name: str, payload: bytes) -> list[Report] | str:
    """The reports, each fit for the journal, or the text of the ParseError."""
    try:
        reports = list(CODECS[name].parse(frame(payload)))
    except ParseError as error:
        return str(error) or "a ParseError without a reason"
    assert reports
    for report in reports:
        assert report.reading is not None or report.fields is not None or report.faults
        packed = msgspec.msgpack.encode(report)  # what cannot be packed would stop the journal's writer
        assert msgspec.msgpack.decode(packed, type=Report) == report
        json.dumps(msgspec.to_builtins(report), allow_nan=False).encode()
        if report.reading is not None:
            assert set(report.reading.signals) <= SIGNALS
            assert all(math.isfinite(value) for value in report.reading.measurements.values())
            for metric, value in report.reading.measurements.items():
                assert metric.startswith("x_") or METRICS[metric].lowest <= value <= METRICS[metric].highest
            place = report.reading.position
            assert place is None or (-90 <= place.latitude <= 90 and -180 <= place.longitude <= 180)
    return reports


@given(st.sampled_from(sorted(CODECS)), st.binary(max_size=300))
def test_any_bytes(name: str, payload: bytes) -> None:
    outcome(name, payload)


@given(st.sampled_from(sorted(CODECS)), st.data())
def test_a_damaged_message(name: str, data: st.DataObject) -> None:
    """Bytes changed, cut and inserted in a real message reach deeper than random ones."""
    payload = bytearray(data.draw(st.sampled_from((REAL_EXAMPLE, *PLATFORMS))))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        piece = data.draw(st.binary(max_size=3) | st.sampled_from([b"\\ud800", b"[", b"{", b'"', b"1e999", b"null"]))
        payload[at : at + data.draw(st.integers(0, 3))] = piece
    outcome(name, bytes(payload))


def test_half_a_character_in_any_member() -> None:
    r"""``\\ud800`` alone is JSON and no text: what cannot be stored would stand in the way of every commit."""
    half = rb'"x\ud800"'
    for whole in (REAL_EXAMPLE, *PLATFORMS):
        for value in json.loads(whole).values():
            payload = whole.replace(json.dumps(value, separators=(",", ":")).encode(), half, 1)
            assert half in payload
            for name in CODECS:
                outcome(name, payload)


@given(st.sampled_from(sorted(CODECS)), JSON)
def test_any_json(name: str, value: Any) -> None:
    outcome(name, json.dumps(value).encode())


@given(MESSAGE | st.lists(MESSAGE, max_size=3), st.booleans())
@settings(max_examples=150)
def test_the_two_roads_agree(message: Any, ascii_only: bool) -> None:
    text = json.dumps(message, ensure_ascii=ascii_only)
    payload = text.encode("utf-8", "surrogatepass")
    ordinary = outcome("native", payload)
    try:
        tolerant: list[Report] | str = read_tolerantly(frame(payload))
    except ParseError as error:
        tolerant = str(error)
    assert ordinary == tolerant


@given(MESSAGE, st.sampled_from(sorted(EMERGENCY_SIGNALS)), st.lists(JSON, max_size=4), st.integers(0, 4))
@settings(max_examples=150)
def test_an_emergency_survives_any_garbage_beside_it(
    message: dict[str, Any], signal: str, beside: list[Any], place: int
) -> None:
    signals = [*beside[:place], signal, *beside[place:]]
    reports = outcome("native", json.dumps({**message, "signals": signals}).encode())
    assert isinstance(reports, list)
    assert reports[0].reading is not None
    assert reports[0].reading.signals[signal]


@given(st.lists(JSON, max_size=4), st.lists(JSON, max_size=4), st.sampled_from(sorted(EMERGENCY_SIGNALS)))
def test_an_emergency_survives_its_neighbours_in_an_array(before: list[Any], behind: list[Any], signal: str) -> None:
    reports = outcome("native", json.dumps([*before, {"signals": [signal]}, *behind]).encode())
    assert isinstance(reports, list)
    assert any(report.reading is not None and report.reading.signals.get(signal) for report in reports)
