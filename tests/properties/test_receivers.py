"""Alarm receivers: whatever comes, courtesies, refusals and answers are frames of their protocol, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ParseError
from gateway.model import Frame
from protocols.codecs import sip_message
from protocols.codecs.dc09 import Dc09Codec
from protocols.codecs.dc09_frame import decrypt, encrypt, stamp, stamp_us, take_apart
from protocols.codecs.scaip import ScaipCodec
from simulators.scaip import accepted
from tests.vectors import own

NOW_US = 1_795_309_323_000_000
KEYS = st.sampled_from([bytes(range(16)), bytes(range(24)), bytes(range(32))])


def changed(codec: str) -> st.SearchStrategy[bytes]:
    """A frame of ours with a piece of it replaced."""

    @st.composite
    def make(draw: st.DrawFn) -> bytes:
        payload = bytearray(draw(st.sampled_from(own.vectors(codec))).payload)
        at = draw(st.integers(0, len(payload)))
        payload[at : at + draw(st.integers(0, 12))] = draw(st.binary(max_size=12))
        return bytes(payload)

    return make()


@settings(max_examples=150, deadline=None)
@given(payload=st.one_of(st.binary(max_size=300), changed("scaip")))
def test_sip(payload: bytes) -> None:
    codec = ScaipCodec(transfer_to="tel:+862200000000")
    assert not (codec.asks(payload) and codec.settles(payload))
    courtesy = codec.small_talk(payload, "192.0.2.7:5060")
    if courtesy:
        assert sip_message.read(courtesy).status in (200, 405)
    try:
        reports = codec.parse(Frame("udp", "scaip", "192.0.2.7:5060", payload, NOW_US))
    except ParseError:
        return
    for report in reports:
        assert report.reply
        pieces = codec.split_reply(report.reply)
        for piece in pieces[1:]:  # a request of ours is known by what its answer will name
            assert codec.asks(piece)
            assert codec.settles(accepted(piece)) == codec.asks(piece)
        parts = [sip_message.read(piece) for piece in pieces]
        assert parts[0].status in (200, 415)
        assert len(parts) <= 2
        refusal = sip_message.read(codec.declined(report.reply))
        assert refusal.status in (503, 415)


@settings(max_examples=150, deadline=None)
@given(payload=changed("dc09"), key=KEYS)
def test_dc09(payload: bytes, key: bytes) -> None:
    codec = Dc09Codec(keys={"*": key}, lenient=True)
    try:
        (report,) = codec.parse(Frame("tcp", "dc09", "192.0.2.7:5094", payload, NOW_US))
    except ParseError:
        return
    assert report.reply
    assert take_apart(report.reply).id in ("ACK", "DUH", "NAK")
    assert take_apart(codec.declined(report.reply)).id in ("DUH", "NAK")
    assert report.proof is not True or take_apart(payload, lenient=True).encrypted


@settings(max_examples=100, deadline=None)
@given(key=KEYS, text=st.text("#|0123456789 ABC", max_size=60), at_us=st.integers(0, 4_000_000_000))
def test_what_is_encrypted_comes_back(key: bytes, text: str, at_us: int) -> None:
    hidden = encrypt(key, text + "]" + stamp(at_us * 1_000_000), b"salt")
    assert decrypt(key, hidden) == text + "]" + stamp(at_us * 1_000_000)
    assert stamp_us(stamp(at_us * 1_000_000)[1:]) == at_us * 1_000_000
    assert len(hidden) % 32 == 0


def test_a_message_that_promises_too_much_ends_its_connection() -> None:
    framer = sip_message.framer()
    with pytest.raises(Exception, match="at most"):
        framer.feed(b"MESSAGE sip:a SIP/2.0\r\nContent-Length: 999999\r\n\r\n")
