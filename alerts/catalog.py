"""Translations: reads gettext's .po files and makes a gettext catalogue of them when they are loaded. Pure.

A reader of our own, because a site may change words in a .po file without building anything, and what is needed of the
format is small: babel would be ten megabytes at run time. No plural forms.
"""

from __future__ import annotations

import gettext
import io
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Final

from gateway.errors import ConfigError

Key = tuple[str, str]
"""Context ("" for none) and message."""

MAX_MESSAGES: Final = 5000
_HEADER: Final = "Content-Type: text/plain; charset=UTF-8\n"
_LINE: Final = re.compile(r'(?:(msgctxt|msgid|msgstr)\s+)?"((?:[^"\\]|\\.)*)"')
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
_PLACE: Final = re.compile(r"%\((\w+)\)s")


def read_po(text: str, name: str) -> dict[Key, str]:
    """Messages with their translations; those without one, and fuzzy ones, are left out. Raises ConfigError."""
    messages: dict[Key, str] = {}
    for number, entry in _entries(text, name):
        key = (entry.get("msgctxt", ""), entry.get("msgid", ""))
        if "msgid" not in entry or "msgstr" not in entry:
            raise ConfigError(f"{name}:{number}: an entry needs msgid and msgstr")
        if key in messages:
            raise ConfigError(f"{name}:{number}: {key[1]!r} is there twice")
        if key != ("", "") and entry["msgstr"] and "fuzzy" not in entry:
            messages[key] = entry["msgstr"]
        if len(messages) > MAX_MESSAGES:
            raise ConfigError(f"{name}: more than {MAX_MESSAGES} messages")
    return messages


def _entries(text: str, name: str) -> Iterator[tuple[int, dict[str, str]]]:
    entry: dict[str, str] = {}
    last = ""
    begun = 1
    for number, raw in enumerate([*text.lstrip("\ufeff").splitlines(), ""], 1):
        line = raw.strip()
        if (not line or line.startswith("#")) and last == "msgstr":
            yield begun, entry
            entry, last = {}, ""
        if line.startswith("#,") and "fuzzy" in line:
            entry["fuzzy"] = ""
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None or (not match[1] and not last):
            raise ConfigError(f'{name}:{number}: write msgctxt, msgid or msgstr and a text in "quotes"')
        if match[1] and last == "msgstr":
            yield begun, entry
            entry = {}
        if match[1] and match[1] in entry:
            raise ConfigError(f"{name}:{number}: {match[1]} twice in one entry")
        begun = number if not last or match[1] == "msgid" else begun
        last = match[1] or last
        entry[last] = entry.get(last, "") + _unescaped(match[2], f"{name}:{number}")
    if last and last != "msgstr":
        raise ConfigError(f"{name}: the last entry has no msgstr")


def _unescaped(text: str, where: str) -> str:
    def one(match: re.Match[str]) -> str:
        known = _ESCAPES.get(match[1])
        if known is None:
            raise ConfigError(f"{where}: \\{match[1]} is not known here")
        return known

    return re.sub(r"\\(.)", one, text)


def translations(messages: Mapping[Key, str]) -> gettext.GNUTranslations:
    """What gettext and Jinja use."""
    return gettext.GNUTranslations(io.BytesIO(to_mo(messages)))


def to_mo(messages: Mapping[Key, str]) -> bytes:
    """A .mo file (GNU gettext manual, 10.3): revision 0, little-endian, without a hash table."""
    pairs = sorted(
        (f"{context}\x04{text}".encode() if context else text.encode(), translation.encode())
        for (context, text), translation in {**messages, ("", ""): _HEADER}.items()
    )
    count = len(pairs)
    offset = 28 + 16 * count
    tables: list[bytes] = []
    strings = b""
    for column in (0, 1):
        for pair in pairs:
            tables.append(struct.pack("<II", len(pair[column]), offset + len(strings)))
            strings += pair[column] + b"\0"
    head = struct.pack("<7I", 0x950412DE, 0, count, 28, 28 + 8 * count, 0, 28 + 16 * count)
    return head + b"".join(tables) + strings


def misfit(message: str, translation: str) -> str:
    """Why a translation cannot stand for its message; "" when it can."""
    unknown = sorted(set(_PLACE.findall(translation)) - set(_PLACE.findall(message)))
    if unknown:
        return f"%({unknown[0]})s is not in the message"
    if "%" in _PLACE.sub("", translation).replace("%%", ""):
        return "a % that is no %(name)s is written %%"
    return ""
