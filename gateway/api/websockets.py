"""WebSocket connections of the HTTP listener: counted among its connections, and bounded as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn._types import ASGISendEvent
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

MAX_MESSAGE_BYTES = 16_384
PING_S = 20.0


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol; a peer that leaves what we wrote unread for ``write_timeout_s`` is let go."""

    write_timeout_s = 30.0
    on_lost: Callable[[], None] = staticmethod(lambda: None)
    on_slow: Callable[[], None] = staticmethod(lambda: None)
    _write_timer: asyncio.TimerHandle | None = None

    async def send(self, message: ASGISendEvent) -> None:
        if message["type"] == "websocket.close":  # the frame that says why may stand behind what was not read yet
            self.writable.set()
        await super().send(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._disarm()
        super().connection_lost(exc)
        self.on_lost()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:
            self._write_timer = self.loop.call_later(self.write_timeout_s, self._too_slow)

    def resume_writing(self) -> None:
        self._disarm()
        super().resume_writing()

    def _disarm(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _too_slow(self) -> None:
        self._write_timer = None
        self.on_slow()
        self.transport.abort()  # close() would wait for the peer to read
