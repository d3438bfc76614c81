"""Framers: bounded, in step again behind rubbish, the same whatever the pieces are."""

from __future__ import annotations

import pytest

from gateway.errors import FramingError
from protocols.framing import Cut, Framer, counted, delimited, first_of

STARS = delimited(b"*", b"#")
PAIRS = delimited(b"\x7e", b"\x7e")
SIZED = counted(b"\xab", 2, lambda buffer, begin: buffer[begin + 1] + 2 if buffer[begin + 1] < 200 else 0)
MIXED = first_of((b"*", STARS), (b"\xab", SIZED))
LINES = delimited(b"", b"\r\n")


@pytest.mark.parametrize(
    ("cut", "stream", "frames"),
    [
        (STARS, b"xx*a#yy*bb#", [b"*a#", b"*bb#"]),
        (STARS, b"*a#*", [b"*a#"]),
        (PAIRS, b"\x7ea\x7e\x7eb\x7e", [b"\x7ea\x7e", b"\x7eb\x7e"]),
        (SIZED, b"\xab\x01x\xab\xff\xab\x02yz\xab", [b"\xab\x01x", b"\xab\x02yz"]),
        (MIXED, b"*a#\xab\x02*#*b#", [b"*a#", b"\xab\x02*#", b"*b#"]),
        (LINES, b"one\r\n\r\ntwo\r\nthr", [b"one\r\n", b"two\r\n"]),
    ],
)
def test_frames_whatever_the_pieces(cut: Cut, stream: bytes, frames: list[bytes]) -> None:
    for size in range(1, len(stream) + 1):
        framer = Framer(cut, limit=100)
        pieces = (stream[at : at + size] for at in range(0, len(stream), size))
        assert [frame for piece in pieces for frame in framer.feed(piece)] == frames


def test_a_frame_without_an_end_is_bounded() -> None:
    framer = Framer(STARS, limit=50)
    assert framer.feed(b"*" + b"a" * 40) == []
    assert framer.rest == b"*" + b"a" * 40
    with pytest.raises(FramingError, match="no end of a frame within 50 bytes"):
        framer.feed(b"a" * 20)
    with pytest.raises(FramingError):
        framer.feed(b"#")


def test_rubbish_is_bounded_between_frames() -> None:
    framer = Framer(STARS, limit=50, rubbish_limit=100)
    for _ in range(5):
        assert framer.feed(b"r" * 90 + b"*a#") == [b"*a#"]
    assert framer.skipped == 450
    framer.feed(b"r" * 90)
    with pytest.raises(FramingError, match="belong to no frame"):
        framer.feed(b"r" * 20)


def test_what_was_whole_before_the_bound_is_not_lost() -> None:
    framer = Framer(STARS, limit=50)
    assert framer.feed(b"*a#*" + b"b" * 100) == [b"*a#"]
    with pytest.raises(FramingError):
        framer.feed(b"")
    framer = Framer(STARS, limit=50)
    assert framer.feed(b"*a#*" + b"b" * 100 + b"#") == [b"*a#"], "a frame that is too long when it is whole"
    with pytest.raises(FramingError, match="a frame of 102 bytes"):
        framer.feed(b"*c#")
