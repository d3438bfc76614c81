"""The native codec against vectors that say, for each telegram, exactly what it means."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import iso
from gateway.errors import ParseError
from gateway.model import Frame, Reading, Report
from gateway.observations import observations
from protocols.codecs import native, native_tolerant, tolerant_json
from protocols.codecs.json_fields import JsonFieldsCodec
from protocols.registry import CODECS, TEXT_CODECS

RECEIVED_AT_US = 1_795_309_323_000_000
RECEIVED_AT = "2026-11-22T01:02:03.000Z"
VECTORS = [
    json.loads(line)
    for line in (Path(__file__).parents[1] / "vectors" / "native.jsonl").read_text(encoding="utf-8").splitlines()
]


def frame(payload: bytes, codec: str = "native") -> Frame:
    return Frame("test", codec, "test", payload, RECEIVED_AT_US, "D-0001")


def parse(text: str | bytes) -> list[Report]:
    return list(CODECS["native"].parse(frame(text if isinstance(text, bytes) else text.encode())))


def reading(text: str) -> Reading:
    (report,) = parse(text)
    assert report.reading is not None
    return report.reading


def shown(report: Report) -> dict[str, Any]:
    result: dict[str, Any] = {}
    if report.reading is not None:
        result["observations"] = observations(report.reading)
        if report.reading.unknown is not None:
            result["unknown"] = report.reading.unknown
        assert report.reading.stored == report.stored
    if report.faults:
        result["faults"] = report.faults
    if report.seq >= 0:
        result |= {"seq": report.seq, "boot": report.boot}
    if report.at_us:
        result["at"] = iso(report.at_us)
    if report.stored:
        result["stored"] = True
    return result


def expected(report: dict[str, Any]) -> dict[str, Any]:
    """The vector's short forms written out: a signal's name for a raised signal, the time of receipt left out."""
    result = dict(report)
    if "observations" in result:
        result["observations"] = [
            {"observed_at": RECEIVED_AT}
            | ({"kind": "signal", "signal": item, "active": True} if isinstance(item, str) else item)
            for item in result["observations"]
        ]
    if "boot_of" in result:
        digest = hashlib.blake2b(result.pop("boot_of").encode(), digest_size=8).hexdigest()
        result["boot"] = int(digest, 16) // 2
    return result


def canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_vector(vector: dict[str, Any]) -> None:
    payload = bytes.fromhex(vector["payload_hex"]) if "payload_hex" in vector else vector["payload"].encode()
    if "fault" in vector:
        with pytest.raises(ParseError) as error:
            parse(payload)
        assert str(error.value) == vector["fault"]
        return
    reports = parse(payload)
    assert canonical([shown(report) for report in reports]) == canonical(
        [expected(report) for report in vector["reports"]]
    )
    assert all(report.device_key == "D-0001" and report.reply is None for report in reports)


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["name"] for vector in VECTORS])
def test_the_tolerant_road_reads_everything_alike(vector: dict[str, Any]) -> None:
    payload = bytes.fromhex(vector["payload_hex"]) if "payload_hex" in vector else vector["payload"].encode()
    try:
        ordinary: Any = parse(payload)
    except ParseError as error:
        ordinary = str(error)
    try:
        tolerant: Any = native_tolerant.read_tolerantly(frame(payload))
    except ParseError as error:
        tolerant = str(error)
    assert tolerant == ordinary


def test_the_ordinary_message_never_takes_the_tolerant_road(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_frame: Frame) -> list[Report]:
        raise AssertionError("slow")

    monkeypatch.setattr(native, "read_tolerantly", refuse)
    ordinary = (
        '{"seq":17,"at":"2026-11-22T01:02:03.250Z","measurements":{"heart_rate_bpm":72},'
        '"position":{"latitude":39.1235,"longitude":117.2011,"accuracy_m":12,"source":"gnss"}}'
    )
    assert reading(ordinary).measurements == {"heart_rate_bpm": 72.0}
    assert len(parse(f"[{ordinary},{ordinary}]")) == 2


def test_positions_of_chinese_maps_become_wgs84() -> None:
    points = json.loads((Path(__file__).parents[1] / "vectors" / "datum.json").read_text(encoding="utf-8"))["points"]
    assert len(points) > 3
    for point in points:
        for datum in ("wgs84", "gcj02", "bd09"):
            latitude, longitude = point[datum]
            text = json.dumps({"position": {"latitude": latitude, "longitude": longitude, "datum": datum}})
            place = reading(text).position
            slow = native_tolerant.read_tolerantly(frame(text.encode()))[0].reading
            assert place is not None
            assert slow is not None
            assert slow.position == place
            assert (place.latitude, place.longitude) == pytest.approx(tuple(point["wgs84"]), abs=2e-6)


def test_size_is_bounded() -> None:
    body = '{"signals": ["sos"], "x": "' + "a" * 65_507 + '"}'
    assert len(body) == 65_536
    assert reading(body).signals == {"sos": True}
    with pytest.raises(ParseError, match="65537 bytes; a message has at most 65536"):
        parse(body + " ")


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
def test_depth_is_bounded_and_hides_no_emergency(opening: str) -> None:
    closing = "".join("]" if character == "[" else "}" for character in reversed(opening) if character in "[{")
    for depth in (20, 400, 5_000):
        nested = opening * depth + "1" + closing * depth
        (report,) = parse('{"x": ' + nested + ', "signals": ["sos"], "y": "[[[{"}')
        assert report.reading is not None
        assert report.reading.signals == {"sos": True}
        assert report.reading.unknown is not None
        assert report.reading.unknown["y"] == "[[[{"
        assert any("deeper than 16" in fault for fault in report.faults or ())
    with pytest.raises(ParseError, match="never closed"):
        parse(opening * (60_000 // len(opening)))


def test_faults_are_bounded() -> None:
    text = json.dumps({"signals": ["sos", *[f"no-{number}" for number in range(500)]]})
    (report,) = parse(text)
    assert report.faults is not None
    assert len(report.faults) == tolerant_json.MAX_FAULTS + 1
    assert report.faults[-1] == "and 484 more faults"


def test_bad_elements_are_bounded_and_the_good_one_lives() -> None:
    reports = parse("[" + "0," * 20_000 + '{"signals": ["sos"]}]')
    assert len(reports) == tolerant_json.MAX_BAD_ELEMENTS + 2
    assert [report.reading.signals for report in reports if report.reading] == [{"sos": True}]
    assert reports[-1].faults == [f"and {20_000 - 64} more elements of no use"]


def test_measurements_are_bounded() -> None:
    values = {f"x_{number}": number for number in range(200)}
    (report,) = parse(json.dumps({"signals": ["sos"], "measurements": values}))
    assert report.reading is not None
    assert len(report.reading.measurements) == native_tolerant.MAX_MEASUREMENTS
    assert report.reading.signals == {"sos": True}
    assert report.faults is not None


def test_a_fault_never_tells_a_value() -> None:
    (report,) = parse('{"signals": ["im_ok"], "measurements": {"heart_rate_bpm": 98765, "steps": "secret"}}')
    assert "98765" not in str(report.faults)
    assert "secret" not in str(report.faults)


def test_json_fields() -> None:
    codec = JsonFieldsCodec()
    (report,) = codec.parse(frame(b'{"a": {"b": [1, NaN, {"c": 1e999}]}, "sos": 1}', "json"))
    assert report.reading is None
    assert report.fields == {"a": {"b": [1, None, {}]}, "sos": 1}
    assert report.faults == ["a.b[1]: not used: infinite or NaN", "a.b[2].c: not used: infinite or NaN"]
    one, two = codec.parse(frame(b'["x", {"sos": 1}]', "json"))
    assert one.faults == ["[0]: a text, not an object"]
    assert two.fields == {"sos": 1}
    for payload, reason in (
        (b"", "not JSON"),
        (b"[]", "without objects"),
        (b'"x"', "a text"),
        (b" " * 65_537, "65537"),
    ):
        with pytest.raises(ParseError, match=reason):
            codec.parse(frame(payload, "json"))


def test_registry_names_agree() -> None:
    assert all(codec.name == name for name, codec in CODECS.items())
    assert set(CODECS) >= TEXT_CODECS
