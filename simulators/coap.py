"""A simulated device that speaks CoAP: ``POST /up`` and, observed, ``GET /down``."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Final, cast

from simulators import coap_wire as wire
from simulators.devices import NotAcknowledgedError

ACK_TIMEOUT_S: Final = 2.0
MAX_RETRANSMIT: Final = 4
BLOCK: Final = 1024


class Peer(asyncio.DatagramProtocol):
    """One UDP socket: requests with resends, separate responses, and what comes unasked."""

    def __init__(self, *, ack_timeout_s: float = ACK_TIMEOUT_S) -> None:
        self._ack_timeout_s = ack_timeout_s
        self._transport: asyncio.DatagramTransport | None = None
        self._mid = random.randrange(0x10000)
        self._token = random.randrange(1 << 32)
        self._acks: dict[int, asyncio.Future[wire.Message | None]] = {}
        self._answers: dict[bytes, asyncio.Future[wire.Message]] = {}
        self.observed: dict[bytes, Callable[[wire.Message], None]] = {}
        self.serve: Callable[[wire.Message], wire.Message | None] = lambda _request: None
        self.resent = 0

    @classmethod
    async def connect(cls, host: str, port: int, **options: Any) -> Peer:
        loop = asyncio.get_running_loop()
        _, self = await loop.create_datagram_endpoint(lambda: cls(**options), remote_addr=(host, port))
        return self

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)  # uvloop's is of no such class

    def error_received(self, exc: Exception) -> None:
        """Nobody listens just now: the resends go on."""

    def send(self, message: wire.Message) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(wire.encode(message))

    def next_mid(self) -> int:
        self._mid = (self._mid + 1) & 0xFFFF
        return self._mid

    def next_token(self) -> bytes:
        self._token = (self._token + 1) & 0xFFFFFFFF
        return self._token.to_bytes(4)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        del addr
        try:
            message = wire.decode(data)
        except (ValueError, IndexError):
            return
        if message.kind in (wire.ACK, wire.RST) and message.mid in self._acks:
            waiting = self._acks.pop(message.mid)
            if not waiting.done():
                waiting.set_result(message if message.code or message.kind == wire.RST else None)
        elif 0 < message.code < 0x20:
            answer = self.serve(message)
            if answer is not None:
                self.send(answer)
        elif message.code:
            self._response(message)

    def _response(self, message: wire.Message) -> None:
        """A response that stands alone: separate, or of an observation."""
        waiting = self._answers.pop(message.token, None)
        listener = self.observed.get(message.token)
        if message.kind == wire.CON:
            known = waiting is not None or listener is not None
            self.send(wire.Message(wire.ACK if known else wire.RST, wire.EMPTY, message.mid))
        if waiting is not None and not waiting.done():
            waiting.set_result(message)
        elif listener is not None:
            listener(message)

    async def request(
        self, code: int, options: wire.Options, payload: bytes = b"", *, token: bytes | None = None
    ) -> wire.Message:
        """The response. Raises NotAcknowledgedError."""
        message = wire.Message(wire.CON, code, self.next_mid(), token or self.next_token(), options, payload)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[wire.Message] = loop.create_future()
        self._answers[message.token] = answer
        try:
            first = await self.confirm(message)
            if first is not None:
                return first
            async with asyncio.timeout(30):
                return await answer
        except TimeoutError:
            raise NotAcknowledgedError("no separate response within 30 s") from None
        finally:
            self._answers.pop(message.token, None)

    async def confirm(self, message: wire.Message) -> wire.Message | None:
        """Send a CON until it is acknowledged; what came with the ACK. Raises NotAcknowledgedError."""
        loop = asyncio.get_running_loop()
        acked = self._acks[message.mid] = loop.create_future()
        timeout_s = self._ack_timeout_s * random.uniform(1.0, 1.5)
        try:
            for attempt in range(MAX_RETRANSMIT + 1):
                self.resent += attempt > 0
                self.send(message)
                await asyncio.wait([acked], timeout=timeout_s)
                if acked.done():
                    found: wire.Message | None = acked.result()
                    return found
                timeout_s *= 2
        finally:
            self._acks.pop(message.mid, None)
        raise NotAcknowledgedError(f"no ACK after {MAX_RETRANSMIT} resends")


class CoapLink:
    """``simulators.devices.Link`` over CoAP, with a token in the query. ``on_command`` gets what ``/down`` says."""

    def __init__(
        self,
        host: str,
        port: int,
        device_id: str,
        token: str,
        *,
        on_command: Callable[[bytes], None] = lambda _payload: None,
        content_format: int = 50,
        ack_timeout_s: float = ACK_TIMEOUT_S,
    ) -> None:
        self._address = (host, port)
        self._query = wire.query(d=device_id, t=token)
        self._device_id = device_id
        self._on_command = on_command
        self._format = content_format
        self._ack_timeout_s = ack_timeout_s
        self._peer: Peer | None = None
        self._opening = asyncio.Lock()
        self.connections = 0
        self.last_error = ""

    @property
    def resent(self) -> int:
        return 0 if self._peer is None else self._peer.resent

    async def run(self) -> None:
        """Observe the commands, again every few minutes, until cancelled."""
        while True:
            peer = await self._open()
            token = peer.next_token()
            peer.observed[token] = self._command
            options = (*wire.path("down"), *self._query, (wire.OBSERVE, b""))
            try:
                first = await peer.request(wire.GET, options, token=token)
                self._command(first)
            except NotAcknowledgedError as error:
                self.last_error = str(error)
            await asyncio.sleep(240)
            peer.observed.pop(token, None)

    def _command(self, message: wire.Message) -> None:
        if message.code == wire.CONTENT and message.payload:
            self._on_command(message.payload)

    async def send(self, payload: bytes) -> float:
        """Seconds until 2.04. Raises NotAcknowledgedError."""
        peer = await self._open()
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        options = (*wire.path("up"), *self._query, (wire.CONTENT_FORMAT, wire.number(self._format)))
        for _ in range(5):
            answer = await self._post(peer, options, payload)
            if answer.code == wire.CHANGED:
                return loop.time() - began_s
            if answer.code != wire.UNAVAILABLE:
                break
            await asyncio.sleep(int.from_bytes(answer.option(wire.MAX_AGE) or b"\x05"))
        raise NotAcknowledgedError(f"{self._device_id}: answered {answer.code >> 5}.{answer.code & 31:02}")

    async def _post(self, peer: Peer, options: wire.Options, payload: bytes) -> wire.Message:
        """In one piece, or in blocks (Block1) when it is long."""
        if len(payload) <= BLOCK:
            return await peer.request(wire.POST, options, payload)
        for at in range(0, len(payload), BLOCK):
            more = at + BLOCK < len(payload)
            block = (wire.BLOCK1, wire.number(at // BLOCK << 4 | (8 if more else 0) | 6))
            answer = await peer.request(wire.POST, (*options, block), payload[at : at + BLOCK])
            if more and answer.code != wire.CONTINUE:
                break
        return answer

    async def break_off(self) -> None:
        """The socket goes, and its port with it."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    async def _open(self) -> Peer:
        async with self._opening:  # commands and messages begin together
            if self._peer is None:
                self._peer = await Peer.connect(*self._address, ack_timeout_s=self._ack_timeout_s)
                self.connections += 1
            return self._peer
