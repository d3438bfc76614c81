"""The event stream over a real socket (contracts, section 4)."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.api.routes import events as route
from tests.live.api_harness import Site, add_persons, site
from tests.live.http_harness import run, until

HEART = {"kind": "measurement", "metric": "heart_rate_bpm", "value": 72, "device_id": "D-1", "person_id": "P-1"}
SOS = {"kind": "signal", "signal": "sos", "active": True, "device_id": "D-2", "person_id": "P-2"}
NOBODY = {"kind": "signal", "signal": "sos", "active": True, "device_id": None, "person_id": None}


class Listener:
    """Reads a stream: events by id, and comments."""

    def __init__(self, answer: httpx2.Response) -> None:
        self._lines = answer.aiter_lines()

    async def comment(self) -> str:
        """The next line, which must be a comment or the end of one."""
        async with asyncio.timeout(60):
            async for line in self._lines:
                if line.startswith(":"):
                    return line
                assert not line.startswith(("id:", "data:")), line
        raise EOFError

    async def next(self) -> tuple[str, dict[str, Any]]:
        event_id = ""
        async with asyncio.timeout(60):
            async for line in self._lines:
                if line.startswith("id: "):
                    event_id = line.removeprefix("id: ")
                elif line.startswith("data: "):
                    return event_id, json.loads(line.removeprefix("data: "))
        raise EOFError

    async def ids(self, count: int) -> list[str]:
        return [(await self.next())[0] for _ in range(count)]


@asynccontextmanager
async def listening(client: httpx2.AsyncClient, query: str = "", **headers: str) -> AsyncIterator[Listener]:
    async with client.stream("GET", f"/api/v1/events{query}", headers=headers) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Listener(answer)


def fill(it: Site) -> None:
    it.feed.put(1, HEART, HEART)
    it.feed.put(3, SOS)  # 2 has no events
    it.feed.put(4, {"kind": "sos", "alert_id": "a-1", "person_id": "P-2", "device_id": "D-2"}, kind="alert")


def test_events_arrive_as_they_happen_with_their_ids(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("operator") as client:
            fill(it)
            async with listening(client) as stream:
                it.feed.put(5, HEART, SOS)
                event_id, event = await stream.next()
                assert (event_id, event["id"], event["data"]) == ("5-0", "5-0", HEART)
                assert (await stream.ids(1)) == ["5-1"]
                it.feed.put(9, SOS)
                assert (await stream.ids(1)) == ["9-0"]

    run(main())


@pytest.mark.parametrize(
    ("seen", "rest"),
    [
        ("0", ["1-0", "1-1", "3-0", "4-0"]),
        ("1-0", ["1-1", "3-0", "4-0"]),
        ("1-1", ["3-0", "4-0"]),
        ("1", ["3-0", "4-0"]),
        ("2-0", ["3-0", "4-0"]),
        ("4-0", []),
        ("999-0", []),  # of another journal
    ],
)
def test_a_stream_goes_on_behind_the_last_event_id(tmp_path: Path, seen: str, rest: list[str]) -> None:
    async def main() -> None:
        for name, query, headers in (("header", "", {"Last-Event-ID": seen}), ("query", f"?after={seen}", {})):
            async with site(tmp_path / name) as it, it.as_role("operator") as client:
                fill(it)
                async with listening(client, query, **headers) as stream:
                    number = it.feed.last_seq() + 1
                    await asyncio.sleep(0.05)
                    it.feed.put(number, HEART)
                    assert await stream.ids(len(rest) + 1) == [*rest, f"{number}-0"]

    run(main())


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("kind=measurement", ["1-0", "1-1"]),
        ("kind=signal", ["3-0"]),
        ("kind=alert", ["4-0"]),
        ("kind=org.carebell.alert.v1", ["4-0"]),
        ("kind=observation", ["1-0", "1-1", "3-0"]),
        ("kind=heart_rate_bpm", ["1-0", "1-1"]),
        ("person_id=P-2", ["3-0", "4-0"]),
        ("device_id=D-1", ["1-0", "1-1"]),
        ("device_id=D-2&kind=sos", ["3-0", "4-0"]),
    ],
)
def test_filters(tmp_path: Path, query: str, ids: list[str]) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("operator") as client:
            fill(it)
            async with listening(client, f"?after=0&{query}") as stream:
                assert await stream.ids(len(ids)) == ids

    run(main())


def test_scope_of_the_key(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as admin:
            await add_persons(admin, "P-1")
            await add_persons(admin, "P-2", district="南开")
            fill(it)
            it.feed.put(5, NOBODY)
            async with it.as_role("family", person_id="P-1") as family, listening(family, "?after=0") as stream:
                it.feed.put(6, HEART)
                assert await stream.ids(3) == ["1-0", "1-1", "6-0"]
            async with it.as_role("operator", district="南开") as local, listening(local, "?after=0") as stream:
                assert await stream.ids(3) == ["3-0", "4-0", "5-0"]
            assert (await admin.get("/api/v1/events", params={"after": "x"})).status_code == 422

    run(main())


def test_heartbeat_drain_and_end_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(route, "REAUTHORIZE_S", 0.05)

    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as admin:
            made = (await admin.post("/api/v1/keys", json={"role": "operator", "label": "x"})).json()
            async with it.client(made["key"]) as client, listening(client) as stream:
                for _ in range(2):
                    assert await stream.comment()
                it.feed.put(1, HEART)
                assert await stream.ids(1) == ["1-0"]
                await admin.post(f"/api/v1/keys/{made['key_id']}/revoke")
                await it.registry.refresh_if_changed()
                with pytest.raises(EOFError):
                    await stream.next()
            async with listening(admin) as stream:
                it.server.close()
                with pytest.raises(EOFError):
                    await stream.next()

    run(main())


def test_streams_are_counted_bounded_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(route, "MAX_STREAMS", 1)

    def open_streams(it: Site) -> bool:
        return b"carebell_event_streams 1.0" in it.metrics.render()[0]

    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("operator") as client:
            async with listening(client):
                await until(lambda: open_streams(it))
                refused = await client.get("/api/v1/events")
                assert refused.status_code == 429
                assert refused.headers["content-type"] == "application/problem+json"
            await until(lambda: not open_streams(it))
            async with listening(client):
                pass

    run(main())


def test_a_consumer_that_does_not_read_is_let_go(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it:
            it.server.limits.write_timeout_s = 0.3
            key = await it.key("operator")
            big = {**HEART, "note": "x" * 50_000}
            for seq in range(1, 400):
                it.feed.put(seq, big)
            reader, writer = await asyncio.open_connection(*it.server.address, limit=1024)
            request = f"GET /api/v1/events?after=0 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
            writer.write(request.encode())
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            await until(lambda: it.server.limits.open == 0)
            assert it.server.limits.slow == 1
            writer.close()

    run(main())


def test_curl_reads_the_stream(tmp_path: Path) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is missing: apt-get install curl")

    async def main() -> None:
        async with site(tmp_path) as it:
            fill(it)
            key = await it.key("operator")
            process = await asyncio.create_subprocess_exec(
                curl, "-sSN", "-H", f"Authorization: Bearer {key}", "-H", "Last-Event-ID: 3-0",
                f"http://127.0.0.1:{it.server.address[1]}/api/v1/events", stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            assert process.stdout is not None
            async with asyncio.timeout(60):
                while not (line := await process.stdout.readline()).startswith(b"id:"):
                    pass
            assert line == b"id: 4-0\n"
            process.terminate()
            await process.communicate()

    run(main())
