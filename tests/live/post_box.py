"""A small web server that keeps what is posted to it and answers as it is told."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from simulators.server import LocalServer, abort
from tests.provider_contract import SLOW_LIMIT_S


class PostBox:
    """``answers``: (status, body, headers) for the next posts, ``break before``, ``break after`` or ``slow``."""

    def __init__(self, usual: Any) -> None:
        self.posts: list[tuple[dict[str, str], bytes, str]] = []  # headers, body, path with query
        self.answers: deque[tuple[int, Any, dict[str, str]] | str] = deque()
        self.usual = usual
        self.url = ""

    async def post(self, request: Request) -> Response:
        answer = self.answers.popleft() if self.answers else (200, self.usual, {})
        if answer == "break before":
            abort(request)
            return Response()
        query = f"?{request.url.query}" if request.url.query else ""
        self.posts.append((dict(request.headers), await request.body(), request.url.path + query))
        if answer == "slow":
            await asyncio.sleep(3 * SLOW_LIMIT_S)
        if isinstance(answer, str):
            abort(request)
            return Response()
        status, body, headers = answer
        return JSONResponse(body, status, headers)

    def app(self) -> Starlette:
        return Starlette(routes=[Route("/{rest:path}", self.post, methods=["POST"])])


@contextlib.asynccontextmanager
async def post_box(usual: Any = None) -> AsyncIterator[tuple[PostBox, LocalServer]]:
    box = PostBox(usual or {})
    async with asyncio.TaskGroup() as group:
        server = LocalServer(box.app(), group)
        await server.start()
        box.url = server.url
        try:
            yield box, server
        finally:
            await server.stop()


@contextlib.asynccontextmanager
async def tls_post_box(certificate: str, key: str) -> AsyncIterator[PostBox]:
    """The same behind TLS."""
    box = PostBox({})
    config = uvicorn.Config(
        box.app(), ssl_certfile=certificate, ssl_keyfile=key, ssl_cert_reqs=ssl.CERT_NONE, ws="none", lifespan="off",
        log_config=None, access_log=False, loop="none", timeout_graceful_shutdown=1,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[assignment,method-assign]  # signals are the test's
    with socket.create_server(("127.0.0.1", 0)) as listener:
        box.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(server.serve(sockets=[listener]))
            while not server.started:
                await asyncio.sleep(0.005)
            try:
                yield box
            finally:
                server.should_exit = True
                await asyncio.wait([serving])
