"""Advertisements of makers with a format of their own, read by libraries that others keep (Apache-2.0 and MIT).

A frame is the address of the sender, 6 bytes as people write it, and behind it the advertisement's AD structures
(``protocols.codecs.advertisement``). All of these libraries have the interface of ``bluetooth-sensor-state-data``;
each maker is a row of MAKERS. They keep state by device; here a decoder lives for one frame, so that a frame always
means the same and nothing is to be bounded.

The libraries are imported when the first frame of their maker is read (about half a second and 40 MB, most of which is
the HTTP client that xiaomi-ble brings): ``ready`` does so ahead.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import math
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.advertisement import Advertisement, read

ADDRESS_BYTES: Final = 6
MAX_BYTES: Final = 2048
EXTRA: Final = "ble-makers"
MIBEACON: Final = "0000fe95-0000-1000-8000-00805f9b34fb"
TEXT: Final = 200
"""Characters of a text that are kept."""


class Maker(Struct, frozen=True, kw_only=True):
    """``module`` has ``decoder``, of which an object is made per frame, with the bind key when ``keyed``.

    ``whole`` is False for a maker whose service data says everything: names and manufacturer data, which come and go
    with scan responses, would make one event look like two.
    """

    package: str
    module: str
    decoder: str
    keyed: bool = False
    whole: bool = True


MAKERS: Final[Mapping[str, Maker]] = MappingProxyType(
    {
        "ble_govee": Maker(package="govee-ble", module="govee_ble", decoder="GoveeBluetoothDeviceData"),
        "ble_inkbird": Maker(package="inkbird-ble", module="inkbird_ble", decoder="INKBIRDBluetoothDeviceData"),
        "ble_sensorpush": Maker(
            package="sensorpush-ble", module="sensorpush_ble", decoder="SensorPushBluetoothDeviceData"
        ),
        "ble_thermopro": Maker(package="thermopro-ble", module="thermopro_ble", decoder="ThermoProBluetoothDeviceData"),
        "ble_xiaomi": Maker(
            package="xiaomi-ble", module="xiaomi_ble", decoder="XiaomiBluetoothDeviceData", keyed=True, whole=False
        ),
    }
)
"""By the name of their codec."""

_CANONICAL: Final = frozenset({"°C", "%", "kg", "V"})
_CONVERTED: Final[Mapping[str, tuple[float, float]]] = MappingProxyType(
    {"°F": (5 / 9, -160 / 9), "lb": (0.45359237, 0.0), "mV": (0.001, 0.0)}
)
_RADIO: Final = "signal_strength"  # how it was heard, not what was said


class BleMakerCodec:
    """``ports.Codec`` of one maker."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._maker = MAKERS[name]

    def parse(self, frame: Frame) -> Sequence[Report]:
        """Exactly one report; without fields when the advertisement says that its device is there, and nothing else.

        Raises ParseError, also for whatever the library raises, and when the library is not installed.
        """
        if not ADDRESS_BYTES < len(frame.payload) <= MAX_BYTES:
            raise ParseError(f"{len(frame.payload)} bytes are no address with an advertisement")
        address = frame.payload[:ADDRESS_BYTES]
        advertisement = read(frame.payload[ADDRESS_BYTES:])
        key = (frame.context or {}).get("bindkey")
        make, info = _library(self._maker)
        report = Report(frame.device_key or address.hex())
        faults: list[str] = []
        try:
            decoder = make(key if isinstance(key, bytes) else None) if self._maker.keyed else make()
            fields = _fields(decoder.update(_told(info, address, advertisement)), faults)
            if unhandled := getattr(decoder, "unhandled", None):
                fields["unhandled"] = {str(name): _plain(value) for name, value in unhandled.items()}
            proved = self._maker.keyed and _is_proved(decoder)
        except Exception as error:  # others' code on anybody's bytes: a fault of the frame
            raise ParseError(f"{self._maker.package} fails at it: {type(error).__name__}") from error
        beacon = advertisement.service_data.get(MIBEACON) if self._maker.keyed else None
        if not fields and beacon is not None:
            _judge_silence(beacon, key)
        elif not fields and not faults:
            raise ParseError(f"{self._maker.package} finds nothing in it that it knows")
        elif beacon is not None and len(advertisement.service_data) == 1:  # beside others, it would lend them its proof
            fields["packet_id"] = beacon[4]
            report.proof = True if proved else None
        report.fields = fields
        report.faults = faults or None
        return [report]


def _told(info: Any, address: bytes, advertisement: Advertisement) -> Any:
    readable = ":".join(f"{octet:02X}" for octet in address)
    return info(
        name=advertisement.local_name or readable, address=readable, rssi=0,
        manufacturer_data=advertisement.manufacturer_data, service_data=advertisement.service_data,
        service_uuids=advertisement.service_uuids, source="",
    )  # fmt: skip


def missing(codec: str) -> str:
    """What to install before this codec can read anything, "" for nothing and for codecs that need nothing."""
    maker = MAKERS.get(codec)
    if maker is None or importlib.util.find_spec(maker.module) is not None:
        return ""
    return f"{maker.package} is not installed; pip install 'carebell[{EXTRA}]'"


def ready(codec: str) -> None:
    """Import what this codec needs, for a thread that may take its time. Raises ParseError when it is missing."""
    _library(MAKERS[codec])


@functools.cache
def _library(maker: Maker) -> tuple[Any, Any]:
    """The class of decoders and the one of what they are told. Raises ParseError."""
    try:
        module = importlib.import_module(maker.module)
        info = importlib.import_module("home_assistant_bluetooth").BluetoothServiceInfo
        decoder = getattr(module, maker.decoder)
    except (ImportError, AttributeError) as error:
        raise ParseError(f"{maker.package} cannot be used ({error}); pip install 'carebell[{EXTRA}]'") from error
    logging.getLogger(maker.module).setLevel(logging.CRITICAL + 1)  # it writes addresses and whole frames
    return decoder, info


# ---- MiBeacon --------------------------------------------------------------------------------------------------------


def _judge_silence(beacon: bytes, key: object) -> None:
    """Why nothing came of a MiBeacon. Raises ParseError unless it has no object in it.

    Frame control, little endian: bit 3 encrypted, bit 6 with an object, bits 12 to 15 the version.
    """
    if len(beacon) < 5:
        raise ParseError("too short for a MiBeacon")
    control = int.from_bytes(beacon[:2], "little")
    if not control & 0x40:
        return
    if control & 0x08 and not isinstance(key, bytes):
        raise ParseError("encrypted, and there is no bind key for this device")
    if control & 0x08:
        raise ParseError("encrypted with another key than the bind key of this device, or with nothing known in it")
    raise ParseError("xiaomi-ble finds nothing in it that it knows")


def _is_proved(decoder: Any) -> bool:
    """Opened by the bind key, and of a version (4, 5) whose encryption proves the sender; that of 2 and 3 does not."""
    scheme = getattr(getattr(decoder, "encryption_scheme", None), "value", "")
    return decoder.bindkey_verified is True and scheme == "mibeacon_4_5"


# ---- meaning ---------------------------------------------------------------------------------------------------------


def _fields(update: Any, faults: list[str]) -> dict[str, Any]:
    """Values by their key in canonical units; other units stand behind the key. Events are their type by their key.

    A binary sensor ``battery`` is ``battery_low``, an event beside a value of its name is ``<name>_event``.
    """
    fields: dict[str, Any] = {}
    for key, sensor in update.entity_values.items():
        if key.key == _RADIO or sensor.native_value is None:
            continue
        described = update.entity_descriptions.get(key)
        unit = None if described is None else described.native_unit_of_measurement
        name, value = _in_unit(
            _name(key), sensor.native_value, None if unit is None else str(getattr(unit, "value", unit))
        )
        if isinstance(value, float) and not math.isfinite(value):
            faults.append(f"{name}: no number")
        else:
            fields[name] = value
    for key, sensor in update.binary_entity_values.items():
        if sensor.native_value is not None:
            name = _name(key)
            fields["battery_low" if name == "battery" else name] = bool(sensor.native_value)
    for key, event in update.events.items():
        name = _name(key)
        fields[f"{name}_event" if name in fields else name] = _plain(event.event_type)
        if event.event_properties:
            fields[f"{name}_properties"] = {str(what): _plain(value) for what, value in event.event_properties.items()}
    return fields


def _name(key: Any) -> str:
    """The key, with the part of the device in front of which it stands (a probe), if it has parts."""
    name = str(getattr(key.key, "value", key.key))
    return name if key.device_id is None else f"{name}_{key.device_id}"


def _in_unit(name: str, value: Any, unit: str | None) -> tuple[str, Any]:
    value = _plain(value)
    if unit is None or unit in _CANONICAL or isinstance(value, str):
        return name, value
    if unit in _CONVERTED:
        factor, offset = _CONVERTED[unit]
        return name, round(value * factor + offset, 6)
    for sign, word in (("Ω", "ohm"), ("µ", "u"), ("μ", "u"), ("/", " per "), ("³", "3")):
        unit = unit.replace(sign, word)
    return f"{name}_{re.sub('[^a-z0-9]+', '_', unit.lower()).strip('_')}", value


def _plain(value: Any) -> Any:
    """As JSON knows it."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(getattr(value, "value", value))[:TEXT]
