"""Properties of MQTT 5 (5.0 section 2.2.2): which exist, of which type, in which packets."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Final

from msgspec import Struct

from protocols.transports.mqtt_endpoint.reader import (
    MALFORMED,
    PROTOCOL_ERROR,
    PacketError,
    Reader,
    encode_binary,
    encode_string,
    encode_varint,
)

Properties = dict[int, Any]
"""By identifier. A user property is a list of pairs, a subscription identifier a list of numbers."""

WILL: Final = 0  # not a packet type: the properties of the will within CONNECT
CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = 1, 2, 3, 4, 5, 6, 7
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT, AUTH = 8, 9, 10, 11, 12, 13, 14, 15

PAYLOAD_FORMAT, MESSAGE_EXPIRY, CONTENT_TYPE, RESPONSE_TOPIC, CORRELATION_DATA = 0x01, 0x02, 0x03, 0x08, 0x09
SUBSCRIPTION_IDENTIFIER, SESSION_EXPIRY, ASSIGNED_CLIENT_ID, SERVER_KEEP_ALIVE = 0x0B, 0x11, 0x12, 0x13
AUTHENTICATION_METHOD, AUTHENTICATION_DATA, REQUEST_PROBLEM, WILL_DELAY = 0x15, 0x16, 0x17, 0x18
REQUEST_RESPONSE, RESPONSE_INFORMATION, SERVER_REFERENCE, REASON_STRING = 0x19, 0x1A, 0x1C, 0x1F
RECEIVE_MAXIMUM, TOPIC_ALIAS_MAXIMUM, TOPIC_ALIAS, MAXIMUM_QOS, RETAIN_AVAILABLE = 0x21, 0x22, 0x23, 0x24, 0x25
USER_PROPERTY, MAXIMUM_PACKET_SIZE, WILDCARD_AVAILABLE = 0x26, 0x27, 0x28
SUBSCRIPTION_IDENTIFIER_AVAILABLE, SHARED_AVAILABLE = 0x29, 0x2A


class Type(enum.Enum):
    FLAG = enum.auto()  # a byte that is 0 or 1
    U16 = enum.auto()
    U32 = enum.auto()
    VARINT = enum.auto()
    STRING = enum.auto()
    BINARY = enum.auto()
    PAIR = enum.auto()


class Property(Struct, frozen=True):
    type: Type
    packets: frozenset[int]
    never_zero: bool = False


def _in(*packets: int) -> frozenset[int]:
    return frozenset(packets)


_REASONED: Final = _in(CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH)

TABLE: Final[Mapping[int, Property]] = {  # 5.0 table 2-4
    PAYLOAD_FORMAT: Property(Type.FLAG, _in(PUBLISH, WILL)),
    MESSAGE_EXPIRY: Property(Type.U32, _in(PUBLISH, WILL)),
    CONTENT_TYPE: Property(Type.STRING, _in(PUBLISH, WILL)),
    RESPONSE_TOPIC: Property(Type.STRING, _in(PUBLISH, WILL)),
    CORRELATION_DATA: Property(Type.BINARY, _in(PUBLISH, WILL)),
    SUBSCRIPTION_IDENTIFIER: Property(Type.VARINT, _in(PUBLISH, SUBSCRIBE), never_zero=True),
    SESSION_EXPIRY: Property(Type.U32, _in(CONNECT, CONNACK, DISCONNECT)),
    ASSIGNED_CLIENT_ID: Property(Type.STRING, _in(CONNACK)),
    SERVER_KEEP_ALIVE: Property(Type.U16, _in(CONNACK)),
    AUTHENTICATION_METHOD: Property(Type.STRING, _in(CONNECT, CONNACK, AUTH)),
    AUTHENTICATION_DATA: Property(Type.BINARY, _in(CONNECT, CONNACK, AUTH)),
    REQUEST_PROBLEM: Property(Type.FLAG, _in(CONNECT)),
    WILL_DELAY: Property(Type.U32, _in(WILL)),
    REQUEST_RESPONSE: Property(Type.FLAG, _in(CONNECT)),
    RESPONSE_INFORMATION: Property(Type.STRING, _in(CONNACK)),
    SERVER_REFERENCE: Property(Type.STRING, _in(CONNACK, DISCONNECT)),
    REASON_STRING: Property(Type.STRING, _REASONED),
    RECEIVE_MAXIMUM: Property(Type.U16, _in(CONNECT, CONNACK), never_zero=True),
    TOPIC_ALIAS_MAXIMUM: Property(Type.U16, _in(CONNECT, CONNACK)),
    TOPIC_ALIAS: Property(Type.U16, _in(PUBLISH)),
    MAXIMUM_QOS: Property(Type.FLAG, _in(CONNACK)),
    RETAIN_AVAILABLE: Property(Type.FLAG, _in(CONNACK)),
    USER_PROPERTY: Property(Type.PAIR, _REASONED | _in(CONNECT, PUBLISH, WILL, SUBSCRIBE, UNSUBSCRIBE)),
    MAXIMUM_PACKET_SIZE: Property(Type.U32, _in(CONNECT, CONNACK), never_zero=True),
    WILDCARD_AVAILABLE: Property(Type.FLAG, _in(CONNACK)),
    SUBSCRIPTION_IDENTIFIER_AVAILABLE: Property(Type.FLAG, _in(CONNACK)),
    SHARED_AVAILABLE: Property(Type.FLAG, _in(CONNACK)),
}


def read_properties(reader: Reader, packet: int) -> Properties:
    """The properties at the cursor.

    Raises PacketError: 0x81 for what is unknown, out of place or cut short, 0x82 for what is repeated or has a value
    that is not allowed (5.0 section 2.2.2.2).
    """
    length = reader.varint()
    if length == 0:
        return {}
    inner = Reader(reader.data, reader.pos, reader.pos + length)
    if inner.stop > reader.stop:
        raise PacketError(MALFORMED, "the properties are longer than their packet")
    reader.pos = inner.stop
    found: Properties = {}
    while inner.left:
        identifier = inner.varint()
        kind = TABLE.get(identifier)
        if kind is None or packet not in kind.packets:
            raise PacketError(MALFORMED, f"property 0x{identifier:02x} does not belong in this packet")
        value = _read(inner, kind.type)
        if kind.type is Type.FLAG and value > 1:
            raise PacketError(PROTOCOL_ERROR, f"property 0x{identifier:02x} is {value}; it must be 0 or 1")
        if kind.never_zero and value == 0:
            raise PacketError(PROTOCOL_ERROR, f"property 0x{identifier:02x} must not be 0")
        if identifier == USER_PROPERTY:
            found.setdefault(identifier, []).append(value)
        elif identifier in found:
            raise PacketError(PROTOCOL_ERROR, f"property 0x{identifier:02x} is there twice")
        elif identifier == SUBSCRIPTION_IDENTIFIER:
            found[identifier] = [value]
        else:
            found[identifier] = value
    return found


def _read(reader: Reader, kind: Type) -> Any:  # noqa: PLR0911 -- one return a type
    match kind:
        case Type.FLAG:
            return reader.u8()
        case Type.U16:
            return reader.u16()
        case Type.U32:
            return reader.u32()
        case Type.VARINT:
            return reader.varint()
        case Type.STRING:
            return reader.string()
        case Type.BINARY:
            return reader.binary()
        case Type.PAIR:
            return reader.string(), reader.string()


def encode_properties(properties: Properties) -> bytes:
    """The property length and the properties, in the order of the mapping."""
    out = bytearray()
    for identifier, value in properties.items():
        kind = TABLE[identifier].type
        several = kind is Type.PAIR or identifier == SUBSCRIPTION_IDENTIFIER
        for one in value if several else (value,):
            out += encode_varint(identifier)
            out += _encode(kind, one)
    return encode_varint(len(out)) + out


def _encode(kind: Type, value: Any) -> bytes:  # noqa: PLR0911 -- one return a type
    match kind:
        case Type.FLAG:
            return bytes((value,))
        case Type.U16:
            return int(value).to_bytes(2, "big")
        case Type.U32:
            return int(value).to_bytes(4, "big")
        case Type.VARINT:
            return encode_varint(value)
        case Type.STRING:
            return encode_string(value)
        case Type.BINARY:
            return encode_binary(value)
        case Type.PAIR:
            return encode_string(value[0]) + encode_string(value[1])
