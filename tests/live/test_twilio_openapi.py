"""Twilio's own OpenAPI, through Prism, between provider and simulated carrier: both sides' shapes must fit it.

Prism refuses repeated form keys (StatusCallbackEvent=...&StatusCallbackEvent=...), which Twilio and its SDK really use
(stoplightio/prism #2473): a relay before it writes those keys as ``StatusCallbackEvent[]``. And the specification calls
the addresses of list pages absolute URIs, while its own examples, like Twilio, have paths: that one is let through.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Final

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alerts.channels.twilio import TwilioProvider
from alerts.channels.twilio_conference import TwilioConference
from gateway.clock import SystemClock
from gateway.errors import DeliveryError
from simulators import people
from simulators.carrier import ACCOUNT_SID, AUTH_TOKEN, NUMBER, SimulatedCarrier
from simulators.server import LocalServer
from tests.daemon import free_port
from tests.live.twilio_harness import CONTACT, TwilioHarness
from tests.npm_packages import npm_packages
from tests.provider_contract import until

pytestmark = [pytest.mark.live]

PACKAGES: Final = ("@stoplight/prism-cli@5.16", "@twilio-alpha/mcp@0.7")
SPECIFICATION: Final = "node_modules/@twilio-alpha/mcp/twilio-oai/spec/json/twilio_api_v2010.json"


@pytest.fixture(scope="module")
def oracle() -> Path:
    """A directory outside the repository where Prism and the specification are installed."""
    return npm_packages("twilio-openapi", *PACKAGES)


@contextlib.contextmanager
def prism(folder: Path, upstream: str, tmp_path: Path) -> Iterator[str]:
    """Prism as a proxy to ``upstream``; a header tells what does not fit, in either direction."""
    port = free_port()
    program = folder / "node_modules/.bin/prism"
    with (tmp_path / "prism.log").open("w") as log:
        process = subprocess.Popen(
            [program, "proxy", "-h", "127.0.0.1", "-p", str(port), folder / SPECIFICATION, upstream],
            stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=60)


async def listening(url: str) -> None:
    port = int(url.rpartition(":")[2])
    async with asyncio.timeout(200):  # Prism reads a long document first
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            writer.close()
            await writer.wait_closed()
            return


class Relay:
    """Passes requests on with array keys as Prism wants them. ``refusals`` holds what Prism had against a message."""

    def __init__(self, upstream: str, client: httpx2.AsyncClient) -> None:
        self._upstream = upstream
        self._client = client
        self.seen = 0
        self.refusals: list[str] = []
        self.passed: list[tuple[str, str]] = []

    async def pass_on(self, request: Request) -> Response:
        body = (await request.body()).replace(b"StatusCallbackEvent=", b"StatusCallbackEvent%5B%5D=")
        headers = {
            name: value
            for name, value in request.headers.items()
            if name in ("authorization", "content-type", "accept", "user-agent")
        }
        answer = await self._client.request(
            request.method,
            f"{self._upstream}{request.url.path}",
            params=request.url.query,
            content=body,
            headers=headers,
        )
        self.passed.append((request.method, request.url.path))
        for violation in json.loads(answer.headers.get("sl-violations", "[]")):
            self.seen += 1
            if violation["code"] == "format" and str(violation["location"][-1]).endswith("uri"):
                continue
            self.refusals.append(f"{request.method} {request.url.path}: {violation}")
        return Response(answer.content, answer.status_code, media_type=answer.headers.get("content-type"))


@contextlib.asynccontextmanager
async def checked(folder: Path, tmp_path: Path) -> AsyncIterator[tuple[TwilioProvider, SimulatedCarrier, Relay]]:
    crowd = people.People(people.Behaviour(answers_after_s=1.0))
    async with (
        SimulatedCarrier(crowd, speed=4.0, say=lambda _: None) as carrier,
        httpx2.AsyncClient(trust_env=False, timeout=60) as client,
        asyncio.TaskGroup() as group,
    ):
        with prism(folder, carrier.url, tmp_path) as upstream:
            await listening(upstream)
            relay = Relay(upstream, client)
            server = LocalServer(
                Starlette(routes=[Route("/{path:path}", relay.pass_on, methods=["GET", "POST", "DELETE"])]), group
            )
            await server.start()
            provider = TwilioProvider(
                ACCOUNT_SID, AUTH_TOKEN, NUMBER, clock=SystemClock(), base_url=server.url,
                public_url="https://care.example.org", timeout_s=20.0,
            )  # fmt: skip
            try:
                yield provider, carrier, relay
            finally:
                await provider.close()
                await server.stop()


def test_both_sides_fit_twilio_s_specification(oracle: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with checked(oracle, tmp_path) as (provider, carrier, relay):
            for medium in ("sms", "voice"):
                harness = TwilioHarness(medium, carrier)
                receipt = await provider.send(harness.notice("a-1"))
                told = await provider.find(harness.notice("a-1"))
                assert told is not None
                assert told.provider_id == receipt.reference
            conference = TwilioConference(provider, "17-0", caller=NUMBER)
            leg = await conference.add("person", CONTACT, "a-2")
            await until(lambda: carrier.conferences[0].status == "in-progress", "the person on the line")
            assert [each.call_id for each in await conference.legs()] == [leg.call_id]
            assert await conference.mute("person", on=True) == [leg.call_id]
            assert await conference.hold("person", on=True) == [leg.call_id]
            assert await conference.drop("person", even_the_person=True) == [leg.call_id]
            call = await provider.send(TwilioHarness("voice", carrier).notice("a-3"))
            await until(lambda: carrier.board.calls[call.reference].status == "in-progress", "up")
            await conference.join_call(call.reference, "family", "a-3")
            await until(lambda: len(carrier.conferences) == 2, "a second conference")
            assert await conference.end() is not None
            assert relay.refusals == []
            assert len(relay.passed) >= 12

    asyncio.run(main())


def test_the_oracle_can_refuse(oracle: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with checked(oracle, tmp_path) as (provider, carrier, relay):
            wrong = TwilioProvider(
                "AC-wrong", AUTH_TOKEN, NUMBER, clock=SystemClock(), base_url=provider._base_url, timeout_s=20.0
            )
            with pytest.raises(DeliveryError):
                await wrong.send(TwilioHarness("sms", carrier).notice("a-1"))
            await wrong.close()
            assert carrier.messages == []
            assert relay.refusals

    asyncio.run(main())
