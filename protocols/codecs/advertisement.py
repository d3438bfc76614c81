"""A Bluetooth LE advertisement in the AD structures of the Bluetooth Core Specification (Supplement, part A): length,
type, data, one behind the other. Written by the transport from what the stack tells, read by codecs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct, field

from gateway.errors import ParseError

UUIDS_16: Final = 0x03
UUIDS_128: Final = 0x07
LOCAL_NAME: Final = 0x09
SERVICE_DATA_16: Final = 0x16
SERVICE_DATA_128: Final = 0x21
MANUFACTURER_DATA: Final = 0xFF
LONGEST: Final = 254
"""Bytes behind the type of one structure: its length is one byte."""

_BASE: Final = "-0000-1000-8000-00805f9b34fb"


class Advertisement(Struct):
    """UUIDs are 36 characters in lower case; manufacturers are by their assigned number."""

    local_name: str = ""
    service_uuids: list[str] = field(default_factory=list)
    service_data: dict[str, bytes] = field(default_factory=dict)
    manufacturer_data: dict[int, bytes] = field(default_factory=dict)


def packed(
    local_name: str = "",
    service_uuids: Iterable[str] = (),
    service_data: Mapping[str, bytes] | None = None,
    manufacturer_data: Mapping[int, bytes] | None = None,
) -> bytes:
    """The structures in one order, so that what is the same looks the same. What is too long for one is left out."""
    found: list[tuple[int, bytes]] = []
    if local_name:
        found.append((LOCAL_NAME, local_name.encode("utf-8", "replace")))
    for uuid in sorted(service_uuids):
        raw = _uuid_bytes(uuid)
        found.append((UUIDS_16 if len(raw) == 2 else UUIDS_128, raw))
    for uuid, data in sorted((service_data or {}).items()):
        raw = _uuid_bytes(uuid)
        found.append((SERVICE_DATA_16 if len(raw) == 2 else SERVICE_DATA_128, raw + data))
    for company, data in sorted((manufacturer_data or {}).items()):
        found.append((MANUFACTURER_DATA, company.to_bytes(2, "little") + data))
    return b"".join(bytes([1 + len(data), kind]) + data for kind, data in found if len(data) <= LONGEST)


def read(data: bytes) -> Advertisement:
    """What the structures say; types that are not in the list above are passed over. Raises ParseError."""
    found = Advertisement()
    at = 0
    while at < len(data):
        length = data[at]
        if length == 0:  # what fills an advertisement up
            break
        body = data[at + 1 : at + 1 + length]
        if len(body) < length:
            raise ParseError(f"the structure at byte {at} is cut off")
        _take(found, body[0], body[1:])
        at += 1 + length
    return found


def _take(found: Advertisement, kind: int, body: bytes) -> None:
    if kind == LOCAL_NAME:
        found.local_name = body.decode("utf-8", "replace")
    elif kind in (UUIDS_16, UUIDS_128):
        size = 2 if kind == UUIDS_16 else 16
        found.service_uuids.extend(_uuid(body[at : at + size]) for at in range(0, len(body) - size + 1, size))
    elif kind in (SERVICE_DATA_16, SERVICE_DATA_128):
        size = 2 if kind == SERVICE_DATA_16 else 16
        if len(body) >= size:
            found.service_data[_uuid(body[:size])] = body[size:]
    elif kind == MANUFACTURER_DATA and len(body) >= 2:
        found.manufacturer_data[int.from_bytes(body[:2], "little")] = body[2:]


def _uuid(raw: bytes) -> str:
    digits = raw[::-1].hex()
    if len(raw) == 2:
        return f"0000{digits}{_BASE}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _uuid_bytes(uuid: str) -> bytes:
    uuid = uuid.lower()
    if uuid.startswith("0000") and uuid.endswith(_BASE):
        return bytes.fromhex(uuid[4:8])[::-1]
    return bytes.fromhex(uuid.replace("-", ""))[::-1]
