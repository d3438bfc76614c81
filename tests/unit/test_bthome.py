"""BTHome v2: objects, encryption, and what stands behind an object that nobody knows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.bthome import BthomeCodec, counter_of
from protocols.codecs.bthome_objects import BUTTON_EVENTS, OBJECTS
from simulators.bluez.peripherals import sealed

ADDRESS = "54:48:E6:8F:80:A5"
KEY = bytes.fromhex("231d39c1d7cc1ab1aee224cd096db932")
UNKNOWN = sorted({*range(0x30, 0x3A), *range(0x66, 0xF0)} - set(OBJECTS))


def parse(data: bytes, key: bytes | None = None) -> Report:
    payload = bytes.fromhex(ADDRESS.replace(":", "")) + data
    context = None if key is None else {"bindkey": key}
    (report,) = BthomeCodec().parse(Frame("test", "bthome", "test", payload, 1, context=context))
    return report


def fields(data: str, key: bytes | None = None) -> dict[str, Any]:
    report = parse(bytes.fromhex(data), key)
    assert report.faults is None
    assert report.fields is not None
    return report.fields


def test_plain() -> None:
    assert fields("4002C40903BF13") == {"temperature": 25.0, "humidity": 50.55}
    assert fields("44000A3A01") == {"packet_id": 10, "button_1": "press"}


def test_encrypted() -> None:
    """The published example of the format."""
    report = parse(bytes.fromhex("41A47266C95F730011223378237214"), KEY)
    assert report.fields == {"temperature": 25.06, "humidity": 50.55}
    assert report.proof is True
    assert report.dedup_key == f"counter:{0x33221100}"


@pytest.mark.parametrize(("key", "why"), [(None, "no bind key"), (b"short", "no bind key"), (bytes(16), "another key")])
def test_encrypted_and_not_for_us(key: bytes | None, why: str) -> None:
    with pytest.raises(ParseError, match=why):
        parse(bytes.fromhex("41A47266C95F730011223378237214"), key)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=60), st.integers(0, 0xFFFFFFFF), st.binary(min_size=16, max_size=16))
def test_whatever_is_sealed_opens_with_its_key_alone(body: bytes, counter: int, key: bytes) -> None:
    data = sealed(ADDRESS, key, counter, body)
    assert counter_of(data) == counter
    plain, opened = parse(b"\x44" + body), parse(data, key)
    assert (plain.fields, plain.faults) == (opened.fields, opened.faults)
    with pytest.raises(ParseError):
        parse(data, bytes([key[0] ^ 1]) + key[1:])


def test_texts_commands_dimmers_versions_and_repeated_values() -> None:
    said = fields("40015f0cb80b3c020353026869f101020304")
    assert said == {
        "battery": 95, "voltage": 3.0, "dimmer": {"event": "rotate_right", "steps": 3}, "text": "hi",
        "firmware": "4.3.2.1",
    }  # fmt: skip
    assert fields("4002c40902c809") == {"temperature": 25.0, "temperature_2": 25.04}
    assert fields("443b010305")["command"] == "0305"
    assert fields("44" "3a01" "3a00" "3a04") == {
        "button_1": "press", "button_2": "none", "button_3": "long_press",
    }  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_no_press_is_lost_behind_an_unknown_object(size: int) -> None:
    """Buttons stand behind what has a lower number; in the field also in front of it."""
    press = bytes([0x3A, 0x01])
    for number in UNKNOWN:
        unknown = bytes([number]) + bytes([0xEE] * size)
        body = unknown + press if number < 0x3A else press + unknown
        report = parse(b"\x44\x00\x07" + body)
        assert report.fields is not None
        assert report.fields["button_1"] == "press", hex(number)
        assert report.fields["packet_id"] == 7
        assert report.faults


def test_two_unknown_objects_and_a_press_behind_them() -> None:
    report = parse(bytes.fromhex("44010230ee31ddcc3a02"))
    assert report.fields is not None
    assert report.fields["button_1"] == "double_press"


def test_a_number_that_could_be_anything_is_not_guessed() -> None:
    report = parse(bytes.fromhex("44662901"))  # 0x29 is smoke, but numbers rise: it belongs to 0x66
    assert report.fields == {}
    assert report.faults


def test_an_event_that_is_not_known_is_a_press() -> None:
    report = parse(bytes.fromhex("443AFE"))
    assert report.fields == {"button_1": "press"}
    assert report.faults


@settings(deadline=None)
@given(st.lists(st.sampled_from(sorted(OBJECTS)), max_size=12), st.data())
def test_all_known_objects_are_read_to_the_end(numbers: list[int], data: st.DataObject) -> None:
    body = b""
    for number in numbers:
        thing = OBJECTS[number]
        value = data.draw(st.binary(min_size=thing.size, max_size=thing.size))
        if thing.kind == "button":
            value = bytes([data.draw(st.sampled_from(sorted(BUTTON_EVENTS)))])
        elif not thing.size:
            rest = data.draw(st.binary(min_size=1, max_size=9))
            value = bytes([len(rest) - (thing.kind == "command")]) + rest
        body += bytes([number]) + value
    report = parse(b"\x40" + body)
    assert report.faults is None
    assert report.fields is not None
    assert len(report.fields) == len(numbers)
