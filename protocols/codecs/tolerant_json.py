"""JSON as devices really send it: read generously, told honestly, and made fit for the journal.

More is read than RFC 8259 allows (NaN, a byte order mark, characters that are not UTF-8, any depth), always with a
fault that says so: a device that has a fault in one member may still need help.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Final

from gateway.errors import ParseError

MAX_PAYLOAD_BYTES: Final = 65_536
MAX_DEPTH: Final = 16  # of nested objects and arrays, the outermost counted
MAX_FAULTS: Final = 16  # kept of one report
MAX_BAD_ELEMENTS: Final = 64  # of one array, each with a report of its own
MAX_INTEGER: Final = 2**63 - 1
UNUSED: Final = object()

_TOKEN: Final = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


class Faults:
    """The faults of one report, at most MAX_FAULTS of them and a count of the others."""

    __slots__ = ("_more", "_prefix", "_texts")

    def __init__(self, prefix: str = "", texts: list[str] | None = None) -> None:
        self._prefix = prefix
        self._texts = list(texts or ())
        self._more = 0

    def add(self, path: str, what: str) -> None:
        if len(self._texts) < MAX_FAULTS:
            self._texts.append(f"{self._prefix}{path}: {what}")
        else:
            self._more += 1

    def texts(self) -> list[str] | None:
        if self._more:
            return [*self._texts, f"and {self._more} more faults"]
        return self._texts or None


def check_size(payload: bytes) -> None:
    """Raises ParseError for a payload of more than MAX_PAYLOAD_BYTES."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise ParseError(f"{len(payload)} bytes; a message has at most {MAX_PAYLOAD_BYTES}")


def load(payload: bytes) -> tuple[Any, list[str]]:
    """The value of a payload, and the faults of the payload as a whole. Raises ParseError when it is not JSON."""
    faults = []
    try:
        text = payload.decode("utf-8")
    except UnicodeDecodeError as error:
        text = payload.decode("utf-8", "replace")
        faults.append(f"not UTF-8 at byte {error.start}")
    text = text.removeprefix("\ufeff")
    try:
        return _parse(text), faults
    except RecursionError:
        faults.append(f"nested deeper than {MAX_DEPTH}: what is deeper is not used")
        return _parse(_flatten(text)), faults


def clean(value: Any, depth: int, path: str, faults: Faults) -> Any:
    """The value as the journal can keep it: finite numbers of 64 bits, valid text, bounded depth.

    What cannot be kept is left out (an element of an array becomes None) and is a fault; UNUSED when nothing is left.
    """
    if isinstance(value, dict | list):
        if depth > MAX_DEPTH:
            faults.add(path, f"not used: nested deeper than {MAX_DEPTH}")
            return UNUSED
        return (
            _clean_object(value, depth, path, faults)
            if isinstance(value, dict)
            else _clean_array(value, depth, path, faults)
        )
    if isinstance(value, str):
        reason = "" if is_text(value) else "half of a surrogate pair"
    elif isinstance(value, float):
        reason = "" if math.isfinite(value) else kind(value)
    else:
        reason = "too large a number" if isinstance(value, int) and abs(value) > MAX_INTEGER else ""
    if reason:
        faults.add(path, f"not used: {reason}")
        return UNUSED
    return value


def _clean_object(value: dict[str, Any], depth: int, path: str, faults: Faults) -> dict[str, Any]:
    cleaned = {}
    for name, member in value.items():
        member_path = f"{path}.{shown(name)}" if path else shown(name)
        if not is_text(name):
            faults.add(member_path, "not used: its name has half of a surrogate pair")
            continue
        kept = clean(member, depth + 1, member_path, faults)
        if kept is not UNUSED:
            cleaned[name] = kept
    return cleaned


def _clean_array(value: list[Any], depth: int, path: str, faults: Faults) -> list[Any]:
    kept = [clean(element, depth + 1, f"{path}[{index}]", faults) for index, element in enumerate(value)]
    return [None if element is UNUSED else element for element in kept]


def is_text(value: str) -> bool:
    r"""Whether UTF-8 can say it: JSON's ``\ud800`` alone is no character."""
    return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)


def as_number(value: Any) -> float | None:
    """A finite number, else None. True and false are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    number = float(value)
    return number if math.isfinite(number) else None


def as_integer(value: Any) -> int | None:
    """A whole number, also one that is written ``17.0``, else None."""
    number = as_number(value)
    return int(value) if number is not None and number.is_integer() else None


def kind(value: Any) -> str:
    """What a value is, as a fault says it. Never the value itself: it may be someone's health."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number" if math.isfinite(value) else "infinite or NaN"
    if isinstance(value, str):
        return "a text"
    return "an array" if isinstance(value, list) else "an object"


def shown(name: str) -> str:
    """A name as a fault shows it: printable, at most 40 characters."""
    plain = "".join(character if character.isprintable() else "?" for character in name[:40])
    return plain + "..." if len(name) > 40 else plain


def _parse(text: str) -> Any:
    try:
        return json.loads(text, strict=False, parse_int=_parse_int)
    except json.JSONDecodeError as error:
        raise ParseError(f"not JSON: {error.msg} at character {error.pos}") from error


def _parse_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= 20 else float(digits)  # int() of thousands of digits is slow or refused


def _flatten(text: str) -> str:
    """The text with ``null`` for everything that is nested deeper than MAX_DEPTH."""
    parts: list[str] = []
    depth = copied_to = 0
    for token in _TOKEN.finditer(text):
        character = token[0]
        if character in "[{":
            depth += 1
            if depth == MAX_DEPTH + 1:
                parts.append(text[copied_to : token.start()] + "null")
        elif character in "]}":
            if depth == MAX_DEPTH + 1:
                copied_to = token.end()
            depth -= 1
    if depth > MAX_DEPTH:
        raise ParseError(f"not JSON: {depth} brackets are never closed")
    return "".join(parts) + text[copied_to:]
