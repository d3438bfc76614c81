"""TK103 (Xexun's ``(ID CMD ...)`` and its copies): locators with text frames, packed or with commas.

Packed: ``(id12 BR00 yymmdd A ddmm.mmmmN dddmm.mmmmE speed hhmmss course status L odometer)``, without separators.
With commas: ``(imei,ZC11,ddmmyy,A,latitudeN,longitudeE,speed,hhmmss,course,altitude,satellites)``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.fixes import is_digits, time_us
from protocols.codecs.h02.status import battery_percent
from protocols.codecs.terminal import Draft, number
from protocols.codecs.tk103.commands import ANSWERED, COMMANDS
from protocols.codecs.tk103.framing import framer
from protocols.codecs.tk103.positions import read_position
from protocols.framing import Framer

ALARMS: Final = {"0": "power_cut", "1": "accident", "2": "sos", "3": "vibration", "4": "low_speed", "5": "overspeed",
                 "6": "fence_exit"}  # fmt: skip
"""The digit behind BO01."""

EVENTS: Final = {
    **dict.fromkeys(("ZC11", "DW31", "DW51"), "motion"),
    **dict.fromkeys(("ZC12", "DW32", "DW52"), "low_battery"),
    **dict.fromkeys(("ZC13", "DW33", "DW53"), "power_cut"),
    **dict.fromkeys(("ZC17", "DW37", "DW57"), "removed"),
    **dict.fromkeys(("ZC25", "DW3E", "DW5E"), "sos"),
    **dict.fromkeys(("ZC26", "DW3F", "DW5F"), "tamper"),
    **dict.fromkeys(("ZC27", "DW40", "DW60"), "low_power"),
}
"""Commands that are an alarm by themselves: ZC, DW3 with a fix, DW5 with cells and access points."""

_IGNITION: Final = {
    **dict.fromkeys(("ZC15", "DW35", "DW55", "ZC29", "DW42", "DW62"), True),
    **dict.fromkeys(("ZC16", "DW36", "DW56"), False),
}

_HEAD: Final = re.compile(r"\(?\s*(\d{8,20})(,?)([A-Z][A-Z][0-9A-Z]{2})", re.ASCII)
_CELL: Final = re.compile(r"\{(\d{1,4}),(\d{1,4}),(\d{1,9}),(\d{1,12})\}", re.ASCII)
_BARE_CELL: Final = re.compile(r",?(\d{1,4}),(\d{1,4}),([0-9A-Fa-f]{1,8}),([0-9A-Fa-f]{1,8}),", re.ASCII)
_ACCESS_POINT: Final = re.compile(r"([0-9A-Fa-f:]{17})\*(-?\d{1,3})(?:\*(\d{1,3}))?", re.ASCII)
_IMEI: Final = re.compile(r"(\d{15})", re.ASCII)

Reader = Callable[["_Message", Draft], None]


class _Message:
    """A frame: ``commas`` says which dialect; ``data`` is what stands behind the command."""

    __slots__ = ("commas", "data", "identity", "kind")

    def __init__(self, identity: str, commas: bool, kind: str, data: str) -> None:
        self.identity = identity
        self.commas = commas
        self.kind = kind
        self.data = data


class Tk103Codec:
    """``ports.TerminalCodec``. The protocol has no checksum, so there is nothing to be lenient about."""

    name = "tk103"
    default_port = 5002
    text = True
    datagrams = True
    commands = COMMANDS

    def __init__(self, *, lenient: bool = False) -> None:
        del lenient

    def framer(self) -> Framer:
        return framer()

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report. Brackets around the frame may be missing. Raises ParseError for what is no frame."""
        text = frame.payload.decode("latin-1").strip()
        head = _HEAD.match(text)
        if head is None:
            raise ParseError("not a TK103 frame: (id, command, data)")
        data = text[head.end() :].removesuffix(")")
        message = _Message(head[1], bool(head[2]), head[3], data)
        draft = Draft(frame, message.identity)
        _read(message, draft)
        draft.reply = _answer(message)
        return [draft.report()]


def _answer(message: _Message) -> bytes | None:
    """Handshake, login and alarms are waited for."""
    content = {"BP00": "AP01HSO", "BP05": "AP05"}.get(message.kind)
    if message.kind == "BO01":
        content = f"AS01{message.data.lstrip(',')[:1]}"
    return None if content is None else f"({message.identity}{content})".encode("ascii", "replace")


def _read(message: _Message, draft: Draft) -> None:
    kind, data = message.kind, message.data
    name = EVENTS.get(kind)
    if name is not None:
        draft.alarm(name)
    ignition = _IGNITION.get(kind)
    if ignition is not None:
        draft.keep("ignition", ignition)
    if kind == "BO01":
        digit = data.lstrip(",")[:1]
        draft.alarm(ALARMS.get(digit, "general"))
        data = data.lstrip(",")[1:]
    reader = _READERS.get(kind)
    if reader is not None:
        reader(message, draft)
    elif kind.startswith("DW5") or kind in ("DW60", "DW62"):
        _network(message, draft)
    elif not read_position(draft, data, commas=message.commas):
        if kind not in ("BP00", "BP05"):
            draft.keep("message", kind)
            if data:
                draft.keep("data", data)
        if kind == "BO01" or name is not None:
            draft.fault("position", "no fix is in the message")
    command = ANSWERED.get(kind)
    if command is not None:
        draft.keep("command_reply", {"command": command, "word": kind})


def _handshake(message: _Message, draft: Draft) -> None:
    """BP00: the IMEI, ``HSO``, and more by maker."""
    imei = _IMEI.match(message.data)
    if imei is not None:
        draft.keep("imei", imei[1])


def _battery(message: _Message, draft: Draft) -> None:
    """ZC20: date, time, battery as a level of 1 to 6, its voltage, the outer one, how it is mounted."""
    fields = [field.strip() for field in message.data.lstrip(",").split(",")]
    _time(draft, fields, 0)
    values = [number(field) for field in fields[2:6]] + [None] * 4
    level, battery, power, mounted = values[:4]
    if level is not None and 1 <= level <= 6:
        draft.measure("battery_percent", battery_percent(level))
    draft.keep("battery_level", level)
    if battery is not None and 0 < battery < 0xFFFF:
        draft.measure("battery_volts", battery / 100)
    if power is not None and 0 <= power < 0xFFFF:
        draft.measure("external_power_volts", power / 10)
    if mounted is not None and mounted != 0xFF:
        draft.keep("mounted", mounted)


def _time(draft: Draft, fields: list[str], at: int) -> None:
    """``ddmmyy`` and ``hhmmss`` in two fields."""
    if at + 1 < len(fields) and fields[at]:
        try:
            draft.at_us = time_us(fields[at], fields[at + 1])
        except ValueError as error:
            draft.fault("time", error)


def _network(message: _Message, draft: Draft) -> None:
    """DW5.: country, operator, area, cell, number of access points, each ``MAC*signal*channel``, date, time."""
    fields = [field.strip() for field in message.data.lstrip(",").split(",")]
    if len(fields) >= 2 and is_digits(fields[-2], 6) and is_digits(fields[-1], 6):
        _time(draft, fields, len(fields) - 2)
    values = [number(field) for field in fields[:4]]
    if len(values) == 4 and None not in values:
        draft.cell(values[0] or 0, values[1] or 0, values[2] or 0, values[3] or 0)
    else:
        draft.fault("cells", "not readable")
    for field in fields[4:]:
        point = _ACCESS_POINT.fullmatch(field)
        if point is not None:
            draft.wifi(point[1], int(point[2]))
    if not draft.unknown.get("network"):
        draft.keep("data", ",".join(fields))


def _cells(message: _Message, draft: Draft) -> None:
    """BZ00: ``{country,operator,area,cell}`` each, or one without braces in hexadecimal, then the status."""
    bare = _BARE_CELL.match(message.data)
    if bare is not None:
        draft.cell(int(bare[1]), int(bare[2]), int(bare[3], 16), int(bare[4], 16))
    for cell in _CELL.finditer(message.data):
        mcc, mnc, lac, cid = (int(value) for value in cell.groups())
        draft.cell(mcc, mnc, lac, cid)
    status = message.data.rsplit(",", 1)[-1].strip()
    if status:
        draft.keep("status", status[:32])


def _result(message: _Message, draft: Draft) -> None:
    """ZC03: date, time, ``$`` what a text command came to ``$``."""
    fields = message.data.lstrip(",").split(",", 2)
    _time(draft, fields, 0)
    text = fields[-1].strip().removeprefix("$").removesuffix("$")
    draft.keep("command_reply", {"command": "text", "text": text[:1000].replace("\0", "")})


def _vehicle(message: _Message, draft: Draft) -> None:
    """BV00: the number of a vehicle."""
    draft.keep("vin", message.data.strip()[:64])


def _cells_of_battery(message: _Message, draft: Draft) -> None:
    """BS50, BS51, ...: ``number:values`` of a battery's management, kept as they are."""
    draft.keep("battery_management", f"{message.kind[2:]}{message.data}" if ":" in message.data else message.data)


_READERS: Final[dict[str, Reader]] = {
    "BP00": _handshake,
    "BZ00": _cells,
    "BV00": _vehicle,
    "ZC20": _battery,
    "ZC03": _result,
    "BS50": _cells_of_battery,
    "BS51": _cells_of_battery,
}
"""Commands whose data is no fix. In all others a fix is looked for, and what has none is kept raw."""
