"""CoAP's contents, LwM2M in every format, operators' pushes: any bytes give what the journal takes, or a ParseError."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ParseError
from gateway.model import Frame
from protocols.codecs.lwm2m_values import FORMATS, write_tlv
from protocols.registry import CODECS
from protocols.transports.operator_push import MAX_MESSAGES, OneNet, split
from tests.properties.test_terminal_codecs import NOW_US, fit_for_the_journal

MORE = 100 if os.environ.get("CAREBELL_CHAOS") == "long" else 1
TOKEN = "token"
PATHS = st.sampled_from(
    ["/", "/3", "/3/0", "/3/0/9", "/4/0", "/6/0", "/3300/0", "/3303/0/5700", "/3320/1", "/3346/0", "/3347/0",
     "/3347/0/5500", "/26241/0"]
)  # fmt: skip
RESOURCES = st.sampled_from([0, 1, 2, 5, 6, 9, 11, 5500, 5501, 5518, 5700, 5701, 5750, 65_535])
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=12), st.binary(max_size=9)
)
NAMES = st.one_of(PATHS, RESOURCES.map(lambda number: f"/3347/0/{number}"), st.text(max_size=8))
LABELS = st.sampled_from(["n", "v", "vs", "vb", "vd", "vlo", "u", "t", "bn", "bt", "bv", "bver", "e", "sv"])
NUMBERS = {
    "bver": -1,
    "bn": -2,
    "bt": -3,
    "bu": -4,
    "bv": -5,
    "n": 0,
    "u": 1,
    "v": 2,
    "vs": 3,
    "vb": 4,
    "t": 6,
    "vd": 8,
}
RECORDS = st.lists(st.dictionaries(LABELS, SCALARS | NAMES, max_size=5), max_size=6)
TLV = st.lists(st.tuples(RESOURCES, st.binary(max_size=9)), max_size=6).map(write_tlv)


def of_json(records: list[dict[str, Any]]) -> Any:
    return [
        {name: value.hex() if isinstance(value, bytes) else value for name, value in one.items()} for one in records
    ]


def of_cbor(records: list[dict[str, Any]]) -> bytes:
    return cbor2.dumps([{NUMBERS.get(name, name): value for name, value in one.items()} for one in records])


def changed(payload: bytes, at: int, byte: int) -> bytes:
    return payload[:at] + bytes([byte]) + payload[at + 1 :]


PAYLOADS = st.one_of(
    st.binary(max_size=80),
    TLV,
    st.builds(changed, TLV, st.integers(0, 30), st.integers(0, 255)),
    SCALARS.map(lambda value: str(value).encode("utf-8", "replace")),
    RECORDS.map(lambda records: json.dumps(of_json(records)).encode()),
    st.builds(lambda bn, records: json.dumps({"bn": bn, "e": of_json(records)}).encode(), NAMES, RECORDS),
    RECORDS.map(of_cbor),
)  # fmt: skip
HEADERS = st.fixed_dictionaries(
    {"op": st.sampled_from(["notify", "read", "send", "register", "update", "deregister", "expired", "result"]),
     "path": PATHS, "format": st.sampled_from([*FORMATS, -1, 40, 65_000])},
    optional={"was": st.dictionaries(NAMES, st.integers(), max_size=2), "stale": st.booleans()},
)  # fmt: skip


def examine(codec: str, payload: bytes) -> None:
    try:
        reports = CODECS[codec].parse(Frame("coap", codec, "test", payload, NOW_US, "D-1"))
    except ParseError:
        return
    for report in reports:
        fit_for_the_journal(report)


@settings(max_examples=300 * MORE, deadline=None)
@given(header=HEADERS, payload=PAYLOADS)
def test_lwm2m(header: dict[str, Any], payload: bytes) -> None:
    examine("lwm2m", json.dumps(header).encode() + b"\n" + payload)


@settings(max_examples=300 * MORE, deadline=None)
@given(payload=PAYLOADS)
def test_senml(payload: bytes) -> None:
    examine("senml", payload)


def signed(text: str, nonce: str) -> bytes:
    digest = hashlib.md5((TOKEN + nonce + text).encode("utf-8", "replace")).digest()
    return json.dumps({"msg": text, "nonce": nonce, "msg_signature": base64.b64encode(digest).decode()}).encode()


MEMBERS = st.sampled_from(
    ["type", "dev_id", "imei", "IMEI", "ds_id", "at", "value", "status", "messageType", "payload", "timestamp", "data",
     "deviceId", "eventType", "eventContent", "serviceData", "APPdata"]
)  # fmt: skip
VALUES = st.recursive(
    st.one_of(SCALARS.filter(lambda value: not isinstance(value, bytes)),
              st.sampled_from([1, 2, 7, "1", "3347_0_5500", "3303_0_5700", "dataReport", "dataReportTupn",
                               "eventReport", "deviceOnlineOfflineReport", "e30=", "eyJhIjoxfQ=="])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(MEMBERS | st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
MESSAGES = st.dictionaries(MEMBERS, VALUES, max_size=7)


def examine_push(payload: bytes) -> None:
    """As OneNET's envelope, and as a platform sends its messages bare."""
    for enveloped in (True, False):
        try:
            messages = OneNet(TOKEN).open(payload)[0] if enveloped else split(payload)
        except ParseError:
            continue
        assert 1 <= len(messages) <= MAX_MESSAGES
        for one in messages:
            examine("onenet", one)
            examine("ctwing", one)


@settings(max_examples=200 * MORE, deadline=None)
@given(message=MESSAGES | st.lists(MESSAGES, max_size=3), nonce=st.text(max_size=8), cut=st.integers(0, 400))
def test_pushes(message: Any, nonce: str, cut: int) -> None:
    """Whole, cut and unsigned: messages that each codec takes, or a ParseError."""
    body = signed(json.dumps(message), nonce)
    for payload in (body, body[:cut], json.dumps(message).encode()[:cut]):
        examine_push(payload)


@settings(max_examples=100 * MORE, deadline=None)
@given(payload=st.binary(max_size=200))
def test_any_bytes_pushed(payload: bytes) -> None:
    examine_push(payload)


FOUND = (
    ("cti", b'{"event": {},"at":""}'),
    ("nmea", bytes.fromhex(
        "244750524d432c3031303230332e0000ffff30302c412c333930372e343130302c4e2c37313131322e303636302c452c31302e302c343030"
        "2e302c323236322c2c3131412c2a36330d0a"
    )),
    ("onenet", b'{"type":1,"imei":"861233","ds_id":"04_374_02","at":100,"value":true}'),
    ("onenet", b'{"type":1,"imei":"861233","ds_id":"3303_0_5700","at":100,"value":true}'),
)  # fmt: skip
"""What a fuzzer found."""


@pytest.mark.parametrize(("codec", "payload"), FOUND)
def test_what_a_fuzzer_found(codec: str, payload: bytes) -> None:
    examine(codec, payload)
