"""Normalized events over a WebSocket (RFC 6455): one CloudEvent to a text message (contracts, section 4)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec
from fastapi import APIRouter, WebSocket
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocketDisconnect

from gateway.api.auth import MAY, visible_persons
from gateway.api.routes import events
from gateway.api.routes.events import Filter, Streams
from gateway.api.services import Shared
from gateway.api.tail import Tail, Told
from gateway.errors import StorageError

router = APIRouter(prefix="/events", tags=["events"])

FIRST_MESSAGE_S: Final = 10.0
SEND_S: Final = 10.0
"""So long one message may wait for a consumer to read what came before it."""

UNAUTHORIZED: Final = 4401
FORBIDDEN: Final = 4403
SLOW: Final = 4408
MALFORMED: Final = 4422
TOO_MANY: Final = 4429
GOING_AWAY: Final = 1001
TRY_AGAIN: Final = 1013

_MEMBERS: Final = frozenset({"authorization", "after", "kind", "person_id", "device_id"})


class _ClosedError(Exception):
    """The connection ends with a code. Handler: ``stream``."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


@router.websocket("/ws")
async def stream(socket: WebSocket) -> None:
    """Events as they happen. ``after``, ``kind``, ``person_id`` and ``device_id`` as for the event stream.

    The key stands in the header Authorization, or, where a browser cannot set one, in the first message:
    ``{"authorization": "carebell_...", "after": "4711-0"}``. ``{"heartbeat": "<newest number>"}`` comes every five
    seconds when there is nothing else. Close codes: 4401 no valid key, 4403 not allowed, 4408 the consumer reads too
    slowly (come back with ``after``), 4422 malformed, 4429 too many streams, 1001 the gateway stops, 1013 try again.
    """
    services: Shared = socket.app.state.services
    streams: Streams = socket.app.state.streams
    await socket.accept()
    if streams.open >= events.MAX_STREAMS:
        await _close(socket, TOO_MANY, "too many event streams")
        return
    streams.open += 1
    try:
        await _serve(socket, services, streams)
    except _ClosedError as ended:
        await _close(socket, ended.code, ended.reason)
    except StorageError:
        await _close(socket, TRY_AGAIN, "the journal cannot be read now")
    except WebSocketDisconnect:
        return
    finally:
        streams.open -= 1


async def _serve(socket: WebSocket, services: Shared, streams: Streams) -> None:
    asked = {name: value for name, value in socket.query_params.items() if name in _MEMBERS - {"authorization"}}
    scheme, _, bearer = socket.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        first = await _first_message(socket)
        bearer = first.pop("authorization", "")
        asked |= first
    principal = await services.keys.api_key(bearer.strip())
    if principal is None:
        raise _ClosedError(UNAUTHORIZED, "this needs a key that is valid now")
    if principal.role not in MAY["events.read"]:
        raise _ClosedError(FORBIDDEN, f"the role {principal.role} may not do this")
    try:
        begin = events.position(asked.get("after", ""), services)
    except HTTPException:
        raise _ClosedError(MALFORMED, "after: must be the id of an event, such as 4711-0") from None
    wanted = Filter(principal, asked.get("kind", ""), asked.get("person_id", ""), asked.get("device_id", ""))
    pump = _Pump(socket, services, streams.tail(wanted), wanted, begin)
    await _until_over(pump, socket, services, bearer.strip())


async def _until_over(pump: _Pump, socket: WebSocket, services: Shared, bearer: str) -> None:
    """Copy until the consumer leaves, the gateway stops or the key ends: the first of them ends the others."""
    ended: list[_ClosedError] = []

    def over(code: int, reason: str) -> None:
        ended.append(_ClosedError(code, reason))
        raise ended[0]

    async def drained() -> None:
        await services.closing.wait()
        over(GOING_AWAY, "the gateway stops")

    async def allowed() -> None:
        while await services.keys.api_key(bearer) is not None:
            await asyncio.sleep(events.REAUTHORIZE_S)
        over(UNAUTHORIZED, "the key has ended")

    async def gone() -> None:
        while (await socket.receive())["type"] != "websocket.disconnect":
            pass  # what a consumer says later means nothing
        raise WebSocketDisconnect

    try:
        async with asyncio.TaskGroup() as group:
            for work in (pump.run(), drained(), allowed(), gone()):
                group.create_task(work)
    except* (_ClosedError, WebSocketDisconnect, StorageError) as failures:
        raise failures.exceptions[0] from None


class _Pump:
    """Pulls from the feed as fast as its consumer reads, and holds at most one batch."""

    def __init__(self, socket: WebSocket, services: Shared, tail: Tail, wanted: Filter, begin: tuple[int, int]) -> None:
        self._socket = socket
        self._services = services
        self._tail = tail
        self._wanted = wanted
        self._begin = begin

    async def run(self) -> None:
        seq = max(self._begin[0] - 1, 0)  # the number that was seen may have more parts
        loop = asyncio.get_running_loop()
        beat_s = loop.time() + events.HEARTBEAT_S
        while True:
            told: Sequence[Told] = ()
            try:
                async with asyncio.timeout_at(beat_s):
                    told, seq = await self._tail.after(seq)
            except TimeoutError:
                await self._send(msgspec.json.encode({"heartbeat": str(self._services.feed.last_seq())}))
                beat_s = loop.time() + events.HEARTBEAT_S
            visible = await visible_persons(self._services, self._wanted.principal) if told else None
            for each in told:
                if each.place > self._begin and self._wanted.passes(each.event, visible):
                    await self._send(each.text)
                    beat_s = loop.time() + events.HEARTBEAT_S

    async def _send(self, message: bytes) -> None:
        try:
            async with asyncio.timeout(SEND_S):
                await self._socket.send_text(message.decode())
        except TimeoutError:
            raise _ClosedError(SLOW, "the consumer reads too slowly") from None


async def _first_message(socket: WebSocket) -> dict[str, str]:
    try:
        async with asyncio.timeout(FIRST_MESSAGE_S):
            text = await socket.receive_text()
        found = msgspec.json.decode(text, type=dict[str, str])
    except TimeoutError:
        raise _ClosedError(UNAUTHORIZED, "no key within ten seconds") from None
    except (msgspec.DecodeError, KeyError):
        raise _ClosedError(MALFORMED, "the first message must be a JSON object of texts") from None
    unknown = sorted(set(found) - _MEMBERS)
    if unknown:
        raise _ClosedError(MALFORMED, f"unknown here: {unknown[0][:40]}")
    return found


async def _close(socket: WebSocket, code: int, reason: str) -> None:
    """Say why. A consumer that reads nothing does not hear it: the listener then ends the connection."""
    try:
        async with asyncio.timeout(1.0):
            await socket.close(code, reason)
    except (TimeoutError, RuntimeError, WebSocketDisconnect):
        return
