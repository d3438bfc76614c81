"""H02: texts ``*HQ,id,TYPE,...#`` and binary frames ``$``. Vehicle and pet trackers, pendants, LK watches.

No login, no checksum: every frame carries the id. Alarms are bits of a status word that are *not* set.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from gateway.clock import from_us
from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.bits import bcd_digits
from protocols.codecs.fixes import fix, is_digits, time_us
from protocols.codecs.h02.commands import COMMANDS, WORDS
from protocols.codecs.h02.framing import H02Framer
from protocols.codecs.h02.status import battery_percent, read_status
from protocols.codecs.h02.texts import FIELDS, read_position
from protocols.codecs.terminal import KNOT_M_PER_S, Draft, conversation, decimal, number

_POSITION: Final = re.compile(r"V[0-9]{1,2}|VI[0-9]|VP1|V[A-Z]{1,2}[0-9]?", re.ASCII)
_CONFIRMED: Final = frozenset({"V1", "V2", "V5", "V6", "V8", "V19", "VI1"})

Reader = Callable[["_Message", Draft], str | None]
"""Reads a text message into the draft, and says the answer (None: none)."""


class _Message:
    """A text frame: its fields behind the type, and what answers begin with."""

    __slots__ = ("fields", "kind", "now_us", "prefix")

    def __init__(self, prefix: str, kind: str, fields: list[str], now_us: int) -> None:
        self.prefix = prefix
        self.kind = kind
        self.fields = fields
        self.now_us = now_us


class H02Codec:
    """``ports.TerminalCodec``. The protocol has no checksum, so there is nothing to be lenient about.

    ``also_text``: its frames are texts or bytes.
    """

    name = "h02"
    default_port = 5013
    text = False
    also_text = True
    datagrams = True
    commands = COMMANDS

    def __init__(self, *, lenient: bool = False) -> None:
        del lenient

    def framer(self) -> H02Framer:
        return H02Framer()

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report. Raises ParseError for what is no frame."""
        payload = frame.payload
        if payload.startswith(b"$"):
            return [_binary(frame, payload)]
        if payload.startswith(b"X") and len(payload) == 32:
            return [conversation(frame)]
        return [_text(frame, payload)]


# ---- texts -----------------------------------------------------------------------------------------------------------


def _text(frame: Frame, payload: bytes) -> Report:
    text = payload.decode("latin-1").strip()
    if not text.startswith("*") or "#" not in text:
        raise ParseError("not an H02 frame: *..# or $..")
    fields = text[1 : text.index("#")].split(",")
    if len(fields) < 3:
        raise ParseError("an H02 text without maker, id and type")
    maker, identity, kind = fields[0], fields[1].strip(), fields[2].strip().upper()
    draft = Draft(frame, identity[:32])
    message = _Message(f"*{maker},{identity},", kind, fields[3:], frame.received_at_us)
    read = _READERS.get(kind)
    if read is None:
        read = _position if _POSITION.fullmatch(kind) else _unknown
    answer = read(message, draft)
    if answer:
        draft.reply = answer.encode("latin-1", "replace")
    return draft.report()


def _stamp(message: _Message) -> str:
    return from_us(message.now_us).strftime("%Y%m%d%H%M%S")


def _confirmation(message: _Message) -> str:
    return f"{message.prefix}V4,{message.kind},{_stamp(message)}#"


def _position(message: _Message, draft: Draft) -> str | None:
    if not read_position(draft, message.fields):
        if message.kind == "V0":
            return _heartbeat(message, draft)
        draft.fault("position", "no fix is in the message")
        draft.keep("message", message.kind)
        draft.keep("data", ",".join(message.fields))
    return _confirmation(message) if message.kind in _CONFIRMED else None


def _answer(message: _Message, draft: Draft) -> None:
    """V4: the command that was carried out, its results, often the time of the command, then a position."""
    fields = message.fields
    word = fields[0].strip() if fields else ""
    fix_at = next((at for at, field in enumerate(fields) if field in ("A", "V", "B")), len(fields))
    read_position(draft, fields)
    texts = [field for field in fields[1 : max(fix_at - 1, 1)] if field]
    if texts and fix_at < len(fields) and is_digits(texts[-1], 6):
        texts.pop()  # the time of day that was in the command
    refused = any(text.upper() in ("ERROR", "FAIL", "FAILED", "UNKNOWN") for text in texts)
    reply = {"command": WORDS.get(word.upper(), ""), "word": word, "result": "refused" if refused else "done"}
    if texts:
        reply["text"] = ",".join(texts)[:200]
    if not reply["command"]:
        draft.keep("result", reply)  # of something that was not said by name here: it confirms nothing
    else:
        draft.keep("command_reply", reply)


def _heartbeat(message: _Message, draft: Draft) -> str:
    """HTBT, V0: the battery in percent, perhaps."""
    if message.fields:
        value = decimal(message.fields[0])
        if value is not None:
            draft.measure("battery_percent", value)
    return f"{message.prefix}{message.kind}#"


def _cells(message: _Message, draft: Draft) -> str:
    """NBR: time, country, operator, timing advance, count, three fields a cell, date, status, battery level."""
    fields = message.fields
    count = number(fields[4]) if len(fields) > 4 else None
    if count is None or not 0 <= count <= 64:
        draft.fault("cells", "no number of cells")
        count = 0
    mcc, mnc = (number(field) for field in (*fields[1:3], "", "")[:2])
    for at in range(5, min(5 + 3 * count, len(fields) - 2), 3):
        lac, cid, rssi = (number(field) for field in fields[at : at + 3])
        if None not in (mcc, mnc, lac, cid):
            draft.cell(mcc or 0, mnc or 0, lac or 0, cid or 0, rssi)
    _tail(draft, fields, 5 + 3 * count)
    return _confirmation(message)


def _link(message: _Message, draft: Draft) -> None:
    """LINK: time, signal, satellites, battery, steps, rolls, date, status."""
    fields = [*message.fields, *[""] * 8]
    for at, name in ((1, "gsm_percent"), (2, "satellites"), (5, "rolls")):
        draft.keep(name, number(fields[at]))
    draft.measure("battery_percent", decimal(fields[3]))
    draft.measure("steps", number(fields[4]))
    _tail(draft, message.fields, 6)


def _cells_3(message: _Message, draft: Draft) -> None:
    """V3: time, country and operator, count, four fields a cell, battery, restarts, X, date, status."""
    fields = [*message.fields, *[""] * 3]
    count = max(0, number(fields[2]) or 0)
    operator = fields[1]
    if is_digits(operator, len(operator)) and 5 <= len(operator) <= 6:
        for at in range(3, min(3 + 4 * min(count, 16), len(message.fields)), 4):
            lac, cid = (number(field) for field in (*message.fields[at : at + 2], "")[:2])
            if lac is not None and cid is not None:
                draft.cell(int(operator[:3]), int(operator[3:]), lac, cid)
    at = 3 + 4 * min(count, 16)
    draft.keep("battery_raw", number(message.fields[at], base=16) if at < len(message.fields) else None)
    draft.keep("restarts", number(message.fields[at + 1]) if at + 1 < len(message.fields) else None)
    _tail(draft, message.fields, at + 3)


def _tail(draft: Draft, fields: list[str], at: int) -> None:
    """A date and a status at a place; the time is the first field. Then perhaps the battery as a level."""
    if at < len(fields) and fields[0] and fields[at]:
        try:
            draft.at_us = time_us(fields[at], fields[0])
        except ValueError as error:
            draft.fault("time", error)
    if at + 1 < len(fields):
        read_status(draft, fields[at + 1])
    if at + 2 < len(fields):
        level = number(fields[at + 2])
        if level is not None and 1 <= level <= 6:
            draft.measure("battery_percent", battery_percent(level))


def _watch_position(message: _Message, draft: Draft) -> None:
    """VP1: ``V`` and cells with their country and operator, or ``A`` and a fix without a time of day."""
    fields = message.fields
    if fields and fields[0] == "V":
        first, *others = ",".join(fields[1:]).split("Y")
        operator = [number(field) for field in first.split(",")[:2]]
        cells = [first.split(",")[2:], *(other.split(",") for other in others)]
        if len(operator) == 2 and None not in operator:
            for cell in cells[:64]:
                lac, cid, rssi = (number(field) for field in [*cell, "", "", ""][:3])
                if lac is not None and cid is not None:
                    draft.cell(operator[0] or 0, operator[1] or 0, lac, cid, rssi)
        if not draft.unknown:
            draft.fault("cells", "not readable")
    elif not read_position(draft, fields):
        draft.fault("position", "no fix is in the message")


def _message_text(message: _Message, draft: Draft) -> None:
    draft.keep("text", ",".join(message.fields))


def _unknown(message: _Message, draft: Draft) -> None:
    if not read_position(draft, message.fields):
        draft.keep("message", message.kind[:32])
        if message.fields:
            draft.keep("data", ",".join(message.fields))


_READERS: Final[dict[str, Reader]] = {
    "V3": _cells_3,
    "V4": _answer,
    "VP1": _watch_position,
    "NBR": _cells,
    "LINK": _link,
    "HTBT": _heartbeat,
    "SMS": _message_text,
}
"""By type; other types that begin with V are positions, and so is whatever has a fix in it."""


# ---- binary ----------------------------------------------------------------------------------------------------------


def _binary(frame: Frame, payload: bytes) -> Report:
    """id, hh mm ss dd mm yy, latitude, battery, longitude with flags, speed and course, status; the rest is kept."""
    long_id = len(payload) == 42
    head = 9 if long_id else 6
    if len(payload) < head + FIELDS:
        raise ParseError(f"a binary frame of {len(payload)} bytes; it has at least {head + FIELDS}")
    digits = payload[1:head].hex()
    draft = Draft(frame, digits[:15] if long_id else digits)
    stamp = payload[head : head + 6].hex()
    try:
        draft.at_us = time_us(stamp[6:], stamp[:6])
    except ValueError as error:
        draft.fault("time", error)
    at = head + 6
    level = payload[at + 4]
    if 0xF1 <= level <= 0xF6:
        draft.measure("battery_percent", battery_percent(level & 0x0F))
    elif 0 < level <= 100:
        draft.measure("battery_percent", battery_percent(level))
    longitude = payload[at + 5 : at + 10]
    flags = longitude[4] & 0x0F
    try:
        north = _degrees(bcd_digits(payload[at : at + 4]), 2)
        east = _degrees(longitude.hex()[:9], 3)
    except ValueError as error:
        draft.fault("position", error)
    else:
        valid = bool(flags & 2)
        fix(draft, north if flags & 4 else -north, east if flags & 8 else -east, valid=valid)
        motion = payload[at + 10 : at + 13].hex()
        if valid and motion.isdecimal():
            draft.measure("speed_m_per_s", int(motion[:3]) * KNOT_M_PER_S)
            if int(motion[3:]) <= 360:
                draft.measure("course_degrees", int(motion[3:]))
    read_status(draft, payload[at + 13 : at + 17].hex())
    if any(payload[at + 17 :]):
        draft.keep("rest", payload[at + 17 :])
    return draft.report()


def _degrees(digits: str, whole: int) -> float:
    """``ddmmmmmm`` or ``dddmmmmmm``: degrees, then minutes times 10,000. Raises ValueError."""
    if not digits.isdecimal():
        raise ValueError(f"{digits} is not decimal")
    minutes = int(digits[whole:]) / 10_000
    if minutes >= 60:
        raise ValueError(f"{minutes:g} minutes")
    return round(int(digits[:whole]) + minutes / 60, 7)
