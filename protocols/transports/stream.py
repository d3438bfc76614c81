"""TCP listeners for terminals: one port, one codec. No task and no timer of its own for any connection."""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from typing import Any, Final, Unpack, cast

from gateway.descriptors import SOCKETS
from gateway.errors import FramingError
from gateway.ports import Framer
from protocols.transports.mqtt_endpoint.wheel import Wheel
from protocols.transports.terminal_talk import ListenerParts, Switchboard, Talk, TerminalListener

BACKLOG: Final = 4096
CLOSING_S: Final = 5.0
_COMMITS, _UNREAD = 1, 2  # reasons not to read


class StreamListener(TerminalListener["_StreamBoard"]):
    """``ports.Transport``: the terminals of one codec over TCP."""

    def __init__(self, *, ssl_context: ssl.SSLContext | None = None, **parts: Unpack[ListenerParts]) -> None:
        super().__init__(_StreamBoard, "tcp", parts)
        self._ssl_context = ssl_context
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Bind and listen. Raises TransportError when the address cannot be bound."""
        if self._server is not None:
            return
        board = self.switchboard
        board.closing = False
        try:
            self._server = await asyncio.get_running_loop().create_server(
                lambda: Connection(board), self._host, self._port, backlog=BACKLOG, ssl=self._ssl_context
            )
        except OSError as error:
            raise self.not_bound(error) from error
        self.bound(self._server.sockets[0].getsockname())

    async def run(self) -> None:
        """Serve until cancelled. Then accept nothing more, answer what is being committed, and end."""
        board = self.switchboard
        try:
            await self.start()
            while True:
                await asyncio.sleep(board.limits.sweep_s)
                board.wheel.advance(board.clock.monotonic_s())
        finally:
            await self._close()

    async def _close(self) -> None:
        board = self.switchboard
        board.closing = True
        if self._server is not None:
            self._server.close()
            self._server = None
        for connection in list(board.connections):
            connection.stop()
        await board.drained()
        for connection in list(board.connections):
            connection.finish("drained")


class _StreamBoard(Switchboard):
    """A switchboard whose conversations are connections."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.wheel = Wheel(self.clock.monotonic_s())
        self.connections: set[Connection] = set()
        self._unknown: dict[Connection, None] = {}  # oldest first
        self._by_address: dict[str, int] = {}
        self.accepted = 0
        self.closed: dict[str, int] = {}

    def admit(self, connection: Connection, *, few_left: bool = False) -> bool:
        """Whether a new connection may stay. At the bound of all, or with few descriptors left, it takes the place of
        the oldest unknown one.
        """
        self.accepted += 1
        if self.closing:
            return False
        of_address = self._by_address.get(connection.address, 0)
        if of_address >= self.limits.unknown_per_address:
            self.count_closed("address")
            self.tell_once("terminal_unknown_per_address", connection.address)
            return False
        if few_left or len(self.connections) >= self.limits.connections:
            self.tell_once("terminal_connections", "limit")
            oldest = next(iter(self._unknown), None)
            if oldest is None:
                self.count_closed("connections")
                return False
            self.forget_unknown(oldest)
            oldest.finish("displaced")
        self.connections.add(connection)
        self._unknown[connection] = None
        self._by_address[connection.address] = of_address + 1
        return True

    def identified(self, talk: Talk) -> None:
        if isinstance(talk, Connection):
            self.forget_unknown(talk)

    def forget_unknown(self, connection: Connection) -> None:
        """The connection is known or gone. Idempotent."""
        if connection not in self._unknown:
            return
        del self._unknown[connection]
        left = self._by_address[connection.address] - 1
        if left:
            self._by_address[connection.address] = left
        else:
            del self._by_address[connection.address]

    def count_closed(self, reason: str) -> None:
        self.closed[reason] = self.closed.get(reason, 0) + 1

    def counters(self) -> dict[str, int]:
        return {
            "connections": len(self.connections),
            **super().counters(),
            "accepted_total": self.accepted,
            **{f"closed_{reason}_total": count for reason, count in sorted(self.closed.items())},
        }


class Connection(Talk, asyncio.Protocol):
    """One terminal's connection."""

    __slots__ = ("_board", "_closed", "_ended", "_framer", "_heard_s", "_hold", "_since_s", "_spoke", "_timer_s",
                 "_transport", "_unread_s")  # fmt: skip

    def __init__(self, board: _StreamBoard) -> None:
        super().__init__()
        self._board = board
        self._framer: Framer | None = None
        self._transport: asyncio.Transport | None = None
        self._closed = False
        self._ended = False  # the terminal has closed its side
        self._hold = 0
        self._spoke = False
        self._timer_s = math.inf
        self._since_s = self._heard_s = self._unread_s = 0.0

    # ---- the socket --------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):
            self.address = str(peer[0])
            self.source = f"[{peer[0]}]:{peer[1]}" if ":" in self.address else f"{peer[0]}:{peer[1]}"
        self._since_s = self._heard_s = self._board.clock.monotonic_s()
        if not self._board.admit(self, few_left=SOCKETS.opened()):
            self._closed = True
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(self._board.limits.write_buffer_bytes)
        endpoint = transport.get_extra_info("socket")
        if endpoint is not None:
            endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._arm(self._since_s + self._board.limits.identify_s)

    def data_received(self, data: bytes) -> None:
        if self._closed:
            return
        board = self._board
        self._heard_s = board.clock.monotonic_s()
        if self._framer is None:
            self._framer = board.codec.framer()
        try:
            frames = self._framer.feed(data)
        except FramingError:
            board.tell_once("terminal_sends_no_frames", self.address)
            self.finish("framing")
            return
        for frame in frames:
            board.take(self, frame)
        if frames:
            self._spoke = True
            if self.waiting >= board.limits.inflight or board.waiting >= board.limits.waiting:
                self._pause(_COMMITS)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # whichever it was, the peer is gone
        SOCKETS.closed()
        board = self._board
        board.connections.discard(self)
        board.forget_unknown(self)
        board.leave(self)
        if not self._closed:
            self._closed = True
            board.count_closed("lost")
        self._transport = self._framer = None

    def eof_received(self) -> bool:
        """Stay open for writing: a terminal that has said everything still waits for its answers."""
        self._arm(self._board.clock.monotonic_s() + CLOSING_S)
        if not self.waiting:
            self.finish("ended")
            return False
        self._ended = True
        return True

    def pause_writing(self) -> None:
        self._unread_s = self._board.clock.monotonic_s()
        self._arm(self._unread_s + self._board.limits.write_stall_s)
        self._pause(_UNREAD)

    def resume_writing(self) -> None:
        self._unread_s = 0.0
        self._resume(_UNREAD)

    def _pause(self, reason: int) -> None:
        if not self._hold and not self._closed and self._transport is not None:
            self._transport.pause_reading()
        self._hold |= reason

    def _resume(self, reason: int) -> None:
        if not self._hold & reason:
            return
        self._hold &= ~reason
        if not self._hold and not self._closed and self._transport is not None:
            self._transport.resume_reading()

    def stop(self) -> None:
        """Read nothing more; what waits for its commit is still answered."""
        self._pause(_COMMITS)

    # ---- answers -----------------------------------------------------------------------------------------------------

    def answered(self, replies: list[bytes]) -> None:
        if self._closed or self._transport is None:
            return
        answer = b"".join(replies)
        if answer:
            self._transport.write(answer)
        if self._ended:
            if not self.waiting:
                self.finish("ended")
        elif self._hold & _COMMITS and not self._board.closing and self.waiting < self._board.limits.inflight // 2:
            self._resume(_COMMITS)

    def refused(self, frames: int) -> None:
        del frames
        if self._board.refusal and self._transport is not None and not self._closed:
            self._transport.write(self._board.refusal)
        self.finish("not_stored")

    def write(self, payload: bytes) -> bool:
        if self._closed or self._transport is None or self._unread_s:
            return False
        self._transport.write(payload)
        return True

    def finish(self, reason: str) -> None:
        """End the connection behind what was written before."""
        if self._closed:
            return
        self._closed = True
        self._board.count_closed(reason)
        self._board.leave(self)
        if self._transport is not None:
            self._transport.close()
            self._since_s = self._board.clock.monotonic_s()
            self._arm(self._since_s + CLOSING_S)

    # ---- deadlines ---------------------------------------------------------------------------------------------------

    def _arm(self, at_s: float) -> None:
        if at_s < self._timer_s:
            self._timer_s = at_s
            self._board.wheel.add(self, at_s)

    def due(self, now_s: float) -> None:
        """A deadline may have passed; see which, and set the next."""
        self._timer_s = math.inf
        if self._transport is None:
            return
        limits = self._board.limits
        if self._closed or self._ended:
            self._closed = True
            self._transport.abort()
            return
        if self._unread_s and now_s >= self._unread_s + limits.write_stall_s:
            self._end("unread")
            return
        if not self._spoke and now_s >= self._since_s + limits.identify_s:
            self._end("said_nothing")
            return
        if now_s >= self._heard_s + self._board.idle_s:
            self._end("idle")
            return
        self._arm(self._heard_s + self._board.idle_s if self._spoke else self._since_s + limits.identify_s)

    def _end(self, reason: str) -> None:
        self._closed = True
        self._board.count_closed(reason)
        if self._transport is not None:
            self._transport.abort()
