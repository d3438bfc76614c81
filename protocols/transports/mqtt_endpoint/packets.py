"""MQTT packets as a server reads and writes them, 3.1.1 (version 4) and 5.0 (version 5). Bytes in, values out, no I/O.

Numbers in brackets are the normative statements of MQTT 5.0; those of 3.1.1 are given where they differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct, field

from protocols.transports.mqtt_endpoint import properties as p
from protocols.transports.mqtt_endpoint.properties import Properties, encode_properties, read_properties
from protocols.transports.mqtt_endpoint.reader import (
    MALFORMED,
    PROTOCOL_ERROR,
    PacketError,
    Reader,
    encode_string,
    encode_varint,
)
from protocols.transports.mqtt_endpoint.topics import valid_name

V311: Final = 4
V5: Final = 5

SUCCESS: Final = 0x00
NO_SUBSCRIPTION_EXISTED: Final = 0x11
UNSPECIFIED: Final = 0x80
IMPLEMENTATION_ERROR: Final = 0x83
UNSUPPORTED_VERSION: Final = 0x84
CLIENT_ID_NOT_VALID: Final = 0x85
BAD_CREDENTIALS: Final = 0x86
NOT_AUTHORIZED: Final = 0x87
SERVER_UNAVAILABLE: Final = 0x88
SERVER_SHUTTING_DOWN: Final = 0x8B
BAD_AUTHENTICATION_METHOD: Final = 0x8C
KEEP_ALIVE_TIMEOUT: Final = 0x8D
TAKEN_OVER: Final = 0x8E
FILTER_NOT_VALID: Final = 0x8F
TOPIC_NOT_VALID: Final = 0x90
PACKET_ID_NOT_FOUND: Final = 0x92
RECEIVE_MAXIMUM_EXCEEDED: Final = 0x93
TOPIC_ALIAS_NOT_VALID: Final = 0x94
PACKET_TOO_LARGE: Final = 0x95
QUOTA_EXCEEDED: Final = 0x97
ADMINISTRATIVE: Final = 0x98
RETAIN_NOT_SUPPORTED: Final = 0x9A
SHARED_NOT_SUPPORTED: Final = 0x9E

CONNACK_311: Final[Mapping[int, int]] = {  # 3.1.1 table 3.1: what the reasons of MQTT 5 are there
    SUCCESS: 0,
    UNSUPPORTED_VERSION: 1,
    CLIENT_ID_NOT_VALID: 2,
    SERVER_UNAVAILABLE: 3,
    QUOTA_EXCEEDED: 3,
    BAD_CREDENTIALS: 4,
    NOT_AUTHORIZED: 5,
}

PINGRESP: Final = b"\xd0\x00"


class ConnectError(PacketError):
    """A CONNECT that cannot be accepted as it stands. ``version`` says how to answer, 0: not at all."""

    def __init__(self, code: int, text: str, version: int) -> None:
        super().__init__(code, text)
        self.version = version


class Will(Struct, gc=False):
    topic: str
    payload: bytes
    qos: int
    retain: bool
    delay_s: int


class Connect(Struct):
    version: int
    client_id: str
    clean_start: bool
    keep_alive_s: int
    username: str | None
    password: bytes | None
    will: Will | None
    properties: Properties


class Publish(Struct, gc=False):
    topic: str  # "" when only a topic alias names it
    payload: bytes
    qos: int
    dup: bool
    retain: bool
    packet_id: int  # 0 at QoS 0
    properties: Properties


class Ack(Struct, gc=False):
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""

    type: int
    packet_id: int
    code: int
    properties: Properties = field(default_factory=dict)


class Filter(Struct, gc=False):
    pattern: str
    qos: int


class Subscribe(Struct):
    packet_id: int
    filters: list[Filter]
    properties: Properties


class Unsubscribe(Struct):
    packet_id: int
    patterns: list[str]


class Pingreq(Struct):
    pass


class Disconnect(Struct):
    code: int
    properties: Properties


Packet = Publish | Ack | Subscribe | Unsubscribe | Pingreq | Disconnect


# ---- what a server receives ------------------------------------------------------------------------------------------


def read_connect(data: bytes, pos: int, stop: int) -> Connect:
    """The CONNECT in ``data[pos:stop]`` (behind the fixed header). Raises ConnectError."""
    reader = Reader(data, pos, stop)
    version = 0
    try:
        if reader.binary() != b"MQTT":
            # [MQTT-3.1.2-1]; MQTT 3.1 called itself MQIsdp and is told that it is too old.
            version = V311 if data[pos + 2 : pos + 8] == b"MQIsdp" else 0
            raise PacketError(UNSUPPORTED_VERSION, "this is not MQTT 3.1.1 or 5")  # noqa: TRY301 -- gets the version below
        level = reader.u8()
        version = V5 if level >= V5 else V311
        if level not in (V311, V5):  # [MQTT-3.1.2-2]
            raise PacketError(UNSUPPORTED_VERSION, f"protocol level {level}; 4 and 5 are supported")  # noqa: TRY301
        return _read_connect(reader, version)
    except PacketError as error:
        raise ConnectError(error.code, str(error), version) from error


def _read_connect(reader: Reader, version: int) -> Connect:
    flags = reader.u8()
    if flags & 0x01:
        raise PacketError(MALFORMED, "the reserved flag of CONNECT is set [MQTT-3.1.2-3]")
    will_qos = flags >> 3 & 3
    if will_qos == 3 or (not flags & 0x04 and flags & 0x38):
        raise PacketError(MALFORMED, "the will flags contradict each other [MQTT-3.1.2-11, -12, -13]")
    if version == V311 and flags & 0xC0 == 0x40:
        raise PacketError(MALFORMED, "a password without a user name [MQTT-3.1.2-22 of 3.1.1]")
    keep_alive_s = reader.u16()
    properties = read_properties(reader, p.CONNECT) if version == V5 else {}
    if p.AUTHENTICATION_DATA in properties and p.AUTHENTICATION_METHOD not in properties:
        raise PacketError(PROTOCOL_ERROR, "authentication data without a method (5.0 section 3.1.2.11.10)")
    client_id = reader.string()
    will = None
    if flags & 0x04:
        will_properties = read_properties(reader, p.WILL) if version == V5 else {}
        will = Will(
            reader.string(), reader.binary(), will_qos, bool(flags & 0x20), will_properties.get(p.WILL_DELAY, 0)
        )
        if not valid_name(will.topic):
            raise PacketError(TOPIC_NOT_VALID, "the will's topic is empty or has a wildcard")
    username = reader.string() if flags & 0x80 else None
    password = reader.binary() if flags & 0x40 else None
    reader.end()
    return Connect(version, client_id, bool(flags & 0x02), keep_alive_s, username, password, will, properties)


def read_publish(first: int, data: bytes, pos: int, stop: int, version: int) -> Publish:
    """The PUBLISH in ``data[pos:stop]``; ``first`` is the fixed header's first byte. Raises PacketError."""
    qos = first >> 1 & 3
    if qos == 3:
        raise PacketError(MALFORMED, "QoS 3 [MQTT-3.3.1-4]")
    if qos == 0 and first & 0x08:
        raise PacketError(MALFORMED, "DUP at QoS 0 [MQTT-3.3.1-2]")
    reader = Reader(data, pos, stop)
    topic = reader.string()
    packet_id = _packet_id(reader) if qos else 0
    properties = read_properties(reader, p.PUBLISH) if version == V5 else {}
    if p.SUBSCRIPTION_IDENTIFIER in properties:
        raise PacketError(PROTOCOL_ERROR, "a subscription identifier from a client [MQTT-3.3.4-6]")
    if not topic and p.TOPIC_ALIAS not in properties:
        code = PROTOCOL_ERROR if version == V5 else MALFORMED
        raise PacketError(code, "a PUBLISH without a topic (5.0 section 3.3.2.1)")
    if topic and not valid_name(topic):
        raise PacketError(TOPIC_NOT_VALID, "a wildcard in a topic name [MQTT-3.3.2-2]")
    return Publish(topic, reader.rest(), qos, bool(first & 0x08), bool(first & 0x01), packet_id, properties)


def _packet_id(reader: Reader) -> int:
    packet_id = reader.u16()
    if packet_id == 0:
        raise PacketError(PROTOCOL_ERROR, "packet identifier 0 [MQTT-2.2.1-3]")
    return packet_id


def _read_ack(kind: int, reader: Reader, version: int) -> Ack:
    packet_id = _packet_id(reader)
    code, properties = SUCCESS, {}
    if version == V5:  # the reason and the properties may be left out, 5.0 section 3.4.2.1
        code = reader.u8() if reader.left else SUCCESS
        properties = read_properties(reader, kind) if reader.left else {}
    return Ack(kind, packet_id, code, properties)


def _read_subscribe(_kind: int, reader: Reader, version: int) -> Subscribe:
    packet_id = _packet_id(reader)
    properties = read_properties(reader, p.SUBSCRIBE) if version == V5 else {}
    filters = []
    while reader.left:
        pattern, options = reader.string(), reader.u8()
        if options & (0xC0 if version == V5 else 0xFC) or options & 3 == 3:
            raise PacketError(MALFORMED, f"subscription options 0x{options:02x} [MQTT-3.8.3-5]")
        if options & 0x30 == 0x30:
            raise PacketError(PROTOCOL_ERROR, "retain handling 3 (5.0 section 3.8.3.1)")
        if options & 0x04 and pattern.startswith("$share/"):
            raise PacketError(PROTOCOL_ERROR, "No Local on a shared subscription [MQTT-3.8.3-4]")
        filters.append(Filter(pattern, options & 3))
    if not filters:
        raise PacketError(PROTOCOL_ERROR, "SUBSCRIBE without a filter [MQTT-3.8.3-2]")
    return Subscribe(packet_id, filters, properties)


def _read_unsubscribe(_kind: int, reader: Reader, version: int) -> Unsubscribe:
    packet_id = _packet_id(reader)
    if version == V5:
        read_properties(reader, p.UNSUBSCRIBE)
    patterns = []
    while reader.left:
        patterns.append(reader.string())
    if not patterns:
        raise PacketError(PROTOCOL_ERROR, "UNSUBSCRIBE without a filter [MQTT-3.10.3-2]")
    return Unsubscribe(packet_id, patterns)


def _read_pingreq(_kind: int, _reader: Reader, _version: int) -> Pingreq:
    return Pingreq()


def _read_disconnect(_kind: int, reader: Reader, version: int) -> Disconnect:
    code, properties = SUCCESS, {}
    if version == V5:
        code = reader.u8() if reader.left else SUCCESS
        properties = read_properties(reader, p.DISCONNECT) if reader.left else {}
    return Disconnect(code, properties)


_READERS: Final[Mapping[int, Callable[[int, Reader, int], Packet]]] = {
    p.PUBACK: _read_ack,
    p.PUBREC: _read_ack,
    p.PUBREL: _read_ack,
    p.PUBCOMP: _read_ack,
    p.SUBSCRIBE: _read_subscribe,
    p.UNSUBSCRIBE: _read_unsubscribe,
    p.PINGREQ: _read_pingreq,
    p.DISCONNECT: _read_disconnect,
}
_FLAGS_2: Final = frozenset({p.PUBREL, p.SUBSCRIBE, p.UNSUBSCRIBE})


def read_packet(first: int, data: bytes, pos: int, stop: int, version: int) -> Packet:
    """The packet of a connected client whose fixed header starts with ``first``. Raises PacketError."""
    kind = first >> 4
    if kind == p.PUBLISH:
        return read_publish(first, data, pos, stop, version)
    read = _READERS.get(kind)
    if read is None:
        if kind == p.CONNECT:
            raise PacketError(PROTOCOL_ERROR, "a second CONNECT [MQTT-3.1.0-2]")
        if kind == p.AUTH and version == V5:
            raise PacketError(PROTOCOL_ERROR, "AUTH without an authentication method in CONNECT [MQTT-4.12.0-1]")
        raise PacketError(PROTOCOL_ERROR if kind else MALFORMED, f"packet type {kind} from a client")
    if first & 0x0F != (2 if kind in _FLAGS_2 else 0):
        raise PacketError(MALFORMED, f"reserved flags 0x{first & 0x0F:x} of packet type {kind} [MQTT-2.1.3-1]")
    reader = Reader(data, pos, stop)
    packet = read(kind, reader, version)
    reader.end()
    return packet


# ---- what a server sends ---------------------------------------------------------------------------------------------


def _packet(first: int, body: bytes) -> bytes:
    return bytes((first,)) + encode_varint(len(body)) + body


def _explained(reason: str) -> Properties:
    return {p.REASON_STRING: reason} if reason else {}


def connack(version: int, code: int, *, session_present: bool = False, properties: Properties | None = None) -> bytes:
    """CONNACK; ``code`` is an MQTT 5 reason, and one without a counterpart in 3.1.1 becomes 3, server unavailable."""
    if version != V5:
        return bytes((0x20, 2, session_present, CONNACK_311.get(code, 3)))
    return _packet(0x20, bytes((session_present, code)) + encode_properties(properties or {}))


def ack(kind: int, packet_id: int, code: int, version: int, reason: str = "") -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP, in the short form where the standard has one."""
    first = kind << 4 | (2 if kind == p.PUBREL else 0)
    head = packet_id.to_bytes(2, "big")
    if version != V5 or code == SUCCESS:
        return bytes((first, 2)) + head
    return _packet(first, head + bytes((code,)) + (encode_properties(_explained(reason)) if reason else b""))


def suback(packet_id: int, codes: Sequence[int], version: int, reason: str = "") -> bytes:
    """``codes`` are granted QoS or MQTT 5 reasons; 3.1.1 knows one failure, 0x80 ([MQTT-3.9.3-2] of 3.1.1)."""
    head = packet_id.to_bytes(2, "big")
    if version != V5:
        return _packet(0x90, head + bytes(min(code, 0x80) for code in codes))
    return _packet(0x90, head + encode_properties(_explained(reason)) + bytes(codes))


def unsuback(packet_id: int, codes: Sequence[int], version: int) -> bytes:
    head = packet_id.to_bytes(2, "big")
    return _packet(0xB0, head + b"\x00" + bytes(codes) if version == V5 else head)


def publish(
    topic: str, payload: bytes, *, qos: int, packet_id: int, dup: bool, version: int, properties: Properties
) -> bytes:
    body = encode_string(topic)
    if qos:
        body += packet_id.to_bytes(2, "big")
    if version == V5:
        body += encode_properties(properties)
    return _packet(0x30 | qos << 1 | dup << 3, body + payload)


def disconnect(code: int, reason: str = "") -> bytes:
    """DISCONNECT of MQTT 5; a 3.1.1 server only closes."""
    return _packet(0xE0, bytes((code,)) + encode_properties(_explained(reason)))
