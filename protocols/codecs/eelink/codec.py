"""Eelink (Keelin): packages 67 67, over UDP in an envelope "EL" that carries the IMEI and a checksum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.bits import bcd_digits, rotating_sum16
from protocols.codecs.eelink.commands import COMMANDS
from protocols.codecs.eelink.messages import LOGIN, READERS
from protocols.codecs.terminal import Draft, conversation
from protocols.framing import Framer, counted, first_of

MAX_FRAME_BYTES: Final = 65_536 + 4
_HEAD: Final = 7
_ENVELOPE_HEAD: Final = 14
_NO_ANSWER: Final = frozenset({0x02, 0x80, 0x81})
"""An answer to 80 would read as an empty command."""


def _package_size(buffer: bytes, begin: int) -> int:
    length = int.from_bytes(buffer[begin + 3 : begin + 5], "big")
    return length + 5 if length >= 2 else 0


def _envelope_size(buffer: bytes, begin: int) -> int:
    length = int.from_bytes(buffer[begin + 2 : begin + 4], "big")
    return length + 4 if length >= _ENVELOPE_HEAD - 4 else 0


_CUT: Final = first_of((b"gg", counted(b"gg", _HEAD, _package_size)), (b"EL", counted(b"EL", 4, _envelope_size)))


class EelinkCodec:
    """``ports.TerminalCodec``. Over TCP a login names the terminal; before it nothing is answered, so that nothing
    counts as delivered that nobody can attribute.
    """

    name = "eelink"
    default_port = 5064
    text = False
    datagrams = True
    commands = COMMANDS

    def __init__(self, *, lenient: bool = False) -> None:
        self._lenient = lenient

    def framer(self) -> Framer:
        return Framer(_CUT, limit=MAX_FRAME_BYTES)

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report for each package. Raises ParseError for what is none, and for a wrong sum or length unless
        lenient.
        """
        payload = frame.payload
        faults: list[str] = []
        imei = b""
        if payload.startswith(b"EL"):
            imei, payload = self._unwrap(payload, faults)
        reports = self._packages(frame, payload, imei, faults)
        if faults:
            reports[0].faults = [*faults, *(reports[0].faults or ())]
        return reports

    def _unwrap(self, payload: bytes, faults: list[str]) -> tuple[bytes, bytes]:
        if len(payload) < _ENVELOPE_HEAD:
            raise ParseError(f"an envelope of {len(payload)} bytes")
        stated = int.from_bytes(payload[4:6], "big")
        computed = rotating_sum16(payload[6:])
        if stated != computed:
            self._complain(f"checksum: {stated:04x}, computed {computed:04x}", faults)
        return payload[6:14], payload[_ENVELOPE_HEAD:]

    def _complain(self, what: str, faults: list[str]) -> None:
        if not self._lenient:
            raise ParseError(what)
        faults.append(what)

    def _packages(self, frame: Frame, payload: bytes, imei: bytes, faults: list[str]) -> list[Report]:
        key = _key(imei) if imei else frame.device_key
        reports: list[Report] = []
        at = 0
        while at < len(payload):
            if payload[at : at + 2] != b"gg" or len(payload) - at < _HEAD:
                if not reports:
                    raise ParseError("not an Eelink package: 67 67 ...")
                faults.append(f"{len(payload) - at} bytes behind the last package")
                break
            length = int.from_bytes(payload[at + 3 : at + 5], "big")
            end = at + 5 + length
            if length < 2 or end > len(payload):
                self._complain(f"length: {length} stated, {len(payload) - at - 5} there", faults)
                end = len(payload)
            report = _package(frame, key, payload[at:end])
            if imei and report.reply is not None:
                report.reply = _wrapped(imei, report.reply)
            key = report.device_key or key
            reports.append(report)
            at = end
        if not reports:
            raise ParseError("an envelope without a package")
        return reports


def _key(imei: bytes) -> str:
    try:
        return bcd_digits(imei)[1:]
    except ValueError as error:
        raise ParseError(f"IMEI: {error}") from error


def _package(frame: Frame, key: str, package: bytes) -> Report:
    kind, number, body = package[2], package[5:7], package[7:]
    if kind == LOGIN:
        if len(body) < 8:
            raise ParseError("a login without an IMEI")
        now_s = frame.received_at_us // 1_000_000
        reply = _answer(kind, number, (now_s & 0xFFFFFFFF).to_bytes(4, "big") + b"\x00\x01\x00")
        return conversation(frame, device_key=_key(body[:8]), reply=reply)
    draft = Draft(frame, key)
    read = READERS.get(kind)
    try:
        if read is None:
            draft.keep(f"message_{kind:02x}", body)
        else:
            read(kind, body, draft)
    except ParseError as error:
        draft.fault(f"message {kind:02x}", error)
        draft.keep(f"message_{kind:02x}", body)
    if key and kind not in _NO_ANSWER:
        draft.reply = _answer(kind, number)
    if draft.at_us and not draft.empty():
        draft.dedup_key = f"{kind:02x}{number.hex()}-{draft.at_us // 1_000_000}"
    return draft.report()


def _answer(kind: int, number: bytes, body: bytes = b"") -> bytes:
    return b"gg" + bytes([kind]) + (2 + len(body)).to_bytes(2, "big") + number + body


def _wrapped(imei: bytes, package: bytes) -> bytes:
    content = imei + package
    return b"EL" + (len(content) + 2).to_bytes(2, "big") + rotating_sum16(content).to_bytes(2, "big") + content
