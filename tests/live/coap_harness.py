"""A CoAP endpoint in this process for tests, with parts to put behind it."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from gateway.clock import SystemClock
from gateway.model import DeviceBinding, Frame, Verdict
from protocols.transports.coap.endpoint import CoapEndpoint, CoapOptions
from tests.live.http_harness import TOKEN, FakeIngest, OneDevice

KEYS = """
[devices."D-2"]
psk = "736563726574505353"

[devices."D-3".oscore]
secret = "0102030405060708090a0b0c0d0e0f10"
salt = "9e7ca92223786340"
device_id = "01"
gateway_id = "02"
"""
PSK = "secretPSS"


class CountingIngest(FakeIngest):
    """Counts offers besides keeping frames."""

    def __init__(self) -> None:
        super().__init__()
        self.offers = 0

    def offer(self, frames: Sequence[Frame]) -> asyncio.Future[Verdict]:
        self.offers += 1
        return super().offer(frames)


class Devices(OneDevice):
    """D-1 has a token, D-2 and D-3 have keys (and tokens)."""

    def __init__(self) -> None:
        super().__init__()
        self.devices["D-2"] = DeviceBinding("D-2", "carebell.native", "native")
        self.devices["D-3"] = DeviceBinding("D-3", "carebell.native", "native")

    def with_token(self, device_id: str, token: bytes) -> DeviceBinding | None:
        return self.devices.get(device_id) if token == TOKEN.encode() else None


class World:
    def __init__(self, endpoint: CoapEndpoint, ingest: CountingIngest) -> None:
        self.endpoint = endpoint
        self.ingest = ingest

    @property
    def port(self) -> int:
        return int(self.endpoint.addresses["coap"].rpartition(":")[2] or 5683)

    @property
    def dtls_port(self) -> int:
        return int(self.endpoint.addresses["coaps"].rpartition(":")[2])

    def up(self, device: str = "D-1", token: str = TOKEN) -> str:
        return f"coap://127.0.0.1:{self.port}/up?d={device}&t={token}"


@asynccontextmanager
async def serving(tmp_path: Path, *, listen: str = "127.0.0.1:0", dtls: bool = False) -> AsyncIterator[World]:
    keys = tmp_path / "keys.toml"
    keys.write_text(KEYS)
    keys.chmod(0o600)
    ingest = CountingIngest()
    devices = Devices()
    endpoint = CoapEndpoint(
        CoapOptions(listen, "127.0.0.1:0" if dtls else "", str(keys)),
        ingest=ingest, credentials=devices, directory=devices, clock=SystemClock(), state_dir=tmp_path,
    )  # fmt: skip
    await endpoint.start()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(endpoint.run())
        try:
            yield World(endpoint, ingest)
        finally:
            running.cancel()


async def coap_client(*arguments: str, program: str = "coap-client-notls", timeout_s: float = 60) -> tuple[str, str]:
    """What libcoap's client says on its two outputs."""
    process = await asyncio.create_subprocess_exec(program, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    async with asyncio.timeout(timeout_s):
        out, err = await process.communicate()
    return out.decode("utf-8", "replace"), err.decode("utf-8", "replace")


@asynccontextmanager
async def watching(*arguments: str, program: str = "coap-client-notls") -> AsyncIterator[asyncio.StreamReader]:
    """libcoap's client, which observes until the end of the block, and what it says, at once."""
    process = await asyncio.create_subprocess_exec(
        "stdbuf", "-o0", program, "-s", "300", "-m", "get", *arguments, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield process.stdout
    finally:
        process.kill()
        await process.communicate()


async def hears(said: asyncio.StreamReader, text: str) -> None:
    """Return when it has said this."""
    async with asyncio.timeout(60):
        await said.readuntil(text.encode())


class RawSocket:
    """Datagrams by hand."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(("127.0.0.1", port))

    def send(self, data: bytes) -> None:
        self._socket.send(data)

    async def receive(self, timeout_s: float = 60) -> bytes:
        async with asyncio.timeout(timeout_s):
            return await asyncio.get_running_loop().sock_recv(self._socket, 2048)

    def close(self) -> None:
        self._socket.close()
