"""Connections that another process goes on with: whoever serves the next request of a connection has the connection.

At the beginning of each request its first line tells where it belongs. A descriptor and the bytes that were read go
over to the other process, which answers with the peer's own socket: nothing is copied between processes afterwards.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final, Protocol

from gateway.api.server import BoundedProtocol

LONGEST_LINE: Final = 8192
"""Of a request whose first line is waited for; a longer one is served, or refused, where it is."""


class Switch(Protocol):
    """Where requests belong (gateway.faces)."""

    def is_elsewhere(self, method: str, path: str) -> bool:
        """Whether the other process serves this; ``path`` as it stands in the request, without its query."""
        ...

    def take(self, descriptor: int, begun: bytes) -> bool:
        """Bring a connection over, with what was read of it. True: the descriptor is the switch's now."""
        ...


class PassingProtocol(BoundedProtocol):
    """The listener's protocol; ``begun`` is also what was read of a first line that is not whole yet."""

    switch: Switch

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        begun, self.begun = self.begun, b""
        if begun:
            self.data_received(begun)

    def data_received(self, data: bytes) -> None:
        """Between two requests: wait for the first line, then pass the connection on or serve it."""
        if self._is_at_work() or self.transport.is_closing():
            super().data_received(data)
            return
        data = self.begun + data
        line, found, _ = data.partition(b"\n")
        if not found and len(data) <= LONGEST_LINE:
            self.begun = data
            return
        self.begun = b""
        if not self._is_elsewhere(line) or not self._passed_on(data):
            super().data_received(data)

    def _is_at_work(self) -> bool:
        return self._in_request or (self.cycle is not None and not self.cycle.response_complete)

    def _is_elsewhere(self, line: bytes) -> bool:
        words = line.decode("latin-1").split(" ", 2)
        return len(words) == 3 and self.switch.is_elsewhere(words[0], words[1].partition("?")[0])

    def _passed_on(self, data: bytes) -> bool:
        handle = self.transport.get_extra_info("socket")
        if self.transport.get_write_buffer_size() or handle is None:  # an answer is still being written
            return False
        try:
            descriptor = os.dup(handle.fileno())
        except OSError:
            return False
        if not self.switch.take(descriptor, data):
            os.close(descriptor)
            return False
        self.transport.abort()  # this process' hold on it alone
        return True
