"""Queclink: commands ``AT+GTRTO=password,sub-command,...,number$`` and what ``+ACK`` says of them."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import UsageError

Encode = Callable[[Mapping[str, Any], str], bytes]
MAX_TEXT: Final = 500
_DEFAULT_PASSWORD: Final = "gl300"  # noqa: S105 - printed in the manual of every such device
_LOCATE, _RESTART, _FACTORY_RESET, _POWER_OFF, _VERSION, _BATTERY = "1", "3", "4", "5", "8", "9"

NAMES: Final = {
    "RTL": "locate", "REBOOT": "restart", "RESET": "factory_reset", "PWROFF": "power_off", "VER": "version",
    "BAT": "battery", _LOCATE: "locate", _RESTART: "restart", _FACTORY_RESET: "factory_reset",
    _POWER_OFF: "power_off", _VERSION: "version", _BATTERY: "battery",
}  # fmt: skip


def _number(parameters: Mapping[str, Any]) -> str:
    return f"{zlib.crc32(str(parameters.get('command_id', '')).encode()) & 0xFFFF:04X}"


def _real_time(sub_command: str) -> Encode:
    def encode(parameters: Mapping[str, Any], _device_key: str) -> bytes:
        password = str(parameters.get("password") or _DEFAULT_PASSWORD)
        return f"AT+GTRTO={password},{sub_command},,,,,,{_number(parameters)}$".encode("ascii", "replace")

    return encode


def _text(parameters: Mapping[str, Any], _device_key: str) -> bytes:
    text = str(parameters["text"])
    if not text.startswith("AT+GT") or not text.endswith("$") or len(text) > MAX_TEXT:
        raise UsageError(f"a command begins with AT+GT, ends with $ and has at most {MAX_TEXT} characters")
    return text.encode("ascii", "replace")


def answered(kind: str, fields: Sequence[str]) -> dict[str, Any]:
    """What an acknowledgement says: which command, its number, and what else it carries."""
    number = fields[-1] if fields else ""
    detail = ",".join(fields[:-1]).strip(",")
    name = NAMES.get(fields[0].upper(), "") if kind == "RTO" and len(fields) > 1 else ""
    return {"command": name, "result": "done", "kind": kind, "number": number, "detail": detail[:200]}


COMMANDS: Final[Mapping[str, Encode]] = MappingProxyType(
    {
        "locate": _real_time(_LOCATE),
        "restart": _real_time(_RESTART),
        "factory_reset": _real_time(_FACTORY_RESET),
        "power_off": _real_time(_POWER_OFF),
        "version": _real_time(_VERSION),
        "battery": _real_time(_BATTERY),
        "text": _text,
    }
)
"""By name: parameters (``password`` where it is not the default) and the terminal's key to a sentence."""
