"""From CONNECT to CONNACK."""

from __future__ import annotations

import asyncio
import hashlib
import secrets
from typing import Protocol

from gateway.errors import StorageError
from gateway.model import DeviceBinding
from protocols.transports.mqtt_endpoint import packets
from protocols.transports.mqtt_endpoint import properties as p
from protocols.transports.mqtt_endpoint.listener import Listener
from protocols.transports.mqtt_endpoint.packets import Connect
from protocols.transports.mqtt_endpoint.properties import Properties
from protocols.transports.mqtt_endpoint.session import Peer, Session
from protocols.transports.mqtt_endpoint.wills import LastWill


class Applicant(Peer, Protocol):
    """A connection between CONNECT and CONNACK."""

    source: str
    common_name: str
    proof: bytes

    @property
    def open(self) -> bool: ...

    def refuse_connect(self, code: int, reason: str, *, claimed: str = "") -> None: ...

    def established(
        self, binding: DeviceBinding, session: Session, *, keep_alive_s: int, problem_information: bool, connack: bytes
    ) -> None: ...


class Refused(Exception):  # noqa: N818 -- never leaves this module
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


async def connect(listener: Listener, peer: Applicant, packet: Connect) -> None:
    """Authenticate a CONNECT and answer it: with a session and CONNACK 0, or with the reason why not."""
    peer.receive_maximum = packet.properties.get(p.RECEIVE_MAXIMUM, 65_535)
    peer.packet_maximum = packet.properties.get(p.MAXIMUM_PACKET_SIZE, peer.packet_maximum)
    claimed = (packet.username or peer.common_name)[:64]
    try:
        _check(packet)
        async with asyncio.timeout(listener.limits.handshake_s), listener.authenticating:
            binding = await _identify(listener, peer, packet)
        if peer.open:
            _establish(listener, peer, packet, binding)
    except Refused as refused:
        peer.refuse_connect(refused.code, str(refused), claimed=claimed)
    except (StorageError, TimeoutError):
        peer.refuse_connect(packets.SERVER_UNAVAILABLE, "the credentials cannot be checked now", claimed=claimed)


def _check(packet: Connect) -> None:
    if p.AUTHENTICATION_METHOD in packet.properties:  # [MQTT-4.12.0-1]
        raise Refused(packets.BAD_AUTHENTICATION_METHOD, "no authentication method is supported")
    if packet.will is not None and packet.will.retain and packet.version == packets.V5:  # [MQTT-3.2.2-13]
        raise Refused(packets.RETAIN_NOT_SUPPORTED, "retained messages are not supported")
    if not packet.client_id and not packet.clean_start and packet.version == packets.V311:
        raise Refused(packets.CLIENT_ID_NOT_VALID, "no client id to keep a session for")  # 3.1.1: [MQTT-3.1.3-8]


async def _identify(listener: Listener, peer: Applicant, packet: Connect) -> DeviceBinding:
    binding = None
    if packet.username and packet.password is not None:
        binding = await listener.credentials.authenticate(packet.username, packet.password)
        peer.proof = hashlib.sha256(packet.password).digest()
    elif peer.common_name and packet.password is None:
        binding = await listener.credentials.by_certificate(peer.common_name)
        if binding is not None and packet.username and packet.username != binding.device_id:
            raise Refused(packets.NOT_AUTHORIZED, "the user name is not the device of the certificate")
    else:
        raise Refused(packets.NOT_AUTHORIZED, "user name and password, or a client certificate, are needed")
    if binding is None:
        raise Refused(packets.BAD_CREDENTIALS, "no active device has these credentials")
    return binding


def _last_will(listener: Listener, peer: Applicant, packet: Connect, binding: DeviceBinding) -> LastWill | None:
    will = packet.will
    if will is None:
        return None
    if len(will.payload) > listener.limits.will_bytes:  # what it says stays: the connection was lost
        listener.tell_once("mqtt_will_too_large", binding.device_id, bytes=len(will.payload))
        will.payload = b""
    return LastWill(will, binding.device_id, listener.transport, peer.source)


def _establish(listener: Listener, peer: Applicant, packet: Connect, binding: DeviceBinding) -> None:
    limits, asked = listener.limits, packet.properties
    if len(packet.client_id.encode()) > limits.client_id_bytes:
        raise Refused(packets.CLIENT_ID_NOT_VALID, f"a client id of more than {limits.client_id_bytes} bytes")
    client_id = packet.client_id or f"auto-{secrets.token_hex(8)}"
    if packet.version == packets.V5:
        wanted_s = asked.get(p.SESSION_EXPIRY, 0)
    else:  # 3.1.1 keeps a session for ever; here that has an end
        wanted_s = 0 if packet.clean_start else limits.session_expiry_s
    expiry_s = min(wanted_s, limits.session_expiry_s)
    keep_alive_s = packet.keep_alive_s
    if packet.version == packets.V5 and not 0 < keep_alive_s <= limits.keep_alive_s:
        keep_alive_s = limits.keep_alive_s
    last = _last_will(listener, peer, packet, binding)
    session, present = listener.sessions.attach(
        peer, binding.device_id, client_id, clean_start=packet.clean_start, expiry_s=expiry_s, will=last
    )
    told: Properties = {
        p.RECEIVE_MAXIMUM: limits.inflight,
        p.RETAIN_AVAILABLE: 0,
        p.MAXIMUM_PACKET_SIZE: limits.packet_bytes,
        p.TOPIC_ALIAS_MAXIMUM: limits.topic_aliases,
        p.SHARED_AVAILABLE: 0,
    }
    if expiry_s != wanted_s:
        told[p.SESSION_EXPIRY] = expiry_s
    if not packet.client_id:
        told[p.ASSIGNED_CLIENT_ID] = client_id
    if keep_alive_s != packet.keep_alive_s:
        told[p.SERVER_KEEP_ALIVE] = keep_alive_s
    peer.established(
        binding,
        session,
        keep_alive_s=keep_alive_s,
        problem_information=bool(asked.get(p.REQUEST_PROBLEM, 1)),
        connack=packets.connack(packet.version, packets.SUCCESS, session_present=present, properties=told),
    )
