"""JT/T 808: what terminals say, message by message (JT/T 808-2019, clause 8, and what makers added)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gateway.clock import from_us
from gateway.errors import ParseError
from gateway.model import Frame
from protocols.bits import Cursor, bcd_time_us
from protocols.codecs.fixes import fix
from protocols.codecs.jt808.items import obd_text
from protocols.codecs.jt808.location import ZONE_S, read_location
from protocols.codecs.jt808.wire import Message
from protocols.codecs.terminal import KNOT_M_PER_S, Draft

Reader = Callable[[Message, Frame, list[Draft]], None]
MAX_BATCH: Final = 500
_ON_CHARGER: Final = 0xAA
_PADLOCK_ALARMS: Final = {
    1: ((0, "low_power"),),
    2: ((0, "low_power"),),
    3: ((1, "low_power"), (2, "vibration"), (3, "low_battery")),
}
"""By the kind of padlock."""

COMMAND_OF: Final = {
    0x8105: "", 0x8201: "locate", 0x8202: "track", 0x8203: "silence", 0x8300: "message", 0x8400: "call_back",
    0x8401: "contacts", 0x8103: "",
}  # fmt: skip
"""The command that each platform message is, where it is one alone."""


def _single(read: Callable[[Message, Draft], None]) -> Reader:
    """One report of a message; what cannot be read of it stays raw."""

    def reader(message: Message, frame: Frame, drafts: list[Draft]) -> None:
        draft = Draft(frame, message.key)
        drafts.append(draft)
        try:
            read(message, draft)
        except ParseError as error:
            draft.fault(f"message {message.message_id:04x}", error)
            draft.keep(f"message_{message.message_id:04x}", message.body)

    return reader


# ---- locations -------------------------------------------------------------------------------------------------------


def _location(message: Message, draft: Draft) -> None:
    read_location(message.body, draft)


def _answered_location(message: Message, draft: Draft) -> None:
    """0201, 0500: the serial of the question, then a location."""
    cursor = Cursor(message.body)
    serial = cursor.u16()
    command = "locate" if message.message_id == 0x0201 else ""
    draft.keep("command_reply", {"command": command, "result": "done", "serial": serial})
    read_location(cursor.rest(), draft)


def _batch(message: Message, frame: Frame, drafts: list[Draft]) -> None:
    """0704: count, type (1: from where there was no network), then length (2) and body of each location."""
    cursor = Cursor(message.body)
    count = stored = 0
    if cursor.left >= 3:
        count, stored = cursor.u16(), cursor.u8()
    _items(message, frame, drafts, cursor, 2, stored=stored == 1)
    if count != len(drafts):
        _fault(message, frame, drafts, f"{count} locations stated, {len(drafts)} there")


def _short_batch(message: Message, frame: Frame, drafts: list[Draft]) -> None:
    """0210: battery and time in 7 bytes, or length (1) and body of each location."""
    cursor = Cursor(message.body)
    if cursor.left == 7:
        draft = Draft(frame, message.key)
        battery = cursor.u8()
        if battery <= 100:
            draft.measure("battery_percent", battery)
        _time(cursor.take(6), draft)
        drafts.append(draft)
        return
    _items(message, frame, drafts, cursor, 1, stored=False)


def _items(
    message: Message, frame: Frame, drafts: list[Draft], cursor: Cursor, size: int, *, stored: bool
) -> None:  # fmt: skip
    while cursor.left >= size and len(drafts) < MAX_BATCH:
        length = cursor.uint(size)
        cut = length > cursor.left
        draft = Draft(frame, message.key)
        draft.stored = stored
        body = cursor.take(min(length, cursor.left))
        try:
            read_location(body, draft)
        except ParseError as error:
            draft.fault("location", error)
            draft.keep("location", body)
        if cut:
            draft.fault("location", f"{length} bytes stated, {len(body)} there")
        drafts.append(draft)
    if cursor.left:
        _fault(message, frame, drafts, f"{cursor.left} bytes behind the last location")


def _fault(message: Message, frame: Frame, drafts: list[Draft], what: str) -> None:
    if not drafts:
        drafts.append(Draft(frame, message.key))
        drafts[0].keep(f"message_{message.message_id:04x}", message.body)
    drafts[0].fault("batch", what)


def _time(data: bytes, draft: Draft) -> None:
    try:
        draft.at_us = bcd_time_us(data, ZONE_S)
    except ValueError as error:
        draft.fault("time", error)


def _is_time(data: bytes) -> bool:
    try:
        return bcd_time_us(data, ZONE_S) > 0
    except ValueError:
        return False


def _multimedia(message: Message, draft: Draft) -> None:
    """0801: id, type, format, event, channel, the 28 bytes of a location, data. 0800: without the last two."""
    cursor = Cursor(message.body)
    number = cursor.u32()
    kind, form, event, channel = cursor.u8(), cursor.u8(), cursor.u8(), cursor.u8()
    draft.keep("multimedia", {"id": number, "type": kind, "format": form, "event": event, "channel": channel})
    if message.message_id == 0x0801 and cursor.left >= 28:
        read_location(cursor.take(28), draft)
        draft.keep("multimedia_bytes", cursor.left)


# ---- states ----------------------------------------------------------------------------------------------------------


def _heartbeat(message: Message, draft: Draft) -> None:
    """0002: empty by the standard; some send battery, signal and status."""
    cursor = Cursor(message.body)
    if cursor.left == 3 and cursor.peek() <= 100:
        draft.measure("battery_percent", cursor.u8())
        draft.keep("gsm_signal", cursor.u8())
        draft.keep("status", cursor.u8())
    elif cursor.left:
        draft.keep("heartbeat", cursor.rest())


def _general_answer(message: Message, draft: Draft) -> None:
    """0001: what became of a message of the platform."""
    cursor = Cursor(message.body)
    serial, message_id, result = cursor.u16(), cursor.u16(), cursor.u8()
    draft.keep(
        "command_reply",
        {
            "command": COMMAND_OF.get(message_id, ""),
            "result": "done" if result == 0 else "refused",
            "serial": serial,
            "message_id": f"{message_id:04x}",
            "code": result,
        },
    )


def _parameters(message: Message, draft: Draft) -> None:
    """0104: serial of the question, count, then id (4), length, value of each parameter."""
    cursor = Cursor(message.body)
    serial = cursor.u16()
    cursor.skip(1)
    values: dict[str, str] = {}
    while cursor.left >= 5 and len(values) < 64:
        name = f"{cursor.u32():08x}"
        values[name] = cursor.take(cursor.u8()).hex()
    draft.keep("command_reply", {"command": "parameters", "result": "done", "serial": serial, "values": values})


def _attributes(message: Message, draft: Draft) -> None:
    """0107: type (2), maker 5, model, id, ICCID 10 BCD, hardware, firmware, kinds of satellites and networks."""
    cursor = Cursor(message.body)
    model_width, id_width = (30, 30) if message.version >= 0 else (20, 7)
    draft.keep("terminal_type", cursor.u16())
    cursor.skip(5 if message.version < 0 else 11)
    draft.keep("model", _letters(cursor.take(model_width)))
    cursor.skip(id_width)
    draft.keep("iccid", cursor.take(10).hex())
    draft.keep("hardware", _letters(cursor.take(cursor.u8())))
    draft.keep("firmware", _letters(cursor.take(cursor.u8())))


def _letters(data: bytes) -> str:
    return data.decode("gb18030", "replace").strip("\0 ")


def _driver(message: Message, draft: Draft) -> None:
    """0702: card in or out, time, result, name, certificate 20, authority."""
    cursor = Cursor(message.body)
    draft.keep("card_in", cursor.u8() == 1)
    _time(cursor.take(6), draft)
    if cursor.left:
        draft.keep("card_result", cursor.u8())
        draft.keep("driver", _letters(cursor.take(cursor.u8())))
        draft.keep("card", _letters(cursor.take(min(20, cursor.left))))


# ---- texts -----------------------------------------------------------------------------------------------------------


def _result_text(message: Message, draft: Draft) -> None:
    """0701: length (4), text."""
    cursor = Cursor(message.body)
    length = cursor.u32()
    draft.keep("command_reply", {"command": "", "text": _letters(cursor.take(min(length, cursor.left)))[:500]})


def _reported_text(message: Message, draft: Draft) -> None:
    """6006: encoding (0 GBK, else UTF-16), text."""
    cursor = Cursor(message.body)
    encoding = "gb18030" if cursor.u8() == 0 else "utf-16-be"
    text = cursor.rest().decode(encoding, "replace").strip("\0 ")
    draft.keep("command_reply", {"command": "", "text": text[:500]})


def _wide_text(message: Message, draft: Draft) -> None:
    """1300: serial (2), UTF-16."""
    cursor = Cursor(message.body)
    serial = cursor.u16()
    text = cursor.rest().decode("utf-16-be", "replace").strip("\0 ")
    draft.keep("command_reply", {"command": "message", "serial": serial, "text": text[:500]})


def _acceleration(message: Message, draft: Draft) -> None:
    draft.keep("acceleration", message.body)


# ---- transparent data ------------------------------------------------------------------------------------------------


def _transparent(message: Message, draft: Draft) -> None:
    """0900: type, content."""
    cursor = Cursor(message.body)
    kind = cursor.u8()
    draft.keep("transparent", f"{kind:02x}")
    content = cursor.rest()
    if kind in (0x53, 0x54) and len(content) >= 25:
        _tags(Cursor(content), draft)
    elif kind == 0xF0:
        _trip(content, draft)
    else:
        _transparent_text(content, draft)


def _transparent_text(content: bytes, draft: Draft) -> None:
    """Text, at times behind its length (2); anything else stays raw."""
    for start in (2, 0):
        text = content[start:].rstrip(b"\r\n\0")
        if text and all(0x20 <= byte < 0x7F for byte in text):
            told = text.decode("ascii")
            if told.startswith("GTSL|"):
                draft.keep("driver", (told.split("|") + [""] * 5)[4])
            elif told.startswith("$"):
                obd_text(told, draft)
            draft.keep("text", told)
            return
    draft.keep("content", content)


def _tags(cursor: Cursor, draft: Draft) -> None:
    """Status, latitude, longitude, altitude, speed, course, time; then count and index, MAC 6, signal, data of each."""
    place = cursor.take(12)
    cursor.skip(6)
    _time(cursor.take(6), draft)
    _place(Cursor(place), draft)
    tags: list[dict[str, Any]] = []
    count = cursor.u8()
    while cursor.left >= 9 and len(tags) < min(count, 64):
        index, address, rssi = cursor.u8(), cursor.take(6).hex(":"), cursor.i8()
        data = cursor.take(min(cursor.u8(), cursor.left)).hex()
        tags.append({"index": index, "address": address, "rssi": rssi, "data": data})
    draft.keep("tags", tags)
    if cursor.left:
        draft.keep("tail", cursor.rest())


def _trip(content: bytes, draft: Draft) -> None:
    """F0: time, stored, vehicle, kind, content. Kinds 1 (a trip's figures), 2 (trouble codes) and 3 (alarms) end with
    a place, and most with its time.
    """
    cursor = Cursor(content)
    began = cursor.take(6)
    draft.stored = cursor.u8() > 0
    cursor.skip(1)
    kind = cursor.u8()
    draft.keep("content", cursor.data[cursor.at :])
    if kind == 3:
        _trip_alarms(cursor, draft)
    elif kind == 2:
        _trip_codes(cursor, draft)
    end = content[max(cursor.at, len(content) - 18) :] if kind in (1, 2, 3) else b""
    timed = len(end) == 18 and _is_time(end[12:])
    _time(end[12:] if timed else began, draft)
    if len(end) >= 12:
        _place(Cursor(end[:12] if timed else end[-12:]), draft)


def _place(cursor: Cursor, draft: Draft) -> None:
    """Status, latitude, longitude."""
    status, latitude, longitude = cursor.u32(), cursor.u32() / 1e6, cursor.u32() / 1e6
    fix(draft, -latitude if status & 4 else latitude, -longitude if status & 8 else longitude, valid=bool(status & 2))


def _trip_alarms(cursor: Cursor, draft: Draft) -> None:
    names = {0x01: "power_restored", 0x02: "power_cut", 0x1A: "acceleration", 0x1B: "braking", 0x1C: "cornering"}
    for _ in range(cursor.u8()):
        if cursor.left < 20:
            return
        name = names.get(cursor.u8())
        if name is not None:
            draft.alarm(name)
        cursor.skip(cursor.u8())


def _trip_codes(cursor: Cursor, draft: Draft) -> None:
    codes: list[str] = []
    for _ in range(min(cursor.u16(), 16)):
        cursor.skip(4)
        for _ in range(min(cursor.u16(), 64)):
            cursor.skip(8)
            codes.append(cursor.take(cursor.u16()).decode("latin-1").strip("\0 "))
    draft.keep("dtcs", " ".join(codes))


# ---- padlocks --------------------------------------------------------------------------------------------------------


def _padlock(message: Message, draft: Draft) -> None:
    """5501 to 5506: BCD DDMMYYhhmmss in UTC, ddmm.mmmm, dddmm.mmmm with a nibble of flags, speed, course/2."""
    cursor = Cursor(message.body)
    time = cursor.take(6)
    latitude, longitude = cursor.take(4).hex(), cursor.take(5).hex()
    try:
        draft.at_us = bcd_time_us(time[2::-1] + time[3:])
        flags = int(longitude[9], 16)
        north = int(latitude[:2]) + int(latitude[2:]) / 600_000
        east = int(longitude[:3]) + int(longitude[3:9]) / 600_000
        fix(draft, north if flags & 2 else -north, east if flags & 4 else -east, valid=bool(flags & 1))
    except ValueError as error:
        draft.fault("position", error)
    speed, course = cursor.take(1).hex(), cursor.u8() * 2
    if draft.position is not None and draft.position.valid and speed.isdecimal():
        draft.measure("speed_m_per_s", int(speed) * KNOT_M_PER_S)
        if course <= 360:
            draft.measure("course_degrees", course)
    _padlock_state(cursor, draft)


def _padlock_state(cursor: Cursor, draft: Draft) -> None:
    """Signal, satellites, kilometres, battery (AA: charging), cell, kind of lock, states, alarms; the rest raw."""
    if cursor.left < 18:
        draft.keep("lock", cursor.rest())
        return
    draft.keep("gsm_signal", cursor.u8())
    draft.keep("satellites", cursor.u8())
    draft.measure("odometer_m", cursor.u32() * 1000)
    battery = cursor.u8()
    if battery <= 100:
        draft.measure("battery_percent", battery)
    elif battery == _ON_CHARGER:
        draft.keep("charging", value=True)
    cid, lac = cursor.u32(), cursor.u16()
    draft.keep("cell", {"lac": lac, "cid": cid})  # which operator's, it does not say
    kind, states, alarms = cursor.u8(), cursor.u16(), cursor.u16()
    draft.keep("lock", {"kind": kind, "states": f"{states:04x}", "alarms": f"{alarms:04x}"})
    draft.alarm(*(name for bit, name in _PADLOCK_ALARMS.get(kind, ()) if alarms >> bit & 1))
    if cursor.left:
        draft.keep("tail", cursor.rest())


# ---- the platform's clock --------------------------------------------------------------------------------------------


def clock_answer(now_us: int) -> bytes:
    """8109: year (2), month, day, hour, minute, second in UTC, result."""
    now = from_us(now_us)
    return now.year.to_bytes(2, "big") + bytes([now.month, now.day, now.hour, now.minute, now.second, 0])


def time_answer(now_us: int, *, zone_s: int = 0) -> bytes:
    """8004: BCD YYMMDDhhmmss in UTC."""
    return bytes.fromhex(from_us(now_us + zone_s * 1_000_000).strftime("%y%m%d%H%M%S"))


READERS: Final[dict[int, Reader]] = {
    0x0001: _single(_general_answer),
    0x0002: _single(_heartbeat),
    0x0104: _single(_parameters),
    0x0107: _single(_attributes),
    0x0200: _single(_location),
    0x0201: _single(_answered_location),
    0x0210: _short_batch,
    0x0500: _single(_answered_location),
    0x0506: _single(_heartbeat),
    0x0701: _single(_result_text),
    0x0702: _single(_driver),
    0x0704: _batch,
    0x0800: _single(_multimedia),
    0x0801: _single(_multimedia),
    0x0900: _single(_transparent),
    0x1300: _single(_wide_text),
    0x2070: _single(_acceleration),
    0x6006: _single(_reported_text),
    **{message_id: _single(_padlock) for message_id in range(0x5501, 0x5507)},
}
