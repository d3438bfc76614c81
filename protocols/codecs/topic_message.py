"""Messages of a broker as frames: the topic, a space, the payload as it came. So the journal keeps both in one piece.

That is what ``mosquitto_sub -v`` prints, so its output can be decoded as it is. A topic with a space, a percent sign or
a control character carries it percent-encoded; ``%retained`` and a space stand before a message that the broker had
kept and sent because somebody subscribed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from gateway.clock import to_us
from gateway.errors import ParseError
from protocols.codecs.tolerant_json import MAX_PAYLOAD_BYTES, Faults, clean, kind, load

RETAINED: Final = b"%retained "
MAX_TOPIC: Final = 1024
MAX_KEY: Final = 128
LAST_US: Final = 253_402_300_799_000_000

_RESERVED: Final = re.compile(r"[\x00-\x20%\x7f]")
_IDENTITY: Final = re.compile(r"(?:0x)?[0-9a-f]{12,16}")
_decode: Final = msgspec.json.Decoder().decode


class Message(Struct, frozen=True):
    """``retained``: not said just now."""

    topic: str
    payload: bytes
    retained: bool = False


def prefix_of(topic: str, *, retained: bool = False) -> bytes:
    """What stands before the payload in a frame."""
    quoted = _RESERVED.sub(lambda found: f"%{ord(found[0]):02x}", topic).encode("utf-8", "replace")
    return (RETAINED if retained else b"") + quoted + b" "


def split(frame_payload: bytes, *, most: int = MAX_PAYLOAD_BYTES) -> Message:
    """Raises ParseError for what has no topic, and for more than ``most`` bytes."""
    if len(frame_payload) > most + MAX_TOPIC:
        raise ParseError(f"{len(frame_payload)} bytes; a message has at most {most}")
    retained = frame_payload.startswith(RETAINED)
    quoted, space, payload = frame_payload[len(RETAINED) if retained else 0 :].partition(b" ")
    if not space or not quoted or len(quoted) > MAX_TOPIC:
        raise ParseError("a message of a broker is its topic, a space, and the payload")
    try:
        topic = unquote(quoted.decode(), errors="strict")
    except UnicodeDecodeError as error:
        raise ParseError("the topic is not UTF-8") from error
    return Message(topic, payload, retained)


def read_object(payload: bytes) -> tuple[dict[str, Any], list[str] | None]:
    """The JSON object of a payload without what no journal can keep, and its faults. Raises ParseError."""
    faults: list[str] = []
    try:
        value = _decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value, faults = load(payload)
    if not isinstance(value, dict):
        raise ParseError(f"{kind(value)}, not an object")
    notes = Faults("", faults)
    kept: dict[str, Any] = clean(value, 1, "", notes)
    return kept, notes.texts()


def identity(value: Any) -> str:
    """An IEEE address, EUI or MAC as the registry writes it: lower case, hexadecimal digits alone; "" for no text."""
    if not isinstance(value, str):
        return ""
    text = value.strip().lower()
    plain = text.replace(":", "").replace("-", "")
    if _IDENTITY.fullmatch(plain):
        return plain.removeprefix("0x")
    return text[:MAX_KEY].replace("\0", "")


def member(value: Any, *path: str) -> Any:
    """What stands at a path of nested objects, None where it ends early."""
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def text(value: Any, most: int = MAX_KEY) -> str:
    """A text, or a whole number as one, at most ``most`` characters; "" for anything else."""
    if isinstance(value, str):
        return value[:most]
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def stated_us(value: Any) -> int:
    """RFC 3339, or milliseconds since 1970, as microseconds; 0 for anything else."""
    if isinstance(value, str) and 10 <= len(value) <= 40:
        try:
            at = datetime.fromisoformat(value)
            at_us = to_us(at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC))
        except (ValueError, OverflowError):
            return 0
        return at_us if 0 < at_us <= LAST_US else 0
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return int(value) * 1000 if 0 < value <= LAST_US / 1000 else 0
    return 0


def number(value: Any) -> float | None:
    """A finite number; true and false are none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
