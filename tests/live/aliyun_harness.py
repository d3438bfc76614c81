"""An Aliyun provider between the simulated carrier and a small web server that takes the pushed receipts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from alerts.channels.aliyun import AliyunProvider, AliyunSettings, SmsTemplate, VoiceTemplate
from alerts.notice import IncomingMessage, Medium, Notice, Told
from gateway.clock import SystemClock
from simulators.carrier_aliyun import KEY_ID, KEY_SECRET, SimulatedAliyun
from simulators.carrier_state import Fault
from simulators.people import People
from simulators.server import LocalServer
from tests.provider_contract import Failure, hurry

CONTACT: Final = "+8613800000001"
TOKEN: Final = "secret-part-of-the-callback-address"
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


class AliyunHarness:
    def __init__(self, medium: Medium, aliyun: SimulatedAliyun, folder: Path, options: Mapping[str, Any]) -> None:
        self.medium = medium
        self.aliyun = aliyun
        self.heard: list[Told] = []
        self.messages: list[IncomingMessage] = []
        self.providers: list[AliyunProvider] = []
        self._options = options
        self._secret = folder / "key-secret"
        self._secret.write_text(f"{KEY_SECRET}\n")
        self._token = folder / "callback-token"
        self._token.write_text(TOKEN)

    @property
    def cannot(self) -> dict[Failure | str, str]:
        return {
            "find": "messages: the details name no BizId; calls: only by their own id (test_channel_aliyun.py has both)"
        }

    def open(self) -> AliyunProvider:
        members: dict[str, Any] = {
            "access_key_id": KEY_ID,
            "access_key_secret_file": str(self._secret),
            "callback_token_file": str(self._token),
            "sign_name": "安心铃",
            "show_number": "02287654321",
            "sms": {"alert": SmsTemplate(code="SMS_1", params={"what": 35})},
            "voice": {"alert": VoiceTemplate(code="TTS_1", params={"what": 35}, keys={"1": "TTS_1", "2": "TTS_1"})},
            "sms_base_url": self.aliyun.url,
            "voice_base_url": self.aliyun.url,
            "timeout_s": 60.0,
            "voice_quota": (),
        }
        provider = AliyunProvider(AliyunSettings(**(members | dict(self._options))), SystemClock())
        self.providers.append(provider)
        return provider

    @property
    def provider(self) -> AliyunProvider:
        return self.providers[-1]

    def notice(self, attempt_id: str, *, text: str = "紧急呼叫 emergency call", **members: Any) -> Notice:
        usual: dict[str, Any] = {
            "attempt_id": attempt_id,
            "alert_id": "17-0",
            "medium": self.medium,
            "to": CONTACT,
            "language": "zh",
            "text": text,
            "template": "alert",
            "params": {"what": text},
            "wants_answer": True,
        }
        return Notice(**(usual | members))

    def fail(self, failure: Failure) -> None:
        if failure is Failure.SLOW:
            hurry(self.provider._http)
        self.aliyun.fail(FAULTS[failure])

    def effects(self) -> int:
        return len(self.aliyun.made)

    async def be_down(self) -> None:
        await self.aliyun.stop()

    async def be_up(self) -> None:
        await self.aliyun.start()

    async def reborn(self) -> AliyunProvider:
        return self.open()

    async def forge(self, attempt_id: str) -> None:
        """A receipt from somebody who does not know the secret address."""
        report = {"call_id": "1^1", "out_id": attempt_id, "status_code": "300000", "dtmf": "1"}
        self.provider.parse_callback("guessed", msgspec.json.encode([report]))

    async def callback(self, request: Request) -> Response:
        status, content_type, answer, told = self.provider.handle(request.url.path, await request.body())
        self.heard.extend(each for each in told if isinstance(each, Told))
        self.messages.extend(each for each in told if isinstance(each, IncomingMessage))
        return Response(answer, status, media_type=content_type)


@contextlib.asynccontextmanager
async def aliyun_harness(
    folder: Path, medium: Medium = "sms", people: People | None = None, *, limited: bool = False, **options: Any
) -> AsyncIterator[AliyunHarness]:
    async with SimulatedAliyun(
        people, speed=200.0, late_s=0.2, slow_s=4.0, limited=limited, say=lambda _: None
    ) as aliyun, asyncio.TaskGroup() as group:  # fmt: skip
        harness = AliyunHarness(medium, aliyun, folder, options)
        app = Starlette(routes=[Route("/callbacks/aliyun/{rest:path}", harness.callback, methods=["POST"])])
        server = LocalServer(app, group)
        await server.start()
        aliyun.callback_url = f"{server.url}/callbacks/aliyun/{TOKEN}"
        harness.open()
        try:
            yield harness
        finally:
            for provider in harness.providers:
                await provider.close()
            await server.stop()
