"""Commands to Topin terminals. A terminal answers with a frame of the command's type."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import UsageError

Encode = Callable[[Mapping[str, Any], str], bytes]


def write(kind: int, data: bytes = b"", *, stated: int | None = None) -> bytes:
    """One frame. The length counts type and data unless another is stated. Raises UsageError."""
    length = len(data) + 1 if stated is None else stated
    if length > 255:
        raise UsageError("too long for one frame")
    return b"xx" + bytes([length, kind]) + data + b"\r\n"


def _sos_number(parameters: Mapping[str, Any], device_key: str) -> bytes:
    del device_key
    return write(0x41, str(parameters["number"]).encode("ascii", "replace"))


def _interval(parameters: Mapping[str, Any], device_key: str) -> bytes:
    del device_key
    seconds = int(parameters["seconds"])
    if not 10 <= seconds <= 0xFFFF:
        raise UsageError("the interval is 10 to 65535 seconds")
    return write(0x98, seconds.to_bytes(2, "big"))


COMMANDS: Final[Mapping[str, Encode]] = MappingProxyType(
    {
        "locate": lambda _parameters, _device_key: write(0x80),
        "interval": _interval,
        "sos_number": _sos_number,
        "silence": lambda _parameters, _device_key: write(0x56),
    }
)
"""Names as profiles use them. ``silence`` ends the alarm that the terminal sounds."""

KINDS: Final[Mapping[int, str]] = MappingProxyType(
    {0x80: "locate", 0x98: "interval", 0x41: "sos_number", 0x56: "silence"}
)
"""The command of a type that came back."""
