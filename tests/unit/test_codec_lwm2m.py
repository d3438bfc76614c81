"""LwM2M values in every content format, what the registry's objects mean, and that nothing breaks the codec."""

from __future__ import annotations

import json
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.lwm2m import Lwm2mCodec
from protocols.codecs.lwm2m_values import FORMATS, from_bytes, read, read_path, to_bytes, write_tlv
from protocols.transports.lwm2m.links import lifetime_of, names_of, objects_of, split_endpoint, version_of

NOW_US = 1_795_309_323_000_000
CODEC = Lwm2mCodec()


def parse(header: dict[str, Any], payload: bytes) -> list[Report]:
    line = json.dumps(header).encode() + b"\n" + payload
    return list(CODEC.parse(Frame("coap", "lwm2m", "t", line, NOW_US, "D-1")))


def values(content_format: int, path: str, payload: bytes) -> dict[str, Any]:
    items = read(content_format, read_path(path), payload, NOW_US, [])
    return {"/" + "/".join(map(str, item.path)): item.value for item in items}


@pytest.mark.parametrize(
    ("path", "written", "expected"),
    [
        ("/3347/0", "E1157C01", {"/3347/0/5500": True}),
        ("/3347", "0400E1157C00", {"/3347/0/5500": False}),
        ("/3/0", "C10964", {"/3/0/9": 100}),
        ("/3/0", "8606410001410105", {"/3/0/6/0": 1, "/3/0/6/1": 5}),
        ("/3303/0", "E4164441AC0000", {"/3303/0/5700": 21.5}),
        ("/3303/0", "E41644421266 66".replace(" ", ""), {"/3303/0/5700": 36.6}),
        ("/6/0", "C8000840438FCED916872BC8010840 5D4CDED288CE70".replace(" ", ""),
         {"/6/0/0": 39.1235, "/6/0/1": 117.2011}),
        ("/3/0", "C800036162C3", {"/3/0/0": "ab\ufffd"}),
        ("/26241/0", "C401FFFFFFFE", {"/26241/0/1": -2}),
        ("/26241/0", "C30168C3A9", {"/26241/0/1": "hé"}),
        ("/3347/0/5500", "E1157C01", {"/3347/0/5500": True}),
        ("/3/0/11", "4100 0141 0108".replace(" ", ""), {"/3/0/11/0": 1, "/3/0/11/1": 8}),
    ],
)  # fmt: skip
def test_tlv(path: str, written: str, expected: dict[str, Any]) -> None:
    assert values(11542, path, bytes.fromhex(written)) == pytest.approx(expected)


def test_one_instance_in_every_format() -> None:
    expected = {"/3347/0/5500": True, "/3347/0/5501": 4}
    old = b'{"bn": "/3347/0/", "e": [{"n": "5500", "bv": true}, {"n": "5501", "v": 4}]}'
    records: list[dict[str, Any]] = [{"bn": "/3347/0/", "n": "5500", "vb": True}, {"n": "5501", "v": 4}]
    small = [{-2: "/3347/0/", 0: "5500", 4: True}, {0: "5501", 2: 4}]
    tlv = write_tlv([(5500, to_bytes(True)), (5501, to_bytes(4))])
    for content_format, payload in (
        (11542, tlv), (1542, tlv), (11543, old), (110, json.dumps(records).encode()), (112, cbor2.dumps(small)),
    ):  # fmt: skip
        assert values(content_format, "/3347/0", payload) == expected
    assert values(0, "/3347/0/5500", b"1") == {"/3347/0/5500": True}
    assert values(0, "/3303/0/5700", b"36.6") == {"/3303/0/5700": 36.6}
    assert values(42, "/26241/0/7", b"\x00\xff") == {"/26241/0/7": "00ff"}


def test_times_of_senml_are_reports_of_their_own() -> None:
    pack = [{"bn": "/3303/0/5700", "bt": 1_795_309_000, "v": 20.5}, {"t": 60, "v": 21.5}]
    first, second = parse({"op": "send", "path": "/", "format": 110}, json.dumps(pack).encode())
    assert (first.at_us, second.at_us) == (1_795_309_000_000_000, 1_795_309_060_000_000)
    assert second.reading is not None
    assert second.reading.measurements == {"temperature_celsius": 21.5}


@pytest.mark.parametrize(
    ("number", "application", "unit", "value", "metric", "expected"),
    [
        (3346, "heart_rate", "/min", 131, "heart_rate_bpm", 131),
        (3346, "Respiration", "/min", 18, "respiratory_rate_per_min", 18),
        (3320, "SpO2", "%", 96.5, "spo2_percent", 96.5),
        (3300, "systolic", "kPa", 16, "systolic_mmhg", 120.0099),
        (3323, "diastolic", "mmHg", 80, "diastolic_mmhg", 80),
        (3303, "", "Cel", 21.5, "temperature_celsius", 21.5),
        (3303, "body temperature", "Cel", 36.6, "body_temperature_celsius", 36.6),
    ],
)
def test_sensors_by_their_application(
    number: int, application: str, unit: str, value: float, metric: str, expected: float
) -> None:
    entries = [{"n": "5700", "v": value}, {"n": "5701", "sv": unit}, {"n": "5750", "sv": application}]
    (report,) = parse({"op": "notify", "path": f"/{number}/0", "format": 11543}, json.dumps({"e": entries}).encode())
    assert report.reading is not None
    assert report.reading.measurements == {metric: pytest.approx(expected, abs=1e-3)}
    assert report.fields == {}


@pytest.mark.parametrize(
    ("state", "counter", "before", "pressed"),
    [(True, 5, 4, True), (False, 5, 4, True), (False, 4, 4, False), (False, 0, 4, False), (None, 5, 4, True),
     (None, 5, None, None), (True, None, None, True)],
)  # fmt: skip
def test_a_press_is_seen_by_state_or_by_counter(
    state: bool | None, counter: int | None, before: int | None, pressed: bool | None
) -> None:
    entries: list[dict[str, Any]] = []
    if state is not None:
        entries.append({"n": "5500", "bv": state})
    if counter is not None:
        entries.append({"n": "5501", "v": counter})
    header: dict[str, Any] = {"op": "notify", "path": "/3347/0", "format": 11543}
    if before is not None:
        header["was"] = {"/3347/0/5501": before}
    (report,) = parse(header, json.dumps({"e": entries}).encode())
    assert (report.fields or {}).get("/3347/0/pressed") is pressed


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(sorted({*FORMATS, -1, 40, 65_000})),
    st.sampled_from(["/", "/3", "/3/0", "/3/0/9", "/6/0", "/3347/0", "/3347/0/5500", "/26241/0", "/x", "/3/0/1/2/3"]),
    st.binary(max_size=60),
)
def test_any_payload_gives_reports_or_a_parse_error(content_format: int, path: str, payload: bytes) -> None:
    try:
        reports = parse({"op": "notify", "path": path, "format": content_format}, payload)
    except ParseError:
        return
    for report in reports:
        json.dumps(report.fields)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80))
def test_any_frame_gives_reports_or_a_parse_error(payload: bytes) -> None:
    try:
        CODEC.parse(Frame("coap", "lwm2m", "t", payload, NOW_US))
    except ParseError:
        return


@given(st.integers(-(2**63), 2**63 - 1))
def test_whole_numbers_survive_tlv(number: int) -> None:
    assert from_bytes((26_241, 0, 1), to_bytes(number)) == number
    assert values(11542, "/26241/0", write_tlv([(300, to_bytes(number))])) == {"/26241/0/300": number}


def test_registration_lines() -> None:
    body = b'</>;rt="oma.lwm2m";ct=11543,</1/0>,</3/0>,</3347/0>;ver=1.0,</26241/0>'
    assert objects_of(body) == ["/1/0", "/3/0", "/3347/0", "/26241/0"]
    assert objects_of(b'</lwm2m>;rt="oma.lwm2m",</lwm2m/3/0>') == ["/3/0"]
    assert objects_of(b"") == []
    assert objects_of(b"\xff\xfe") is None
    assert objects_of(b"rubbish") is None
    assert [lifetime_of(one) for one in ("", "60", "0", "-1", "x", "99999999999")] == [
        86_400,
        60,
        None,
        None,
        None,
        None,
    ]
    assert [version_of(one) for one in ("1.0", "1.0.2", "v1.1", "2.0", "")] == ["1.0", "1.0", "1.1", None, None]
    assert names_of("urn:imei:861234567890123") == ["urn:imei:861234567890123", "861234567890123"]
    assert split_endpoint("D-1:" + "a" * 43, "") == ("D-1", "a" * 43)
    assert split_endpoint("urn:imei:861234567890123", "t") == ("urn:imei:861234567890123", "t")
