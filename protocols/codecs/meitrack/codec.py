"""Meitrack: ``$$<flag><length>,<IMEI>,<command>,...*<sum>``, text or with binary records inside."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.bits import sum8
from protocols.codecs.meitrack.binary import read_c, read_e
from protocols.codecs.meitrack.commands import COMMANDS, NAMES, message
from protocols.codecs.meitrack.text import EVENT_ASKED, read_position
from protocols.codecs.terminal import Draft, conversation
from protocols.framing import Framer, counted

MAX_FRAME_BYTES: Final = 16_384
_HEAD: Final = re.compile(rb"\$\$([!-~])(\d{2,5}),")
_BEGUN: Final = re.compile(rb"\$\$(?:[!-~]\d{0,5})?")
_COMMAND: Final = re.compile(rb"\$\$([!-~])(\d{2,5}),(\d{10,17}),([A-Z][0-9A-Z]{2})")


def _size(buffer: bytes, begin: int) -> int:
    """``$$``, flag and digits, then what they count: from the comma to the end of the line.

    Where no line ends there, the length is wrong and the frame ends with its line.
    """
    head = _HEAD.match(buffer, begin)
    if head is None:
        begun = _BEGUN.match(buffer, begin)
        at_end = begun is not None and begun.end() == len(buffer)
        return len(buffer) - begin + 1 if at_end else 0
    size = head.end() - 1 - begin + int(head.group(2))
    end = begin + size
    if end > len(buffer):
        return size if size <= MAX_FRAME_BYTES else 0
    if buffer[end - 2 : end] == b"\r\n":
        return size
    line = buffer.find(b"\r\n", begin)
    return line + 2 - begin if line >= 0 else len(buffer) - begin + 1


_CUT: Final = counted(b"$$", 3, _size)


class MeitrackCodec:
    """``ports.TerminalCodec``. Every frame names its terminal."""

    name = "meitrack"
    default_port = 5020
    text = False
    also_text = True
    datagrams = True
    commands = COMMANDS

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient

    def framer(self) -> Framer:
        return Framer(_CUT, limit=MAX_FRAME_BYTES)

    def parse(self, frame: Frame) -> Sequence[Report]:
        """Reports, one a position. Raises ParseError for what is no frame, and for a wrong sum unless lenient."""
        payload = frame.payload
        head = _COMMAND.match(payload)
        if head is None:
            raise ParseError("not a Meitrack frame: $$, flag, length, IMEI, command")
        faults: list[str] = []
        body = self._checked(payload, faults)
        flag, imei, command = head.group(1).decode(), head.group(3).decode(), head.group(4).decode()
        content = body[head.end() + 1 :]
        drafts = _read(frame, imei, command, content)
        reports = [draft.report() for draft in drafts] or [conversation(frame, device_key=imei)]
        if command == "CCC":
            reports[0].reply = message(imei, f"CCC,{len(drafts)}", flag)
        elif command == "AFF":
            reports[0].reply = message(imei, "AFF,1", flag)
        if faults:
            reports[0].faults = [*faults, *(reports[0].faults or ())]
        return reports

    def _checked(self, payload: bytes, faults: list[str]) -> bytes:
        """The payload before its ``*`` and sum."""
        line = payload.removesuffix(b"\r\n")
        stated = line[-2:].decode("latin-1")
        if line[-3:-2] != b"*" or not re.fullmatch(r"[0-9A-Fa-f]{2}", stated):
            self._complain("checksum: missing", faults)
            return line
        computed = sum8(line[:-2])
        if int(stated, 16) != computed:
            self._complain(f"checksum: {stated}, computed {computed:02X}", faults)
        return line[:-3]

    def _complain(self, what: str, faults: list[str]) -> None:
        if not self._lenient:
            raise ParseError(what)
        faults.append(what)


def _read(frame: Frame, imei: str, command: str, content: bytes) -> list[Draft]:
    if command == "CCC":
        return read_c(frame, imei, content)
    if command == "CCE":
        return read_e(frame, imei, content)
    draft = Draft(frame, imei)
    if command in ("D00", "D03"):
        _picture(command, content, draft)
        return [draft]
    text = content.decode("latin-1")
    fields = text.split(",")
    if not read_position(fields, draft):
        name = NAMES.get(command, "")
        refused = fields[0].strip().lower() in ("error", "fail", "failed")
        draft.keep(
            "command_reply",
            {
                "command": name,
                "result": "refused" if refused else "done",
                "text": f"{command},{text}"[:500] if text else command,
            },
        )
    elif draft.unknown.get("event") == EVENT_ASKED:
        draft.keep("command_reply", {"command": "locate", "result": "done"})
    if draft.at_us and not draft.empty():
        draft.dedup_key = f"{draft.at_us // 1_000_000}-{zlib.crc32(content):08x}"
    return [draft]


def _picture(command: str, content: bytes, draft: Draft) -> None:
    """D00: name, how many parts, which, data. The data stays in the frame."""
    fields = content.split(b",", 3)
    if command == "D00" and len(fields) == 4:
        name, total, index = (field.decode("latin-1") for field in fields[:3])
        draft.keep("picture", {"name": name[:80], "total": total[:8], "index": index[:8], "bytes": len(fields[3])})
