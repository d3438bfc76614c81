"""A Twilio provider between the simulated carrier and a small web server that takes its callbacks."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alerts.channels.twilio import TwilioProvider
from alerts.notice import Medium, Notice, Told
from gateway.clock import SystemClock
from simulators.carrier import ACCOUNT_SID, AUTH_TOKEN, NUMBER, SimulatedCarrier
from simulators.carrier_state import Fault
from simulators.people import People
from simulators.server import LocalServer
from tests.provider_contract import SLOW_LIMIT_S, Failure

CONTACT: Final = "+8613800000001"
FAULTS: Final = {
    Failure.OUTAGE: Fault.UNAVAILABLE,
    Failure.QUOTA: Fault.QUOTA,
    Failure.BAD_NUMBER: Fault.INVALID_NUMBER,
    Failure.NO_ANSWER: Fault.RESET_AFTER,
    Failure.BROKEN_BEFORE: Fault.RESET_BEFORE,
    Failure.SLOW: Fault.SLOW,
    Failure.LATE_RECEIPT: Fault.LATE,
    Failure.RECEIPT_TWICE: Fault.TWICE,
    Failure.NO_RECEIPT: Fault.NO_CALLBACK,
}


class TwilioHarness:
    """Fast people. ``answers`` holds status and body of each callback's answer."""

    def __init__(self, medium: Medium, carrier: SimulatedCarrier) -> None:
        self.medium = medium
        self.carrier = carrier
        self.heard: list[Told] = []
        self.answers: list[tuple[int, bytes]] = []
        self.public_url = ""
        self.away = 0  # how many callbacks find the gateway restarting
        self.providers: list[TwilioProvider] = []
        self.cannot: dict[Failure | str, str] = {}

    def open(self, timeout_s: float = 60.0) -> TwilioProvider:
        provider = TwilioProvider(
            ACCOUNT_SID, AUTH_TOKEN, NUMBER, clock=SystemClock(), base_url=self.carrier.url,
            public_url=self.public_url, timeout_s=timeout_s,
        )  # fmt: skip
        self.providers.append(provider)
        return provider

    @property
    def provider(self) -> TwilioProvider:
        return self.providers[-1]

    def notice(self, attempt_id: str, *, text: str = "紧急呼叫 emergency call") -> Notice:
        return Notice(
            attempt_id=attempt_id, alert_id="17-0", medium=self.medium, to=CONTACT, language="zh", text=text,
            speech=text, wants_answer=True,
        )  # fmt: skip

    def fail(self, failure: Failure) -> None:
        if failure is Failure.SLOW:
            self.open(SLOW_LIMIT_S)
        self.carrier.fail(FAULTS[failure])

    def effects(self) -> int:
        return len(self.carrier.messages if self.medium == "sms" else self.carrier.calls)

    async def be_down(self) -> None:
        await self.carrier.stop()

    async def be_up(self) -> None:
        await self.carrier.start()

    async def reborn(self) -> TwilioProvider:
        return self.open()

    async def forge(self, attempt_id: str) -> None:
        """Right address, wrong signature: a stranger who has seen the address."""
        kind = "sms" if self.medium == "sms" else "gather"
        url = self.provider.callbacks.url(attempt_id, kind)
        self.provider.callbacks.parse_callback(kind, url, {"X-Twilio-Signature": "AAAA"}, {"Digits": "1"}, 1)

    async def callback(self, request: Request) -> Response:
        body = await request.body()
        if self.away:
            self.away -= 1
            return Response(status_code=503)
        status, content_type, answer, told = self.provider.callbacks.handle(
            request.url.path, request.url.query, request.headers, body
        )
        if isinstance(told, Told):
            self.heard.append(told)
        self.answers.append((status, answer))
        return Response(answer, status, media_type=content_type)


@contextlib.asynccontextmanager
async def twilio_harness(
    medium: Medium = "sms", people: People | None = None, *, speed: float = 200.0
) -> AsyncIterator[TwilioHarness]:
    async with SimulatedCarrier(
        people, speed=speed, late_s=0.2, slow_s=3 * SLOW_LIMIT_S, say=lambda _: None
    ) as carrier, asyncio.TaskGroup() as group:  # fmt: skip
        harness = TwilioHarness(medium, carrier)
        app = Starlette(routes=[Route("/callbacks/twilio/{rest:path}", harness.callback, methods=["POST"])])
        server = LocalServer(app, group)
        await server.start()
        harness.public_url = server.url
        harness.open()
        try:
            yield harness
        finally:
            for provider in harness.providers:
                await provider.close()
            await carrier.hush()
            await server.stop()
