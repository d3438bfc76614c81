"""Commands to TK103 terminals: ``(id CMD data)``, or the maker's texts ``*word*``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import UsageError

Encode = Callable[[Mapping[str, Any], str], bytes]


def write(content: str, device_key: str) -> bytes:
    """One frame. Raises UsageError."""
    if not (content.isascii() and content.isprintable()) or set("()") & set(content) or len(content) > 200:
        raise UsageError("only short printable ASCII without brackets can be said")
    if not (device_key.isascii() and device_key.isdecimal()):
        raise UsageError("the terminal's id is digits")
    return f"({device_key}{content})".encode()


def _interval(parameters: Mapping[str, Any], device_key: str) -> bytes:
    """AR00: seconds and how many times (0000: for ever), four hexadecimal digits each."""
    seconds = int(parameters["seconds"])
    if not 0 <= seconds <= 0xFFFF:
        raise UsageError("the interval is at most 65535 seconds")
    return write(f"AR00{seconds:04X}0000", device_key)


def _text(parameters: Mapping[str, Any], device_key: str) -> bytes:
    """A word of the maker's such as ``getposl``, between stars. The terminal answers with ZC03."""
    del device_key
    text = str(parameters["text"]).strip("*")
    if not (text.isascii() and text.isprintable()) or "*" in text:
        raise UsageError("only printable ASCII without stars can be said")
    return f"[begin]sms2,*{text}*,[end]".encode()


COMMANDS: Final[Mapping[str, Encode]] = MappingProxyType(
    {
        "locate": lambda _parameters, key: write("AP00", key),
        "interval": _interval,
        "restart": lambda _parameters, key: write("AT00", key),
        "text": _text,
    }
)
"""Names as profiles use them."""

ANSWERED: Final[Mapping[str, str]] = MappingProxyType({"BP04": "locate"})
"""The command that a message answers."""
