"""Commands to H02 terminals: ``*HQ,id,WORD,hhmmss,parameters#``. They answer with V4 and the word."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import UsageError

Encode = Callable[[Mapping[str, Any], str], bytes]


def write(word: str, device_key: str, *fields: object) -> bytes:
    """One command. The time of day in it is only a mark that some terminals send back. Raises UsageError."""
    text = ",".join((word, "000000", *(str(field) for field in fields)))
    if not (text.isascii() and text.isprintable()) or set("*#") & set(text) or len(text) > 500:
        raise UsageError("only short printable ASCII without * and # can be said")
    if not (device_key.isascii() and device_key.isalnum()):
        raise UsageError("the terminal's id is letters and digits")
    return f"*HQ,{device_key},{text}#".encode()


def _maker_text(parameters: Mapping[str, Any], device_key: str) -> bytes:
    """``word`` and, behind a comma each, its fields, as the maker's document has them."""
    word, *fields = str(parameters["text"]).split(",")
    return write(word, device_key, *fields)


COMMANDS: Final[Mapping[str, Encode]] = MappingProxyType(
    {
        "interval": lambda parameters, key: write("S71", key, 22, int(parameters["seconds"])),
        "arm": lambda parameters, key: write("SCF", key, *((1, 1) if parameters["on"] else (0, 0))),
        "restart": lambda _parameters, key: write("R1", key),
        "text": _maker_text,
    }
)
"""Names as profiles use them."""

WORDS: Final[Mapping[str, str]] = MappingProxyType({"S71": "interval", "D1": "interval", "SCF": "arm", "R1": "restart"})
"""The command of a word that came back in V4."""
