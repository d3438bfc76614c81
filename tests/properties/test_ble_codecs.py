"""GATT, BTHome, other makers: any bytes give reports or a ParseError; what is given fits the journal."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_profiles.loader import load_profiles
from gateway.errors import ParseError
from gateway.model import Frame
from protocols.codecs.advertisement import packed as advertised
from protocols.codecs.advertisement import read
from protocols.codecs.ble_makers import MAKERS, MIBEACON
from protocols.codecs.gatt import packed
from protocols.codecs.gatt_characteristics import PARSERS
from protocols.registry import CODECS
from tests.properties.test_terminal_codecs import NOW_US, fit_for_the_journal

MORE = 100 if os.environ.get("CAREBELL_CHAOS") == "long" else 1
PROFILES = load_profiles([])
CONTEXTS = st.sampled_from(
    [None, {"zone": "Europe/Paris"}, {"zone": "nowhere"}, {"clock_skew_s": 10**7}, {"clock_skew_s": -(10**12)}]
)


def examine(codec: str, payload: bytes, context: dict[str, object] | None = None) -> None:
    frame = Frame("test", codec, "test", payload, NOW_US, "D-1", context=context)
    try:
        reports = CODECS[codec].parse(frame)
    except ParseError:
        return
    for report in reports:
        fit_for_the_journal(report)
    for profile in PROFILES.names():
        if PROFILES.codec_of(profile) == codec:
            for report in CODECS[codec].parse(frame):
                report.reading = PROFILES.explain(profile, report, NOW_US)
                fit_for_the_journal(report)


@pytest.mark.parametrize("codec", ["gatt", "bthome", *MAKERS])
@settings(max_examples=100 * MORE, deadline=None)
@given(payload=st.binary(max_size=120), context=CONTEXTS)
def test_any_bytes(codec: str, payload: bytes, context: dict[str, object] | None) -> None:
    examine(codec, payload, context)


@pytest.mark.parametrize("uuid", sorted(PARSERS), ids=hex)
@settings(max_examples=60 * MORE, deadline=None)
@given(value=st.binary(max_size=40), context=CONTEXTS)
def test_any_value_of_each_characteristic(uuid: int, value: bytes, context: dict[str, object] | None) -> None:
    examine("gatt", packed(uuid, value), context)


@settings(max_examples=300 * MORE, deadline=None)
@given(head=st.sampled_from([b"\x40", b"\x44", b"\x41"]), body=st.binary(max_size=60))
def test_any_objects(head: bytes, body: bytes) -> None:
    examine("bthome", bytes(6) + head + body, {"bindkey": bytes(16)})


PRODUCTS = [0x01AA, 0x0098, 0x0153, 0x03BC, 0x040A, 0x0863, 0x098B, 0x098C, 0x0997, 0x0A8D, 0x0113, 0x1568, 0x30D9]
OBJECTS = [
    0x0003, 0x0006, 0x0007, 0x0008, 0x000A, 0x000B, 0x000F, 0x0010, *range(0x1001, 0x1020), 0x2000, 0x3003, 0x4801,
    0x4803, 0x4805, 0x4818, 0x483C, 0x4A01, 0x4A0C, 0x4A0D, 0x4A13, 0x4C01, 0x4C08, 0x4E01, 0x4E0C, 0x4E16, 0x560C,
    0x5810, 0x6461, 0x6E16,
]  # fmt: skip


@settings(max_examples=300 * MORE, deadline=None)
@given(
    product=st.sampled_from(PRODUCTS),
    objects=st.lists(st.tuples(st.sampled_from(OBJECTS), st.binary(max_size=10)), max_size=3),
    control=st.sampled_from([0x5040, 0x2040, 0x5048, 0x3048, 0x5000, 0x50C0, 0x5070]),
)
def test_any_mibeacon(product: int, objects: list[tuple[int, bytes]], control: int) -> None:
    body = b"".join(kind.to_bytes(2, "little") + bytes([len(value)]) + value for kind, value in objects)
    data = control.to_bytes(2, "little") + product.to_bytes(2, "little") + b"\x01" + body
    examine("ble_xiaomi", bytes(6) + advertised(service_data={MIBEACON: data}), {"bindkey": bytes(16)})


SHORT = [f"0000{short}-0000-1000-8000-00805f9b34fb" for short in ("181b", "181d", "fd50", "fe95")]
NAMES = {"ble_govee": ["GVH5075_0001", "Govee_H5179_01", "ihoment_H5074", "GV51220001"], "ble_inkbird": ["sps", "iBBQ"],
         "ble_sensorpush": ["SensorPush HT.w 1", "HTP.xw", "TC", "s"], "ble_thermopro": ["TP357 (1)", "TP96", "TP39"],
         "ble_xiaomi": [""]}  # fmt: skip


@pytest.mark.parametrize("codec", sorted(MAKERS))
@settings(max_examples=100 * MORE, deadline=None)
@given(
    data=st.data(),
    companies=st.dictionaries(
        st.one_of(st.integers(0, 0xFFFF), st.sampled_from([0xEC88, 0x0001])), st.binary(max_size=26), max_size=2
    ),
    services=st.dictionaries(
        st.sampled_from(SHORT),
        st.one_of(st.binary(max_size=30), st.binary(min_size=9, max_size=13)), max_size=2,
    ),
)  # fmt: skip
def test_any_advertisement_of_a_maker(
    codec: str, data: st.DataObject, companies: dict[int, bytes], services: dict[str, bytes]
) -> None:
    name = data.draw(st.sampled_from(NAMES[codec]))
    said = advertised(name, [MIBEACON], services, companies)
    seen = read(said)
    assert (seen.local_name, seen.service_data, seen.manufacturer_data) == (name, services, companies)
    examine(codec, bytes(6) + said)
