"""The HTTP listener: uvicorn inside our own task group, bounded where uvicorn is not."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.api.websockets import MAX_MESSAGE_BYTES, PING_S, BoundedWebSocket
from gateway.errors import TransportError

MAX_HEADER_BYTES: Final = 16_384  # of one request: its line and all its headers
MAX_REQUEST_BYTES: Final = 4_194_304  # of one request, as read; the application's own limits are lower
READ_BYTES: Final = 262_144  # what the loop reads at one time
HEADER_TIMEOUT_S: Final = 10.0  # from the connection, or from the request's first byte, to the end of its headers
BODY_TIMEOUT_S: Final = 60.0  # from there to the end of the body; the application's own limits are lower
WRITE_TIMEOUT_S: Final = 30.0  # so long a peer may leave what we wrote unread
MAX_CONNECTIONS: Final = 4096
MAX_CONNECTIONS_PER_ADDRESS: Final = 1024
KEEP_ALIVE_S: Final = 30
DRAIN_S: Final = 5

_BAD_REQUEST: Final = (
    b'{"type":"about:blank","title":"%b","status":%d,"detail":"%b"}'  # bytes of our own, nothing of the request
)


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on the size and the duration of requests, and on connections.

    httptools itself takes headers of any length for any time (slow-loris).
    """

    limits: Limits
    begun = b""
    """What another process has read of this connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._request_bytes = 0  # as read, since the request's beginning
        self._header_bytes = 0  # as parsed, trailers included
        self._in_headers = True
        self._in_request = False
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._address = self.client[0] if self.client else ""
        self._admitted = self.limits.enter(self._address)
        if self._admitted:
            self._arm(self.limits.header_timeout_s)
        else:
            self._refuse(503, b"Service Unavailable", b"too many connections")

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        self._disarm_write()
        if self._admitted:
            self._admitted = False
            self.limits.leave(self._address)
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The peer reads slower than we write. One that stops reading is let go."""
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self._too_slow_reader)

    def resume_writing(self) -> None:
        self._disarm_write()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._request_bytes += len(data)
        super().data_received(data)
        if self.transport is None or self.transport.is_closing():
            return
        if self._in_headers and self._request_bytes > MAX_HEADER_BYTES + READ_BYTES:
            self._too_large()
        elif self._request_bytes > MAX_REQUEST_BYTES:
            self.limits.too_large += 1
            self._refuse(413, b"Content Too Large", b"the request is longer than 4 MiB")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_headers = self._in_request = True
        self._request_bytes = 0
        self._header_bytes = 0
        self._arm(self.limits.header_timeout_s)

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._disarm()
        self._arm(BODY_TIMEOUT_S)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_request = False
        self._disarm()
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's words are replaced by ours
        if self._header_bytes > MAX_HEADER_BYTES:
            self._too_large()
        else:
            self.limits.malformed += 1
            self._refuse(400, b"Bad Request", b"this is not HTTP/1.1 (RFC 9112)")

    def _count(self, length: int) -> None:
        self._header_bytes += length
        if self._header_bytes > MAX_HEADER_BYTES:
            raise ValueError("too long")  # httptools makes a parser error of it: send_400_response answers

    def _too_large(self) -> None:
        self.limits.too_large += 1
        self._refuse(431, b"Request Header Fields Too Large", b"the headers are longer than 16 KiB")

    def handle_websocket_upgrade(self) -> None:
        """From here on it is the WebSocket protocol's connection; it stays one of ours."""
        self._disarm()
        self._disarm_write()
        super().handle_websocket_upgrade()
        protocol = self.transport.get_protocol()
        assert isinstance(protocol, BoundedWebSocket)
        protocol.write_timeout_s = self.limits.write_timeout_s
        protocol.on_lost = functools.partial(self.limits.leave, self._address)
        protocol.on_slow = self.limits.count_slow

    def _unsupported_upgrade_warning(self) -> None:
        """An upgrade that nobody asked us to support is ignored, as RFC 9110 section 7.8 allows."""

    def _arm(self, seconds: float) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self._too_slow)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _disarm_write(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _too_slow_reader(self) -> None:
        self._write_timer = None
        self.limits.slow += 1
        self.transport.abort()  # close() would wait for the peer to read

    def _too_slow(self) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self.limits.slow += 1
            self._refuse(408, b"Request Timeout", b"the request did not arrive in time")

    def _refuse(self, status: int, title: bytes, detail: bytes) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.close()  # an answer to an earlier request is under way: nothing may stand in its middle
            return
        body = _BAD_REQUEST % (title, status, detail)
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/problem+json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (status, title, len(body), body)
        )
        self.transport.close()


class Limits:
    """Connections of one listener, counted, and its timeouts."""

    def __init__(
        self,
        *,
        connections: int = MAX_CONNECTIONS,
        per_address: int = MAX_CONNECTIONS_PER_ADDRESS,
        header_timeout_s: float = HEADER_TIMEOUT_S,
        write_timeout_s: float = WRITE_TIMEOUT_S,
    ) -> None:
        self._connections = connections
        self._per_address = per_address
        self.header_timeout_s = header_timeout_s
        self.write_timeout_s = write_timeout_s
        self._open: dict[str, int] = {}
        self.open = 0
        self.refused = 0
        self.slow = 0
        self.malformed = 0
        self.too_large = 0

    def enter(self, address: str) -> bool:
        mine = self._open.get(address, 0)
        if self.open >= self._connections or mine >= self._per_address:
            self.refused += 1
            return False
        self.open += 1
        self._open[address] = mine + 1
        return True

    def count_slow(self) -> None:
        self.slow += 1

    def leave(self, address: str) -> None:
        self.open -= 1
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: the daemon has its own."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


class ApiServer:
    """Serves an ASGI application at ``host:port``. A gateway.ports.Transport.

    ``host`` None listens nowhere: connections come by ``adopt``. ``port`` 0 takes a free one; ``address`` is the real
    one once ``started`` is set. ``trusted_proxies`` are the addresses whose X-Forwarded-For is believed ("" = none).
    ``protocol`` is that of its connections, with attributes of its own (gateway.api.passing).
    """

    def __init__(
        self,
        app: Callable[..., Awaitable[None]],
        *,
        host: str | None = "127.0.0.1",
        port: int = 8080,
        tls: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        trusted_proxies: str = "",
        on_drain: Callable[[], None] = lambda: None,
        protocol: type[BoundedProtocol] = BoundedProtocol,
        **attributes: Any,
    ) -> None:
        self._app = app
        self._protocol: Any = type("Protocol", (protocol,), attributes)
        self._host = host
        self._port = port
        self._tls = tls
        self._trusted_proxies = trusted_proxies
        self._on_drain = on_drain
        self._server: _Uvicorn | None = None
        self.limits = limits or Limits()
        self.started = asyncio.Event()
        self.address: tuple[str, int] = (host or "", port)

    def counters(self) -> dict[str, int]:
        """Connections now, and how many were turned away, and why."""
        limits = self.limits
        return {
            "open": limits.open,
            "refused": limits.refused,
            "slow": limits.slow,
            "malformed": limits.malformed,
            "too_large": limits.too_large,
        }

    async def run(self) -> None:
        """Listen and serve until ``close`` or cancellation. Raises TransportError when the address is not to be had."""
        sockets = [] if self._host is None else await self._bind()
        self._protocol.limits = self.limits
        config = uvicorn.Config(
            self._app,
            http=self._protocol,
            ws=BoundedWebSocket,
            ws_max_size=MAX_MESSAGE_BYTES,
            ws_ping_interval=PING_S,
            ws_ping_timeout=PING_S,
            ws_per_message_deflate=False,  # a window of memory for each connection
            lifespan="off",
            loop="none",
            log_config=None,
            log_level="warning",
            access_log=False,  # the application logs, with ids only
            server_header=False,
            proxy_headers=bool(self._trusted_proxies),
            forwarded_allow_ips=self._trusted_proxies or None,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=DRAIN_S,
        )
        config.load()
        config.ssl = self._tls
        server = self._server = _Uvicorn(config, self.started.set)
        try:
            await server.serve(sockets)
        except OSError as error:
            raise TransportError(f"HTTP listener {self._host}:{self._port}: {error}") from error
        finally:
            self._server = None
            self.started.clear()
            _leave_nothing(server, sockets)

    def close(self) -> None:
        """Stop listening; requests under way have ``DRAIN_S`` seconds to end, then ``run`` returns."""
        self._on_drain()
        if self._server is not None:
            self._server.should_exit = True

    async def adopt(self, descriptor: int, begun: bytes) -> None:
        """Serve a connection that another process accepted and has read ``begun`` of; the descriptor is ours now."""
        peer = socket.socket(fileno=descriptor)
        server = self._server
        if server is None or server.should_exit or not server.started:
            peer.close()
            return
        loop = asyncio.get_running_loop()

        def make() -> asyncio.Protocol:
            made: BoundedProtocol = self._protocol(server.config, server.server_state, server.lifespan.state, loop)
            made.begun = begun
            return made

        peer.setblocking(False)
        try:
            await loop.connect_accepted_socket(make, peer)
        except OSError:  # the peer went away on the way
            peer.close()

    async def _bind(self) -> list[socket.socket]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                self._host or None, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )
            sockets = [_listen(entry) for entry in dict.fromkeys(found[:1] if self._port == 0 else found)]
        except OSError as error:
            raise TransportError(f"HTTP cannot listen on {self._host}:{self._port}: {error}") from error
        self.address = sockets[0].getsockname()[:2]
        return sockets


def _leave_nothing(server: _Uvicorn, sockets: list[socket.socket]) -> None:
    """Close what a cancelled uvicorn leaves open. After a drain there is nothing."""
    if server.started:
        for listener in server.servers:
            listener.close()  # closes its socket as well
    else:
        for unused in sockets:
            unused.close()
    for connection in list(server.server_state.connections):
        connection.transport.abort()
    for task in list(server.server_state.tasks):
        task.cancel()


def _listen(entry: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, address = entry
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
