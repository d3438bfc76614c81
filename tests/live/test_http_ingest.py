"""HTTP ingest over a real socket (contracts, section 3)."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from datetime import UTC, datetime

import httpx2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.server import Limits
from gateway.clock import Clock, SystemClock, VirtualClock
from gateway.errors import StorageError
from gateway.model import DeviceBinding, Verdict
from protocols.transports.http_ingest import MAX_BODY_BYTES, HttpIngest, SourceLimiter
from tests.live.http_harness import TOKEN, FakeIngest, OneDevice, client_of, run, serving, until

SOS = b'{"seq": 1, "signals": ["sos"]}'
HEAD = f"POST /ingest/v1/D-1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
BEARER = {"authorization": f"Bearer {TOKEN}"}


def endpoint(
    ingest: FakeIngest, registry: OneDevice | None = None, clock: Clock | None = None, **options: float
) -> HttpIngest:
    registry, clock = registry or OneDevice(), clock or SystemClock()
    return HttpIngest(ingest=ingest, credentials=registry, directory=registry, clock=clock, **options)  # type: ignore[arg-type]  # the options are the timeouts


def assert_problem(answer: httpx2.Response, status: int) -> None:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert {"type", "title", "detail"} <= problem.keys()


def test_accepted_only_after_the_commit() -> None:
    async def main() -> None:
        ingest = FakeIngest()
        ingest.verdict = pending = asyncio.get_running_loop().create_future()
        async with serving(endpoint(ingest)) as server, client_of(server) as client:
            async with asyncio.TaskGroup() as group:
                request = group.create_task(client.post("/ingest/v1/D-1", content=SOS, headers=BEARER))
                await until(lambda: bool(ingest.frames))
                await asyncio.sleep(0.2)
                assert not request.done()
                pending.set_result(Verdict.ACCEPTED)
            answer = request.result()
        assert answer.status_code == 202
        assert answer.json() == {"status": "accepted"}
        [frame] = ingest.frames
        assert (frame.payload, frame.device_key, frame.codec, frame.verified) == (SOS, "D-1", "native", True)
        assert (frame.transport, frame.source) == ("http", "127.0.0.1")

    run(main())


def test_not_stored_is_503_with_retry_after() -> None:
    async def main() -> None:
        ingest = FakeIngest()
        ingest.verdict = Verdict.RETRY
        async with serving(endpoint(ingest)) as server, client_of(server) as client:
            answer = await client.post("/ingest/v1/D-1", content=SOS, headers=BEARER)
        assert_problem(answer, 503)
        assert int(answer.headers["retry-after"]) > 0

    run(main())


def test_no_verdict_in_time_is_503() -> None:
    async def main() -> None:
        ingest = FakeIngest()
        ingest.verdict = asyncio.get_running_loop().create_future()
        async with serving(endpoint(ingest, commit_timeout_s=0.1)) as server, client_of(server) as client:
            assert_problem(await client.post("/ingest/v1/D-1", content=SOS, headers=BEARER), 503)

    run(main())


def test_registry_that_cannot_be_asked_is_503() -> None:
    class Broken(OneDevice):
        async def authenticate(self, device_id: str, token: bytes) -> DeviceBinding | None:
            raise StorageError("away")

    async def main() -> None:
        async with serving(endpoint(FakeIngest(), Broken())) as server, client_of(server) as client:
            assert_problem(await client.post("/ingest/v1/D-1", content=SOS, headers=BEARER), 503)

    run(main())


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": b"Bearer \xff\xfe"},
    ],
)
def test_wrong_credential_is_kept_unverified_and_answered_401(headers: dict[str, str]) -> None:
    async def main() -> None:
        ingest = FakeIngest()
        app = endpoint(ingest)
        async with serving(app) as server, client_of(server) as client:
            known = await client.post("/ingest/v1/D-2", content=SOS, headers=headers)
            unknown = await client.post("/ingest/v1/nobody", content=SOS, headers=headers)
        assert_problem(known, 401)
        assert known.headers["www-authenticate"].startswith("Bearer")
        assert known.content == unknown.content  # does not tell whether the device exists
        assert [frame.verified for frame in ingest.frames] == [False, False]
        assert [frame.codec for frame in ingest.frames] == ["json", "native"]
        assert app.counters()["unverified_kept"] == 2

    run(main())


def test_unverified_senders_are_bounded_and_presses_have_tokens_of_their_own() -> None:
    async def main() -> None:
        ingest = FakeIngest()
        app = endpoint(ingest, clock=VirtualClock(datetime(2026, 11, 22, tzinfo=UTC)))
        async with serving(app) as server, client_of(server) as client:
            for _ in range(30):
                assert_problem(await client.post("/ingest/v1/D-1", content=b'{"measurements": {}}'), 401)
            telemetry = len(ingest.frames)
            assert_problem(await client.post("/ingest/v1/D-1", content=SOS), 401)
            assert (await client.post("/ingest/v1/D-1", content=SOS, headers=BEARER)).status_code == 202
        assert telemetry == 10
        assert [frame.payload for frame in ingest.frames[telemetry:]] == [SOS, SOS]
        assert app.counters()["unverified_shed"] == 30 - telemetry

    run(main())


def test_source_limiter_fills_up_again_and_forgets_the_oldest() -> None:
    clock = VirtualClock(datetime(2026, 11, 22, tzinfo=UTC))
    limiter = SourceLimiter(clock, per_minute=2, total_per_minute=5, max_sources=3)
    assert [limiter.allow("a") for _ in range(3)] == [True, True, False]
    assert [limiter.allow("b") for _ in range(3)] == [True, True, False]
    assert [limiter.allow("c") for _ in range(2)] == [True, False]  # the total
    clock.advance(30)
    assert [limiter.allow("a") for _ in range(2)] == [True, False]
    for number in range(100):
        limiter.allow(f"x{number}")
    assert len(limiter._buckets) == 3


def test_unreadable_bodies_are_accepted_as_they_are() -> None:
    async def main() -> None:
        ingest = FakeIngest()
        bodies = [b"", b"\xff\xfe\x00", b"[" * 60_000, b'{"seq":', b"x" * MAX_BODY_BYTES]
        async with serving(endpoint(ingest)) as server, client_of(server) as client:
            for body in bodies:
                answer = await client.post(
                    "/ingest/v1/D-1", content=body, headers=BEARER | {"content-type": "image/png"}
                )
                assert answer.status_code == 202
        assert [frame.payload for frame in ingest.frames] == bodies

    run(main())


@pytest.mark.parametrize("chunked", [False, True])
def test_too_large_is_413_and_its_beginning_is_kept(chunked: bool) -> None:
    async def main() -> None:
        ingest = FakeIngest()
        body = b"y" * 300_000

        async def stream() -> object:
            for at in range(0, len(body), 10_000):
                yield body[at : at + 10_000]

        async with serving(endpoint(ingest)) as server, client_of(server) as client:
            answer = await client.post("/ingest/v1/D-1", content=stream() if chunked else body, headers=BEARER)  # type: ignore[arg-type]
            assert_problem(answer, 413)
            assert (await client.post("/ingest/v1/D-1", content=SOS, headers=BEARER)).status_code == 202
        assert [len(frame.payload) for frame in ingest.frames] == [MAX_BODY_BYTES + 1, len(SOS)]

    run(main())


def test_idempotency_key_reaches_ingest() -> None:
    async def main() -> None:
        ingest = FakeIngest()
        keys = ["abc", '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "k" * 500, ""]
        async with serving(endpoint(ingest)) as server, client_of(server) as client:
            for key in keys:
                headers = BEARER | {"idempotency-key": key}
                assert (await client.post("/ingest/v1/D-1", content=SOS, headers=headers)).status_code == 202
        seen = [frame.idempotency_key for frame in ingest.frames]
        assert seen[:2] == ["abc", "8e03978e-40d5-43dd-bc93-6894a57f9324"]
        assert len(seen[2]) == 64
        assert seen[3] == ""

    run(main())


def test_other_methods_and_paths_are_problems() -> None:
    async def main() -> None:
        async with serving(endpoint(FakeIngest())) as server, client_of(server) as client:
            answer = await client.get("/ingest/v1/D-1")
            assert_problem(answer, 405)
            assert answer.headers["allow"] == "POST"
            for path in (
                "/ingest/v1/",
                "/ingest/v1/a/b",
                "/ingest/v1/a%2Fb",
                "/ingest/v1/%ff",
                "/ingest/v1/" + "a" * 129,
            ):
                assert_problem(await client.post(path, content=SOS, headers=BEARER), 404)
            answer = await client.post("/ingest/v1/%E5%AE%89", content=SOS)
            assert_problem(answer, 401)

    run(main())


def test_slow_body_ends_with_408_and_nothing_offered() -> None:
    async def main() -> None:
        ingest = FakeIngest()
        async with serving(endpoint(ingest, body_timeout_s=0.2)) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(HEAD + b"Content-Length: 50\r\n\r\n" + b'{"signals"')
            answer = await reader.read()
            writer.close()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 408
        assert ingest.frames == []

    run(main())


def test_body_that_breaks_off_is_not_offered() -> None:
    async def main() -> None:
        ingest = FakeIngest()
        app = endpoint(ingest)
        async with serving(app) as server:
            _, writer = await asyncio.open_connection(*server.address)
            writer.write(HEAD + b"Content-Length: 50\r\n\r\n" + SOS)
            await writer.drain()
            writer.close()
            await until(lambda: app.counters()["broken_off"] == 1)
        assert ingest.frames == []

    run(main())


def test_slow_and_endless_headers_are_shed() -> None:
    async def main() -> None:
        limits = Limits(header_timeout_s=0.2)
        async with serving(endpoint(FakeIngest()), limits) as server, client_of(server) as client:
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"POST /ingest/v1/D-1 HTTP/1.1\r\nHost: x\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
            writer.close()
            limits.header_timeout_s = 60.0
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 17_000 + b"\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
            writer.close()
            reader, writer = await asyncio.open_connection(*server.address)
            writer.write(b"\x16\x03\x01 what is this\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
            writer.close()
            assert (await client.post("/ingest/v1/D-1", content=SOS, headers=BEARER)).status_code == 202
        assert (limits.slow, limits.too_large, limits.malformed) == (1, 1, 1)

    run(main())


def test_connections_are_bounded_per_address() -> None:
    async def main() -> None:
        limits = Limits(per_address=2)
        async with serving(endpoint(FakeIngest()), limits) as server:
            held = [await asyncio.open_connection(*server.address) for _ in range(2)]
            await until(lambda: limits.open == 2)
            reader, writer = await asyncio.open_connection(*server.address)
            assert (await reader.read()).startswith(b"HTTP/1.1 503 ")
            writer.close()
            held[0][1].close()
            await until(lambda: limits.open <= 1)
            async with client_of(server) as client:
                assert (await client.post("/ingest/v1/D-1", content=SOS, headers=BEARER)).status_code == 202
            held[1][1].close()
        assert limits.refused == 1

    run(main())


def test_pipelined_requests_are_answered_in_order() -> None:
    async def main() -> None:
        ingest = FakeIngest()
        async with serving(endpoint(ingest)) as server:
            reader, writer = await asyncio.open_connection(*server.address)
            request = HEAD + b"Content-Length: 1\r\n"
            writer.write(b"".join(request + b"\r\n%d" % n for n in range(5)))
            writer.write(request + b"Connection: close\r\n\r\n5")
            answer = await reader.read()
            writer.close()
        assert answer.count(b"HTTP/1.1 202 ") == 6
        assert [frame.payload for frame in ingest.frames] == [b"0", b"1", b"2", b"3", b"4", b"5"]

    run(main())


@settings(max_examples=12, deadline=None)
@given(chunks=st.lists(st.binary(max_size=400), max_size=6))
def test_any_bytes_leave_the_listener_alive(chunks: list[bytes]) -> None:
    async def main() -> None:
        async with serving(endpoint(FakeIngest())) as server:
            _, writer = await asyncio.open_connection(*server.address)
            try:
                for chunk in chunks:
                    writer.write(chunk)
                    await writer.drain()
            except ConnectionError:
                pass
            writer.close()
            async with client_of(server) as client:
                assert (await client.post("/ingest/v1/D-1", content=SOS, headers=BEARER)).status_code == 202

    run(main())


def test_curl() -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is missing: apt-get install curl")

    async def main() -> None:
        ingest = FakeIngest()
        async with serving(endpoint(ingest)) as server:
            url = f"http://127.0.0.1:{server.address[1]}/ingest/v1/D-1"
            done = await asyncio.to_thread(
                subprocess.run,
                [curl, "-sS", "-i", "-H", f"Authorization: Bearer {TOKEN}", "--data-binary", SOS.decode(), url],
                capture_output=True,
                timeout=60,
                check=True,
            )
        assert b" 202 " in done.stdout.splitlines()[0]
        assert ingest.frames[0].payload == SOS

    run(main())
