"""JT/T 808: what a platform can tell a terminal (JT/T 808-2019, clauses 8.8 to 8.44)."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import UsageError
from protocols.codecs.jt808.wire import header_id, write_message

Encode = Callable[[Mapping[str, Any], str], bytes]

_INTERVAL_PARAMETER: Final = 0x0029
_SOS_PHONE_PARAMETER: Final = 0x0044  # where an emergency text message goes
_RESTART, _POWER_OFF, _FACTORY_RESET = 4, 3, 5


def message(parameters: Mapping[str, Any], device_key: str, message_id: int, body: bytes) -> bytes:
    """A message to the terminal. ``version`` in the parameters overrides what its key suggests: -1 the header of 2013,
    1 that of 2019. The serial number follows from ``command_id``, so that a resend is the same message.
    """
    terminal, version = header_id(device_key, parameters.get("version"))
    serial = zlib.crc32(str(parameters.get("command_id", "")).encode()) & 0xFFFF
    return write_message(message_id, terminal, version, serial, body)


def _plain(message_id: int, body: bytes = b"") -> Encode:
    return lambda parameters, device_key: message(parameters, device_key, message_id, body)


def _set_parameters(parameters: Mapping[str, Any], device_key: str, values: Mapping[int, bytes]) -> bytes:
    """8103: count, then id (4), length, value of each."""
    body = bytes([len(values)])
    for identifier, value in values.items():
        body += identifier.to_bytes(4, "big") + bytes([len(value)]) + value
    return message(parameters, device_key, 0x8103, body)


def _interval(parameters: Mapping[str, Any], device_key: str) -> bytes:
    seconds = int(parameters["seconds"]).to_bytes(4, "big")
    return _set_parameters(parameters, device_key, {_INTERVAL_PARAMETER: seconds})


def _sos_number(parameters: Mapping[str, Any], device_key: str) -> bytes:
    return _set_parameters(parameters, device_key, {_SOS_PHONE_PARAMETER: _phone(parameters["number"])})


def _call_back(parameters: Mapping[str, Any], device_key: str) -> bytes:
    """8400: 0 an ordinary call (1: listen in), then the number."""
    return message(parameters, device_key, 0x8400, b"\0" + _phone(parameters["number"]))


def _contacts(parameters: Mapping[str, Any], device_key: str) -> bytes:
    """8401: an empty type 0 deletes the book; type 1 replaces it by entries of way (3: both), number, name."""
    numbers = list(parameters["numbers"])
    if not numbers:
        return message(parameters, device_key, 0x8401, b"\0")
    body = bytes([1, len(numbers)])
    for index, number in enumerate(numbers, 1):
        phone, name = _phone(number), str(index).encode()
        body += bytes([3, len(phone)]) + phone + bytes([len(name)]) + name
    return message(parameters, device_key, 0x8401, body)


def _shown_text(parameters: Mapping[str, Any], device_key: str) -> bytes:
    """8300: flags (bit 2 display, bit 3 read aloud), text in GBK; the header of 2019 has a type before the text."""
    text = str(parameters["text"]).encode("gb18030")
    flags = 0b1100
    version = header_id(device_key, parameters.get("version"))[1]
    kind = b"\x01" if version >= 0 else b""
    return message(parameters, device_key, 0x8300, bytes([flags]) + kind + text)


def _track(parameters: Mapping[str, Any], device_key: str) -> bytes:
    """8202: interval (2), for how long (4), in seconds."""
    interval, duration = int(parameters["seconds"]), int(parameters["duration_s"])
    return message(parameters, device_key, 0x8202, interval.to_bytes(2, "big") + duration.to_bytes(4, "big"))


def _silence(parameters: Mapping[str, Any], device_key: str) -> bytes:
    """8203: serial of the alarm (0: all of the kinds), kinds. Confirms the emergency, danger, area and route alarms."""
    kinds = 1 | 1 << 3 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 27 | 1 << 28
    return message(parameters, device_key, 0x8203, b"\0\0" + kinds.to_bytes(4, "big"))


def _phone(number: Any) -> bytes:
    phone = str(number).encode("ascii", "replace")
    if not phone or len(phone) > 20:
        raise UsageError("a telephone number has 1 to 20 characters")
    return phone


COMMANDS: Final[Mapping[str, Encode]] = MappingProxyType(
    {
        "locate": _plain(0x8201),
        "track": _track,
        "interval": _interval,
        "call_back": _call_back,
        "sos_number": _sos_number,
        "contacts": _contacts,
        "message": _shown_text,
        "silence": _silence,
        "parameters": _plain(0x8104),
        "restart": _plain(0x8105, bytes([_RESTART])),
        "power_off": _plain(0x8105, bytes([_POWER_OFF])),
        "factory_reset": _plain(0x8105, bytes([_FACTORY_RESET])),
    }
)
"""By name: parameters and the terminal's key to a frame. Raises UsageError for what cannot be sent."""
