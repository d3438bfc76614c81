"""Commands to watches, framed like their own messages. A watch echoes the word of the command as its confirmation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import UsageError

Encode = Callable[[Mapping[str, Any], str], bytes]

MAX_NUMBERS: Final = 10
_ALARM_SWITCHES: Final = {"sos_sms": "SOSSMS", "low_battery": "LOWBAT", "removed": "REMOVE"}


def write(content: str, device_key: str, parameters: Mapping[str, Any]) -> bytes:
    """One frame. ``vendor`` (SG, which 3G watches take too) and ``index`` (none) may be parameters. Raises UsageError.

    Brackets and ``}`` in the content are escaped; the length counts it without the escapes.
    """
    vendor, index = str(parameters.get("vendor") or "SG"), str(parameters.get("index") or "")
    if not (content.isascii() and content.isprintable() and device_key.isalnum() and device_key.isascii()):
        raise UsageError("only printable ASCII can be said to a watch")
    if len(vendor) != 2 or not (vendor + index).isalnum() or len(content) > 4000:
        raise UsageError("vendor is two letters, index four hexadecimal digits, and the content short")
    escaped = content.replace("}", "}\x01").replace("[", "}\x02").replace("]", "}\x03")
    between = f"{index}*" if index else ""
    return f"[{vendor}*{device_key}*{between}{len(content):04X}*{escaped}]".encode()


def _say(content: Callable[[Mapping[str, Any]], str]) -> Encode:
    return lambda parameters, device_key: write(content(parameters), device_key, parameters)


def _sos_numbers(parameters: Mapping[str, Any], device_key: str) -> bytes:
    numbers = [str(number) for number in parameters["numbers"]][:3]
    frames = [write(f"SOS{place},{number}", device_key, parameters) for place, number in enumerate(numbers, 1)]
    return b"".join(frames)


def _contacts(parameters: Mapping[str, Any], device_key: str) -> bytes:
    """Who may call the watch: two lists of five."""
    numbers = [str(number) for number in parameters["numbers"]]
    if len(numbers) > MAX_NUMBERS:
        raise UsageError(f"a watch keeps {MAX_NUMBERS} numbers")
    numbers += [""] * (MAX_NUMBERS - len(numbers))
    lists = (numbers[:5], numbers[5:])
    return b"".join(
        write(f"WHITELIST{place},{','.join(list_)}", device_key, parameters) for place, list_ in enumerate(lists, 1)
    )


def _alarm_switch(parameters: Mapping[str, Any]) -> str:
    word = _ALARM_SWITCHES.get(str(parameters["alarm"]))
    if word is None:
        raise UsageError(f"alarm is one of {', '.join(_ALARM_SWITCHES)}")
    return f"{word},{int(bool(parameters['on']))}"


COMMANDS: Final[Mapping[str, Encode]] = MappingProxyType(
    {
        "locate": _say(lambda _: "CR"),
        "ring": _say(lambda _: "FIND"),
        "interval": _say(lambda parameters: f"UPLOAD,{int(parameters['seconds'])}"),
        "call_back": _say(lambda parameters: f"CALL,{parameters['number']}"),
        "center_number": _say(lambda parameters: f"CENTER,{parameters['number']}"),
        "sos_numbers": _sos_numbers,
        "contacts": _contacts,
        "alarm_switch": _say(_alarm_switch),
        "measure_heart_rate": _say(lambda _: "hrtstart,1"),
        "message": _say(lambda parameters: f"MESSAGE,{str(parameters['text']).encode('utf-16-be').hex().upper()}"),
        "time_zone": _say(lambda parameters: f"LZ,,{float(parameters['hours']):+g}"),
        "restart": _say(lambda _: "RESET"),
        "power_off": _say(lambda _: "POWEROFF"),
        "text": _say(lambda parameters: str(parameters["text"])),
    }
)
"""Names as profiles use them. ``text`` is any command word of the maker's with its data."""

WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "CR": "locate",
        "FIND": "ring",
        "UPLOAD": "interval",
        "CALL": "call_back",
        "CENTER": "center_number",
        "SOS": "sos_numbers",
        "SOS1": "sos_numbers",
        "SOS2": "sos_numbers",
        "SOS3": "sos_numbers",
        "WHITELIST1": "contacts",
        "WHITELIST2": "contacts",
        "SOSSMS": "alarm_switch",
        "LOWBAT": "alarm_switch",
        "REMOVE": "alarm_switch",
        "HRTSTART": "measure_heart_rate",
        "MESSAGE": "message",
        "LZ": "time_zone",
        "RESET": "restart",
        "POWEROFF": "power_off",
    }
)
"""The command of a word that came back, in capitals."""
