"""What ChirpStack and The Things Stack have in common: bytes of an uplink as fields, reception, places."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

from protocols.codecs.terminal import Draft
from protocols.codecs.topic_message import member, number, text

MAX_BYTES: Final = 64  # that become fields of their own; LoRaWAN carries at most 242
MAX_BASE64: Final = 1024


def uplink_fields(draft: Draft, decoded: Any, port: Any, data: Any) -> dict[str, Any]:
    """``object`` when the network server decoded the bytes; else ``port_<n>`` with ``hex``, ``b0``, ``b1``, ...

    A profile names either. Bytes are named by their port, for on another one they mean something else.
    """
    if isinstance(decoded, dict) and decoded:
        return {"object": decoded}
    if data is None or data == "":
        return {}
    try:
        raw = base64.b64decode(data, validate=True) if isinstance(data, str) and len(data) <= MAX_BASE64 else None
    except (binascii.Error, ValueError):
        raw = None
    if raw is None:
        draft.fault("data", "not base64")
        return {}
    port_number = port if isinstance(port, int) and not isinstance(port, bool) and 0 <= port <= 255 else 0
    named: dict[str, Any] = {f"b{index}": value for index, value in enumerate(raw[:MAX_BYTES])}
    return {f"port_{port_number}": {"hex": raw.hex(), **named}}


def reception(draft: Draft, gateways: Any) -> None:
    """The best of the gateways that heard it."""
    if not isinstance(gateways, list):
        return
    heard = [gateway for gateway in gateways[:64] if number(member(gateway, "rssi")) is not None]
    if heard:
        best = max(heard, key=lambda gateway: number(member(gateway, "rssi")) or -1000.0)
        draft.measure("rssi_dbm", number(member(best, "rssi")))
        draft.measure("x_snr_db", number(member(best, "snr")))


def place(draft: Draft, found: Any) -> None:
    """A solved location; what is neither GNSS nor Wi-Fi was made from gateways, as cells are."""
    latitude, longitude = number(member(found, "latitude")) or 0.0, number(member(found, "longitude")) or 0.0
    stated = text(member(found, "source")).upper()
    source = "gnss" if "GNSS" in stated or "GPS" in stated else "wifi" if "WIFI" in stated else "cell"
    draft.place(latitude, longitude, source=source, accuracy_m=number(member(found, "accuracy")) or None)
    if draft.position is not None and (altitude := number(member(found, "altitude"))):
        draft.measure("altitude_m", altitude)


def kept(draft: Draft, event: str, members: dict[str, Any], names: Sequence[str]) -> None:
    """Members of an event that have no observation of their own."""
    told: dict[str, Any] = {"event": event}
    for name in names:
        value = members.get(name)
        if isinstance(value, bool | int | float) or (isinstance(value, str) and value):
            told[name] = text(value, 300) if isinstance(value, str) else value
    draft.keep("lorawan", told)
