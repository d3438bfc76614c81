"""JT/T 808 on the wire: escapes, headers of 2011/2013 and 2019, check code, cutting (JT/T 808-2019, clause 4.4)."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from gateway.errors import ParseError, UsageError
from protocols.bits import luhn_digit, xor8
from protocols.framing import Framer

MAX_FRAME_BYTES: Final = 16_384
MAX_BODY_BYTES: Final = 1023
SPLIT: Final = 1 << 13
VERSIONED: Final = 1 << 14
ENCRYPTED: Final = 0x1C00
_LONG_BODY: Final = 0x1FFF

FLAG: Final = 0x7E
OTHER_FLAG: Final = 0xE7  # a variant with ids of 7 bytes
_LOCKS: Final = range(0x5501, 0x5507)  # padlocks: a serial of one byte, another meaning of the attributes
_OTHER_STARTS: Final = frozenset({0x0001, 0x0002, 0x0003, 0x0100, 0x0102, 0x0200, 0x0210, 0x0704})
_TEXT: Final = re.compile(rb"\([\x20-\x7d]{1,1000}?\)")
_PART_OF_TEXT: Final = re.compile(rb"\([\x20-\x7d]{0,1000}")
_ESCAPE: Final = re.compile(rb"\x7d[\x01\x02]")
_OTHER_ESCAPE: Final = re.compile(rb"\xe6[\x01\x02]|\x3e[\x01\x02]")
_PLAIN: Final = {
    b"\x7d\x01": b"\x7d", b"\x7d\x02": b"\x7e",
    b"\xe6\x01": b"\xe6", b"\xe6\x02": b"\xe7", b"\x3e\x01": b"\x3e", b"\x3e\x02": b"\x3d",
}  # fmt: skip


class Message(Struct, gc=False):
    """One message, or one part of a split one (``total`` > 0; ``number`` from 1).

    ``terminal`` is the id as the header has it; ``key`` is what the terminal is called. ``version`` is -1 for the
    header of 2011 and 2013.
    """

    message_id: int
    terminal: bytes
    key: str
    version: int
    serial: int
    body: bytes
    total: int = 0
    number: int = 0
    encrypted: bool = False
    faults: tuple[str, ...] = ()
    other: bool = False


# ---- cutting ---------------------------------------------------------------------------------------------------------


def _cut(buffer: bytes, at: int, seen: int) -> tuple[int, int]:
    """A frame between two flags. Where one may begin, a text in round brackets may stand instead."""
    begin = at
    while begin < len(buffer) and buffer[begin] in b"\r\n ":
        begin += 1
    first = buffer[begin : begin + 1]
    if first == b"(":
        whole = _TEXT.match(buffer, begin)
        if whole is not None:
            return begin, whole.end()
        begun = _PART_OF_TEXT.match(buffer, begin)
        if begun is not None and begun.end() == len(buffer) and len(buffer) - begin < 1000:
            return begin, begin
    elif first == b"\xe7":
        end = _other_end(buffer, begin)
        if end:
            return begin, max(end, begin)
    begin = buffer.find(b"\x7e", begin)
    if begin < 0:
        return len(buffer), len(buffer)
    while buffer.startswith(b"\x7e", begin + 1):  # the end of one, the start of the next
        begin += 1
    stop = buffer.find(b"\x7e", max(begin + 1, seen if begin == at else 0))
    return (begin, begin) if stop < 0 else (begin, stop + 1)


def _other_end(buffer: bytes, begin: int) -> int:
    """The end of a frame between E7 flags; -1 when it is not whole yet, 0 when none begins here."""
    kind = buffer[begin + 1 : begin + 3]
    if len(kind) == 2 and int.from_bytes(kind, "big") not in _OTHER_STARTS:
        return 0
    stop = buffer.find(b"\xe7", begin + 1)
    return stop + 1 if stop >= 0 else (-1 if len(buffer) - begin < 4 * MAX_BODY_BYTES else 0)


def unescape(frame: bytes) -> bytes:
    """A frame as its check code sees it, flags included."""
    pattern = _OTHER_ESCAPE if frame[:1] == b"\xe7" else _ESCAPE
    inner = frame[1:-1]
    if frame[:1] not in (b"\x7e", b"\xe7") or pattern.search(inner) is None:
        return frame
    return frame[:1] + pattern.sub(lambda found: _PLAIN[found.group()], inner) + frame[-1:]


class Jt808Framer:
    """``ports.Framer``: frames without their escapes, in round brackets where they are text."""

    def __init__(self) -> None:
        self._framer = Framer(_cut, limit=MAX_FRAME_BYTES)

    def feed(self, data: bytes) -> list[bytes]:
        """Raises FramingError at a bound."""
        return [unescape(frame) for frame in self._framer.feed(data)]


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_message(frame: bytes, *, lenient: bool) -> Message:
    """The message of a frame, with or without its escapes. Raises ParseError; a wrong check code is one unless lenient.

    A length in the header that is not the body's is a fault: the check code already says that nothing is missing.
    """
    if len(frame) < 13 or frame[0] not in (FLAG, OTHER_FLAG) or frame[-1] != frame[0]:
        raise ParseError("not a JT/T 808 frame: 7E ... 7E")
    plain = unescape(frame)
    # An even number of escapes leaves the check code as it is: then the length tells which of the two it was.
    candidates = [frame] if plain is frame or len(plain) < 13 else [frame, plain]
    right = [_split_header(one) for one in candidates if xor8(one[1:-2]) == one[-2]]
    if right:
        return next((message for message in right if not message.faults), right[0])
    fault = f"checksum: {frame[-2]:02x}, computed {xor8(frame[1:-2]):02x}"
    if not lenient and frame[0] == FLAG:  # what the variant computes is not documented
        raise ParseError(fault)
    message = _split_header(frame)
    message.faults = (fault, *message.faults)
    return message


def _split_header(frame: bytes) -> Message:
    other = frame[0] == OTHER_FLAG
    message_id = int.from_bytes(frame[1:3], "big")
    attributes = int.from_bytes(frame[3:5], "big")
    lock = message_id in _LOCKS
    version = -1
    at, size = 5, 7 if other else 6
    if attributes & VERSIONED and not lock and not other:
        version = frame[5]
        at, size = 6, 10
    terminal = frame[at : at + size]
    at += size
    serial_size = 1 if lock else 2
    serial = int.from_bytes(frame[at : at + serial_size], "big")
    at += serial_size
    total = number = 0
    whole = len(frame) - 2 - at == attributes & MAX_BODY_BYTES  # then bit 13 has some other meaning here
    if attributes & SPLIT and not lock and not whole:
        total = int.from_bytes(frame[at : at + 2], "big")
        number = int.from_bytes(frame[at + 2 : at + 4], "big")
        at += 4
    if at > len(frame) - 2:
        raise ParseError(f"ends within its header, after {len(frame)} bytes")
    body = frame[at:-2]
    faults: tuple[str, ...] = ()
    long = attributes & _LONG_BODY == len(body)  # some let the length run into the bits of encryption
    if not lock and not other and not long and attributes & MAX_BODY_BYTES != len(body):
        faults = (f"length: {attributes & MAX_BODY_BYTES} stated, {len(body)} there",)
    encrypted = bool(attributes & ENCRYPTED) and not lock and not other and not long
    return Message(
        message_id, terminal, terminal_key(terminal), version, serial, body, total, number, encrypted, faults, other
    )


def terminal_key(terminal: bytes) -> str:
    """What a terminal is called: the digits of its id.

    The field of 2019 has room for 20: an IMEI in it loses the zeros before it, and a shorter number keeps all of them,
    which says whose header it came in. Six bytes that are not decimal are an IMEI without its check digit.
    """
    digits = terminal.hex()
    if digits.isdecimal():
        shown = digits.lstrip("0")
        return shown.rjust(15, "0") if len(terminal) == 10 and 12 < len(shown) <= 15 else digits
    if len(terminal) == 6:
        number = str(int.from_bytes(terminal, "big")).rjust(14, "0")
        return number + str(luhn_digit(number))
    return digits


# ---- writing ---------------------------------------------------------------------------------------------------------


def escape(content: bytes, *, other: bool = False) -> bytes:
    """Content between two flags."""
    if other:
        content = content.replace(b"\xe6", b"\xe6\x01").replace(b"\xe7", b"\xe6\x02")
        content = content.replace(b"\x3e", b"\x3e\x01").replace(b"\x3d", b"\x3e\x02")
        return b"\xe7" + content + b"\xe7"
    return b"\x7e" + content.replace(b"\x7d", b"\x7d\x01").replace(b"\x7e", b"\x7d\x02") + b"\x7e"


def write_message(
    message_id: int, terminal: bytes, version: int, serial: int, body: bytes, *, other: bool = False
) -> bytes:
    """A frame, escaped. ``body`` has at most MAX_BODY_BYTES bytes. Raises UsageError for a longer one."""
    if len(body) > MAX_BODY_BYTES:
        raise UsageError(f"{len(body)} bytes are more than the {MAX_BODY_BYTES} that a message of JT/T 808 holds")
    attributes = len(body) | (VERSIONED if version >= 0 else 0)
    head = message_id.to_bytes(2, "big") + attributes.to_bytes(2, "big")
    if version >= 0:
        head += bytes([version])
    content = head + terminal + (serial & 0xFFFF).to_bytes(2, "big") + body
    return escape(content + bytes([xor8(content)]), other=other)


def header_id(key: str, version: int | None = None) -> tuple[bytes, int]:
    """The id field and header version of a terminal that is known only by its key. Raises UsageError.

    Up to 12 digits: the header of 2013; more: that of 2019. ``version`` -1 or 1 overrides that: an IMEI then stands in
    the header of 2013 as a number of 48 bits.
    """
    if not (key.isascii() and key.isdecimal() and 1 <= len(key) <= 20):
        raise UsageError("the terminal's number must be 1 to 20 digits")
    modern = len(key) > 12 if version is None else version >= 0
    if modern:
        return bytes.fromhex(key.rjust(20, "0")), 1
    if len(key) == 15:
        return int(key[:14]).to_bytes(6, "big"), -1
    return bytes.fromhex(key.rjust(12, "0")[-12:]), -1
