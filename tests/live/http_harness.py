"""A real HTTP listener for tests, and small parts to put behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import uvloop

from gateway.api.server import ApiServer, Limits
from gateway.model import DeviceBinding, Frame, Verdict

TOKEN = "token-of-D-1"


class FakeIngest:
    """Keeps what it is offered. ``verdicts`` are futures the test resolves; without one, ACCEPTED at once."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.verdict: asyncio.Future[Verdict] | Verdict = Verdict.ACCEPTED

    def offer(self, frames: Sequence[Frame]) -> asyncio.Future[Verdict]:
        self.frames.extend(frames)
        if isinstance(self.verdict, asyncio.Future):
            return self.verdict
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        future.set_result(self.verdict)
        return future

    async def deliver(self, frames: Sequence[Frame]) -> Verdict:
        return await self.offer(frames)


class OneDevice:
    """A registry with the device D-1 (native) and D-2 (another codec)."""

    def __init__(self) -> None:
        self.devices = {
            "D-1": DeviceBinding("D-1", "carebell.native", "native", "P-1"),
            "D-2": DeviceBinding("D-2", "button.json", "json"),
        }

    def device(self, device_id: str) -> DeviceBinding | None:
        return self.devices.get(device_id)

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return None

    async def authenticate(self, device_id: str, token: bytes) -> DeviceBinding | None:
        return self.devices.get(device_id) if token == TOKEN.encode() else None

    async def by_certificate(self, common_name: str) -> DeviceBinding | None:
        return None


@asynccontextmanager
async def serving(
    app: Callable[..., Awaitable[None]], limits: Limits | None = None, on_drain: Callable[[], None] = lambda: None
) -> AsyncIterator[ApiServer]:
    """The application behind a listener on a free port."""
    server = ApiServer(app, port=0, limits=limits, on_drain=on_drain)
    async with asyncio.TaskGroup() as group:
        group.create_task(server.run())
        await server.started.wait()
        try:
            yield server
        finally:
            server.close()


@asynccontextmanager
async def client_of(server: ApiServer, **options: Any) -> AsyncIterator[httpx2.AsyncClient]:
    url = f"http://127.0.0.1:{server.address[1]}"
    async with httpx2.AsyncClient(**{"base_url": url, "trust_env": False, "timeout": 60, **options}) as client:
        yield client


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds; TimeoutError after a minute."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


def run(main: Coroutine[Any, Any, None]) -> None:
    """As the daemon does, on uvloop."""
    uvloop.run(main)
