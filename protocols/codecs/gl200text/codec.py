"""Queclink's text protocol (@Track; GL, GT, GB, GV families): ``+RESP:GTxxx,version,id,...,time,count$``.

Layouts differ between some hundred models; what they share is how they write a place, a cell and an access point.
Those are found wherever they stand, so that a model nobody has seen yet still says where it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.bits import digits_time_us
from protocols.codecs.gl200text.blocks import Fix, find_fixes, find_network
from protocols.codecs.gl200text.commands import COMMANDS, answered
from protocols.codecs.gl200text.kinds import lone_battery, read_kind, tail_battery
from protocols.codecs.terminal import Draft, conversation, decimal
from protocols.framing import Framer

MAX_FRAME_BYTES: Final = 8192
_HEADS: Final = (b"+RESP:", b"+BUFF:", b"+ACK:")
_SENTENCE: Final = re.compile(r"\+(RESP|BUFF|ACK):GT([0-9A-Z]{2,4}),")
_VERSION: Final = re.compile(r"[0-9A-Z]{6}(?:[0-9A-F]{4})?")
_IDENTITY: Final = re.compile(r"[0-9A-Za-z]{14,17}")
_TIME: Final = re.compile(r"\d{14}")
_COUNT: Final = re.compile(r"[0-9A-F]{4}")
_NO_BATTERY: Final = frozenset({"INF", "GSM", "CAN", "OBD", "VER", "CID", "CSQ", "TMZ", "ALL", "GSV", "PDP"})


def _cut(buffer: bytes, at: int, seen: int) -> tuple[int, int]:
    """From a known head to ``$`` or NUL."""
    del seen
    begin = buffer.find(b"+", at)
    while begin >= 0:
        start = buffer[begin : begin + 6]
        if any(start.startswith(head) or head.startswith(start) for head in _HEADS):
            ends = [end for end in (buffer.find(b"$", begin), buffer.find(b"\0", begin)) if end >= 0]
            return (begin, min(ends) + 1) if ends else (begin, begin)
        begin = buffer.find(b"+", begin + 1)
    return len(buffer), len(buffer)


class Gl200TextCodec:
    """``ports.TerminalCodec``. Every sentence names its terminal (IMEI, MEID or serial number)."""

    name = "gl200text"
    default_port = 5004
    text = True
    datagrams = True
    commands = COMMANDS

    def __init__(self, *, lenient: bool = False) -> None:
        del lenient  # there is no checksum

    def framer(self) -> Framer:
        return Framer(_cut, limit=MAX_FRAME_BYTES)

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report for each place, at least one. Raises ParseError for what is no sentence."""
        text = frame.payload.decode("latin-1").strip("\0\r\n $")
        head = _SENTENCE.match(text)
        if head is None:
            raise ParseError("not a Queclink sentence: +RESP:GT..., +BUFF:GT... or +ACK:GT...")
        how, kind = head.groups()
        fields = text[head.end() :].split(",")
        if len(fields) < 2 or not _VERSION.fullmatch(fields[0]) or not _IDENTITY.fullmatch(fields[1]):
            if not _IDENTITY.fullmatch(fields[0]) or not find_fixes(fields):
                return [_kept(frame, kind, fields, text)]
            fields = ["", *fields]  # the oldest terminals have no version
        if how == "ACK":
            return [_acknowledged(frame, kind, fields)]
        return _reported(frame, kind, fields, stored=how == "BUFF")


def _kept(frame: Frame, kind: str, fields: list[str], text: str) -> Report:
    """A sentence in no layout of this protocol: as it is, with the alarm that its kind is."""
    draft = Draft(frame, fields[0] if _IDENTITY.fullmatch(fields[0]) else "")
    draft.keep("sentence", text)
    draft.fault("version", "not where this protocol has it")
    read_kind(kind, [], draft, only_alarms=True)
    return draft.report()


def _split_end(fields: list[str]) -> tuple[list[str], str, str]:
    """What stands between the identity and the end, the time of sending, the running number."""
    body = fields[2:]
    count = send_time = ""
    if body and _COUNT.fullmatch(body[-1].upper()) and len(body) > 1:
        count = body.pop().upper()
    if body and _TIME.fullmatch(body[-1]):
        send_time = body.pop()
    elif body and not body[-1] and count:
        body.pop()
    return body, send_time, count


def _acknowledged(frame: Frame, kind: str, fields: list[str]) -> Report:
    """What a terminal says of a command; ``GTHBD`` is its heartbeat, which waits for an answer."""
    body, send_time, count = _split_end(fields)
    if kind == "HBD":
        reply = f"+SACK:GTHBD,{fields[0]},{count}$".encode()
        return conversation(frame, device_key=fields[1], reply=reply)
    draft = Draft(frame, fields[1])
    draft.at_us = _time(send_time, draft)
    draft.keep("command_reply", answered(kind, body[1:]))
    return draft.report()


def _reported(frame: Frame, kind: str, fields: list[str], *, stored: bool) -> list[Report]:
    body, send_time, count = _split_end(fields)
    fixes = find_fixes(body)
    drafts = []
    for _ in range(max(1, len(fixes))):
        draft = Draft(frame, fields[1])
        draft.stored = stored
        drafts.append(draft)
    last = drafts[-1]
    sent_us = _time(send_time, last) if send_time else 0
    for draft, fix in zip(drafts, fixes, strict=False):
        _place(fix, sent_us, draft)
    if not fixes:
        last.at_us = sent_us
    behind = find_network(body, fixes, drafts)
    read_kind(kind, body, last, fix=fixes[0] if fixes else None)
    tail = body[behind:] if behind else []
    if "battery_percent" not in last.measurements and kind not in _NO_BATTERY:
        last.measure("battery_percent", tail_battery(tail) if tail else lone_battery(body) if not fixes else None)
    if any(tail):
        last.keep("tail", ",".join(tail).strip(","))
    if count:
        last.reply = f"+SACK:{count}$".encode()
    for index, draft in enumerate(drafts):
        draft.keep("report", kind)
        if draft.at_us and count:
            draft.dedup_key = f"{kind}-{count}-{send_time or draft.at_us}-{index}"
    return [draft.report() for draft in drafts]


def _time(text: str, draft: Draft) -> int:
    try:
        return digits_time_us(text)
    except ValueError as error:
        draft.fault("time", error)
        return 0


def _place(fix: Fix, sent_us: int, draft: Draft) -> None:
    """An accuracy of 0 is a receiver without a fix that repeats its last place.

    Then the time of the place is that of the last fix, and the report's is when it was sent.
    """
    fixed_us = _time(fix.time, draft)
    draft.at_us = fixed_us if fix.valid or not sent_us else sent_us
    draft.place(fix.longitude_latitude[1], fix.longitude_latitude[0], valid=fix.valid, at_us=fixed_us)
    if not fix.valid or draft.position is None:
        return
    speed = decimal(fix.speed)
    draft.measure("speed_m_per_s", None if speed is None else speed / 3.6)
    course = decimal(fix.course)
    draft.measure("course_degrees", course if course is not None and course <= 360 else None)
    draft.measure("altitude_m", decimal(fix.altitude))
