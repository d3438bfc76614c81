"""SIA DC-09 on the wire: cutting, checking, encrypting. What receivers and senders share; nothing here means anything.

``LF crc 0LLL "id" seq [Rrcvr] [Lpref] [#acct] [data] [xdata] [_timestamp] CR``: the CRC (CRC-16/ARC, four hexadecimal
digits) and the length in bytes are of everything from the first quotation mark up to CR.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from msgspec import Struct

from gateway.clock import from_us, to_us
from gateway.errors import ConfigError, ParseError
from protocols.bits import crc16_arc
from protocols.framing import Framer, delimited

MAX_FRAME_BYTES: Final = 4096
LATE_S: Final = 40  # how old an encrypted message may be
EARLY_S: Final = 20  # how far ahead its clock may be
KEY_BYTES: Final = (16, 24, 32)

_CUT: Final = delimited(b"\n", b"\r")
_FRAME: Final = re.compile(
    rb'([0-9A-Fa-f]{4})([0-9A-Fa-f]{4})("(\*?)([A-Z][A-Z0-9-]{1,15})"(\d{4})'
    rb"(?:R([0-9A-Fa-f]{1,6}))?(?:L([0-9A-Fa-f]{1,6}))?(?:A0)?(?:#([0-9A-Fa-f]{1,16}))?(?:\[(.*))?)",
    re.DOTALL,
)
_STAMP: Final = re.compile(r"(\d\d):(\d\d):(\d\d),(\d\d)-(\d\d)-(\d{4})")
_PAD_BYTES: Final = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ACCOUNT: Final = re.compile(r"[0-9A-F]{3,16}")


class Message(Struct, frozen=True):
    """A frame taken apart. ``content`` is what stands behind ``[``: text, or hexadecimal if ``encrypted``; None: there
    is no bracket. ``faults`` are what a lenient reader overlooked.
    """

    id: str
    encrypted: bool
    seq: str
    receiver: str
    line: str
    account: str
    content: str | None
    faults: tuple[str, ...] = ()


def framer() -> Framer:
    return Framer(_CUT, limit=MAX_FRAME_BYTES)


def take_apart(payload: bytes, *, lenient: bool = False) -> Message:
    """Raises ParseError: no such frame, a wrong CRC, a wrong length."""
    body = payload.strip(b"\r\n\0 ")
    found = _FRAME.fullmatch(body)
    if found is None:
        raise ParseError('not a DC-09 frame: LF crc length "id" seq ... CR')
    span = found[3]
    faults: list[str] = []
    crc, length = int(found[1], 16), int(found[2], 16)
    if crc != (right := crc16_arc(span)):
        faults.append(f"checksum: {crc:04X}, but the frame has {right:04X}")
    if length != len(span):
        faults.append(f"length: says {length}, but the frame has {len(span)} bytes")
    if faults and not lenient:
        raise ParseError("; ".join(faults))
    receiver, line, account = (part.decode().upper() if part else "" for part in found.group(7, 8, 9))
    content = None if found[10] is None else found[10].decode("utf-8", "replace")
    return Message(
        found[5].decode(), bool(found[4]), found[6].decode(), receiver, line, account, content, tuple(faults)
    )


def build(name: str, seq: str, line: str, content: str | None, *, encrypted: bool = False) -> bytes:
    """A whole frame. ``line`` is what stands between the number and the bracket (``R1L0#1111``); ``content`` what
    follows the bracket, None for no bracket at all.
    """
    tail = "" if content is None else f"[{content}"
    span = f'"{"*" if encrypted else ""}{name}"{seq}{line}{tail}'.encode()
    return b"\n%04X0%03X%s\r" % (crc16_arc(span), len(span), span)


def route(receiver: str, line: str, account: str) -> str:
    """``R1L0#1111`` of what there is."""
    return f"{'R' + receiver if receiver else ''}{'L' + line if line else ''}{'#' + account if account else ''}"


def stamp(at_us: int) -> str:
    return from_us(at_us).strftime("_%H:%M:%S,%m-%d-%Y")


def stamp_us(text: str) -> int | None:
    """Microseconds of ``HH:MM:SS,MM-DD-YYYY`` (UTC), None when it is no time."""
    found = _STAMP.fullmatch(text)
    if found is None:
        return None
    hour, minute, second, month, day, year = (int(part) for part in found.groups())
    try:
        return to_us(datetime(year, month, day, hour, minute, second, tzinfo=UTC))
    except (ValueError, OverflowError):
        return None


# ---- encryption ------------------------------------------------------------------------------------------------------


def encrypt(key: bytes, text: str, salt: bytes) -> str:
    """AES-CBC with an initial vector of zeros, in upper-case hexadecimal: 16 to 31 characters of padding, ``|``, text.

    The padding is what hides equal messages: it follows from the key and ``salt``, which is never to be the same twice.
    """
    body = b"|" + text.encode()
    count = 16 + (-len(body)) % 16
    drawn = hashlib.sha256(key + salt).digest()
    pad = bytes(_PAD_BYTES[byte % len(_PAD_BYTES)] for byte in drawn[:count])
    return _cipher(key, pad + body, encrypting=True).hex().upper()


def decrypt(key: bytes, hexadecimal: str) -> str | None:
    """What stands behind the padding; None when this is not what this key encrypted."""
    try:
        data = bytes.fromhex(hexadecimal.strip())
    except ValueError:
        return None
    if not data or len(data) % 16:
        return None
    pad, separator, text = _cipher(key, data, encrypting=False).partition(b"|")
    if not separator or b"[" in pad or b"]" in pad or b"]" not in text:
        return None
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None


def _cipher(key: bytes, data: bytes, *, encrypting: bool) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415 - only with keys

    cipher = Cipher(algorithms.AES(key), modes.CBC(bytes(16)))
    worker = cipher.encryptor() if encrypting else cipher.decryptor()
    return worker.update(data) + worker.finalize()


def load_keys(file: str, name: str) -> Mapping[str, bytes]:
    """A file of lines ``account key`` (hexadecimal; ``*`` for all accounts without one of their own; ``#`` begins a
    remark). ``name`` is the configuration's key. Raises ConfigError, which never repeats a key.
    """
    try:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name}: cannot read {file}: {error}") from error
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        account = words[0].upper()
        try:
            key = bytes.fromhex(words[1]) if len(words) == 2 else b""
        except ValueError:
            key = b""
        if len(key) not in KEY_BYTES or not (account == "*" or _ACCOUNT.fullmatch(account)):
            raise ConfigError(
                f"{name}: {file}, line {number}: write an account and a key of 32, 48 or 64 hexadecimal digits"
            )
        if account in keys:
            raise ConfigError(f"{name}: {file}, line {number}: account {account} has a key already")
        keys[account] = key
    if not keys:
        raise ConfigError(f"{name}: {file} has no key")
    return keys
