"""The gateway's own MQTT endpoint: 3.1.1 and 5 on one port, plain or TLS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from gateway.address import host_and_port, shown
from gateway.clock import Clock
from gateway.errors import StorageError, TransportError
from gateway.ports import Credentials, Directory, Ingest, Store
from protocols.transports.mqtt_endpoint import packets, tls
from protocols.transports.mqtt_endpoint.connection import Connection
from protocols.transports.mqtt_endpoint.limits import Limits
from protocols.transports.mqtt_endpoint.listener import Listener, Stands, UrgentMarks
from protocols.transports.mqtt_endpoint.session import OnAck, Sessions

BACKLOG: Final = 4096
CREDENTIALS_S: Final = 10.0
"""How often the credentials of live connections are looked at, for those that end by themselves."""
CREDENTIALS_SLICE: Final = 250
FLUSH_S: Final = 1.0
"""How long, at the end, connections may take to fetch their last bytes."""

log = structlog.get_logger(__name__)


class MqttEndpoint:
    """One listener. Several listeners share a ``Sessions``, so that a client is taken over from one by the other."""

    def __init__(
        self,
        *,
        listen: str,
        ingest: Ingest,
        credentials: Credentials,
        directory: Directory,
        store: Store,
        clock: Clock,
        limits: Limits,
        ssl_context: ssl.SSLContext | None = None,
        sessions: Sessions | None = None,
        stands: Stands = lambda _device_id, _proof, _common_name: True,
        urgent_marks: UrgentMarks = lambda _binding: None,
    ) -> None:
        """``listen`` is ``host:port`` (an IPv6 host in brackets, port 0 for any). With ``ssl_context`` it speaks TLS;
        a context that verifies client certificates lets devices in by their common name. ``stands`` is asked about
        live connections after ``recheck`` and now and then: those whose credential stands no more are ended. While
        there is more to read than a turn of the loop has time for, what has one of ``urgent_marks`` goes first.
        """
        self._host, self._port = host_and_port(listen)
        self._ssl_context = ssl_context
        self._limits = limits
        self.sessions = sessions or Sessions(
            store=store, ingest=ingest, directory=directory, clock=clock, limits=limits
        )
        self._listener = Listener(
            transport="mqtt" if ssl_context is None else "mqtts",
            ingest=ingest,
            credentials=credentials,
            directory=directory,
            sessions=self.sessions,
            clock=clock,
            limits=limits,
            spawn=self._spawn,
            stands=stands,
            urgent_marks=urgent_marks,
        )
        self._recheck = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._tls_socket: socket.socket | None = None
        self._group: asyncio.TaskGroup | None = None
        self._early: list[Coroutine[Any, Any, None]] = []
        self.address = ""
        """``host:port`` as bound, once started."""

    async def start(self) -> None:
        """Load the sessions, bind and listen. Raises TransportError when the address cannot be bound."""
        if self._server is not None or self._tls_socket is not None:
            return
        self._listener.closing = False
        try:
            await self.sessions.load()
            if self._ssl_context is not None:
                self._tls_socket = tls.bind(self._host, self._port, BACKLOG)
                host, port = self._tls_socket.getsockname()[:2]
            else:
                self._server = await asyncio.get_running_loop().create_server(
                    lambda: Connection(self._listener), self._host, self._port, backlog=BACKLOG
                )
                host, port = self._server.sockets[0].getsockname()[:2]
        except (OSError, StorageError) as error:
            raise TransportError(f"MQTT cannot listen on {self._host}:{self._port}: {error}") from error
        self.address = shown(host, port)

    async def run(self) -> None:
        """Serve until cancelled. Then accept nothing more, acknowledge what is being committed, and say goodbye."""
        try:
            await self.start()
            async with asyncio.TaskGroup() as group:
                self._group = group
                for coroutine in self._early:
                    group.create_task(coroutine)
                self._early.clear()
                group.create_task(self.sessions.run())
                group.create_task(self._sweep())
                group.create_task(self._check_credentials())
                if self._tls_socket is not None and self._ssl_context is not None:
                    group.create_task(tls.accept(self._tls_socket, self._listener, self._ssl_context))
        finally:
            self._group = None
            await self._close()

    def recheck(self) -> None:
        """The registry changed: see soon whether every connection may stay."""
        self._recheck.set()

    async def send_down(
        self,
        device_id: str,
        payload: bytes,
        *,
        topic_suffix: str = "",
        expires_at_us: int | None = None,
        on_ack: OnAck | None = None,
    ) -> int:
        """See ``Sessions.send_down``."""
        return await self.sessions.send_down(
            device_id, payload, topic_suffix=topic_suffix, expires_at_us=expires_at_us, on_ack=on_ack
        )

    def counters(self) -> dict[str, int]:
        """Totals since the start (names end in ``_total``) and what is now."""
        listener = self._listener
        return {
            "connections": len(listener.connections),
            "authenticated": listener.authenticated,
            "pending": listener.pending,
            "accepted_total": listener.accepted,
            "received_total": listener.received,
            "acked_total": listener.acked,
            "retried_total": listener.acks.retried,
            "waiting_bytes": listener.turns.waiting_bytes,
            "waited_total": listener.turns.waited,
            "takeovers_total": self.sessions.takeovers,
            "wills_total": self.sessions.wills.published,
            "wills_lost_total": self.sessions.wills.lost,
            **{f"refused_{reason}_total": count for reason, count in sorted(listener.refused.items())},
            **{f"closed_{reason}_total": count for reason, count in sorted(listener.closed.items())},
            **{f"down_{outcome}_total": count for outcome, count in sorted(self.sessions.downs_finished.items())},
        }

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        if self._listener.closing:
            coroutine.close()
        elif self._group is None:  # accepted between start and run
            self._early.append(coroutine)
        else:
            self._group.create_task(coroutine)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep_s)
            self._listener.wheel.advance(self._listener.clock.monotonic_s())

    async def _check_credentials(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CREDENTIALS_S):
                    await self._recheck.wait()
            self._recheck.clear()
            connections: list[Connection] = list(self._listener.connections)
            for start in range(0, len(connections), CREDENTIALS_SLICE):
                for connection in connections[start : start + CREDENTIALS_SLICE]:
                    connection.check_credential()
                await asyncio.sleep(0)

    async def _close(self) -> None:
        listener = self._listener
        listener.closing = True
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._tls_socket is not None:
            self._tls_socket.close()
            self._tls_socket = None
        for connection in list(listener.connections):
            connection.stop_reading()
        listener.turns.read_all()
        for coroutine in self._early:
            coroutine.close()
        self._early.clear()
        try:
            async with asyncio.timeout(self._limits.drain_s):
                await listener.acks.idle()
        except TimeoutError:
            log.warning("mqtt_unacknowledged_at_the_end", publishes=listener.pending)
        for connection in list(listener.connections):
            connection.close(packets.SERVER_SHUTTING_DOWN, "the gateway stops")
        try:
            async with asyncio.timeout(FLUSH_S):
                while listener.connections:
                    await asyncio.sleep(0.01)
        except TimeoutError:
            for connection in list(listener.connections):
                connection.abort()
        try:
            async with asyncio.timeout(self._limits.drain_s):
                await self.sessions.close()
        except (TimeoutError, StorageError) as error:
            log.warning("mqtt_sessions_not_closed", error=str(error))
