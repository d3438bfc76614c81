"""The process of pages beside a real gateway: connections that go to and fro, its death, its end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from simulators.console_clients import Screen, SocketFeed, Told
from tests.daemon import Daemon
from tests.live.console_harness import console_daemon, press
from tests.live.test_console_room import people

pytestmark = pytest.mark.live
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, dict[str, str], list[str]]]:
    folder = tmp_path_factory.mktemp("faces")
    with console_daemon(folder / "var") as (daemon, tokens):
        yield daemon, tokens, people(folder / "var")


def faces_pid(daemon: Daemon) -> int:
    """The process of pages, once there is one."""
    assert daemon.process is not None
    until_s = time.monotonic() + LIMIT_S
    while time.monotonic() < until_s:
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == daemon.process.pid and b"gateway.faces.worker" in (entry / "cmdline").read_bytes():
                    return int(entry.name)
        time.sleep(0.05)
    raise AssertionError("no process of pages")


def number_of(daemon: Daemon, what: str) -> float:
    headers = {"authorization": f"Bearer {daemon.admin_key}"}
    text = httpx2.get(f"{daemon.url}/metrics", headers=headers, trust_env=False, timeout=LIMIT_S).text
    return float(text.partition(f'carebell_faces{{what="{what}"}} ')[2].split("\n")[0] or -1)


def test_one_connection_goes_to_and_fro(site: tuple[Daemon, dict[str, str], list[str]]) -> None:
    daemon, tokens, people_in = site
    line = http.client.HTTPConnection("127.0.0.1", daemon.http_port, timeout=LIMIT_S)
    line.connect()
    ours = line.sock.getsockname()
    cookie = {"cookie": f"carebell_session={people_in[0]}"}

    def ask(method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> int:
        line.request(method, path, body, headers or {})
        answer = line.getresponse()
        answer.read()
        assert line.sock.getsockname() == ours
        return answer.status

    for _ in range(20):
        assert ask("GET", "/console", headers=cookie) == 200
        assert ask("GET", "/healthz") == 200
        assert ask("GET", "/console/queue", headers=cookie) == 200
        bearer = {"authorization": f"Bearer {tokens['D-2']}", "content-type": "application/json"}
        assert ask("POST", "/ingest/v1/D-2", '{"measurements": {"heart_rate_bpm": 70}}', bearer) == 202
        assert ask("GET", "/console/sign-in") == 200
        assert ask("POST", "/console/sign-in", "login=nobody&password=wrong") == 401
    line.close()


def test_event_streams_of_the_platform(site: tuple[Daemon, dict[str, str], list[str]]) -> None:
    """SSE and WebSocket, with keys of the file, beside what the gateway itself serves."""
    daemon, tokens, _ = site
    url = f"{daemon.url}/api/v1/events"
    wrong = {"authorization": "Bearer wrong"}
    assert httpx2.get(url, headers=wrong, trust_env=False, timeout=LIMIT_S).status_code == 401
    mine = {"authorization": f"Bearer {daemon.admin_key}"}

    async def main() -> None:
        told: list[dict[str, Any]] = []
        feed = SocketFeed(lambda event, _: told.append(event))
        async with asyncio.timeout(LIMIT_S), httpx2.AsyncClient(trust_env=False, timeout=LIMIT_S) as client:
            await feed.open(daemon.http_port, daemon.admin_key)
            async with client.stream("GET", url, headers=mine) as stream:
                lines = stream.aiter_lines()
                assert (await anext(lines)).startswith("retry:")
                while number_of(daemon, "event_streams") < 2:
                    await asyncio.sleep(0.05)
                await asyncio.to_thread(press, daemon, tokens, "D-3")
                async for line in lines:
                    if line.startswith("data: ") and '"signal":"sos"' in line:
                        break
            while not any(event["data"].get("action") == "raise" for event in told):
                await asyncio.sleep(0.01)
        feed.close()

    asyncio.run(main())


def test_a_first_line_may_come_in_pieces(site: tuple[Daemon, dict[str, str], list[str]]) -> None:
    daemon, _, people_in = site
    request = f"GET /console/queue HTTP/1.1\r\nhost: x\r\ncookie: carebell_session={people_in[0]}\r\n\r\n".encode()
    for cut in (1, 5, 18, 29, 30):
        with socket.create_connection(("127.0.0.1", daemon.http_port), timeout=LIMIT_S) as line:
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line.sendall(request[:cut])
            time.sleep(0.05)
            line.sendall(request[cut:])
            assert line.recv(65_536).startswith(b"HTTP/1.1 200 ")


def test_what_cannot_be_brought_over_is_told_to_try_again(site: tuple[Daemon, dict[str, str], list[str]]) -> None:
    daemon, _, people_in = site
    head = f"host: x\r\ncookie: carebell_session={people_in[0]}\r\n\r\n"
    strange = f"GET /c%6Fnsole/queue HTTP/1.1\r\n{head}"  # the path is known only behind its decoding
    behind = f"GET /console/queue HTTP/1.1\r\n{head}GET /healthz HTTP/1.1\r\nconnection: close\r\n{head}"
    with socket.create_connection(("127.0.0.1", daemon.http_port), timeout=LIMIT_S) as line:
        line.sendall(strange.encode())
        answer = line.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1" in answer
    with socket.create_connection(("127.0.0.1", daemon.http_port), timeout=LIMIT_S) as line:
        line.sendall(behind.encode())
        text = b""
        while part := line.recv(65_536):
            text += part
    assert text.startswith(b"HTTP/1.1 200 ")
    assert text.count(b"HTTP/1.1 503 ") == 1


def test_its_death_takes_nothing_along(site: tuple[Daemon, dict[str, str], list[str]]) -> None:
    """Screens come back by themselves and miss nothing; devices notice nothing."""
    daemon, tokens, people_in = site
    restarts = number_of(daemon, "restarts")
    seen: dict[str, float] = {}

    def told(_screen: Screen, what: Told, now_s: float) -> None:
        seen.update(dict.fromkeys(what.raised, now_s))

    async def main() -> None:
        screen = Screen(0, told)
        await screen.open(daemon.http_port, f"carebell_session={people_in[0]}")
        await asyncio.to_thread(press, daemon, tokens, "D-1")
        async with asyncio.timeout(LIMIT_S):
            while len(seen) < 1:
                await asyncio.sleep(0.01)
        device = http.client.HTTPConnection("127.0.0.1", daemon.http_port, timeout=LIMIT_S)
        device.connect()
        pid = await asyncio.to_thread(faces_pid, daemon)
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(press, daemon, tokens, "D-2")
        bearer = {"authorization": f"Bearer {tokens['D-3']}", "content-type": "application/json"}
        device.request("POST", "/ingest/v1/D-3", '{"measurements": {"heart_rate_bpm": 70}}', bearer)
        assert device.getresponse().status == 202
        device.close()
        async with asyncio.timeout(LIMIT_S):
            while not screen.ended:
                await asyncio.sleep(0.01)
        back = Screen(0, told)
        await back.open(daemon.http_port, f"carebell_session={people_in[0]}", str(screen.seq))
        async with asyncio.timeout(LIMIT_S):
            while len(seen) < 2:
                await asyncio.sleep(0.01)
        back.close()

    asyncio.run(main())
    assert number_of(daemon, "restarts") == restarts + 1


def test_at_the_end_streams_end_and_nobody_is_left(tmp_path: Path) -> None:
    with console_daemon(tmp_path / "var") as (daemon, _):
        token = people(tmp_path / "var")[0]

        async def main() -> None:
            screen = Screen(0, lambda *_: None)
            await screen.open(daemon.http_port, f"carebell_session={token}")
            pid = await asyncio.to_thread(faces_pid, daemon)
            assert await asyncio.to_thread(daemon.stop) == 0
            async with asyncio.timeout(LIMIT_S):
                while not screen.ended:
                    await asyncio.sleep(0.01)
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)

        asyncio.run(main())


def test_the_gateways_own_death_ends_it(tmp_path: Path) -> None:
    with console_daemon(tmp_path / "var") as (daemon, _):
        token = people(tmp_path / "var")[0]
        cookie = {"cookie": f"carebell_session={token}"}
        httpx2.get(f"{daemon.url}/console/queue", headers=cookie, trust_env=False, timeout=LIMIT_S)
        pid = faces_pid(daemon)
        daemon.kill()
        until_s = time.monotonic() + LIMIT_S
        while Path(f"/proc/{pid}/exe").exists() and time.monotonic() < until_s:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}/exe").exists()
