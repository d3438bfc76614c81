"""Short messages as octets (3GPP TS 23.040): SMS-SUBMIT out, SMS-DELIVER and SMS-STATUS-REPORT in. Pure."""

from __future__ import annotations

import hashlib
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import Final

from msgspec import Struct

from alerts.channels.modem_alphabet import pack, septets, text_of, unpack, width
from gateway.clock import to_us

MAX_PARTS: Final = 8
"""A longer text is cut: nobody reads on, and each part takes seconds that an emergency may need."""
UCS2_SINGLE: Final = 70
UCS2_PART: Final = 67
GSM_SINGLE: Final = 160
GSM_PART: Final = 153
VALIDITY_FOUR_DAYS: Final = 0xAA
MAX_PDU_OCTETS: Final = 400
_JOINERS: Final = frozenset({"\u200d", "\ufe0e", "\ufe0f", "\u20e3"})


class PduError(Exception):
    """Octets that are no message. Handler: the modem, which hands the message over unread."""


class Submit(Struct, frozen=True):
    """One part: hexadecimal PDU with an empty SMSC field, and the TPDU's length in octets, as AT+CMGS wants it."""

    pdu: str
    length: int


class Part(Struct, frozen=True):
    """Which piece of a long message this is. ``number`` counts from 1."""

    reference: int
    total: int
    number: int


class Deliver(Struct, frozen=True, kw_only=True):
    """A message that came. ``sent_us`` is the service centre's time; ``text`` is "" and ``data`` set for 8-bit data."""

    sender: str
    text: str
    data: bytes
    sent_us: int | None
    part: Part | None


class StatusReport(Struct, frozen=True, kw_only=True):
    """``status`` is TP-ST (9.2.3.15): below 32 it is there, below 64 they still try, from 64 on it failed for good."""

    reference: int
    recipient: str
    status: int


def encode(number: str, text: str, *, reference: int, report: bool, validity: int = VALIDITY_FOUR_DAYS) -> list[Submit]:
    """The parts of a message. ``reference`` (0-255) binds the parts of a long one. ``report`` asks for status reports.

    Raises ValueError when ``number`` is none.
    """
    address = _address(number)
    text = text.encode("utf-16-be", "replace").decode("utf-16-be")
    codes = septets(text)
    if codes is not None:
        pieces = [text] if len(codes) <= GSM_SINGLE else _split(text, GSM_PART, seven_bit=True)
    else:
        pieces = [text] if _units(text) <= UCS2_SINGLE else _split(text, UCS2_PART, seven_bit=False)
    made = []
    for index, piece in enumerate(pieces, start=1):
        header = b"" if len(pieces) == 1 else bytes((5, 0, 3, reference, len(pieces), index))
        first = 0x11 | (0x20 if report else 0) | (0x40 if header else 0)  # SMS-SUBMIT with a relative validity period
        user_data = _gsm_data(piece, header) if codes is not None else _ucs2_data(piece, header)
        scheme = 0x00 if codes is not None else 0x08
        tpdu = bytes((first, 0)) + address + bytes((0, scheme, validity)) + user_data
        made.append(Submit(f"00{tpdu.hex().upper()}", len(tpdu)))
    return made


def segments(text: str) -> int:
    """How many short messages a text takes."""
    return len(encode("+0000000", text, reference=0, report=False))


def decode(pdu: str) -> Deliver | StatusReport:
    """A message with its SMSC field, as AT+CMGL and +CDS give it. Raises PduError."""
    if len(pdu) > 2 * MAX_PDU_OCTETS:
        raise PduError("longer than any message")
    try:
        octets = bytes.fromhex(pdu)
    except ValueError as error:
        raise PduError("not hexadecimal") from error
    reader = _Reader(octets)
    reader.take(reader.octet())  # the service centre's number
    first = reader.octet()
    kind = first & 0x03
    if kind == 0:
        return _deliver(reader, has_header=bool(first & 0x40))
    if kind == 2:
        reference = reader.octet()
        recipient = reader.address()
        reader.take(14)  # time stamp and discharge time
        return StatusReport(reference=reference, recipient=recipient, status=reader.octet())
    raise PduError(f"message type {kind} is neither SMS-DELIVER nor SMS-STATUS-REPORT")


def key_of(pdu: str) -> str:
    """A name for a received message that stays the same when it is read again."""
    return hashlib.sha256(pdu.upper().encode()).hexdigest()[:32]


class _Reader:
    def __init__(self, octets: bytes) -> None:
        self._octets = octets
        self._at = 0

    def octet(self) -> int:
        return self.take(1)[0]

    def take(self, count: int) -> bytes:
        taken = self._octets[self._at : self._at + count]
        if len(taken) < count:
            raise PduError("cut off")
        self._at += count
        return taken

    def rest(self) -> bytes:
        return self.take(len(self._octets) - self._at)

    def address(self) -> str:
        digits = self.octet()
        kind = self.octet()
        value = self.take((digits + 1) // 2)
        if kind & 0x70 == 0x50:  # alphanumeric: a name in the 7-bit alphabet
            return text_of(unpack(value, digits * 4 // 7)).rstrip("\x00@") or "?"
        number = "".join("0123456789*#abc"[nibble] for nibble in _nibbles(value)[:digits] if nibble < 15)
        return f"+{number}" if kind & 0x70 == 0x10 else number


def _deliver(reader: _Reader, *, has_header: bool) -> Deliver:
    sender = reader.address()
    reader.octet()  # protocol identifier
    scheme = reader.octet()
    sent_us = _time(reader.take(7))
    length = reader.octet()
    data = reader.rest()
    alphabet = _alphabet(scheme)
    header = b""
    if has_header:
        if not data or len(data) < data[0] + 1:
            raise PduError("its header is cut off")
        header, body = data[1 : data[0] + 1], data[data[0] + 1 :]
    else:
        body = data
    header_octets = len(header) + 1 if has_header else 0
    text, raw = "", b""
    if alphabet == "gsm":
        skipped = (header_octets * 8 + 6) // 7
        text = text_of(
            unpack(body, max(length - skipped, 0), (skipped * 7 - header_octets * 8) if header_octets else 0)
        )
    elif alphabet == "ucs2":
        body = body[: max(length - header_octets, 0)]
        text = body[: len(body) // 2 * 2].decode("utf-16-be", "replace")
    else:
        raw = body[: max(length - header_octets, 0)]
    return Deliver(sender=sender, text=text, data=raw, sent_us=sent_us, part=_part(header))


def _alphabet(scheme: int) -> str:
    """3GPP TS 23.038, 4: general, class and message-waiting groups."""
    group = scheme >> 4
    if group == 0xF:
        return "data" if scheme & 0x04 else "gsm"
    if group >= 0xC:
        return "ucs2" if group == 0xE else "gsm"
    if scheme & 0x80 or scheme & 0x20:  # reserved, or compressed, which nobody sends
        return "data" if scheme & 0x20 else "gsm"
    return ("gsm", "data", "ucs2", "gsm")[(scheme >> 2) & 0x03]


def _part(header: bytes) -> Part | None:
    at = 0
    while at + 2 <= len(header):
        element, length = header[at], header[at + 1]
        value = header[at + 2 : at + 2 + length]
        at += 2 + length
        if (element, length, len(value)) == (0x00, 3, 3):
            part = Part(value[0], value[1], value[2])
        elif (element, length, len(value)) == (0x08, 4, 4):
            part = Part(value[0] << 8 | value[1], value[2], value[3])
        else:
            continue
        return part if 1 <= part.number <= part.total else None
    return None


def _time(stamp: bytes) -> int | None:
    """TP-SCTS (9.2.3.11): swapped decimal digits and a zone in quarters of an hour; None when it is no time."""
    year, month, day, hour, minute, second = ((octet & 0x0F) * 10 + (octet >> 4) for octet in stamp[:6])
    quarters = (stamp[6] & 0x07) * 10 + (stamp[6] >> 4)
    zone = timedelta(minutes=15 * (-quarters if stamp[6] & 0x08 else quarters))
    try:
        return to_us(datetime(2000 + year, month, day, hour, minute, second, tzinfo=UTC) - zone)
    except (ValueError, OverflowError):
        return None


def _address(number: str) -> bytes:
    international = number.startswith("+")
    digits = number.removeprefix("+")
    if not (digits.isascii() and digits.isdecimal() and 3 <= len(digits) <= 20):
        raise ValueError("not a telephone number")
    padded = digits + ("F" if len(digits) % 2 else "")
    swapped = "".join(padded[at + 1] + padded[at] for at in range(0, len(padded), 2))
    return bytes((len(digits), 0x91 if international else 0x81)) + bytes.fromhex(swapped)


def _nibbles(value: bytes) -> list[int]:
    return [nibble for octet in value for nibble in (octet & 0x0F, octet >> 4)]


def _units(text: str) -> int:
    return len(text.encode("utf-16-be")) // 2


def _gsm_data(piece: str, header: bytes) -> bytes:
    codes = septets(piece) or []
    if not header:
        return bytes((len(codes),)) + pack(codes)
    skipped = (len(header) * 8 + 6) // 7
    return bytes((skipped + len(codes),)) + header + pack(codes, skipped * 7 - len(header) * 8)


def _ucs2_data(piece: str, header: bytes) -> bytes:
    data = header + piece.encode("utf-16-be")
    return bytes((len(data),)) + data


def _split(text: str, limit: int, *, seven_bit: bool) -> list[str]:
    """Pieces of at most ``limit`` units, cut between what a reader sees as characters, never in a surrogate pair."""
    size = width if seven_bit else _units
    pieces: list[str] = []
    piece, used = "", 0
    for cluster in _clusters(text):
        whole = sum(size(character) for character in cluster)
        for unit in (cluster,) if whole <= limit else cluster:  # a cluster longer than a part is cut after all
            needed = sum(size(character) for character in unit)
            if used + needed > limit:
                pieces.append(piece)
                piece, used = "", 0
            piece += unit
            used += needed
    pieces.append(piece)
    if len(pieces) <= MAX_PARTS:
        return pieces
    mark = "..." if seven_bit else "…"
    last = pieces[MAX_PARTS - 1]
    while sum(size(character) for character in last) > limit - len(mark):
        last = last[:-1]
    return [*pieces[: MAX_PARTS - 1], last + mark]


def _clusters(text: str) -> list[str]:
    """Characters with the marks, joiners and variation selectors that belong to them."""
    clusters: list[str] = []
    for character in text:
        joined = clusters and (
            unicodedata.combining(character) or character in _JOINERS or clusters[-1].endswith("\u200d")
        )
        if joined:
            clusters[-1] += character
        else:
            clusters.append(character)
    return clusters
