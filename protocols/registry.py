"""Every codec by its name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Protocol

from gateway.ports import Codec, TerminalCodec
from protocols.codecs.ble_makers import MAKERS, BleMakerCodec
from protocols.codecs.bthome import BthomeCodec
from protocols.codecs.call_host import CallHostCodec
from protocols.codecs.chirpstack import ChirpStackCodec
from protocols.codecs.cti import CtiCodec
from protocols.codecs.dc09 import Dc09Codec
from protocols.codecs.eelink.codec import EelinkCodec
from protocols.codecs.gatt import GattCodec
from protocols.codecs.gl200text.codec import Gl200TextCodec
from protocols.codecs.gt06.codec import Gt06Codec
from protocols.codecs.h02.codec import H02Codec
from protocols.codecs.json_fields import JsonFieldsCodec
from protocols.codecs.jt808.codec import Jt808Codec
from protocols.codecs.lwm2m import Lwm2mCodec
from protocols.codecs.meitrack.codec import MeitrackCodec
from protocols.codecs.minifinder import MinifinderCodec
from protocols.codecs.minifinder2 import Minifinder2Codec
from protocols.codecs.modbus import ModbusCodec
from protocols.codecs.native import NativeCodec
from protocols.codecs.nmea import NmeaCodec
from protocols.codecs.operator_messages import CtwingCodec, OneNetCodec
from protocols.codecs.osmand.codec import OsmandCodec
from protocols.codecs.scaip import ScaipCodec
from protocols.codecs.senml import SenmlCodec
from protocols.codecs.the_things_stack import TheThingsStackCodec
from protocols.codecs.theengs import TheengsCodec
from protocols.codecs.tk103.codec import Tk103Codec
from protocols.codecs.topin.codec import TopinCodec
from protocols.codecs.watch.codec import WatchCodec
from protocols.codecs.zigbee2mqtt import Zigbee2MqttCodec


class TerminalCodecClass(Protocol):
    """A class of terminal codecs. A lenient one takes a frame with a bad checksum and tells it as a fault."""

    def __call__(self, *, lenient: bool = False) -> TerminalCodec: ...


_TERMINAL_CLASSES: Final[tuple[TerminalCodecClass, ...]] = (
    Gt06Codec,
    OsmandCodec,
    Jt808Codec,
    WatchCodec,
    H02Codec,
    TopinCodec,
    Tk103Codec,
    EelinkCodec,
    MeitrackCodec,
    MinifinderCodec,
    Minifinder2Codec,
    Gl200TextCodec,
)

_RECEIVER_CLASSES: Final[tuple[TerminalCodecClass, ...]] = (Dc09Codec, ScaipCodec)

_STRICT: Final = tuple(make() for make in _TERMINAL_CLASSES)

_BROKER: Final[tuple[Codec, ...]] = (Zigbee2MqttCodec(), ChirpStackCodec(), TheThingsStackCodec(), TheengsCodec())
"""Codecs of what other programs publish on a broker; they read the topic too (protocols.codecs.topic_message)."""

TERMINALS: Final[Mapping[str, TerminalCodec]] = MappingProxyType({codec.name: codec for codec in _STRICT})
"""The codecs of terminals that keep up a conversation over TCP or UDP, each on a port of its own."""

RECEIVERS: Final[Mapping[str, TerminalCodec]] = MappingProxyType(
    {codec.name: codec for codec in (make() for make in _RECEIVER_CLASSES)}
)
"""The codecs of alarm receivers. They keep up conversations as well; each is configured in a section of its own."""

CODECS: Final[Mapping[str, Codec]] = MappingProxyType(
    {
        "native": NativeCodec(),
        "json": JsonFieldsCodec(),
        "senml": SenmlCodec(),
        "lwm2m": Lwm2mCodec(),
        "onenet": OneNetCodec(),
        "ctwing": CtwingCodec(),
        **{codec.name: codec for codec in _BROKER},
        "gatt": GattCodec(),
        "bthome": BthomeCodec(),
        **{name: BleMakerCodec(name) for name in MAKERS},
        "callhost": CallHostCodec(),
        "cti": CtiCodec(),
        "nmea": NmeaCodec(),
        "modbus": ModbusCodec(),
        **TERMINALS,
        **RECEIVERS,
    }
)

TEXT_CODECS: Final = frozenset(
    {
        "native",
        "json",
        "senml",
        "onenet",
        "ctwing",
        "callhost",
        "cti",
        "nmea",
        *(codec.name for codec in _BROKER),
        *(name for name, codec in RECEIVERS.items() if codec.text),
        *(codec.name for codec in _STRICT if codec.text),
    }
)
"""Codecs whose frames are lines of text; those of the others are written in hexadecimal."""


def lenient(name: str) -> Codec:
    """The codec of this name that takes frames with a bad checksum and tells that as a fault; itself if it has none."""
    for make in (*_TERMINAL_CLASSES, *_RECEIVER_CLASSES):
        codec = make(lenient=True)
        if codec.name == name:
            return codec
    return CODECS[name]
