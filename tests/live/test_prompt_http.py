"""Requests that leave at once, against a server that says byte for byte what it is told to."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from alerts.channels.prompt_http import MAX_ANSWER_BYTES, Answer, BrokenError, PromptClient, UnreachableError

PATIENCE_S = 60.0
OK = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nRetry-After: 7\r\n\r\nok"


class Site:
    """Answers each request with ``answer``; None: with nothing. What came stands in ``heads`` and ``bodies``."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        self.then_close = False
        self.unasked = b""
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.connections = 0
        self.left = asyncio.Event()
        """Set when every connection was ended."""
        self._open = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open += 1
        self.left.clear()
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = next((int(x[15:]) for x in head.lower().split("\r\n") if x.startswith("content-length:")), 0)
                self.heads.append(head)
                self.bodies.append(await reader.readexactly(length))
                if self.answer is not None:
                    writer.write(self.answer)
                    await writer.drain()
                if self.then_close:
                    break
                if self.unasked:
                    writer.write(self.unasked)
                    break
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        self._open -= 1
        if self._open == 0:
            self.left.set()


@contextlib.asynccontextmanager
async def talking(answer: bytes | None, timeout_s: float = PATIENCE_S) -> AsyncIterator[tuple[Site, PromptClient]]:
    site = Site(answer)
    server = await asyncio.start_server(site.serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    client = PromptClient(f"http://{host}:{port}/base/", timeout_s)
    try:
        yield site, client
    finally:
        await client.close()
        server.close()
        if site.connections:
            await site.left.wait()


def run(answer: bytes | None, story: Callable[[Site, PromptClient], Awaitable[None]], timeout_s: float = 60.0) -> None:
    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), talking(answer, timeout_s) as (site, client):
            await story(site, client)

    asyncio.run(main())


def test_a_request_says_what_it_should_and_the_connection_is_used_again() -> None:
    async def story(site: Site, client: PromptClient) -> None:
        for number in range(3):
            answer = await client.ask("POST", "/orders", {"X-Number": str(number)}, b"{%d}" % number)
            assert (answer.status, answer.body, answer.headers["retry-after"]) == (201, b"ok", "7")
        await client.ask("GET", "/orders", {}, params={"external_ref": "a/b 1"})
        assert site.connections == 1
        assert site.bodies == [b"{0}", b"{1}", b"{2}", b""]
        assert site.heads[2].startswith("POST /base/orders HTTP/1.1\r\n")
        assert "x-number: 2\r\n" in site.heads[2].lower()
        assert "host: 127.0.0.1:" in site.heads[2].lower()
        assert site.heads[3].startswith("GET /base/orders?external_ref=a%2Fb+1 HTTP/1.1\r\n")

    run(OK, story)


def test_a_request_starts_at_once_where_a_connection_is_idle() -> None:
    async def story(site: Site, client: PromptClient) -> None:
        assert client.start("POST", "/orders", {}, b"first") is None
        await client.ask("POST", "/orders", {}, b"first")
        exchange = client.start("POST", "/orders", {}, b"second")
        assert exchange is not None
        assert client.start("POST", "/orders", {}, b"third") is None  # one request at a time on a connection
        assert (await client.finish(exchange)).status == 201
        assert (site.connections, site.bodies) == (1, [b"first", b"second"])

    run(OK, story)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", b"abcde"),
        (b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", b"x"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    ],
)
def test_answers_in_every_form(answer: bytes, body: bytes) -> None:
    async def story(site: Site, client: PromptClient) -> None:
        for _ in range(2):
            assert (await client.ask("POST", "/", {}, b"?")).body == body
        assert site.connections == 1

    run(answer, story)


@pytest.mark.parametrize("answer", [b"HTTP/1.0 200 OK\r\n\r\nall", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nall"])
def test_an_answer_that_ends_with_its_connection(answer: bytes) -> None:
    async def story(site: Site, client: PromptClient) -> None:
        site.then_close = True
        for _ in range(2):
            assert (await client.ask("POST", "/", {}, b"?")).body == b"all"
        assert site.connections == 2

    run(answer, story)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ntoo few",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_ANSWER_BYTES + 1),
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    ],
)
def test_what_is_no_answer_is_told_and_the_connection_not_used_again(answer: bytes) -> None:
    async def story(site: Site, client: PromptClient) -> None:
        site.then_close = True
        with pytest.raises(BrokenError):
            await client.ask("POST", "/", {}, b"?")
        site.answer = OK
        assert (await client.ask("POST", "/", {}, b"?")).status == 201
        assert site.connections == 2

    run(answer, story)


@pytest.mark.parametrize("unasked", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
def test_a_connection_that_the_other_side_ended_while_idle_is_not_used(unasked: bytes) -> None:
    async def story(site: Site, client: PromptClient) -> None:
        site.then_close, site.unasked = not unasked, unasked
        await client.ask("POST", "/", {}, b"?")
        await site.left.wait()
        while any(exchange.is_idle() for exchange in client._idle):  # until the end has come here
            await asyncio.sleep(0.001)
        assert client.start("POST", "/", {}, b"?") is None
        assert (await client.ask("POST", "/", {}, b"?")).status == 201
        assert site.connections == 2

    run(OK, story)


def test_no_answer_in_time_and_nobody_there() -> None:
    async def story(site: Site, client: PromptClient) -> None:
        await client.ask("POST", "/", {}, b"!")  # the connection is there
        site.answer, client._timeout_s = None, 0.3
        with pytest.raises(TimeoutError):
            await client.ask("POST", "/", {}, b"?")
        await site.left.wait()  # the connection was ended
        assert site.bodies == [b"!", b"?"]
        client._timeout_s = PATIENCE_S
        with pytest.raises(UnreachableError):
            await client.ask("POST", "/", {"Bad\nName": "x"}, b"?")
        assert site.bodies == [b"!", b"?"]
        with pytest.raises(UnreachableError):
            await PromptClient("http://127.0.0.1:1", 5.0).ask("POST", "/", {}, b"?")

    run(OK, story)


@pytest.mark.parametrize("address", ["http://", "http://here:99999", "http://[::1", "http://" + "a" * 70 + ".example"])
def test_an_address_that_leads_nowhere(address: str) -> None:
    async def story(site: Site, client: PromptClient) -> None:
        del site, client
        with pytest.raises(UnreachableError):
            await PromptClient(address, 5.0).ask("POST", "/", {}, b"?")

    run(OK, story)


def test_who_no_longer_waits_leaves_nothing_behind() -> None:
    async def story(site: Site, client: PromptClient) -> None:
        async with asyncio.TaskGroup() as group:
            waiting: asyncio.Task[Answer] = group.create_task(client.ask("POST", "/", {}, b"?"))
            while not site.bodies:
                await asyncio.sleep(0.001)
            waiting.cancel()
        await site.left.wait()  # the connection was ended: a late answer cannot be taken for another's
        site.answer = OK
        assert (await client.ask("POST", "/", {}, b"!")).status == 201
        assert site.connections == 2

    run(None, story)
