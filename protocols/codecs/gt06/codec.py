"""GT06, the protocol of Concox, Jimi and their many copies: frames, login, answers.

Short frames: 78 78, length (1), type, data, serial (2), CRC-16/X-25 (2), 0D 0A. Extended ones begin 79 79 and have a
length of 2. The CRC covers everything between the header and itself. The terminal names itself (IMEI) only at login.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.clock import from_us
from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.bits import bcd_digits, crc16_x25
from protocols.codecs.gt06.commands import COMMANDS
from protocols.codecs.gt06.messages import MESSAGES, read_unknown
from protocols.codecs.gt06.parts import Message
from protocols.codecs.terminal import Draft, conversation
from protocols.framing import Framer, first_of

MAX_FRAME_BYTES: Final = 4096
_NO_ANSWER: Final = frozenset({0x80, 0x81, 0x82, 0x8A, 0x2A, 0x15, 0x21})
_EXTENDED_ANSWER: Final = frozenset({0x32, 0x33, 0x41})
_WIFI_OLD: Final = frozenset({0x17, 0x69})


class Gt06Codec:
    """``ports.TerminalCodec``. The context that a login teaches is ``{"offset_s": ...}``, the terminal's time zone."""

    name = "gt06"
    default_port = 5023
    text = False
    datagrams = False
    commands = COMMANDS

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient

    def framer(self) -> Framer:
        return Framer(_CUT, limit=MAX_FRAME_BYTES)

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report. Raises ParseError for what is no frame, and for a wrong CRC unless lenient."""
        payload = frame.payload
        if len(payload) < 6 or payload[:2] not in (b"xx", b"yy") or not payload.endswith(b"\r\n"):
            raise ParseError("not a GT06 frame: 78 78 or 79 79 ... 0D 0A")
        extended = payload[0] == 0x79
        head = 5 if extended else 4
        kind = payload[head - 1]
        if not extended and kind in _WIFI_OLD and payload[2] + 5 != len(payload):
            return [_wifi_old(frame, kind)]
        if len(payload) < head + 6:
            return [conversation(frame)]  # too short for a serial number: nothing is said, nothing is answered
        fault = self._check(payload, head - 1 - (2 if extended else 1))
        message = Message(kind, extended, payload[head:-6], payload[2 : head - 1], frame)
        report = _login(frame, message) if kind == 0x01 and not extended else self._message(frame, message)
        if report.reply is None:
            report.reply = _answer(payload, kind, extended)
        if fault:
            report.faults = [fault, *(report.faults or ())]
        return [report]

    def _check(self, payload: bytes, start: int) -> str:
        """What is wrong with the CRC, where that is allowed; nothing when it is right."""
        stated = int.from_bytes(payload[-4:-2], "big")
        computed = crc16_x25(payload[start:-4])
        if stated == computed:
            return ""
        what = f"checksum: CRC {stated:04x}, computed {computed:04x}"
        if not self._lenient:
            raise ParseError(what)
        return what

    def _message(self, frame: Frame, message: Message) -> Report:
        read = MESSAGES.get(message.kind)
        if read is None:
            read = _silent if message.kind in _NO_ANSWER else read_unknown
        draft = Draft(frame)
        try:
            read(message, draft)
        except ParseError as error:
            draft.fault("frame", error)
        if draft.at_us and not draft.empty():
            draft.dedup_key = frame.payload[-6:-2].hex()  # serial and CRC; only where a time tells two presses apart
        if message.kind == 0x2A:
            draft.reply = _address_answer(frame.payload[-6:-4])
        elif message.kind == 0x8A:
            draft.reply = _time_answer(frame.received_at_us)
        return draft.report()


def _silent(message: Message, draft: Draft) -> None:
    """What the platform says itself, and what is said of it: nothing to observe."""
    del message, draft


def _login(frame: Frame, message: Message) -> Report:
    """IMEI in 8 BCD bytes, device type, time zone and language."""
    data = message.data
    if len(data) < 8:
        raise ParseError("a login without an IMEI")
    try:
        imei = bcd_digits(data[:8])[1:]
    except ValueError as error:
        raise ParseError(f"login: {error}") from error
    context: dict[str, Any] | None = None
    if len(data) >= 12:
        zone = int.from_bytes(data[10:12], "big")
        hours, minutes = divmod(zone >> 4, 100)
        offset_s = (hours * 60 + minutes) * 60
        if hours <= 14 and minutes < 60:
            context = {"offset_s": -offset_s if zone & 8 else offset_s}
    return conversation(frame, device_key=imei, context=context)


def _wifi_old(frame: Frame, kind: int) -> Report:
    """The frame whose length byte counts access points: neither serial nor CRC, answered with its time."""
    payload = frame.payload
    draft = Draft(frame)
    message = Message(kind, False, payload[4:-2], payload[2:3], frame)
    try:
        MESSAGES[kind](message, draft)
    except ParseError as error:
        draft.fault("frame", error)
    draft.reply = b"xx\x00" + bytes([kind]) + payload[4:10] + b"\r\n"
    return draft.report()


def _answer(payload: bytes, kind: int, extended: bool) -> bytes | None:
    serial = payload[-6:-4]
    if extended:
        return _framed(b"yy", b"\x00\x05" + bytes([kind]) + serial) if kind in _EXTENDED_ANSWER else None
    if kind in _NO_ANSWER:
        return None
    return _framed(b"xx", b"\x05" + bytes([kind]) + serial)


def _time_answer(now_us: int) -> bytes:
    now = from_us(now_us)
    clock = bytes([now.year % 100, now.month, now.day, now.hour, now.minute, now.second])
    return _framed(b"xx", b"\x0b\x8a" + clock + b"\x00\x00")


def _address_answer(serial: bytes) -> bytes:
    """The address is not known: the terminal's user gets an empty one instead of a time-out."""
    text = b"NA&&NA&&0##"
    body = b"\x97" + bytes([len(text)]) + bytes(4) + text + serial
    return _framed(b"yy", (len(body) + 2).to_bytes(2, "big") + body)


def _framed(header: bytes, body: bytes) -> bytes:
    return header + body + crc16_x25(body).to_bytes(2, "big") + b"\r\n"


# ---- framing ---------------------------------------------------------------------------------------------------------


def _cut_one(buffer: bytes, at: int, seen: int) -> tuple[int, int]:
    """By the length; by the next 0D 0A where the length is wrong, as it is in frames of access points."""
    left = len(buffer) - at
    if left < 6:
        return at, at
    extended = buffer[at] == 0x79
    size = int.from_bytes(buffer[at + 2 : at + 4], "big") + 6 if extended else buffer[at + 2] + 5
    if not extended and buffer[at + 3] in _WIFI_OLD:
        by_count = _wifi_size(buffer, at)
        if by_count and buffer[at + by_count - 2 : at + by_count] == b"\r\n":
            return at, at + by_count
    if size <= left and buffer[at + size - 2 : at + size] == b"\r\n":
        return at, at + size
    if size > left and size <= MAX_FRAME_BYTES and not _another(buffer, at, seen):
        return at, at
    end = buffer.find(b"\r\n", max(at + 4, seen - 1))
    return (at, at) if end < 0 else (at, end + 2)


def _another(buffer: bytes, at: int, seen: int) -> bool:
    """Whether a frame ends and another begins before this one's length is reached: then that length is wrong."""
    start = max(at + 4, seen - 3)
    return buffer.find(b"\r\nxx", start) >= 0 or buffer.find(b"\r\nyy", start) >= 0


def _wifi_size(buffer: bytes, at: int) -> int:
    cells_at = at + 10 + 7 * buffer[at + 2]
    if cells_at >= len(buffer):
        return 0
    return cells_at - at + 6 + 5 * buffer[cells_at]


_CUT: Final = first_of((b"xx", _cut_one), (b"yy", _cut_one))
