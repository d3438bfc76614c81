"""HTTP/1.1 requests that leave at once: on an idle connection, in the very turn of the loop in which they are asked.

A client of general use comes by the loop several times before the last byte of a request is out (its tasks, its locks,
header and body apart), and beside a busy loop each time costs milliseconds of an emergency. Here one request is on a
connection at a time, written in one piece; h11 reads what comes back (RFC 9112). Connects directly, follows no
redirect, asks for no compression, keeps no cookie.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import unquote, urlencode, urlsplit

import h11
import httpx2
from msgspec import Struct

CONNECT_S: Final = 5.0
KEEP_ALIVE_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 256 * 1024


class UnreachableError(Exception):
    """Nothing was sent: no connection was made, or the request was none. Handler: whoever asked."""


class BrokenError(Exception):
    """The connection ended or said what is no HTTP, while an answer was waited for. Handler: as above."""


class Answer(Struct, frozen=True):
    """``headers`` by their names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Exchange(asyncio.Protocol):
    """A connection, and the request that is on it. ``answer`` is that of the last one asked."""

    def __init__(self) -> None:
        self.answer: asyncio.Future[Answer] | None = None
        self.idle_since_s = 0.0
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=64 * 1024)
        self._transport: asyncio.Transport | None = None
        self._response: h11.Response | None = None
        self._body = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def is_idle(self) -> bool:
        """Whether it can take a request."""
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self._http.our_state is h11.IDLE
            and self._http.their_state is h11.IDLE
            and (self.answer is None or self.answer.done())
        )

    def ask(self, method: str, target: str, headers: list[tuple[str, str]], content: bytes) -> None:
        """Write a request. Raises UnreachableError for one that is none."""
        assert self._transport is not None
        try:
            parts = [self._http.send(h11.Request(method=method, target=target, headers=headers))]
            if content:
                parts.append(self._http.send(h11.Data(data=content)))
            parts.append(self._http.send(h11.EndOfMessage()))
        except h11.LocalProtocolError as error:
            self.close()
            raise UnreachableError(f"that is no request: {error}") from error
        self._response = None
        self._body.clear()
        self.answer = asyncio.get_running_loop().create_future()
        self._transport.write(b"".join(part for part in parts if part))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._take(data)

    def eof_received(self) -> None:
        self._take(b"")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(type(exc).__name__ if exc is not None else "it was closed")

    def _take(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            while self._next(self._http.next_event()):
                pass
        except h11.RemoteProtocolError as error:
            self._fail(str(error))
            self.close()

    def _next(self, event: object) -> bool:
        """Take one event; False when there is no other yet."""
        if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            return False
        if isinstance(event, h11.Response):
            self._response = event
        elif isinstance(event, h11.Data):
            self._body += event.data
            if len(self._body) > MAX_ANSWER_BYTES:
                self._fail("its answer is longer than 256 KiB")
                self.close()
                return False
        elif isinstance(event, h11.EndOfMessage):
            self._end()
            return False
        return True

    def _end(self) -> None:
        response, answer = self._response, self.answer
        assert response is not None
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self.idle_since_s = asyncio.get_running_loop().time()
        else:
            self.close()
        if answer is not None and not answer.done():
            headers = {name.decode("ascii"): value.decode("latin-1") for name, value in response.headers}
            answer.set_result(Answer(response.status_code, headers, bytes(self._body)))

    def _fail(self, why: str) -> None:
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(BrokenError(why))
            self.answer.exception()  # whoever asked may have gone


class Site(Struct, frozen=True):
    """Where a base URL leads. ``host`` "": nowhere. ``headers`` are those of every request."""

    host: str
    port: int
    secure: bool
    path: str
    headers: tuple[tuple[str, str], ...]


def _site_of(base_url: str) -> Site:
    try:
        base = urlsplit(base_url)
        host, secure = base.hostname or "", base.scheme == "https"
        name = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
        port = base.port or (443 if secure else 80)
        headers = [("Host", name if base.port is None else f"{name}:{port}")]
        if base.username is not None:
            secret = f"{unquote(base.username)}:{unquote(base.password or '')}"
            headers.append(("Authorization", f"Basic {base64.b64encode(secret.encode()).decode()}"))
    except ValueError:  # UnicodeError is one: a name that cannot be, or a port
        return Site("", 0, secure=False, path="", headers=())
    return Site(host, port, secure, base.path.rstrip("/"), tuple(headers))


class PromptClient:
    """For one site. Its callers bound how many requests there are at once, and so how many connections."""

    def __init__(self, base_url: str, timeout_s: float) -> None:
        """``timeout_s`` bounds connecting (at most CONNECT_S) and, apart from that, waiting for an answer."""
        self._site = _site_of(base_url)
        self._timeout_s = timeout_s
        self._tls = httpx2.create_ssl_context(trust_env=False) if self._site.secure else None
        self._idle: list[Exchange] = []

    def start(self, method: str, path: str, headers: Mapping[str, str], content: bytes = b"") -> Exchange | None:
        """Write a request on an idle connection, now; None when there is none. ``finish`` waits for its answer.

        Raises UnreachableError for what is no request.
        """
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            exchange = self._idle.pop()  # the one that was used last: the others may grow old
            if exchange.is_idle() and now_s - exchange.idle_since_s < KEEP_ALIVE_S:
                exchange.ask(method, self._site.path + path, self._all(headers, content), content)
                return exchange
            exchange.close()
        return None

    async def ask(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        content: bytes = b"",
        params: Mapping[str, str] | None = None,
    ) -> Answer:
        """Raises UnreachableError, BrokenError, and TimeoutError when no answer came in time."""
        target = path + (f"?{urlencode(params)}" if params else "")
        exchange = self.start(method, target, headers, content)
        if exchange is None:
            exchange = await self._connect()
            exchange.ask(method, self._site.path + target, self._all(headers, content), content)
        return await self.finish(exchange)

    async def finish(self, exchange: Exchange) -> Answer:
        """The answer. Raises as ``ask``."""
        assert exchange.answer is not None
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await exchange.answer
        except BaseException:
            exchange.close()
            raise
        if exchange.is_idle():
            self._idle.append(exchange)
        return answer

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().close()

    def _all(self, headers: Mapping[str, str], content: bytes) -> list[tuple[str, str]]:
        length = [("Content-Length", str(len(content)))] if content else []
        own = [(name, value) for name, value in self._site.headers if name not in headers]
        return [*own, *headers.items(), *length]

    async def _connect(self) -> Exchange:
        if not self._site.host:
            raise UnreachableError("its address names no host")
        try:
            async with asyncio.timeout(min(CONNECT_S, self._timeout_s)):
                _, exchange = await asyncio.get_running_loop().create_connection(
                    Exchange, self._site.host, self._site.port, ssl=self._tls
                )
        except (OSError, ValueError) as error:  # TimeoutError and ssl.SSLError are OSErrors; ValueError: no such name
            raise UnreachableError(str(error) or type(error).__name__) from error
        return exchange
