"""An HTTP server inside a test or a demonstration, which can break a connection in the middle of an answer."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which a handler can reach to break its connection."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app_state = {**self.app_state, "connection": self}


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals belong to whoever runs the simulator."""
        yield


class LocalServer:
    """Serves ``app`` on ``host`` and ``port`` (0: a free one, kept over restarts)."""

    def __init__(self, app: Starlette, group: asyncio.TaskGroup, host: str = "127.0.0.1", port: int = 0) -> None:
        self._app = app
        self._group = group
        self._host = host
        self._port = port
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def start(self) -> None:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, self._port), family=family, reuse_port=False)
        self._port = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app, http=_Protocol, ws="none", lifespan="off", log_config=None, access_log=False,
            timeout_graceful_shutdown=1, loop="none",
        )  # fmt: skip
        self._server = _Server(config)
        self._serving = self._group.create_task(self._server.serve(sockets=[listener]))
        while not self._server.started:
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        """Refuse connections and break those that exist, at once: as a process that is killed."""
        if self._server is None or self._serving is None:
            return
        for server in self._server.servers:
            server.close()
        state = self._server.server_state
        for _ in range(5):  # one that was just accepted appears some turns of the loop later
            for connection in list(state.connections):
                connection.transport.abort()
            await asyncio.sleep(0)
        ending = {self._serving, *state.tasks}
        for task in ending:
            task.cancel()
        await asyncio.wait(ending)
        self._server = self._serving = None


def abort(request: Request) -> None:
    """Break the connection of a request: nothing that is answered to it leaves."""
    request.state.connection.transport.abort()
