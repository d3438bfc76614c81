"""Meitrack: commands ``@@<flag><length>,<IMEI>,<code>,...*<sum>``; the terminal answers with the same code."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import UsageError
from protocols.bits import sum8

Encode = Callable[[Mapping[str, Any], str], bytes]
MAX_TEXT: Final = 900

NAMES: Final = {
    "A10": "locate", "A12": "interval", "A71": "sos_numbers", "F02": "restart", "F11": "factory_reset",
    "B07": "overspeed",
}  # fmt: skip


def message(imei: str, text: str, flag: str = "A") -> bytes:
    """A message to the terminal. Raises UsageError for one that is too long."""
    if len(text) > MAX_TEXT:
        raise UsageError(f"a command has at most {MAX_TEXT} characters")
    content = f",{imei},{text}*"
    head = f"@@{flag}{len(content) + 4}{content}".encode("ascii", "replace")
    return head + f"{sum8(head):02X}\r\n".encode()


def _flag(parameters: Mapping[str, Any]) -> str:
    """A letter that the terminal repeats."""
    total = sum(str(parameters.get("command_id", "")).encode())
    return chr(ord("A") + total % 26)


def _fixed(text: str) -> Encode:
    return lambda parameters, device_key: message(device_key, text, _flag(parameters))


def _interval(parameters: Mapping[str, Any], device_key: str) -> bytes:
    """A12 counts in tens of seconds."""
    tens = max(1, round(int(parameters["seconds"]) / 10))
    return message(device_key, f"A12,{tens}", _flag(parameters))


def _sos_numbers(parameters: Mapping[str, Any], device_key: str) -> bytes:
    """A71: the numbers of the three buttons."""
    numbers = [str(number) for number in parameters["numbers"]]
    if len(numbers) > 3:
        raise UsageError("the terminal holds three numbers")
    return message(device_key, "A71," + ",".join(numbers + [""] * (3 - len(numbers))), _flag(parameters))


def _overspeed(parameters: Mapping[str, Any], device_key: str) -> bytes:
    return message(device_key, f"B07,{int(parameters['km_per_h'])}", _flag(parameters))


def _text(parameters: Mapping[str, Any], device_key: str) -> bytes:
    return message(device_key, str(parameters["text"]), _flag(parameters))


COMMANDS: Final[Mapping[str, Encode]] = MappingProxyType(
    {
        "locate": _fixed("A10"),
        "interval": _interval,
        "sos_numbers": _sos_numbers,
        "overspeed": _overspeed,
        "restart": _fixed("F02"),
        "factory_reset": _fixed("F11"),
        "text": _text,
    }
)
"""By name: parameters and the terminal's key (its IMEI) to a message. Raises UsageError for what cannot be sent."""
