"""Topin (ZhongXun, 365GPS): pendants, cards and watches. 78 78, length, type, data, 0D 0A; no serial, no checksum.

The terminal names itself (IMEI) at login. What it says must be answered, most of it with its own time, or it ends the
connection and says it again; an SOS above all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from gateway.clock import from_us
from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.bits import Cursor, bcd_digits, bcd_time_us, binary_time_us
from protocols.codecs.fixes import fix
from protocols.codecs.terminal import KMH_M_PER_S, Draft, conversation
from protocols.codecs.topin.commands import COMMANDS, KINDS, write
from protocols.codecs.topin.framing import HEAD, cells_fit, framer
from protocols.framing import Framer

GT06_DEGREE: Final = 1_800_000
ALARM_BITS: Final = ((0, "vibration"), (1, "overspeed"), (4, "low_power"))
_STORED: Final = frozenset({0x09, 0x11, 0x17})
_BARE: Final = {0x81: "charged", 0x82: "charging", 0x83: "charging", 0x14: "hibernating"}

Reader = Callable[["_Message", Draft], bytes | None]
"""Reads a message into the draft, and says the answer (None: none)."""


class _Message:
    __slots__ = ("data", "kind", "now_us", "stated")

    def __init__(self, payload: bytes, now_us: int) -> None:
        self.stated = payload[2]
        self.kind = payload[3]
        self.data = payload[HEAD:-2]
        self.now_us = now_us

    def answer(self, data: bytes) -> bytes:
        """The length byte is the terminal's own: it compares it."""
        return write(self.kind, data, stated=self.stated)


class TopinCodec:
    """``ports.TerminalCodec``. The protocol has no checksum, so there is nothing to be lenient about."""

    name = "topin"
    default_port = 5199
    text = False
    datagrams = False
    commands = COMMANDS

    def __init__(self, *, lenient: bool = False) -> None:
        del lenient

    def framer(self) -> Framer:
        return framer()

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report. Raises ParseError for what is no frame, and for a login without an IMEI."""
        payload = frame.payload
        if len(payload) < HEAD + 2 or payload[:2] != b"xx" or payload[-2:] != b"\r\n":
            raise ParseError("not a Topin frame: 78 78 ... 0D 0A")
        message = _Message(payload, frame.received_at_us)
        if message.kind == 0x01:
            return [_login(frame, message)]
        draft = Draft(frame)
        draft.stored = message.kind in _STORED
        try:
            draft.reply = _READERS.get(message.kind, _unknown)(message, draft)
        except ParseError as error:
            draft.fault("frame", error)
        return [draft.report()]


def _clock(message: _Message) -> bytes:
    """Type 30: the time in UTC."""
    now = from_us(message.now_us)
    return write(0x30, now.year.to_bytes(2, "big") + bytes([now.month, now.day, now.hour, now.minute, now.second]))


def _login(frame: Frame, message: _Message) -> Report:
    """IMEI in 8 BCD bytes, perhaps the version. Answered with "known", then the time."""
    if not message.data:
        return conversation(frame)
    if len(message.data) < 8:
        raise ParseError("a login without an IMEI")
    try:
        imei = bcd_digits(message.data[:8])[1:]
    except ValueError as error:
        raise ParseError(f"login: {error}") from error
    return conversation(frame, device_key=imei, reply=message.answer(b"\x01") + _clock(message))


def _time_request(message: _Message, draft: Draft) -> bytes:
    del draft
    return _clock(message)


def _time(draft: Draft, data: bytes, *, bcd: bool = False) -> None:
    try:
        draft.at_us = bcd_time_us(data) if bcd else binary_time_us(data)
    except ValueError as error:
        draft.fault("time", error)


def _flags(draft: Draft, flags: int, speed: int) -> None:
    """Speed in km/h and the course of a valid fix."""
    if draft.position is not None and draft.position.valid:
        draft.measure("speed_m_per_s", speed * KMH_M_PER_S)
        if flags & 0x03FF <= 360:
            draft.measure("course_degrees", flags & 0x03FF)


def _position(message: _Message, draft: Draft) -> bytes:
    """10, 11: the GPS block of GT06, then perhaps altitude and alarms."""
    cursor = Cursor(message.data)
    stamp = cursor.take(6)
    _time(draft, stamp)
    try:
        draft.keep("satellites", cursor.u8() & 0x0F)
        latitude, longitude = cursor.u32() / GT06_DEGREE, cursor.u32() / GT06_DEGREE
        speed, flags = cursor.u8(), cursor.u16()
        fix(
            draft,
            round(latitude if flags & 0x0400 else -latitude, 6),
            round(-longitude if flags & 0x0800 else longitude, 6),
            valid=bool(flags & 0x1000),
        )
        _flags(draft, flags, speed)
        if cursor.left >= 2:
            altitude = cursor.i16()
            if draft.position is not None and draft.position.valid:
                draft.measure("altitude_m", altitude)
        if cursor.left:
            _alarms(draft, cursor.u8())
    except ParseError as error:
        draft.fault("position", error)
    return message.answer(stamp)


def _alarms(draft: Draft, flags: int) -> None:
    draft.keep("alarm_flags", flags)
    draft.alarm(*(name for bit, name in ALARM_BITS if flags >> bit & 1))


def _heartbeat(message: _Message, draft: Draft) -> bytes | None:
    """08 alone is a heartbeat. 08 and 09 with data: latitude + 90 and longitude + 180 in millionths of a degree."""
    if len(message.data) < 23:
        if message.data:
            draft.keep("data", message.data)
        return None
    cursor = Cursor(message.data)
    stamp = cursor.take(6)
    _time(draft, stamp)
    draft.keep("satellites", cursor.u8() & 0x0F)
    latitude, longitude = cursor.u32() / 1e6 - 90, cursor.u32() / 1e6 - 180
    cursor.skip(8)
    speed, flags = cursor.u8(), cursor.u16() if cursor.left >= 2 else 0
    draft.place(round(latitude, 6), round(longitude, 6))
    _flags(draft, flags, speed)
    if cursor.left:
        draft.keep("rest", cursor.rest())
    return None


def _status(message: _Message, draft: Draft) -> bytes:
    """13: battery, version, time zone, interval, signal, temperature, charge, heart rate. Answered with itself."""
    data = message.data
    if data:
        draft.measure("battery_percent", data[0])
    for at, name in ((1, "version"), (2, "time_zone"), (3, "interval_minutes"), (4, "gsm_percent")):
        if at < len(data):
            draft.keep(name, data[at])
    if len(data) >= 8:
        draft.keep("temperature_raw", data[5:8])
    if len(data) >= 9:
        draft.keep("charging", data[8] == 1)
    if len(data) >= 10 and data[9]:
        draft.measure("heart_rate_bpm", data[9])
    return message.answer(data)


def _network(message: _Message, draft: Draft) -> bytes:
    """17, 18, 19, 1A, 69: time in BCD, as many access points as the length says, cells, alarms."""
    cursor = Cursor(message.data)
    stamp = cursor.take(6)
    _time(draft, stamp, bcd=True)
    try:
        for _ in range(message.stated):
            bssid = cursor.take(6)
            draft.wifi(bssid, -cursor.u8())
        count = cursor.u8() if cursor.left else 0
        size = cells_fit(count, cursor.left)
        if size:
            mcc, mnc = cursor.u16(), cursor.u8()
            for _ in range(count):
                lac = cursor.uint(4 if size == 9 else 2)
                draft.cell(mcc, mnc, lac, cursor.uint(4 if size > 5 else 2), -cursor.u8())
        elif count:
            draft.fault("cells", f"{count} cells in {cursor.left} bytes")
            draft.keep("cells", cursor.rest())
        if cursor.left:
            _alarms(draft, cursor.u8())
    except ParseError as error:
        draft.fault("network", error)
    return message.answer(stamp)


def _alarm(name: str) -> Reader:
    def read(message: _Message, draft: Draft) -> bytes:
        draft.alarm(name)
        if message.data:
            draft.keep("data", message.data)
        return message.answer(message.data)

    return read


def _bare(message: _Message, draft: Draft) -> None:
    """What becomes of the charger, and the good night."""
    draft.keep(_BARE[message.kind], message.kind != 0x83)


def _unknown(message: _Message, draft: Draft) -> None:
    command = KINDS.get(message.kind)
    if command is not None:
        reply: dict[str, object] = {"command": command}
        if message.data:
            reply["data"] = message.data.hex()
        draft.keep("command_reply", reply)
        return
    draft.keep("message", f"{message.kind:02x}")
    if message.data:
        draft.keep("data", message.data)


_READERS: Final[dict[int, Reader]] = {
    0x08: _heartbeat,
    0x09: _heartbeat,
    0x10: _position,
    0x11: _position,
    0x13: _status,
    **dict.fromkeys((0x17, 0x18, 0x19, 0x1A, 0x69), _network),
    0x30: _time_request,
    0x94: _alarm("vibration"),
    0x99: _alarm("sos"),
    **dict.fromkeys(_BARE, _bare),
}
"""By type. Others are kept raw, or are a terminal's answer to a command of that type."""
