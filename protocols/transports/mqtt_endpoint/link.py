"""The socket under an MQTT connection: sending, pausing, deadlines, closing. It knows no packets but DISCONNECT."""

from __future__ import annotations

import asyncio
import math
import socket
from typing import Any, Final, cast

from gateway.descriptors import SOCKETS
from protocols.transports.mqtt_endpoint import packets
from protocols.transports.mqtt_endpoint.listener import Listener
from protocols.transports.mqtt_endpoint.session import Session

# States.
HELLO, CHECKING, OPEN, CLOSED = 0, 1, 2, 3

# Reasons to stop reading, as bits.
AUTHENTICATING, UNACKED, UNREAD, STORING, STOPPING = 1, 2, 4, 8, 16

NO_LIMIT: Final = 1 << 30
CLOSING_S: Final = 5.0
"""How long a peer may take to fetch what was written before the end."""


class Link(asyncio.Protocol):
    """A connection of one listener. It has no task and no timer of its own; the listener's wheel calls ``due``."""

    __slots__ = (
        "_heard_s", "_hold", "_listener", "_partial_s", "_session", "_since_s", "_state", "_timer_s", "_transport",
        "_unread_s", "address", "common_name", "keep_alive_s", "packet_maximum", "proof", "receive_maximum",
        "reserved", "source", "version",
    )  # fmt: skip

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._session: Session | None = None
        self._state = HELLO
        self._hold = 0
        self._timer_s = math.inf
        self._since_s = 0.0  # when it was opened or closed
        self._heard_s = 0.0  # when the last bytes came
        self._partial_s = 0.0  # when the packet began that is not whole yet; 0: there is none
        self._unread_s = 0.0  # when the peer stopped reading; 0: it reads
        self.address = self.source = self.common_name = ""
        self.proof = b""  # SHA-256 of the token that let it in; empty for a certificate
        self.keep_alive_s = 0
        self.reserved = ""  # the address that its TLS handshake is counted under, until it is done
        self.version = 0
        self.packet_maximum = NO_LIMIT  # the client's
        self.receive_maximum = 65_535  # the client's

    # ---- the socket --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address = str(peer[0])
            self.source = f"[{peer[0]}]:{peer[1]}" if ":" in self.address else f"{peer[0]}:{peer[1]}"
        self.common_name = _common_name(transport.get_extra_info("peercert"))
        self._since_s = self._heard_s = self._listener.clock.monotonic_s()
        if self.reserved:
            self._listener.release(self.reserved)
            self.reserved = ""
        if not self._listener.admit(self, few_left=SOCKETS.opened()):
            self.abort()
            return
        self._transport.set_write_buffer_limits(self._listener.limits.write_buffer_bytes)
        endpoint = transport.get_extra_info("socket")
        if endpoint is not None:
            endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # for those that ask for no keep-alive
        self._arm(self._since_s + self._listener.limits.handshake_s)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # whichever it was, the peer is gone
        SOCKETS.closed()
        listener = self._listener
        listener.connections.discard(self)
        listener.leave_waiting(self)
        if self._state != CLOSED:
            self._state = CLOSED
            listener.count(listener.closed, "lost")
        if self._session is not None:
            listener.authenticated -= 1
            listener.sessions.detach(self._session, self, with_will=not listener.closing)
        self._transport = None

    def pause_writing(self) -> None:
        self._unread_s = self._listener.clock.monotonic_s()
        self._arm(self._unread_s + self._listener.limits.write_stall_s)
        self._pause(UNREAD)

    def resume_writing(self) -> None:
        self._unread_s = 0.0
        self._resume(UNREAD)

    def _pause(self, reason: int) -> None:
        if not self._hold and self._state != CLOSED and self._transport is not None:
            self._transport.pause_reading()
        self._hold |= reason

    def _resume(self, reason: int) -> None:
        if not self._hold & reason:
            return
        self._hold &= ~reason
        if not self._hold and self._state != CLOSED and self._transport is not None:
            self._transport.resume_reading()

    def stop_reading(self) -> None:
        self._pause(STOPPING)

    # ---- sending and closing -----------------------------------------------------------------------------------------

    @property
    def open(self) -> bool:
        return self._state != CLOSED and self._transport is not None

    def send(self, packet: bytes) -> None:
        if self._transport is not None and self._state != CLOSED:
            self._transport.write(packet)

    def close(self, code: int, reason: str) -> None:
        """Say why, if MQTT 5 is spoken, and end the connection behind what was written before."""
        if self._state == OPEN and self.version == packets.V5:
            packet = packets.disconnect(code, reason)
            self.send(packet if len(packet) <= self.packet_maximum else packets.disconnect(code))
        self.finish()

    def finish(self) -> None:
        """End the connection behind what was written before."""
        if self._state == CLOSED:
            return
        self._state = CLOSED
        if self._transport is not None:
            self._transport.close()
            self._since_s = self._listener.clock.monotonic_s()
            self._arm(self._since_s + CLOSING_S)

    def abort(self) -> None:
        """End the connection and forget what was not sent."""
        self._state = CLOSED
        if self._transport is not None:
            self._transport.abort()

    # ---- deadlines ---------------------------------------------------------------------------------------------------

    def _arm(self, at_s: float) -> None:
        if at_s < self._timer_s:
            self._timer_s = at_s
            self._listener.wheel.add(self, at_s)

    def due(self, now_s: float) -> None:
        """A deadline may have passed; see which, and set the next."""
        self._timer_s = math.inf
        if self._transport is None:
            return
        limits = self._listener.limits
        if self._state == CLOSED:
            if now_s >= self._since_s + CLOSING_S:
                self._transport.abort()
            else:
                self._arm(self._since_s + CLOSING_S)
        elif self._state != OPEN:
            self._expire(self._since_s + limits.handshake_s, now_s, "handshake_timeout")
        else:
            if self._unread_s:
                self._expire(self._unread_s + limits.write_stall_s, now_s, "unread")
            if self._partial_s and not self._hold:
                self._expire(self._partial_s + limits.packet_s, now_s, "partial")
            if self.keep_alive_s:  # [MQTT-3.1.2-22]; not while it is us who do not listen
                self._expire((now_s if self._hold else self._heard_s) + 1.5 * self.keep_alive_s, now_s, "keep_alive")

    def _expire(self, at_s: float, now_s: float, reason: str) -> None:
        if self._state == CLOSED:
            return
        if now_s < at_s:
            self._arm(at_s)
            return
        self._listener.count(self._listener.closed, reason)
        self.close(packets.KEEP_ALIVE_TIMEOUT, f"too late: {reason}")


def _common_name(certificate: Any) -> str:
    """The CN of a client certificate that the TLS layer verified, "" without one."""
    if not isinstance(certificate, dict):
        return ""
    for names in certificate.get("subject", ()):
        for key, value in names:
            if key == "commonName":
                return str(value)
    return ""
