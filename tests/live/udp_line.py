"""A bad line for datagrams: each so many-th is lost, in both directions, and the senders' addresses change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast


class BadLine(asyncio.DatagramProtocol):
    """Forwards to a gateway on this machine, each sender from a port of its own; ``cut`` gives all of them new ones."""

    def __init__(self, port: int, lose_every: int) -> None:
        self._gateway = ("127.0.0.1", port)
        self._lose_every = lose_every
        self._seen = 0
        self._socket: asyncio.DatagramTransport | None = None
        self._ways: dict[Any, asyncio.DatagramTransport | None] = {}
        self._waiting: dict[Any, list[bytes]] = {}
        self._opening: set[asyncio.Task[None]] = set()
        self.lost = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast("asyncio.DatagramTransport", transport)

    def cut(self) -> None:
        ways, self._ways = self._ways, {}
        for way in ways.values():
            if way is not None:
                way.close()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if self._loses():
            return
        way = self._ways.get(addr)
        if way is not None:
            way.sendto(data)
            return
        self._waiting.setdefault(addr, []).append(data)
        if addr not in self._ways:
            self._ways[addr] = None
            task = asyncio.get_running_loop().create_task(self._open(addr))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open(self, addr: Any) -> None:
        line = self

        class Back(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr_: Any) -> None:
                del addr_
                if not line._loses() and line._socket is not None:
                    line._socket.sendto(data, addr)

        way, _ = await asyncio.get_running_loop().create_datagram_endpoint(Back, remote_addr=self._gateway)
        self._ways[addr] = way
        for data in self._waiting.pop(addr, ()):
            way.sendto(data)

    def _loses(self) -> bool:
        self._seen += 1
        lost = self._seen % self._lose_every == 0
        self.lost += lost
        return lost


@asynccontextmanager
async def bad_line(port: int, lose_every: int = 29) -> AsyncIterator[tuple[BadLine, int]]:
    """The line, and the port at which it is reached."""
    loop = asyncio.get_running_loop()
    transport, line = await loop.create_datagram_endpoint(
        lambda: BadLine(port, lose_every), local_addr=("127.0.0.1", 0)
    )
    try:
        yield line, int(transport.get_extra_info("sockname")[1])
    finally:
        line.cut()
        transport.close()
