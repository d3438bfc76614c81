"""SIA DC-09 receiver: Contact ID (ADM-CID) and SIA (SIA-DCS) events of telecare units and alarm panels, link tests.

Answers: ACK for what is understood, DUH for what cannot be processed or kept, NAK (with our time) for an encrypted
message whose clock is off, nothing for a frame whose CRC or length is wrong.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from gateway.clock import US_PER_S
from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs import dc09_frame as wire
from protocols.codecs.terminal import Draft, clean_text
from protocols.framing import Framer

MAX_EVENTS: Final = 16
RESEND_S: Final = 60  # frames without a time that are the same within this are one
TESTS: Final = frozenset({"NULL", "XNM"})
_CODES: Final = Path(__file__).with_name("dc09_codes.csv")
_CID: Final = re.compile(r"([136]) ?([0-9]{3}) ?([0-9A-F]{2}) ?([0-9A-F]{3})(?![0-9A-F])")
_DCS: Final = re.compile(r"([a-z]{2})([^/|\]^]*)|([A-Z]{2})([0-9A-F]{0,5})(?:\^([^^]*)\^)?")
_XDATA: Final = re.compile(r"\[([A-Z])([^\[\]]*)\]")
_DEGREES: Final = re.compile(r"(\d{1,3})([NSEW])(\d{1,2}(?:\.\d{1,8})?)")
_HANGING: Final = re.compile(r"_(\d\d:\d\d:\d\d,\d\d-\d\d-\d{4})$")
NO_KEYS: Final[Mapping[str, bytes]] = MappingProxyType({})


class Dc09Codec:
    """``ports.TerminalCodec``. The account is what the registry knows a unit by (its serial number).

    ``keys`` by account, ``*`` for the others. An account that has a key proves itself by it: what comes unencrypted in
    its name, or encrypted with another key, is not believed.
    """

    name = "dc09"
    default_port = 5094
    text = True
    datagrams = True

    def __init__(self, *, lenient: bool = False, keys: Mapping[str, bytes] = NO_KEYS) -> None:
        self._lenient = lenient
        self._keys = keys

    def framer(self) -> Framer:
        return wire.framer()

    def declined(self, reply: bytes) -> bytes:
        """What a sender is told in place of this reply when its frame could not be kept, or nobody knows it: DUH."""
        if b'"NAK"' in reply:
            return reply
        try:
            message = wire.take_apart(reply)
        except ParseError:
            return b""
        return wire.build("DUH", message.seq, wire.route(message.receiver, message.line, message.account), "]")

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report. Raises ParseError for what is no frame of a sender, and for a wrong CRC or length."""
        message = wire.take_apart(frame.payload, lenient=self._lenient)
        if message.id not in _READERS and message.id not in TESTS:
            raise ParseError(f'"{message.id}" is not one of ADM-CID, SIA-DCS, NULL')
        if message.content is None or not message.account:
            raise ParseError("no account or no data")
        draft = Draft(frame, message.account)
        for fault in message.faults:
            draft.fault("frame", fault)
        key = self._keys.get(message.account) or self._keys.get("*")
        text = self._open(message, key, frame, draft)
        if text is None:
            return [draft.report()]
        self._understand(message, text, draft)
        if draft.reply is None:
            draft.reply = _ack(message, key if message.encrypted else None, frame)
        return [draft.report()]

    def _open(self, message: wire.Message, key: bytes | None, frame: Frame, draft: Draft) -> str | None:
        """What stands behind the bracket, in clear; None when it cannot be read. Sets proof, time and refusals."""
        text = message.content or ""
        if not message.encrypted:
            if key is not None:
                draft.proof = False
                draft.fault("encryption", "this account has a key, but the message is not encrypted")
                draft.reply = wire.build("DUH", message.seq, _route(message), "]")
            _learn_time(text, draft)
            return text
        opened = None if key is None else wire.decrypt(key, text)
        inner = "" if opened is None else opened.removeprefix("#").partition("|")[0].upper()
        about = message.id in TESTS or (bool(inner) and inner.strip("0123456789ABCDEF") == "")
        if opened is None or not about or (message.id not in TESTS and inner != message.account):
            draft.proof = False
            draft.fault(
                "encryption", "no key for this account" if key is None else "not encrypted with this account's key"
            )
            draft.reply = wire.build("DUH", message.seq, _route(message), "]")
            return None
        _learn_time(opened, draft)
        ahead_us = draft.at_us - frame.received_at_us
        draft.proof = bool(draft.at_us) and -wire.LATE_S * US_PER_S <= ahead_us <= wire.EARLY_S * US_PER_S
        if not draft.proof:
            draft.fault("time", f"off by {ahead_us / US_PER_S:.0f} s" if draft.at_us else "none, although encrypted")
            draft.reply = wire.build("NAK", "0000", "R0L0A0", "]" + wire.stamp(frame.received_at_us))
        return opened

    def _understand(self, message: wire.Message, text: str, draft: Draft) -> None:
        sent_us = draft.at_us
        data, _, rest = text.partition("]")
        data = data.partition("|")[2] if data.startswith("#") else data.removeprefix("|")
        digest = hashlib.sha256(f"{message.id}{data}{rest}".encode()).hexdigest()[:16]
        timed = sent_us and message.id not in TESTS  # all link tests of a unit may look alike
        bucket = "" if timed else f"/{draft.received_at_us // (RESEND_S * US_PER_S)}"
        draft.dedup_key = f"{message.seq}/{digest}{bucket}"
        draft.keep("line", _route(message))
        _extras(rest, draft)
        if message.id in TESTS:
            draft.keep("link_test", True)
            return
        draft.keep("data", data)
        _READERS[message.id](data, draft)


def _route(message: wire.Message) -> str:
    return wire.route(message.receiver, message.line, message.account)


def _ack(message: wire.Message, key: bytes | None, frame: Frame) -> bytes:
    route = _route(message)
    if key is None:
        return wire.build("ACK", message.seq, route, "]")
    salt = b"%d/" % frame.received_at_us + frame.payload
    content = wire.encrypt(key, "]" + wire.stamp(frame.received_at_us), salt)
    return wire.build("ACK", message.seq, route, content, encrypted=True)


def _learn_time(text: str, draft: Draft) -> None:
    found = _HANGING.search(text)
    if found is None:
        return
    at_us = wire.stamp_us(found[1])
    if at_us is None or at_us <= 0:
        draft.fault("time", f"{found[1]} is no time")
    else:
        draft.at_us = at_us


def _extras(text: str, draft: Draft) -> None:
    """Extended data: ``H`` when it happened, ``X`` and ``Y`` where, the others as they are."""
    kept: dict[str, str] = {}
    place: dict[str, float] = {}
    for letter, value in _XDATA.findall(text)[:MAX_EVENTS]:
        if letter == "H" and (at_us := wire.stamp_us(value.strip())):
            draft.at_us = at_us if at_us > 0 else draft.at_us
        elif letter in "XY" and (degrees := _degrees(value.strip())) is not None:
            place[letter] = degrees
        else:
            kept[letter] = clean_text(value)
    if kept:
        draft.keep("extra", kept)
    if len(place) == 2:
        draft.place(place["Y"], place["X"])


def _degrees(value: str) -> float | None:
    """``093W23.456``: degrees, hemisphere, minutes."""
    found = _DEGREES.fullmatch(value)
    if found is None or float(found[3]) >= 60:
        return None
    degrees = int(found[1]) + float(found[3]) / 60
    return -degrees if found[2] in "SW" else degrees


# ---- events ----------------------------------------------------------------------------------------------------------


@cache
def codes(group: str) -> Mapping[str, tuple[str, str, str]]:
    """The table of a set of codes (``cid``, ``sia``): signal (a leading minus: it ended), when restored, meaning."""
    with _CODES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return MappingProxyType(
        {row["code"]: (row["signal"], row["restored"], row["meaning"]) for row in rows if row["set"] == group}
    )


def _signal(name: str, draft: Draft) -> None:
    if name:
        draft.signal(name.removeprefix("-"), active=not name.startswith("-"))


def _contact_id(data: str, draft: Draft) -> None:
    """``Qeee gg zzz``: 1 begins, 3 ends, 6 still holds."""
    events: list[dict[str, str]] = []
    for qualifier, code, group, zone in _CID.findall(data.upper())[:MAX_EVENTS]:
        signal, restored, meaning = codes("cid").get(code, (_UNNAMED_CID.get(code[0], ""), "", ""))
        events.append({"qualifier": qualifier, "code": code, "group": group, "zone": zone, "meaning": meaning})
        if qualifier == "3":
            _signal(restored or (f"-{signal}" if signal and signal not in _AT_ONCE else ""), draft)
        else:
            _signal(signal, draft)
    _keep_events(events, data, draft)


def _sia(data: str, draft: Draft) -> None:
    """``Nri1/QA501``: modifiers in lower case, events in upper case with a zone, texts between carets."""
    events: list[dict[str, str]] = []
    modifiers: dict[str, str] = {}
    body = data[1:] if data[:1] in ("N", "O") and not codes("sia").get(data[:2]) else data
    for modifier, value, code, zone, text in _DCS.findall(body):
        if modifier:
            modifiers[modifier] = clean_text(value)[:32]
            continue
        if len(events) >= MAX_EVENTS:
            break
        signal, _, meaning = codes("sia").get(code, (_UNNAMED_SIA.get(code[1], ""), "", ""))
        events.append({"code": code, "zone": zone, "meaning": meaning, **({"text": clean_text(text)} if text else {})})
        _signal(signal, draft)
    if modifiers:
        draft.keep("modifiers", dict(list(modifiers.items())[:MAX_EVENTS]))
    _keep_events(events, data, draft)


def _keep_events(events: list[dict[str, str]], data: str, draft: Draft) -> None:
    draft.keep("events", events)
    unnamed = [event["code"] for event in events if not event["meaning"]]
    if unnamed:
        draft.fault("event", f"no meaning is known for {', '.join(unnamed)}: somebody has to look at it")
    if not events:  # its sender believes that it has told something
        draft.signal("service_call")
        draft.fault("event", f"{clean_text(data)[:40]!r} has no event that can be read: somebody has to look at it")


_READERS: Final = {"ADM-CID": _contact_id, "SIA-DCS": _sia}
_UNNAMED_CID: Final = {"1": "service_call", "3": "device_fault"}
_UNNAMED_SIA: Final = {"A": "service_call", "T": "device_fault"}
_AT_ONCE: Final = frozenset({"test", "call_cancelled", "no_answer", "service_call"})
"""Signals of a moment: they do not end."""
