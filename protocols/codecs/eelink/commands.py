"""Eelink: commands, texts in packages of type 80 that carry a number; the answer repeats it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import UsageError

Encode = Callable[[Mapping[str, Any], str], bytes]
MAX_TEXT: Final = 400


def package(parameters: Mapping[str, Any], text: str) -> bytes:
    """A command's package; its number follows from ``command_id``."""
    content = text.encode("utf-8")
    if not 0 < len(content) <= MAX_TEXT:
        raise UsageError(f"a command has 1 to {MAX_TEXT} bytes")
    number = zlib.crc32(str(parameters.get("command_id", "")).encode())
    body = b"\x01" + number.to_bytes(4, "big") + content
    return b"gg\x80" + (len(body) + 2).to_bytes(2, "big") + (number & 0xFFFF).to_bytes(2, "big") + body


def _fixed(text: str) -> Encode:
    return lambda parameters, _device_key: package(parameters, text)


def _interval(parameters: Mapping[str, Any], _device_key: str) -> bytes:
    return package(parameters, f"TIMER,{int(parameters['seconds'])}#")


def _sos_numbers(parameters: Mapping[str, Any], _device_key: str) -> bytes:
    """At most three numbers, which are the ones that an SOS calls; none deletes them."""
    numbers = [str(number) for number in parameters["numbers"]]
    if len(numbers) > 3:
        raise UsageError("the terminal holds three numbers")
    return package(parameters, f"SOS,A,{','.join(numbers)}#" if numbers else "SOS,D,1,2,3#")


def _text(parameters: Mapping[str, Any], _device_key: str) -> bytes:
    return package(parameters, str(parameters["text"]))


COMMANDS: Final[Mapping[str, Encode]] = MappingProxyType(
    {
        "locate": _fixed("WHERE#"),
        "interval": _interval,
        "sos_numbers": _sos_numbers,
        "restart": _fixed("RESET#"),
        "factory_reset": _fixed("FACTORY#"),
        "text": _text,
    }
)
"""By name: parameters and the terminal's key to a package. Raises UsageError for what cannot be sent."""
