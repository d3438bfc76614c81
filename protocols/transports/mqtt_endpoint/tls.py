"""Accepting TLS connections, with the bounds of the listener already upon those that have not shaken hands."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final

from protocols.transports.mqtt_endpoint.connection import Connection
from protocols.transports.mqtt_endpoint.listener import Listener

OUT_OF_FILES_S: Final = 0.2
"""Pause after an accept that failed, for example because no file descriptor is left."""


def bind(host: str, port: int, backlog: int) -> socket.socket:
    """A listening socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.create_server((host, port), family=family, backlog=backlog)
    listening.setblocking(False)
    return listening


async def accept(listening: socket.socket, listener: Listener, context: ssl.SSLContext) -> None:
    """Accept until cancelled. asyncio's own server would tell of a connection only once its handshake is done."""
    loop = asyncio.get_running_loop()
    while True:
        try:
            accepted, peer = await loop.sock_accept(listening)
        except OSError:
            listener.tell_once("mqtt_accept_failed", listener.transport)
            await asyncio.sleep(OUT_OF_FILES_S)
            continue
        if listener.reserve(peer[0]):
            listener.spawn(_shake_hands(accepted, peer[0], listener, context))
        else:
            accepted.close()


async def _shake_hands(accepted: socket.socket, address: str, listener: Listener, context: ssl.SSLContext) -> None:
    connection = Connection(listener)
    connection.reserved = address
    try:
        await asyncio.get_running_loop().connect_accepted_socket(
            lambda: connection, accepted, ssl=context, ssl_handshake_timeout=listener.limits.handshake_s
        )
    except OSError as error:  # also ssl.SSLError and TimeoutError
        accepted.close()
        listener.count(listener.refused, "tls")
        listener.tell_once("mqtt_tls_handshake_failed", address, error=type(error).__name__)
    finally:
        if connection.reserved:
            listener.release(connection.reserved)
            connection.reserved = ""
