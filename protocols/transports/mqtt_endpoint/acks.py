"""From commits to acknowledgements: one callback a commit, one write a connection and commit."""

from __future__ import annotations

import asyncio
from typing import Protocol

from gateway.model import Verdict


class Acknowledged(Protocol):
    def acknowledge(self, acks: list[bytes]) -> None:
        """What these answer is on disk."""
        ...

    def refuse(self, acks: list[bytes]) -> None:
        """Something that this connection sent is not on disk; nothing behind it may be acknowledged either."""
        ...


class Acks:
    """Acknowledgements that wait for their commit."""

    __slots__ = ("_idle", "_waiting", "retried")

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[Verdict], dict[Acknowledged, list[bytes]]] = {}
        self._idle: asyncio.Event | None = None
        self.retried = 0

    def add(self, future: asyncio.Future[Verdict], connection: Acknowledged, acks: list[bytes]) -> list[bytes]:
        """Send ``acks`` once ``future`` is ACCEPTED. Returns the list that waits for it, which may be added to."""
        known = self._waiting.get(future)
        if known is None:
            self._waiting[future] = {connection: acks}
            future.add_done_callback(self._done)
            return acks
        mine = known.get(connection)
        if mine is None:
            known[connection] = acks
            return acks
        mine += acks
        return mine

    def _done(self, future: asyncio.Future[Verdict]) -> None:
        waiting = self._waiting.pop(future)
        if future.cancelled() or future.result() is not Verdict.ACCEPTED:
            self.retried += 1
            for connection, acks in waiting.items():
                connection.refuse(acks)
        else:
            for connection, acks in waiting.items():
                connection.acknowledge(acks)
        if self._idle is not None and not self._waiting:
            self._idle.set()

    async def idle(self) -> None:
        """Return when no acknowledgement waits for a commit."""
        while self._waiting:
            self._idle = asyncio.Event()
            await self._idle.wait()
