"""MiniFinder 2, Eview EV-04, EV-07B and their relatives: AB, little-endian, items of length, key, value."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from gateway.clock import US_PER_S
from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.bits import Cursor, crc16_xmodem
from protocols.codecs.fixes import fix as stated_place
from protocols.codecs.terminal import KMH_M_PER_S, Draft, conversation
from protocols.framing import Framer, counted

MAX_BODY_BYTES: Final = 8192
_HEAD: Final = 8
_WANTS_ANSWER: Final = 1 << 4
_DATA, _SERVICES, _CONTROL, _ANSWER = 0x01, 0x03, 0x04, 0x7F
_REPEATABLE: Final = frozenset({0x28, 0x2C})
_MAX_RECORDS: Final = 256

ALARMS: Final = {
    12: "sos", 2: "fall", 0: "low_battery", 1: "overspeed", 3: "tilt", 8: "power_off", 9: "power_on", 10: "motion",
    11: "no_motion", 13: "button_1", 14: "button_2", 31: "bark",
}  # fmt: skip
_BUTTONS: Final = 1 << 13 | 1 << 14

Encode = Callable[[Mapping[str, Any], str], bytes]


def _size(buffer: bytes, begin: int) -> int:
    length = int.from_bytes(buffer[begin + 2 : begin + 4], "little")
    return length + _HEAD if 0 < length <= MAX_BODY_BYTES else 0


_CUT: Final = counted(b"\xab", _HEAD, _size)


class Minifinder2Codec:
    """``ports.TerminalCodec``. A frame may hold several records; a key that comes again begins the next one."""

    name = "minifinder2"
    default_port = 5115
    text = False
    datagrams = True

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient

    @property
    def commands(self) -> Mapping[str, Encode]:
        return COMMANDS

    def framer(self) -> Framer:
        return Framer(_CUT, limit=MAX_BODY_BYTES + _HEAD)

    def parse(self, frame: Frame) -> Sequence[Report]:
        """Reports, one for each record. Raises ParseError for what is no frame, and for a wrong CRC or length unless
        lenient.
        """
        payload = frame.payload
        if len(payload) <= _HEAD or payload[0] != 0xAB:
            raise ParseError("not a frame of MiniFinder 2: AB ...")
        body = payload[_HEAD:]
        faults = self._check(payload, body)
        flags, sequence = payload[1], payload[6:8]
        kind = body[0]
        records = _records(frame, kind, Cursor(body, 1))
        if kind == _ANSWER:
            records = [_answered(frame, body)]
        reports = [record.finish(sequence) for record in records] or [conversation(frame)]
        if flags & _WANTS_ANSWER and kind != _ANSWER:
            reports[0].reply = _reply(frame, kind, sequence, body)
        if faults:
            reports[0].faults = [*faults, *(reports[0].faults or ())]
        return reports

    def _check(self, payload: bytes, body: bytes) -> list[str]:
        faults = []
        length = int.from_bytes(payload[2:4], "little")
        if length != len(body):
            faults.append(f"length: {length} stated, {len(body)} there")
        stated, computed = int.from_bytes(payload[4:6], "little"), crc16_xmodem(body)
        if stated != computed:
            faults.append(f"checksum: CRC {stated:04x}, computed {computed:04x}")
        if faults and not self._lenient:
            raise ParseError("; ".join(faults))
        return faults


def _message(sequence: bytes, body: bytes, flags: int = 0) -> bytes:
    head = b"\xab" + bytes([flags]) + len(body).to_bytes(2, "little") + crc16_xmodem(body).to_bytes(2, "little")
    return head + sequence + body


def _reply(frame: Frame, kind: int, sequence: bytes, body: bytes) -> bytes:
    """That it arrived; what a request for services asked for (key 12: the time, 11: assistance for its receiver)."""
    answer = b""
    if kind == _SERVICES:
        cursor = Cursor(body, 1)
        while cursor.left >= 2:
            length, key = cursor.u8(), cursor.u8()
            if not 1 <= length <= cursor.left + 1:
                break
            cursor.skip(length - 1)
            if key == 0x12:
                answer += b"\x05\x12" + (frame.received_at_us // US_PER_S & 0xFFFFFFFF).to_bytes(4, "little")
            elif key == 0x11:
                answer += b"\x0a\x11" + bytes(9)
    if answer:
        return _message(sequence, bytes([_SERVICES]) + answer)
    return _message(sequence, bytes([_ANSWER, 1, 0]))


# ---- records ---------------------------------------------------------------------------------------------------------


class _Record:
    """One record in the making: a draft, and a place that is set when its time is known."""

    __slots__ = ("beacon", "draft", "fix", "keys", "timed")

    def __init__(self, frame: Frame, device_key: str) -> None:
        self.draft = Draft(frame, device_key)
        self.keys: set[int] = set()
        self.fix: dict[str, Any] | None = None
        self.beacon: tuple[float, float] | None = None
        self.timed = False

    def at(self, cursor: Cursor, *, certain: bool = False) -> None:
        """The record's time: that of its status, else of whatever has one."""
        seconds = cursor.uint_le(4)
        if seconds and (certain or not self.timed):
            self.draft.at_us = seconds * US_PER_S
            self.timed = self.timed or certain

    def finish(self, sequence: bytes) -> Report:
        draft, fix = self.draft, self.fix
        if fix is not None:
            stated_place(draft, fix["latitude"], fix["longitude"], valid=fix["valid"])
        if self.beacon is not None and (draft.position is None or not draft.position.valid):
            draft.place(*self.beacon, source="manual")
        if draft.at_us and not draft.empty():
            draft.dedup_key = f"{sequence.hex()}-{draft.at_us // US_PER_S}"
        return draft.report()


def _records(frame: Frame, kind: int, cursor: Cursor) -> list[_Record]:
    record = _Record(frame, "")
    records = [record]
    device_key = ""
    while cursor.left >= 2:
        length, key = cursor.u8(), cursor.u8()
        if not 1 <= length <= cursor.left + 1:
            record.draft.fault(f"item {key:02x}", f"{length} bytes stated, {cursor.left + 1} left")
            record.draft.keep("tail", cursor.rest())
            break
        value = Cursor(cursor.take(length - 1))
        if key == 0x01 and kind in (_DATA, _SERVICES, 0x02, _CONTROL):
            device_key = value.rest().decode("latin-1").strip("\0 ")
            record.draft.device_key = device_key or record.draft.device_key
            continue
        if key in record.keys and key not in _REPEATABLE and len(records) < _MAX_RECORDS:
            record = _Record(frame, device_key)
            records.append(record)
        record.keys.add(key)
        _item(kind, key, value, record)
    return records


def _item(kind: int, key: int, value: Cursor, record: _Record) -> None:
    raw = value.data
    read = _ITEMS.get(key) if kind == _DATA else None
    if kind == _CONTROL and key == 0x1F:
        read = _text_result
    try:
        if read is None:
            name = f"item_{key:02x}" if kind == _DATA else f"message_{kind:02x}_{key:02x}"
            record.draft.keep(name, raw)
        else:
            read(value, record)
    except ParseError as error:
        record.draft.fault(f"item {key:02x}", error)
        record.draft.keep(f"item_{key:02x}", raw)


def _answered(frame: Frame, body: bytes) -> _Record:
    """7F: what became of a message of the platform; 0 is success."""
    record = _Record(frame, "")
    code = body[2] if len(body) > 2 else 0
    result = "done" if code == 0 else "refused"
    record.draft.keep("command_reply", {"command": "", "result": result, "code": code})
    return record


def _text_result(value: Cursor, record: _Record) -> None:
    code = value.u8()
    text = value.rest().decode("utf-8", "replace").strip("\0 ")
    result = "done" if code == 0 else "refused"
    record.draft.keep("command_reply", {"command": "", "result": result, "text": text[:500]})


# ---- items -----------------------------------------------------------------------------------------------------------


def _alarm(value: Cursor, record: _Record) -> None:
    """02: bits; 4 to 7 are fences, whose bit 22 higher says that it was entered."""
    bits = value.uint_le(4)
    draft = record.draft
    draft.alarm(*(name for bit, name in ALARMS.items() if bits >> bit & 1))
    for fence in range(4):
        if bits >> (4 + fence) & 1:
            draft.alarm("fence_enter" if bits >> (26 + fence) & 1 else "fence_exit")
    if bits & _BUTTONS:
        draft.signal("service_call")
    draft.keep("alarm_word", f"{bits:08x}")
    if value.left >= 4:
        record.at(value)


def _battery(value: Cursor, record: _Record) -> None:
    record.draft.measure("battery_percent", value.u8())
    if value.left >= 2:
        record.draft.measure("battery_volts", value.uint_le(2) / 1000)


def _gps(value: Cursor, record: _Record) -> None:
    latitude, longitude = value.sint_le(4) / 1e7, value.sint_le(4) / 1e7
    speed, course = value.uint_le(2), value.uint_le(2)
    altitude, hdop = value.sint_le(2), value.uint_le(2) / 10
    draft = record.draft
    valid = hdop > 0
    record.fix = {"latitude": latitude, "longitude": longitude, "valid": valid}
    if valid:
        draft.measure("speed_m_per_s", speed * KMH_M_PER_S)
        if course <= 360:
            draft.measure("course_degrees", course)
        draft.measure("altitude_m", altitude)
        draft.keep("hdop", hdop)
    draft.measure("odometer_m", value.uint_le(4))
    draft.keep("satellites", value.u8())


def _cells(mnc_size: int, cid_size: int) -> Callable[[Cursor, _Record], None]:
    def read(value: Cursor, record: _Record) -> None:
        mcc, mnc = value.uint_le(2), value.uint_le(mnc_size)
        while value.left >= 3 + cid_size:
            rssi, lac = value.i8(), value.uint_le(2)
            record.draft.cell(mcc, mnc, lac, value.uint_le(cid_size), rssi)

    return read


def _wifi(value: Cursor, record: _Record) -> None:
    while value.left >= 7:
        rssi = value.i8()
        record.draft.wifi(value.take(6), rssi)


def _named_wifi(value: Cursor, record: _Record) -> None:
    while value.left >= 8:
        rssi, address = value.i8(), value.take(6)
        name = value.take(min(value.u8(), value.left)).decode("utf-8", "replace")
        record.draft.wifi(address, rssi, name)


def _status(value: Cursor, record: _Record) -> None:
    """24: time; 4 charging, 7 stored, 9 moving, 19 to 23 signal, 24 to 31 battery."""
    record.at(value, certain=True)
    bits = value.uint_le(4)
    draft = record.draft
    draft.stored = draft.stored or bool(bits >> 7 & 1)
    draft.keep("charging", bool(bits >> 4 & 1))
    if bits >> 9 & 1:
        draft.signal("motion")
    draft.keep("gsm_signal", bits >> 19 & 31)
    percent = bits >> 24
    if percent <= 100:
        draft.measure("battery_percent", percent)
    draft.keep("status_word", f"{bits:08x}")


def _call(value: Cursor, record: _Record) -> None:
    """25: a call. Whose number it was is not repeated."""
    record.at(value)
    status, seconds, result = value.u8(), value.uint_le(2), value.u8()
    record.draft.keep("call", {"status": status, "seconds": seconds, "result": result})


def _tag(value: Cursor) -> str:
    """A tag's address, whose bytes come in reverse."""
    return value.take(6)[::-1].hex(":")


def _kept_tag(record: _Record, tag: dict[str, Any]) -> None:
    tags = record.draft.unknown.setdefault("tags", [])
    if len(tags) < 64:
        tags.append(tag)


def _home(value: Cursor, record: _Record) -> None:
    """23: the beacon at home and where it stands."""
    tag: dict[str, Any] = {"address": _tag(value)}
    if value.left >= 8:
        record.beacon = value.sint_le(4) / 1e7, value.sint_le(4) / 1e7
    _kept_tag(record, tag)


def _near(value: Cursor, record: _Record) -> None:
    """26, 27: a beacon and its signal, here and at one metre."""
    tag: dict[str, Any] = {"address": _tag(value)}
    if value.left >= 2:
        tag |= {"rssi": value.i8(), "rssi_1m": value.i8()}
    _kept_tag(record, tag)


def _placed(value: Cursor, record: _Record) -> None:
    """28: flags (7 a place follows, 6 a text), beacon, signals."""
    flags = value.u8()
    tag: dict[str, Any] = {"address": _tag(value), "rssi": value.i8(), "rssi_1m": value.i8()}
    if flags & 0x80 and value.left >= 8:
        record.beacon = value.sint_le(4) / 1e7, value.sint_le(4) / 1e7
    if flags & 0x40 and value.left:
        tag["text"] = value.rest().decode("utf-8", "replace").strip("\0 ")[:64]
    _kept_tag(record, tag)


def _described(value: Cursor, record: _Record) -> None:
    """2A: flags, beacon, signal, text."""
    value.skip(1)
    tag: dict[str, Any] = {"address": _tag(value), "rssi": value.i8()}
    text = value.rest().decode("utf-8", "replace").strip("\0 ")
    record.draft.keep("description", text)
    _kept_tag(record, tag)


def _listed(value: Cursor, record: _Record) -> None:
    """2C: number, beacon, signal, a byte, its battery."""
    tag: dict[str, Any] = {"index": value.u8(), "address": _tag(value), "rssi": value.i8()}
    if value.left >= 2:
        value.skip(1)
        tag["battery_percent"] = value.u8()
    _kept_tag(record, tag)


def _steps(value: Cursor, record: _Record) -> None:
    record.at(value)
    record.draft.measure("steps", value.uint_le(4))


def _counted(name: str) -> Callable[[Cursor, _Record], None]:
    def read(value: Cursor, record: _Record) -> None:
        record.at(value)
        record.draft.keep(name, value.uint_le(min(4, value.left)))

    return read


def _heart_rate(value: Cursor, record: _Record) -> None:
    """40: time, beats; 0 and 1 are no reading."""
    record.at(value)
    beats = value.u8()
    if beats > 1:
        record.draft.measure("heart_rate_bpm", beats)


def _oxygen(value: Cursor, record: _Record) -> None:
    record.at(value)
    percent = value.u8()
    if percent:
        record.draft.measure("spo2_percent", percent)


_ITEMS: Final[Mapping[int, Callable[[Cursor, _Record], None]]] = {
    0x02: _alarm,
    0x14: _battery,
    0x19: _named_wifi,
    0x20: _gps,
    0x21: _cells(1, 2),
    0x22: _wifi,
    0x23: _home,
    0x24: _status,
    0x25: _call,
    0x26: _near,
    0x27: _near,
    0x28: _placed,
    0x29: _cells(1, 4),
    0x2A: _described,
    0x2B: _cells(2, 4),
    0x2C: _listed,
    0x30: _steps,
    0x31: _counted("activity"),
    0x37: _counted("barks"),
    0x40: _heart_rate,
    0x41: _oxygen,
}


# ---- commands: the texts that these terminals also take as short messages --------------------------------------------


def _text_command(parameters: Mapping[str, Any], text: str) -> bytes:
    content = text.encode("utf-8")[:200]
    body = bytes([_CONTROL, len(content) + 1, 0x1F]) + content
    sequence = sum(str(parameters.get("command_id", "")).encode()) & 0xFFFF
    return _message(sequence.to_bytes(2, "little"), body, _WANTS_ANSWER)


def _fixed(text: str) -> Encode:
    return lambda parameters, _device_key: _text_command(parameters, text)


def _sos_number(parameters: Mapping[str, Any], _device_key: str) -> bytes:
    """``A1,1,1,number``: slot, on, also by short message."""
    slot = int(parameters.get("slot") or 1)
    return _text_command(parameters, f"A{slot},1,1,{parameters['number']}")


def _text(parameters: Mapping[str, Any], _device_key: str) -> bytes:
    return _text_command(parameters, str(parameters["text"]))


COMMANDS: Final[Mapping[str, Encode]] = MappingProxyType(
    {
        "locate": _fixed("loc"),
        "ring": _fixed("findme"),
        "sos_number": _sos_number,
        "restart": _fixed("reboot"),
        "power_off": _fixed("off"),
        "factory_reset": _fixed("reset"),
        "text": _text,
    }
)
"""By name: parameters and the terminal's key to a frame."""
