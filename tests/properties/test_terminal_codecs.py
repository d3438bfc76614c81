"""Codecs of terminals: any bytes give reports or a ParseError, and frames survive however a stream is cut."""

from __future__ import annotations

import contextlib
import json
import math
import os

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import FramingError, ParseError
from gateway.model import METRICS, SIGNALS, Frame, Report
from protocols.registry import RECEIVERS, TERMINALS, lenient
from tests.vectors import own

TALKERS = {**TERMINALS, **RECEIVERS}
EVERY = pytest.mark.parametrize("codec", sorted(TALKERS))
NOW_US = 1_795_309_323_000_000
MORE = 100 if os.environ.get("CAREBELL_CHAOS") == "long" else 1


def fit_for_the_journal(report: Report) -> None:
    packed = msgspec.msgpack.encode(report)  # what cannot be packed would stop the journal's writer
    assert msgspec.msgpack.decode(packed, type=Report) == report
    json.dumps(msgspec.to_builtins(report), allow_nan=False).encode()
    assert len(packed) < 1 << 20
    reading = report.reading
    if reading is None:
        return
    assert set(reading.signals) <= SIGNALS
    assert 0 < reading.observed_at_us < 1 << 58
    for metric, value in reading.measurements.items():
        assert math.isfinite(value)
        assert metric.startswith("x_") or METRICS[metric].lowest <= value <= METRICS[metric].highest
    if reading.position is not None:
        assert -90 <= reading.position.latitude <= 90
        assert -180 <= reading.position.longitude <= 180


def examine(codec: str, payload: bytes) -> None:
    for chosen in (TALKERS[codec], lenient(codec)):
        for key in ("", "123456789012345"):
            frame = Frame("test", codec, "test", payload, NOW_US, key)
            try:
                reports = chosen.parse(frame)
            except ParseError:
                continue
            for report in reports:
                fit_for_the_journal(report)


@EVERY
@settings(max_examples=30 * MORE, deadline=None)
@given(data=st.data())
def test_any_bytes(codec: str, data: st.DataObject) -> None:
    examine(codec, data.draw(st.binary(max_size=200)))


@EVERY
@settings(max_examples=60 * MORE, deadline=None)
@given(data=st.data())
def test_frames_with_wrong_bytes(codec: str, data: st.DataObject) -> None:
    """A frame of ours with bytes changed, cut out or put in: the places where a codec looks are reached."""
    vector = data.draw(st.sampled_from(own.vectors(codec)))
    payload = bytearray(vector.payload)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(0, len(payload) - 1)))
        change = data.draw(st.sampled_from(("set", "cut", "insert")))
        if change == "set" and payload:
            payload[at] = data.draw(st.integers(0, 255))
        elif change == "cut":
            del payload[at : at + data.draw(st.integers(1, 8))]
        else:
            payload[at:at] = data.draw(st.binary(max_size=6))
    examine(codec, bytes(payload))


def framed(codec: str, pieces: list[bytes]) -> list[bytes]:
    framer = TALKERS[codec].framer()
    return [frame for piece in pieces for frame in framer.feed(piece)]


@EVERY
def test_streams(codec: str) -> None:
    """Each vector whole, byte by byte, five in one read, and behind rubbish that is no beginning of a frame."""
    for vector in own.vectors(codec):
        if not vector.reframe:
            continue
        payload = vector.payload
        once = framed(codec, [payload])
        assert len(once) == 1, vector.name
        assert framed(codec, [payload[at : at + 1] for at in range(len(payload))]) == once, vector.name
        assert framed(codec, [payload * 5]) == once * 5, vector.name
        assert framed(codec, [payload * 2 + payload[:3], payload[3:]]) == once * 3, vector.name


@EVERY
@settings(max_examples=20 * MORE, deadline=None)
@given(data=st.data())
def test_cuts_make_no_difference(codec: str, data: st.DataObject) -> None:
    chosen = [vector for vector in own.vectors(codec) if vector.reframe]
    stream = b"".join(vector.payload for vector in data.draw(st.lists(st.sampled_from(chosen), max_size=4)))
    whole = framed(codec, [stream])
    pieces, at = [], 0
    while at < len(stream):
        size = data.draw(st.integers(1, 60))
        pieces.append(stream[at : at + size])
        at += size
    assert framed(codec, pieces) == whole


@EVERY
@settings(max_examples=10 * MORE, deadline=None)
@given(data=st.data())
def test_rubbish_is_bounded(codec: str, data: st.DataObject) -> None:
    """Any stream: bounded memory, frames out of the stream's own bytes, an end at the bound."""
    piece = data.draw(st.binary(min_size=1, max_size=300))
    framer = TALKERS[codec].framer()
    fed = 0
    with contextlib.suppress(FramingError):
        for _ in range(40):
            fed += len(piece)
            for frame in framer.feed(piece):
                assert len(frame) <= fed


def test_what_a_fuzzer_found() -> None:
    """Six characters that int() takes for a hexadecimal number, a sign among them."""
    examine("meitrack", bytes.fromhex(
        "2424413135392c3836303030303030303030303031372c4141412c33352c33392e3132333530302c3131372e3230313130302c32363131"
        "32323031303230302c412c392c32352c8dd52c39302c312e322c352c313032342c3330302c3436307c307c313233347c353637382c3038"
        "30312c303030307c303030307c303030307c303139317c303442302c2c2c332c303030302c2d31463543327c3032304139322a41350d0a"
    ))  # fmt: skip
