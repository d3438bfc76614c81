"""The one event stream of each page: which alerts changed, the rows of the queue that did, and a heartbeat.

Events, their id a number in the journal's sequence:

- ``change``: a list of ``{"alert", "action"}``, ids and codes; ``queue``: the rows that changed as HTML, masked as the
  page is, with ``before`` and ``number`` of the queue's state: who shows another state than ``before`` reads the whole
  queue again. Both are made once for all screens that see the same (gateway.console.views).
- ``beat`` every five seconds: the server's time in milliseconds. ``missed`` once after a reconnect: how many alerts.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from gateway.access.sessions import Session
from gateway.console.frame import Visit
from gateway.console.screens import MAX_SCREENS
from gateway.console.views import changes_told, event
from gateway.errors import StorageError

HEARTBEAT_S: Final = 5.0

Message = MutableMapping[str, Any]


async def events(visit: Visit) -> Response:
    """Changes behind Last-Event-ID (or ``after``); without one, from now on."""
    if visit.frame.screens.is_full():
        raise HTTPException(429, f"there are {MAX_SCREENS} screens already")
    seen = visit.request.headers.get("last-event-id") or visit.request.query_params.get("after", "")
    return Screen(visit, int(seen) if seen.isdecimal() and len(seen) < 19 else None)


class Screen(Response):
    """The stream of one page. It is told by the board, and writes what its view made for everybody."""

    media_type = "text/event-stream"

    def __init__(self, visit: Visit, seen: int | None) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.visit = visit
        self.check_at_s = 0.0
        self._seen = seen
        self._seq = self._number = 0
        self._woken = asyncio.Event()
        self._ending = self._beat_due = False

    @property
    def session(self) -> Session:
        return self.visit.session

    def end(self) -> None:
        """End the stream; the page comes back and hears why."""
        self._ending = True
        self._woken.set()

    async def __call__(
        self,
        _scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        async def write(text: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": more})

        board, screens, user = self.visit.frame.board, self.visit.frame.screens, self.visit.session.user.id
        board.screens[user] = board.screens.get(user, 0) + 1
        screens.open[self] = None
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with asyncio.TaskGroup() as group:
                watchers = [group.create_task(self._gone(receive)), group.create_task(self._drained())]
                pump = group.create_task(self._pump(write))
                pump.add_done_callback(lambda _: [watcher.cancel() for watcher in watchers])
            await write(b"", more=False)
        finally:
            board.leave(self)
            del screens.open[self]
            board.screens[user] -= 1
            if not board.screens[user]:
                del board.screens[user]

    async def _pump(self, write: Callable[..., Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        beat: asyncio.TimerHandle | None = None

        def tick() -> None:
            nonlocal beat
            beat = loop.call_later(HEARTBEAT_S, tick)
            self._beat_due = True
            self._woken.set()

        self.check_at_s = loop.time()
        beat = loop.call_later(HEARTBEAT_S, tick)
        try:
            with contextlib.suppress(StorageError):  # the screen comes back
                await self._copy(write)
        finally:
            beat.cancel()

    async def _copy(self, write: Callable[..., Awaitable[None]]) -> None:
        self.visit.frame.board.watch(self, self._woken.set)
        await self._begin(write)
        while not self._ending:
            if self._beat_due:
                self._beat_due = False
                await write(self._beat())
                if asyncio.get_running_loop().time() >= self.check_at_s:
                    await self.visit.frame.screens.check(self, self.visit.frame.door)
            await self._tell(write)
            await self._woken.wait()
            self._woken.clear()

    async def _begin(self, write: Callable[..., Awaitable[None]]) -> None:
        """Where it stands now, and what the page missed since it was told last."""
        shown = await self.visit.frame.views.shown(self.visit.sight)
        self._seq = shown.snapshot.seq if self._seen is None else self._seen
        self._number = shown.number_of(self._seq)
        missed = b""
        if self._seen is not None:
            changes = changes_told(await self.visit.frame.board.changes_after(self._seq), self.visit.sight)
            if changes:
                missed = b"event: missed\ndata: %d\n\n" % len({each["alert"] for each in changes})
        # The heartbeat comes last: with it the page says that it is back, and what it missed.
        await write(b"retry: 1000\nid: %d\n%b%b" % (self._seq, missed, self._beat()))

    async def _tell(self, write: Callable[..., Awaitable[None]]) -> None:
        """What is newer than what the page was told."""
        shown = await self.visit.frame.views.shown(self.visit.sight)
        news = shown.news_after(self._number)
        if news:
            self._number, self._seq = news[-1].number, news[-1].seq
            await write(news[0].text if len(news) == 1 else b"".join(each.text for each in news))
        elif news is None:  # too long ago for rows: which alerts changed, and that the queue is to be read again
            snapshot = shown.snapshot
            changes = [
                each for each in await self.visit.frame.board.changes_after(self._seq) if each.seq <= snapshot.seq
            ]
            told = changes_told(changes, self.visit.sight)
            self._number, self._seq = snapshot.number, max(self._seq, snapshot.seq)
            text = event("change", told, self._seq) if told else b""
            now = {"before": snapshot.number, "number": snapshot.number}
            await write(text + event("queue", now, self._seq))

    def _beat(self) -> bytes:
        return b"event: beat\ndata: %d\n\n" % (self.visit.services.clock.now_us() // 1000)

    async def _gone(self, receive: Callable[[], Awaitable[Message]]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.end()

    async def _drained(self) -> None:
        await self.visit.services.closing.wait()
        self.end()
