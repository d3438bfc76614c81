"""Normalized events as a server-sent event stream (contracts, section 4)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Annotated, Any, Final

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request
from starlette.responses import Response

from gateway.api.answers import ShortText
from gateway.api.auth import may, principal_of, sees, shared_of, visible_persons
from gateway.api.problems import documented, refuse
from gateway.api.services import Shared
from gateway.api.tail import Tail, Told
from gateway.errors import StorageError
from gateway.events import ALERT, DEVICE, ORDER
from gateway.ports import EventFeed
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/events", tags=["events"])

HEARTBEAT_S: Final = 5.0
REAUTHORIZE_S: Final = 60.0
MAX_STREAMS: Final = 256

KIND_TEXT: Final = (
    "observation, measurement, signal, position, alert, device, order; a whole type, a signal or a metric"
)

_TRANSITIONS: Final = frozenset(
    name for kind in (ALERT, DEVICE, ORDER) for name in (kind, kind.removeprefix("org.carebell.").removesuffix(".v1"))
)
"""Kinds that no observation has."""
_WHOLE: Final = 1 << 30  # every part of a number
_ID = re.compile(r"([0-9]{1,18})(?:-([0-9]{1,9}))?")


class Streams:
    """How many streams are open, and what they follow together."""

    def __init__(self, feed: EventFeed) -> None:
        self.open = 0
        self.everything = Tail(feed, is_whole=True)
        self.transitions = Tail(feed, is_whole=False)

    def tail(self, wanted: Filter) -> Tail:
        return self.transitions if wanted.kind in _TRANSITIONS else self.everything


class Filter(msgspec.Struct, frozen=True):
    """Which events a stream shows. ``visible`` are the persons of the key, None for all."""

    principal: ApiKey
    kind: str = ""
    person_id: str = ""
    device_id: str = ""

    def passes(self, event: dict[str, Any], visible: frozenset[str] | None) -> bool:
        data = event["data"]
        person_id = data.get("person_id") or str(event.get("subject", "")).removeprefix("person/")
        return (
            (not self.kind or self.kind in _kinds(event))
            and (not self.person_id or person_id == self.person_id)
            and (not self.device_id or data.get("device_id") == self.device_id)
            and sees(visible, person_id, self.principal)
        )


def _kinds(event: dict[str, Any]) -> tuple[str, ...]:
    """What an event may be called in ``kind``: its type, the type's noun, and an observation's kind or signal."""
    kind = str(event["type"])
    data = event["data"]
    return (
        kind,
        kind.removeprefix("org.carebell.").removesuffix(".v1"),
        *(str(data[name]) for name in ("kind", "signal", "metric") if name in data),
    )


@router.get(
    "",
    response_model=None,
    responses={
        200: {"description": "a stream without end", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **documented(429),
    },
)
async def stream(
    request: Request,
    principal: Annotated[ApiKey, Depends(may("events.read"))],
    kind: Annotated[ShortText, Query(description=KIND_TEXT)] = "",
    person_id: ShortText = "",
    device_id: ShortText = "",
    last_event_id: Annotated[str | None, Header(description="go on behind this event")] = None,
    after: Annotated[ShortText, Query(description="as Last-Event-ID, for who cannot set headers; 0: all")] = "",
) -> Response:
    """Events as they happen, each with its stable id; a comment every five seconds when there are none.

    With ``Last-Event-ID`` the stream goes on behind that event, so that a consumer that comes back misses nothing.
    """
    services = shared_of(request)
    begin = position(last_event_id or after, services)
    wanted = Filter(principal, kind, person_id, device_id)
    streams: Streams = request.app.state.streams
    if streams.open >= MAX_STREAMS:
        raise refuse(429, f"there are {MAX_STREAMS} event streams already", {"retry-after": "5"})
    return EventStream(services, wanted, begin, str(request.scope["carebell.bearer"]), streams)


def position(value: str, services: Shared) -> tuple[int, int]:
    """The number and part of the last event that was seen. Without one: everything so far was seen."""
    if not value:
        return services.feed.last_seq(), _WHOLE
    match = _ID.fullmatch(value.strip())
    if match is None:
        raise refuse(422, "Last-Event-ID: must be the id of an event, such as 4711-0")
    seen = int(match[1]), int(match[2]) if match[2] else _WHOLE
    newest = services.feed.last_seq()
    return (newest, _WHOLE) if 0 < newest < seen[0] else seen  # an id of another journal: go on from here


class EventStream(Response):
    """Pulls from the feed as fast as its consumer reads, and holds at most one batch.

    The listener lets go of a consumer that stops reading; it comes back with Last-Event-ID and misses nothing.
    """

    media_type = "text/event-stream"

    def __init__(self, services: Shared, wanted: Filter, begin: tuple[int, int], bearer: str, streams: Streams) -> None:
        super().__init__(headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._services = services
        self._wanted = wanted
        self._begin = begin
        self._bearer = bearer
        self._streams = streams

    async def __call__(
        self,
        _scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        async def write(text: bytes, *, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": text, "more_body": more})

        self._streams.open += 1
        try:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await write(b"retry: 2000\n\n")
            async with asyncio.TaskGroup() as group:
                pump = group.create_task(self._pump(write))
                watchers = [
                    group.create_task(self._gone(receive, pump)),
                    group.create_task(self._drained(pump)),
                    group.create_task(self._allowed(pump)),
                ]
                pump.add_done_callback(lambda _: [watcher.cancel() for watcher in watchers])
            await write(b"", more=False)
        finally:
            self._streams.open -= 1

    async def _pump(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        try:
            await self._copy(write)
        except StorageError:
            return  # the consumer comes back

    async def _copy(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        tail = self._streams.tail(self._wanted)
        seq = max(self._begin[0] - 1, 0)  # the number that was seen may have more parts
        loop = asyncio.get_running_loop()
        beat_s = loop.time() + HEARTBEAT_S
        while True:
            text = b""
            try:
                async with asyncio.timeout_at(beat_s):
                    told, seq = await tail.after(seq)
                text = await self._passing(told)
            except TimeoutError:
                text = b": nothing new\n\n"
            if text:
                await write(text)
                beat_s = loop.time() + HEARTBEAT_S

    async def _passing(self, told: Sequence[Told]) -> bytes:
        visible = await visible_persons(self._services, self._wanted.principal) if told else None
        return b"".join(
            b"id: %d-%d\ndata: %b\n\n" % (*each.place, each.text)
            for each in told
            if each.place > self._begin and self._wanted.passes(each.event, visible)
        )

    async def _gone(self, receive: Callable[[], Awaitable[MutableMapping[str, Any]]], pump: asyncio.Task[None]) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        pump.cancel()

    async def _drained(self, pump: asyncio.Task[None]) -> None:
        await self._services.closing.wait()
        pump.cancel()

    async def _allowed(self, pump: asyncio.Task[None]) -> None:
        while await principal_of(self._services, self._bearer) is not None:
            await asyncio.sleep(REAUTHORIZE_S)
        pump.cancel()
