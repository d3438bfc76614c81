"""Codecs of serial lines and telephones: any bytes give reports or a ParseError, and lines survive in pieces."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ParseError
from gateway.model import Frame
from protocols.codecs.call_host import CallHostCodec
from protocols.codecs.cti import CtiCodec
from protocols.codecs.modbus import Block, ModbusCodec, body, crc
from protocols.codecs.nmea import NmeaCodec
from tests.live.nmea_lines import sentence
from tests.properties.test_terminal_codecs import NOW_US, fit_for_the_journal

CODECS = (CallHostCodec(point="word_2"), NmeaCodec(), NmeaCodec(lenient=True), ModbusCodec(), CtiCodec())
SENTENCES = st.from_regex(r"G[PN](RMC|GGA|GLL|GSV|VTG|XXX),[0-9A-Z.,\-]{0,60}", fullmatch=True)


@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
@settings(max_examples=120, deadline=None)
@given(data=st.data())
def test_any_bytes(codec: object, data: st.DataObject) -> None:
    unit = Block(1, "coil", 0, 16).request()
    answer = data.draw(st.binary(max_size=20).map(lambda rest: b"\x01\x01" + rest))
    payload = data.draw(
        st.one_of(
            st.binary(max_size=200),
            SENTENCES.map(sentence),
            st.just(unit + answer + crc(answer)),
            st.text('{}[]:,"caller event ring 0123+\\', max_size=60).map(str.encode),
        )
    )
    try:
        reports = codec.parse(Frame("test", "test", "test", payload, NOW_US, "H-1"))  # type: ignore[attr-defined]  # each has it
    except ParseError:
        return
    for report in reports:
        fit_for_the_journal(report)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(SENTENCES, max_size=4), size=st.integers(1, 30), noise=st.binary(max_size=20))
def test_sentences_in_pieces(texts: list[str], size: int, noise: bytes) -> None:
    stream = noise.translate(None, b"$!") + b"".join(sentence(text) for text in texts)
    framer = NmeaCodec().framer()
    found = [frame for at in range(0, len(stream), size) for frame in framer.feed(stream[at : at + size])]
    assert found == [sentence(text) for text in texts]


@settings(max_examples=60, deadline=None)
@given(values=st.binary(min_size=2, max_size=2), wrong=st.integers(0, 6))
def test_a_changed_byte_is_no_response(values: bytes, wrong: int) -> None:
    request = Block(7, "coil", 0, 16).request()
    head = b"\x07\x01\x02" + values
    whole = bytearray(head + crc(head))
    assert body(bytes(whole), request) == values
    whole[wrong] ^= 0x20
    with pytest.raises(ParseError):
        body(bytes(whole), request)
