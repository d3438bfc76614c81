"""JT/T 808: terminals of the Chinese ministry's standard (2011, 2013, 2019), among them most NB-IoT and 4G pendants.

A terminal registers (0100), gets an authentication code, proves itself with it (0102), and reports. Almost every
message waits for the platform's general answer (8001), which goes out after the commit.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import zlib
from collections.abc import Sequence
from typing import Any, Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.jt808.commands import COMMANDS
from protocols.codecs.jt808.messages import READERS, clock_answer, time_answer
from protocols.codecs.jt808.parts import take_part
from protocols.codecs.jt808.wire import Jt808Framer, Message, read_message, write_message
from protocols.codecs.terminal import Draft, conversation

REGISTER: Final = 0x0100
AUTHENTICATE: Final = 0x0102
SYNCHRONIZE: Final = 0x0109
ASK_TIME: Final = 0x0004
MULTIMEDIA: Final = 0x0801
PHOTO: Final = 0x8888  # upwards, whatever its number
GENERAL_ANSWER: Final = 0x8001
OK, FAILURE, NOT_SUPPORTED = 0, 1, 3

_NO_ANSWER: Final = frozenset({
    0x0001, 0x0104, 0x0201, 0x0302, 0x0500, 0x0608, 0x0700, 0x0701, 0x0702, 0x0802, 0x0805, 0x1205, 0x1300, 0x2070,
})  # fmt: skip
"""Answers to the platform's own questions, and what terminals expect no answer to."""

CODE_HEX: Final = 20


class Jt808Codec:
    """``ports.TerminalCodec``.

    Authentication codes are a keyed hash of the terminal's id under the site's secret: nobody can work one out, and
    they need no table and survive a restart as long as the secret does. Without a secret a random one is taken.

    The context of a connection is ``{"serial": the platform's next number, "version": header version, "parts": ...}``.
    """

    name = "jt808"
    default_port = 5015
    text = False
    also_text = True
    datagrams = True
    commands = COMMANDS

    def __init__(self, *, lenient: bool = False, secret: bytes = b"") -> None:
        self._lenient = lenient
        self._secret = secret or secrets.token_bytes(32)

    def use_secret(self, secret: bytes) -> None:
        """Take the site's own secret instead of the random one. Raises ValueError for less than 16 bytes."""
        if len(secret) < 16:
            raise ValueError("a secret for authentication codes needs at least 16 bytes")
        self._secret = secret

    def framer(self) -> Jt808Framer:
        return Jt808Framer()

    def code_of(self, terminal_key: str) -> str:
        """The authentication code of a terminal."""
        digest = hmac.new(self._secret, b"jt808 authentication " + terminal_key.lstrip("0").encode(), hashlib.sha256)
        return digest.hexdigest()[:CODE_HEX]

    def parse(self, frame: Frame) -> Sequence[Report]:
        """Reports in order; those of a batch are several. Raises ParseError for what is no frame, and for a wrong
        check code unless lenient.
        """
        if frame.payload[:1] == b"(":
            return [_text_frame(frame)]
        message = read_message(frame.payload, lenient=self._lenient)
        known = dict(frame.context or {})
        whole: Message | None = message
        if message.total > 1:
            whole, known["parts"] = take_part(message, known.get("parts"), frame.received_at_us)
        reports = [self._part(frame, message)] if whole is None else self._read(frame, whole)
        first = reports[0]
        first.device_key = message.key
        serial = int(known.get("serial", 0))
        if first.reply is None:
            first.reply = self._answer(frame, message, whole, serial, first)
        if first.reply is not None:
            known["serial"] = serial + 1 & 0xFFFF
        known["version"] = message.version
        reports[-1].context = {name: value for name, value in known.items() if value is not None}
        if message.faults:
            first.faults = [*message.faults, *(first.faults or ())]
        return reports

    def _part(self, frame: Frame, message: Message) -> Report:
        """A part whose message is not whole yet: kept raw, answered."""
        draft = Draft(frame, message.key)
        draft.keep("part", f"{message.number}/{message.total}")
        draft.keep("message_id", f"{message.message_id:04x}")
        return draft.report()

    def _read(self, frame: Frame, message: Message) -> list[Report]:
        if message.encrypted:
            draft = Draft(frame, message.key)
            draft.fault("body", "encrypted, which this gateway does not read")
            draft.keep(f"message_{message.message_id:04x}", message.body)
            return [draft.report()]
        if message.message_id == REGISTER:
            return [_registered(frame, message)]
        if message.message_id == AUTHENTICATE:
            return [self._authenticated(frame, message)]
        reader = READERS.get(message.message_id)
        drafts: list[Draft] = []
        if reader is not None:
            reader(message, frame, drafts)
        elif message.body:
            draft = Draft(frame, message.key)
            draft.keep(f"message_{message.message_id:04x}", message.body)
            drafts.append(draft)
        for draft in drafts:
            if draft.at_us and not draft.empty():  # only where a time tells two presses apart
                draft.dedup_key = f"{message.serial:04x}-{draft.at_us // 1_000_000}-{zlib.crc32(message.body):08x}"
        return [draft.report() for draft in drafts] or [conversation(frame, device_key=message.key)]

    def _authenticated(self, frame: Frame, message: Message) -> Report:
        """2011 and 2013: the code is the body. 2019: its length, the code, IMEI 15, software 20."""
        body = message.body
        if message.version >= 0 and body:
            body = body[1 : 1 + body[0]]
        report = conversation(frame, device_key=message.key)
        expected = self.code_of(message.key).encode()
        report.proof = hmac.compare_digest(body.rstrip(b"\0 "), expected)
        return report

    def _answer(
        self, frame: Frame, message: Message, whole: Message | None, serial: int, report: Report
    ) -> bytes | None:
        message_id = message.message_id
        if message_id == REGISTER:
            body = message.serial.to_bytes(2, "big") + bytes([OK]) + self.code_of(message.key).encode()
            return _write(0x8100, message, serial, body)
        if message_id == SYNCHRONIZE:
            return _write(0x8109, message, serial, clock_answer(frame.received_at_us))
        if message_id == ASK_TIME:
            return _write(0x8004, message, serial, time_answer(frame.received_at_us))
        if message_id == MULTIMEDIA and whole is not None and len(whole.body) >= 4:
            return _write(0x8800, message, serial, whole.body[:4])
        if message_id in _NO_ANSWER or 0x5500 <= message_id < 0x5600 or (message_id >= 0x8000 and message_id != PHOTO):
            return None
        refused = report.proof is False
        body = message.serial.to_bytes(2, "big") + message_id.to_bytes(2, "big") + bytes([FAILURE if refused else OK])
        return _write(GENERAL_ANSWER, message, serial, body)


def _write(message_id: int, message: Message, serial: int, body: bytes) -> bytes:
    return write_message(message_id, message.terminal, message.version, serial, body, other=message.other)


def _registered(frame: Frame, message: Message) -> Report:
    """Province, city, maker, model, id, plate; the widths changed with the versions. Only the model is of use."""
    body = message.body
    if message.version >= 0:
        model = body[15:45]
    elif len(body) >= 37:
        model = body[9:29]
    else:
        model = body[9:17]
    report = conversation(frame, device_key=message.key)
    report.model_hint = "".join(
        letter for letter in model.decode("latin-1").strip("\0 ") if letter.isascii() and letter.isprintable()
    )
    return report


def _text_frame(frame: Frame) -> Report:
    """``(id,1,001,COMMAND,...)``: what a padlock says in text. Its question for the time is answered."""
    text = frame.payload.decode("latin-1")
    if not text.endswith(")"):
        raise ParseError("a text without its closing bracket")
    fields = text[1:-1].split(",")
    draft = Draft(frame, fields[0] if fields[0].isascii() and fields[0].isdecimal() else "")
    if "BASE" in fields and "TIME" in fields:
        clock: Any = time_answer(frame.received_at_us, zone_s=0).hex()
        draft.reply = text.replace("TIME", f"20{clock}").encode("latin-1")
        return draft.report()
    draft.keep("command_reply", {"command": "", "text": text})
    return draft.report()
