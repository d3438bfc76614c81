"""UDP listeners for terminals: one port, one codec. Each address that sends is a conversation, within bounds."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, Unpack, cast

from gateway.errors import FramingError
from protocols.transports.datagram_repeats import LOOK_S, Repeats
from protocols.transports.terminal_talk import ListenerParts, Switchboard, Talk, TerminalListener

DATAGRAM_BYTES: Final = 8192
RECEIVE_BUFFER_BYTES: Final = 4 << 20


class DatagramListener(TerminalListener["_DatagramBoard"]):
    """``ports.Transport``: the terminals of one codec over UDP. A datagram that is not stored is not answered."""

    def __init__(self, **parts: Unpack[ListenerParts]) -> None:
        super().__init__(_DatagramBoard, "udp", parts)
        self._transport: asyncio.DatagramTransport | None = None

    async def start(self) -> None:
        """Bind. Raises TransportError when the address cannot be bound."""
        if self._transport is not None:
            return
        board = self.switchboard
        board.closing = False
        try:
            self._transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _Endpoint(board), local_addr=(self._host, self._port)
            )
        except OSError as error:
            raise self.not_bound(error) from error
        self.bound(self._transport.get_extra_info("sockname"))

    async def run(self) -> None:
        """Serve until cancelled. Then take nothing more, answer what is being committed, and end."""
        board = self.switchboard
        try:
            await self.start()
            while True:
                await asyncio.sleep(board.limits.sweep_s if board.repeats is None else LOOK_S)
                board.sweep()
        finally:
            board.closing = True
            await board.drained()
            if self._transport is not None:
                self._transport.close()
                self._transport = None


class _DatagramBoard(Switchboard):
    """A switchboard whose conversations are addresses, the least recently heard first."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**rest)
        self.endpoint: asyncio.DatagramTransport | None = None
        # Where one frame is answered with several datagrams.
        self.split_reply: Callable[[bytes], Sequence[bytes]] | None = getattr(self.codec, "split_reply", None)
        # Where an answer contains a request of ours, which is repeated until it is answered.
        self.repeats = Repeats(cast("Any", self.codec), self.clock) if hasattr(self.codec, "settles") else None
        self._peers: dict[tuple[Any, ...], _Peer] = {}
        self._unknown: dict[str, int] = {}
        self.datagrams = 0
        self.dropped: dict[str, int] = {}

    def received(self, data: bytes, address: tuple[Any, ...]) -> None:
        self.datagrams += 1
        if self.closing:
            return
        if len(data) > DATAGRAM_BYTES:
            self.drop("long")
            return
        if self.waiting >= self.limits.waiting:
            self.drop("busy")
            return
        peer = self._peer(address)
        if peer is None:
            return
        peer.heard_s = self.clock.monotonic_s()
        framer = self.codec.framer()
        try:
            frames = framer.feed(data)
        except FramingError:
            frames = []
        for frame in frames or [data]:  # what cannot be cut is kept whole, with the codec's fault
            if self.repeats is not None:
                self.repeats.heard(frame)
            self.take(peer, frame)

    def _peer(self, address: tuple[Any, ...]) -> _Peer | None:
        peer = self._peers.pop(address, None)
        if peer is None:
            host = str(address[0])
            of_address = self._unknown.get(host, 0)
            if of_address >= self.limits.unknown_per_address:
                self.drop("address")
                self.tell_once("terminal_unknown_per_address", host)
                return None
            if len(self._peers) >= self.limits.connections:
                self._forget(next(iter(self._peers)))
            peer = _Peer(self, address)
            self._unknown[host] = of_address + 1
        self._peers[address] = peer
        return peer

    def identified(self, talk: Talk) -> None:
        if isinstance(talk, _Peer) and talk.counted:
            self._uncount(talk)

    def _uncount(self, peer: _Peer) -> None:
        peer.counted = False
        left = self._unknown[peer.address] - 1
        if left:
            self._unknown[peer.address] = left
        else:
            del self._unknown[peer.address]

    def _forget(self, address: tuple[Any, ...]) -> None:
        peer = self._peers.pop(address)
        self.leave(peer)
        if peer.counted:
            self._uncount(peer)

    def sweep(self) -> None:
        """Forget addresses that were silent for long; they stand in the order in which they were heard."""
        if self.repeats is not None:
            self.repeats.look()
        oldest_s = self.clock.monotonic_s() - self.idle_s
        while self._peers:
            address, peer = next(iter(self._peers.items()))
            if peer.heard_s > oldest_s:
                return
            self._forget(address)

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1

    def counters(self) -> dict[str, int]:
        return {
            "peers": len(self._peers),
            **super().counters(),
            "datagrams_total": self.datagrams,
            **{f"dropped_{reason}_total": count for reason, count in sorted(self.dropped.items())},
            **({} if self.repeats is None else {f"{name}_total": n for name, n in self.repeats.counts.items()}),
        }


class _Peer(Talk):
    """The datagrams of one address."""

    __slots__ = ("_board", "_to", "counted", "heard_s")

    def __init__(self, board: _DatagramBoard, to: tuple[Any, ...]) -> None:
        super().__init__()
        self._board = board
        self._to = to
        self.counted = True
        self.heard_s = 0.0
        self.address = str(to[0])
        self.source = f"[{to[0]}]:{to[1]}" if ":" in self.address else f"{to[0]}:{to[1]}"

    def answered(self, replies: list[bytes]) -> None:
        split = self._board.split_reply
        for reply in replies:
            for part in (reply,) if split is None else split(reply):
                if part and self.write(part) and self._board.repeats is not None:
                    self._board.repeats.sent(part, self.write)

    def refused(self, frames: int) -> None:
        """Silence: the terminal sends again."""

    def write(self, payload: bytes) -> bool:
        endpoint = self._board.endpoint
        if endpoint is None or endpoint.is_closing():
            return False
        endpoint.sendto(payload, self._to)
        return True


class _Endpoint(asyncio.DatagramProtocol):
    """The socket."""

    def __init__(self, board: _DatagramBoard) -> None:
        self._board = board

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._board.endpoint = cast("asyncio.DatagramTransport", transport)
        endpoint = transport.get_extra_info("socket")
        if endpoint is not None:
            endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        self._board.received(data, addr)

    def error_received(self, exc: Exception) -> None:
        del exc  # a peer that is not there any more
        self._board.drop("unreachable")

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._board.endpoint = None
