"""The one event stream of each page: which alerts changed, and a heartbeat. Ids and codes only.

Events: ``change`` (id = number in the journal's sequence; data: list of ``{"alert", "action"}``), ``beat`` every
five seconds (data: the server's time in milliseconds), ``missed`` once after a reconnect (data: how many).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import msgspec
from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.access.sessions import WATCHED_EVERY_S
from gateway.api.auth import sees, visible_persons
from gateway.console.board import Change
from gateway.console.frame import Visit
from gateway.errors import StorageError

HEARTBEAT_S: Final = 5.0
MAX_SCREENS: Final = 2000
BUNDLE_S: Final = 0.1  # changes of so long travel together


async def events(visit: Visit) -> Response:
    """Changes behind Last-Event-ID (or ``after``); without one, from now on."""
    board = visit.frame.board
    if sum(board.screens.values()) >= MAX_SCREENS:
        raise HTTPException(429, f"there are {MAX_SCREENS} screens already")
    seen = visit.request.headers.get("last-event-id") or visit.request.query_params.get("after", "")
    return _Stream(visit, int(seen) if seen.isdecimal() and len(seen) < 19 else None)


class _Stream(Response):
    media_type = "text/event-stream"

    def __init__(self, visit: Visit, seen: int | None) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._visit = visit
        self._board = visit.frame.board
        self._seen = seen

    async def __call__(
        self,
        _scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        async def write(text: str, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text.encode(), "more_body": more})

        screens, user = self._board.screens, self._visit.session.user.id
        screens[user] = screens.get(user, 0) + 1
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with asyncio.TaskGroup() as group:
                pump = group.create_task(self._pump(write))
                watchers = [
                    group.create_task(self._gone(receive, pump)),
                    group.create_task(self._drained(pump)),
                    group.create_task(self._allowed(pump)),
                ]
                pump.add_done_callback(lambda _: [watcher.cancel() for watcher in watchers])
            await write("", more=False)
        finally:
            screens[user] -= 1
            if not screens[user]:
                del screens[user]

    async def _pump(self, write: Callable[..., Awaitable[None]]) -> None:
        with contextlib.suppress(StorageError):  # the screen comes back
            await self._copy(write)

    async def _copy(self, write: Callable[..., Awaitable[None]]) -> None:
        board, principal = self._board, self._visit.principal
        number = board.snapshot.number
        seq = board.snapshot.seq if self._seen is None else self._seen
        await write(f"retry: 1000\nid: {seq}\n{_beat(self._visit)}")
        first = self._seen is not None
        while True:
            changes = await board.changes_after(seq)
            if changes:
                visible = await visible_persons(self._visit.services, principal)
                mine = await self._mine(changes, visible)
                seq = changes[-1].seq
                if mine and first:
                    await write(f"event: missed\ndata: {len({change.alert_id for change in mine})}\n\n")
                if mine:
                    told = [{"alert": change.alert_id, "action": change.action} for change in mine]
                    await write(f"id: {seq}\nevent: change\ndata: {msgspec.json.encode(told).decode()}\n\n")
                await asyncio.sleep(BUNDLE_S)
            first = False
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await board.changed(number)
                number = board.snapshot.number
            except TimeoutError:
                await write(_beat(self._visit))

    async def _mine(self, changes: list[Change], visible: frozenset[str] | None) -> list[Change]:
        """What of it this screen may know."""
        if visible is None:
            return changes
        ids = sorted({change.alert_id for change in changes})
        marks = ", ".join("?" * len(ids))
        rows: list[Any] = await self._visit.services.store.read(
            lambda c: c.execute(f"SELECT id, person_id FROM alert WHERE id IN ({marks})", ids).fetchall()  # noqa: S608
        )
        seen = {alert_id for alert_id, person in rows if sees(visible, person or None, self._visit.principal)}
        return [change for change in changes if change.alert_id in seen]

    async def _gone(self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]], pump: asyncio.Task[None]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        pump.cancel()

    async def _drained(self, pump: asyncio.Task[None]) -> None:
        await self._visit.services.closing.wait()
        pump.cancel()

    async def _allowed(self, pump: asyncio.Task[None]) -> None:
        """Ends the stream with its session, and tells the session that its screen is connected."""
        with contextlib.suppress(StorageError):
            while await self._visit.frame.door.watched(self._visit.session.token) is not None:
                await asyncio.sleep(WATCHED_EVERY_S)
        pump.cancel()


def _beat(visit: Visit) -> str:
    return f"event: beat\ndata: {visit.services.clock.now_us() // 1000}\n\n"
