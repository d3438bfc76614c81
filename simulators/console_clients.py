"""Light clients of the console for measurements: screens that follow the event stream, and people who click.

Made by hand on asyncio protocols, so that a thousand of them leave the machine to what is measured. Loopback only.
"""

from __future__ import annotations

import asyncio
import base64
import gzip
import os
import re
import time
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

HOST: Final = "127.0.0.1"
SCREENS_PER_ADDRESS: Final = 200  # the listener bounds connections of one address
ANSWER_S: Final = 60.0
_HEADING: Final = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


def local_address(number: int) -> tuple[str, int]:
    """Where a client's connection comes from: each of a few hundred has an address of the loopback network."""
    return f"127.0.1.{1 + number // SCREENS_PER_ADDRESS}", 0


class Line(asyncio.Protocol):
    """One kept-alive HTTP/1.1 connection, one request at a time."""

    def __init__(self, port: int, number: int, headers: str) -> None:
        self._port, self._number = port, number
        self._headers = f"host: {HOST}:{port}\r\n{headers}"
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def ask(self, method: str, path: str, form: str = "") -> tuple[int, bytes]:
        """Status and body, the body as it came: ``plain`` makes it readable.

        Raises ConnectionError when the connection ends before the answer, TimeoutError.
        """
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            await loop.create_connection(lambda: self, HOST, self._port, local_addr=local_address(self._number))
        assert self._transport is not None
        body = form.encode()
        kind = f"content-type: application/x-www-form-urlencoded\r\ncontent-length: {len(body)}\r\n" if form else ""
        self._answer = loop.create_future()
        self._transport.write(f"{method} {path} HTTP/1.1\r\n{self._headers}{kind}\r\n".encode() + body)
        async with asyncio.timeout(ANSWER_S):
            return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._buffer = b""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionError("closed before the answer"))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = _HEADING.search(head)
        if len(body) < (int(length[1]) if length else 0):
            return
        self._buffer = b""
        if self._answer is not None and not self._answer.done():
            self._answer.set_result((int(head[9:12]), body))


def plain(body: bytes) -> bytes:
    """A body that may be compressed, as it was before."""
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body


class Told(Struct):
    """What one piece of a stream says: numbers of the journal, alerts raised, rows painted, all as they stand there."""

    seqs: tuple[int, ...]
    raised: tuple[str, ...]
    rows: tuple[tuple[str, str], ...]
    changes: int


class Screen(asyncio.Protocol):
    """One open page's event stream. ``on_piece`` gets the screen and what it was told, when it was told."""

    def __init__(self, number: int, on_piece: Callable[[Screen, Told, float], None]) -> None:
        self.number = number
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = False
        self.seen: dict[str, None] = {}
        self.seq = 0
        self.beats = self.disorders = self.repeats = 0
        self._on_piece = on_piece
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    async def open(self, port: int, cookie: str, after: str = "") -> None:
        """Raises ConnectionError when the stream is refused, TimeoutError."""
        transport, _ = await asyncio.get_running_loop().create_connection(
            lambda: self, HOST, port, local_addr=local_address(self.number)
        )
        self._transport = transport
        query = f"?after={after}" if after else ""
        transport.write(
            f"GET /console/events{query} HTTP/1.1\r\nhost: {HOST}:{port}\r\naccept: text/event-stream\r\n"
            f"cookie: {cookie}\r\n\r\n".encode()
        )
        async with asyncio.timeout(ANSWER_S):
            await self.opened

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionError("closed before the stream began"))

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        if self._buffer:
            data = self._buffer + data
        if not self.opened.done():
            head, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                self._buffer = data
                return
            if head[9:12] != b"200":
                self.opened.set_exception(ConnectionError(f"refused: {head[:60]!r}"))
                return
            self.opened.set_result(None)
            data = rest
        end = data.rfind(b"\n\n") + 2
        if end < 2:
            self._buffer = data
            return
        self._buffer = data[end:]
        told = _read(data[:end])
        if not told.changes:
            self.beats += 1
        for seq in told.seqs:
            self.disorders += seq < self.seq
            self.seq = seq
        for alert_id in told.raised:
            self.repeats += alert_id in self.seen
            self.seen[alert_id] = None
        self._on_piece(self, told, now_s)


_READ: dict[bytes, Told] = {}


def _read(piece: bytes) -> Told:
    """Events of one piece; thousands of screens get the same bytes, which are read once."""
    told = _READ.get(piece)
    if told is None:
        if len(_READ) > 500:
            _READ.clear()
        told = _READ[piece] = _parse(piece)
    return told


def _parse(piece: bytes) -> Told:
    seqs: list[int] = []
    raised: list[str] = []
    rows: list[tuple[str, str]] = []
    changes = 0
    for event in piece.split(b"\n\n"):
        fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
        if b"id" in fields:
            seqs.append(int(fields[b"id"]))
        if fields.get(b"event") == b"change":
            changes += 1
            raised += [each["alert"] for each in msgspec.json.decode(fields[b"data"]) if each["action"] == "raise"]
        elif fields.get(b"event") == b"queue":
            changes += 1
            rows += [(row[0], row[1]) for row in msgspec.json.decode(fields[b"data"]).get("rows", ())]
    return Told(tuple(seqs), tuple(raised), tuple(rows), changes)


class SocketFeed(asyncio.Protocol):
    """One WebSocket of the platform (RFC 6455) on the events of alerts."""

    def __init__(self, on_event: Callable[[dict[str, Any], float], None]) -> None:
        self._on_event = on_event
        self._buffer = b""
        self._is_open = False
        self.events = 0
        self.ended = False

    async def open(self, port: int, key: str) -> None:
        transport, _ = await asyncio.get_running_loop().create_connection(lambda: self, HOST, port)
        self._transport = transport
        nonce = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET /api/v1/events/ws?kind=alert HTTP/1.1\r\nhost: {HOST}:{port}\r\nupgrade: websocket\r\n"
            f"connection: Upgrade\r\nsec-websocket-key: {nonce}\r\nsec-websocket-version: 13\r\n"
            f"authorization: Bearer {key}\r\n\r\n".encode()
        )

    def close(self) -> None:
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self.ended = True

    def data_received(self, data: bytes) -> None:
        now_s = time.perf_counter()
        data = self._buffer + data
        if not self._is_open:
            _, found, rest = data.partition(b"\r\n\r\n")
            if not found:
                self._buffer = data
                return
            self._is_open, data = True, rest
        while len(data) >= 2:
            length, start = data[1] & 0x7F, 2
            if length == 126:
                length, start = int.from_bytes(data[2:4], "big"), 4
            elif length == 127:
                length, start = int.from_bytes(data[2:10], "big"), 10
            if len(data) < start + length:
                break
            kind, body, data = data[0] & 0x0F, data[start : start + length], data[start + length :]
            if kind == 9:  # a ping; the mask of the pong is zero
                self._transport.write(bytes((0x8A, 0x80 | length)) + bytes(4) + body)
            elif kind == 1:
                event = msgspec.json.decode(body)
                if "type" in event:
                    self.events += 1
                    self._on_event(event, now_s)
        self._buffer = data
