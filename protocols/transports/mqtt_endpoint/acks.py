"""From commits to acknowledgements: one callback a commit, one write a connection and commit."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Final, Protocol

from gateway.model import Verdict
from gateway.ports import VerdictFuture

SLICE: Final = 32
"""Connections that are written to in one turn of the loop, about a quarter of a millisecond. A commit of a thousand
readings is as many writes, and in their turn nobody's press is read."""
FEW: Final = 8
"""Connections of a commit that are written to at once."""


class Acknowledged(Protocol):
    def acknowledge(self, acks: list[bytes]) -> None:
        """What these answer is on disk."""
        ...

    def refuse(self, acks: list[bytes]) -> None:
        """Something that this connection sent is not on disk; nothing behind it may be acknowledged either."""
        ...


class Acks:
    """Acknowledgements that wait for their commit, and then for their turn. Those of a commit of few connections, as
    an emergency's is, have theirs at once.
    """

    __slots__ = ("_due", "_idle", "_loop", "_scheduled", "_waiting", "retried")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[asyncio.Future[Verdict], dict[Acknowledged, list[bytes]]] = {}
        self._due: dict[Acknowledged, list[bytes]] = {}  # committed, to be written; the longest due first
        self._scheduled = False
        self._idle: asyncio.Event | None = None
        self.retried = 0

    def add(self, future: asyncio.Future[Verdict], connection: Acknowledged, acks: list[bytes]) -> list[bytes]:
        """Send ``acks`` once ``future`` is ACCEPTED. Returns the list that waits for it, which may be added to until
        ``acknowledge`` or ``refuse`` gets it.
        """
        known = self._waiting.get(future)
        if known is None:
            self._waiting[future] = {connection: acks}
            if isinstance(future, VerdictFuture):
                future.promptly(self._done)
            else:
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
        due = self._due
        if future.cancelled() or future.result() is not Verdict.ACCEPTED:
            self.retried += 1
            for connection, acks in waiting.items():
                if connection in due:
                    connection.acknowledge(due.pop(connection))
                connection.refuse(acks)
        else:
            for connection, acks in waiting.items():
                earlier = due.get(connection)
                if earlier is not None:
                    acks[:0] = earlier
                due[connection] = acks
            if len(waiting) <= FEW:
                for connection in waiting:
                    connection.acknowledge(due.pop(connection))
            elif not self._scheduled:
                self._scheduled = True
                self._loop.call_soon(self._write)
        self._tell_idle()

    def _write(self) -> None:
        due = self._due
        turn = [(each, due.pop(each)) for each in list(islice(due, max(SLICE, len(due) // 4)))]
        self._scheduled = bool(due)
        if self._scheduled:  # first, so that nothing about these writes keeps the others from theirs
            self._loop.call_soon(self._write)
        for connection, acks in turn:
            connection.acknowledge(acks)
        self._tell_idle()

    def _tell_idle(self) -> None:
        if self._idle is not None and not self._waiting and not self._due:
            self._idle.set()

    async def idle(self) -> None:
        """Return when no acknowledgement waits for a commit, or for its turn."""
        while self._waiting or self._due:
            self._idle = asyncio.Event()
            await self._idle.wait()
