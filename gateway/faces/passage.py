"""Connections on their way from one process to the other: a descriptor and the bytes that were read (unix(7))."""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

import structlog

MOST_BYTES: Final = 65_536
"""Of what was read: a whole request without a body is at most a quarter of it."""
MOST_WAITING: Final = 1024
LONGEST_WAIT_S: Final = 30.0
"""A process that starts on a machine that is busy takes ten seconds; somebody before a browser waits that long."""
log = structlog.get_logger("faces")

Adopt = Callable[[int, bytes], Coroutine[Any, Any, None]]


class Waiting:
    """Connections that are to go over. Behind a channel that is full, or is none yet, they wait, oldest first."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, int, bytes]] = deque()
        self._channel: socket.socket | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, descriptor: int, begun: bytes) -> bool:
        """Bring it over when that is possible. False: there is no room, and the descriptor stays the caller's."""
        if len(begun) > MOST_BYTES or len(self._waiting) >= MOST_WAITING:
            return False
        self._waiting.append((asyncio.get_running_loop().time(), descriptor, begun))
        self._flush()
        return True

    def use(self, channel: socket.socket | None) -> None:
        """The channel to the other process; None while there is none."""
        if self._channel is not None:
            asyncio.get_running_loop().remove_writer(self._channel)
        self._channel = channel
        self._flush()

    def expire(self) -> None:
        """Let go of who waited too long; call it now and then."""
        now_s = asyncio.get_running_loop().time()
        while self._waiting and now_s - self._waiting[0][0] > LONGEST_WAIT_S:
            os.close(self._waiting.popleft()[1])

    def close(self) -> None:
        """Let go of everybody."""
        self.use(None)
        while self._waiting:
            os.close(self._waiting.popleft()[1])

    def _flush(self) -> None:
        channel = self._channel
        if channel is None:
            return
        while self._waiting:
            _, descriptor, begun = self._waiting[0]
            try:
                socket.send_fds(channel, [begun], [descriptor])
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(channel, self._flush)
                return
            except OSError:  # the other process ended: its successor gets them
                return
            self._waiting.popleft()
            os.close(descriptor)
        asyncio.get_running_loop().remove_writer(channel)


async def receive(channel: socket.socket, adopt: Adopt) -> None:
    """Adopt what comes until the other end closes."""
    loop = asyncio.get_running_loop()
    closed = asyncio.Event()

    def readable() -> None:
        try:
            while True:
                begun, descriptors, _, _ = socket.recv_fds(channel, MOST_BYTES, 1)
                if not begun:
                    break
                if descriptors:
                    group.create_task(adopt(descriptors[0], begun))
        except BlockingIOError:
            return
        except OSError as error:
            log.warning("passage_closed", error=str(error))
        loop.remove_reader(channel)
        closed.set()

    async with asyncio.TaskGroup() as group:
        loop.add_reader(channel, readable)
        try:
            await closed.wait()
        finally:
            loop.remove_reader(channel)


def pair() -> tuple[socket.socket, socket.socket]:
    """Two ends of a channel that keeps messages apart; both can be inherited."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setblocking(False)
    return ends
