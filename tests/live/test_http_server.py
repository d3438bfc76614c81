"""The listener itself: start, drain, cancellation, TLS, an address that is taken."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.api.server import ApiServer
from gateway.errors import TransportError
from tests.live.http_harness import client_of, run, serving, until

Message = MutableMapping[str, Any]


class Slow:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.schemes: list[str] = []
        self.go = asyncio.Event()

    async def __call__(
        self, scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
    ) -> None:
        self.asked += 1
        self.schemes.append(scope["scheme"])
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})


async def listens(server: ApiServer) -> bool:
    try:
        _, writer = await asyncio.open_connection(*server.address)
    except OSError:
        return False
    writer.close()
    return True


def test_a_drain_lets_requests_end_and_takes_no_new_ones() -> None:
    async def main() -> None:
        app = Slow()
        async with asyncio.TaskGroup() as group, serving(app) as server, client_of(server) as client:
            request = group.create_task(client.get("/"))
            await until(lambda: app.asked == 1)
            server.close()
            async with asyncio.timeout(60):
                while await listens(server):
                    await asyncio.sleep(0.01)
            assert not request.done()
            app.go.set()
            assert (await request).text == "ok"

    run(main())


def test_cancellation_leaves_no_socket_behind() -> None:
    async def main() -> None:
        app = Slow()
        server = ApiServer(app, port=0)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(server.run())
            await server.started.wait()
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: app.asked == 1)
            task.cancel()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        with pytest.raises(OSError):
            await asyncio.open_connection(*server.address)
        await asyncio.sleep(0)

    run(main())


def test_an_address_that_is_taken_is_a_transport_error() -> None:
    async def main() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            with pytest.raises(TransportError, match=str(port)):
                await ApiServer(Slow(), port=port).run()

    run(main())


def test_it_can_run_again_after_its_end() -> None:
    async def main() -> None:
        app = Slow()
        app.go.set()
        server = ApiServer(app, port=0)
        for _ in range(2):
            async with asyncio.TaskGroup() as group:
                group.create_task(server.run())
                await server.started.wait()
                async with client_of(server) as client:
                    assert (await client.get("/")).status_code == 200
                server.close()

    run(main())


def test_tls(tmp_path: Path) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is missing: apt-get install openssl")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key),
         "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True, timeout=30,
    )  # fmt: skip

    async def main() -> None:
        app = Slow()
        app.go.set()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        trusting = ssl.create_default_context(cafile=str(certificate))
        server = ApiServer(app, port=0, tls=context)
        async with asyncio.TaskGroup() as group:
            group.create_task(server.run())
            await server.started.wait()
            url = f"https://127.0.0.1:{server.address[1]}"
            async with httpx2.AsyncClient(base_url=url, verify=trusting, trust_env=False, timeout=60) as client:
                assert (await client.get("/")).text == "ok"
            server.close()
        assert app.schemes == ["https"]

    run(main())
