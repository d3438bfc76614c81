"""Commands to GT06 terminals: texts in frames of type 80. The server's flag comes back with the answer."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import UsageError
from protocols.bits import crc16_x25

Encode = Callable[[Mapping[str, Any], str], bytes]

MAX_TEXT: Final = 246  # the length byte counts type, its own byte, flag, language, serial and CRC too


def flag_of(name: str) -> int:
    """The server's flag of a command: 4 bytes that come back unchanged."""
    return zlib.crc32(name.encode())


def write_command(text: str, flag: int, serial: int = 1) -> bytes:
    """Type 80: length, flag (4), ASCII text, language (2: English), serial, CRC. Raises UsageError."""
    if not text.isascii() or not text.isprintable() or len(text) > MAX_TEXT - 10:
        raise UsageError("the text must be short printable ASCII")
    content = text.encode()
    body = b"\x80" + bytes([len(content) + 4]) + flag.to_bytes(4, "big") + content
    body += b"\x00\x02" + serial.to_bytes(2, "big")
    counted = bytes([len(body) + 2]) + body
    return b"xx" + counted + crc16_x25(counted).to_bytes(2, "big") + b"\r\n"


def _text(name: str, write: Callable[[Mapping[str, Any]], str]) -> Encode:
    flag = flag_of(name)
    return lambda parameters, _device_key: write_command(write(parameters), flag)


def _numbers(parameters: Mapping[str, Any]) -> str:
    numbers = [str(number) for number in parameters["numbers"]][:3]
    return f"SOS,A,{','.join(numbers)}#"


COMMANDS: Final[Mapping[str, Encode]] = MappingProxyType(
    {
        "locate": _text("locate", lambda _parameters: "WHERE#"),
        "interval": _text("interval", lambda parameters: f"TIMER,{int(parameters['seconds'])}#"),
        "sos_numbers": _text("sos_numbers", _numbers),
        "restart": _text("restart", lambda _parameters: "RESET#"),
        "text": _text("text", lambda parameters: str(parameters["text"])),
    }
)
"""Names as profiles use them. Makers differ in the texts; a profile may carry its own as the parameter of ``text``."""

NAMES: Final[Mapping[int, str]] = MappingProxyType({flag_of(name): name for name in COMMANDS})
"""The command of a flag that came back."""


def reply_of(flag: int, text: str) -> dict[str, str]:
    """What an answer says of its command (``Reading.unknown["command_reply"]``)."""
    lowered = text.lower()
    refused = any(word in lowered for word in ("fail", "error", "invalid", "not support", "unknown command"))
    return {"command": NAMES.get(flag, ""), "result": "refused" if refused else "done", "text": text[:200]}
