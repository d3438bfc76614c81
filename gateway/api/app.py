"""The ASGI application: ingest on its own straight road, everything else through FastAPI."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

import structlog
from fastapi import FastAPI
from starlette.responses import PlainTextResponse

from gateway.api import openapi, problems
from gateway.api.routes import (
    alerts,
    asyncapi,
    audit,
    callbacks,
    calls,
    care,
    commands,
    conference,
    contacts,
    devices,
    emqx,
    events,
    events_ws,
    exports,
    fhir,
    keys,
    observations,
    orders,
    outbox,
    persons,
    places,
    profiles,
    suppressions,
    system,
)
from gateway.api.routes.events import Streams
from gateway.api.services import Services, Shared

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

INGEST_PREFIX: Final = "/ingest/v1/"
PUSH_PREFIX: Final = "/push/"
CTI_PREFIX: Final = "/cti/v1/"
CONSOLE_PREFIX: Final = "/console"
OUTDOORS_PREFIXES: Final = ("/installer", "/f/")
MAX_BODY_BYTES: Final = 1_048_576
BODY_TIMEOUT_S: Final = 15.0

# Observations come before persons, commands before devices: /persons/<id>/latest, /devices/<id>/commands are theirs.
_MODULES: Final = (
    observations, persons, contacts, places, commands, devices, keys, profiles, conference, alerts, orders, care,
    events, events_ws, exports, fhir,
    outbox, calls, audit, emqx,
)  # fmt: skip
_HEADERS: Final = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
_QUIET: Final = frozenset({"/healthz", "/readyz", "/metrics"})


def build_app(services: Services) -> App:
    """What ApiServer serves."""
    api, streams = _fastapi(services, services.versions.get("carebell", "0"))
    if services.elsewhere is None:
        services.metrics.gauge("carebell_event_streams", "Event streams that are open.", lambda: {"": streams.open})
    api.include_router(system.router)
    api.include_router(callbacks.router)
    api.include_router(asyncapi.router)
    routers = [module.router for module in (*_MODULES, suppressions)] + [system.api_router]
    for router in routers:
        api.include_router(router, prefix="/api/v1", responses=problems.documented(401, 403, 503))
    openapi.complete(api)
    guarded = _Guard(api)
    pages = None if services.console is None else _Guard(services.console)
    outdoors = None if services.outdoors is None else _Guard(services.outdoors)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(INGEST_PREFIX):
            await services.ingest(scope, receive, send)
        elif services.push is not None and scope["type"] == "http" and scope["path"].startswith(PUSH_PREFIX):
            await services.push(scope, receive, send)
        elif services.cti is not None and scope["type"] == "http" and scope["path"].startswith(CTI_PREFIX):
            await services.cti(scope, receive, send)
        elif services.elsewhere is not None and services.elsewhere(scope.get("method", "GET"), scope["path"]):
            await _busy(scope, receive, send)
        elif pages is not None and scope["path"].startswith(CONSOLE_PREFIX):
            await pages(scope, receive, send)
        elif outdoors is not None and scope["path"].startswith(OUTDOORS_PREFIXES):
            await outdoors(scope, receive, send)
        else:
            await guarded(scope, receive, send)

    return app


def build_faces(shared: Shared, console: App, elsewhere: Callable[[str, str], bool]) -> tuple[App, Streams]:
    """The application of the process of pages and streams (gateway.faces), and what counts its streams.

    What is served ``elsewhere`` comes here only behind a page in one piece (pipelining, RFC 9112 section 9.3.2).
    """
    api, streams = _fastapi(shared, "0")
    for module in (events, events_ws):
        api.include_router(module.router, prefix="/api/v1")
    guarded, pages = _Guard(api), _Guard(console)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if elsewhere(scope.get("method", "GET"), scope["path"]):
            await _busy(scope, receive, send)
        elif scope["path"].startswith(CONSOLE_PREFIX):
            await pages(scope, receive, send)
        else:
            await guarded(scope, receive, send)

    return app, streams


def _fastapi(shared: Shared, version: str) -> tuple[FastAPI, Streams]:
    api = FastAPI(
        title="carebell",
        summary="IoT and emergency-response gateway of an eldercare platform",
        version=version,
        docs_url=None,  # its scripts would come from a content network
        redoc_url=None,
        redirect_slashes=False,
        strict_content_type=False,  # a body without a type is taken for JSON
        responses=problems.documented(422, 500),
    )
    api.state.services = shared
    api.state.streams = Streams(shared.feed)
    problems.install(api)
    return api, api.state.streams


async def _busy(scope: Scope, receive: Receive, send: Send) -> None:
    """It could not be brought to the process that serves it: too many wait, or its path was written strangely."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1013})
        return
    headers = {"retry-after": "1"}
    if scope.get("method") == "GET":
        headers["refresh"] = "2"  # a browser that asked for a page asks again by itself
    await PlainTextResponse("busy; try again\n", 503, headers)(scope, receive, send)


class _Guard:
    """Bounds the body, adds headers, and logs a line with ids only: the route, never the path, its query or a body."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._log = structlog.get_logger("access")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        loop = asyncio.get_running_loop()
        begun = loop.time()
        status = 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                given = list(message.get("headers", ()))
                names = {name for name, _ in given}
                message["headers"] = given + [header for header in _HEADERS if header[0] not in names]
            await send(message)

        try:
            await self._app(scope, _bounded(scope, receive), told)
        finally:
            if scope["path"] not in _QUIET:
                self._log.info(
                    "request",
                    method=scope["method"],
                    route=getattr(scope.get("route"), "path", ""),
                    status=status,
                    key_id=scope.get("carebell.key_id", ""),
                    ms=round((loop.time() - begun) * 1000, 1),
                )


def _bounded(scope: Scope, receive: Receive) -> Receive:
    declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
    length = 0
    deadline = asyncio.get_running_loop().time() + BODY_TIMEOUT_S
    complete = False

    async def bounded() -> Message:
        nonlocal length, complete
        if complete:  # what is waited for now is the end of the connection
            return await receive()
        if not declared.isdigit() or int(declared) > MAX_BODY_BYTES:
            raise _too_large()
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            detail = f"the body did not arrive within {BODY_TIMEOUT_S:g} s"
            raise problems.refuse(408, detail, {"connection": "close"}) from None
        length += len(message.get("body", b""))
        complete = not message.get("more_body", False)
        if length > MAX_BODY_BYTES:
            raise _too_large()
        return message

    return bounded


def _too_large() -> Exception:
    return problems.refuse(413, f"a body has at most {MAX_BODY_BYTES} bytes", {"connection": "close"})
