"""GATT and BTHome: any bytes give reports or a ParseError, and what is given fits the journal by every profile."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_profiles.loader import load_profiles
from gateway.errors import ParseError
from gateway.model import Frame
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


@pytest.mark.parametrize("codec", ["gatt", "bthome"])
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
