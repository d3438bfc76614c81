"""Webhooks and pushes at a real server, judged by the package standardwebhooks; robots at the same server."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
import standardwebhooks

from alerts.channels.http_request import HttpRequester
from alerts.channels.push import PushProvider
from alerts.channels.robots import Robot, RobotsProvider, dingtalk_sign, feishu_sign
from alerts.channels.webhook import Endpoint, WebhookProvider, WebhookSender
from alerts.notice import Medium, Notice, Provider, Told
from gateway.clock import SystemClock, VirtualClock
from gateway.errors import ConfigError, DeliveryDeferredError, DeliveryRefusedError, DeliveryUnknownError
from simulators.server import LocalServer
from tests.live.certificates import certificate_for
from tests.live.post_box import PostBox, post_box, tls_post_box
from tests.provider_contract import CONTRACT, Check, Failure, hurry, name_of, run_check

SECRETS: Final = ["whsec_" + base64.b64encode(bytes(range(n, n + 32))).decode() for n in (0, 100)]


def notice(
    medium: Medium = "webhook", attempt_id: str = "a-1", text: str = "紧急呼叫 emergency call", **more: Any
) -> Notice:
    usual: dict[str, Any] = {
        "attempt_id": attempt_id, "alert_id": "17-0", "medium": medium, "language": "zh", "text": text,
        "to": {"webhook": "backend", "chat": "duty", "push": "user-77"}[medium], "template": "alert",
        "params": {"name": "王秀英"},
    }  # fmt: skip
    return Notice(**(usual | more))


def endpoints(folder: Path, url: str, count: int = 2, **more: Any) -> dict[str, Endpoint]:
    files = []
    for number, secret in enumerate(SECRETS[:count]):
        file = folder / f"secret-{number}"
        file.write_text(secret + "\n")
        files.append(str(file))
    usual = {"url": f"{url}/hook", "secret_files": tuple(files), "allowed_networks": ("127.0.0.0/8",)}
    return {"backend": Endpoint(**(usual | more))}


class PostBoxHarness:
    """The contract's view of a webhook, a push or a robot: no receipts, and nobody to ask."""

    def __init__(
        self, medium: Medium, provider: Provider, http: HttpRequester, box: PostBox, server: LocalServer
    ) -> None:
        self.provider = provider
        self.heard: list[Told] = []
        self._medium = medium
        self._http = http
        self._box = box
        self._server = server

    @property
    def cannot(self) -> dict[Failure | str, str]:
        nobody = "it gives no receipts and cannot be asked; the receiver knows the id of what comes twice"
        return {"find": nobody, "receipts": nobody, "forge": nobody}

    def notice(self, attempt_id: str, *, text: str = "紧急呼叫 emergency call") -> Notice:
        return notice(self._medium, attempt_id, text)

    def fail(self, failure: Failure) -> None:
        if failure is Failure.SLOW:
            hurry(self._http)
        refusal: Any = (404, {}, {})
        quota: Any = (429, {}, {"Retry-After": "7"})
        if self._medium == "chat":
            refusal, quota = (200, {"errcode": 93000}, {}), (200, {"errcode": 45009}, {})
        self._box.answers.append(
            {
                Failure.OUTAGE: (503, {}, {"Retry-After": "1"}),
                Failure.QUOTA: quota,
                Failure.BAD_NUMBER: refusal,
                Failure.NO_ANSWER: "break after",
                Failure.BROKEN_BEFORE: "break before",
                Failure.SLOW: "slow",
            }[failure]
        )
        self._failed = 0 if failure in (Failure.NO_ANSWER, Failure.BROKEN_BEFORE, Failure.SLOW) else 1

    _failed = 0

    def effects(self) -> int:
        """Posts that were not answered with a refusal."""
        return len(self._box.posts) - self._failed

    async def be_down(self) -> None:
        await self._server.stop()

    async def be_up(self) -> None:
        await self._server.start()

    async def reborn(self) -> Provider:
        return self.provider

    async def forge(self, attempt_id: str) -> None:
        raise NotImplementedError


@contextlib.asynccontextmanager
async def harness(folder: Path, medium: Medium) -> AsyncIterator[PostBoxHarness]:
    async with post_box({"errcode": 0}) as (box, server):
        sender = WebhookSender(endpoints(folder, box.url), SystemClock(), timeout_s=60.0)
        provider: Provider = WebhookProvider(sender, SystemClock())
        http = sender._http
        if medium == "push":
            provider = PushProvider(sender, "backend", SystemClock())
        if medium == "chat":
            provider = robots = RobotsProvider({"duty": robot(folder, box.url)}, SystemClock(), timeout_s=60.0)
            http = robots._http
        try:
            yield PostBoxHarness(medium, provider, http, box, server)
        finally:
            await provider.close()


def robot(folder: Path, url: str, kind: Any = "wecom", *, secret: bool = False) -> Robot:
    (folder / "key").write_text("k/e+y\n")
    (folder / "secret").write_text("SECret")
    base = {"wecom": f"{url}/send?key=", "dingtalk": f"{url}/send?access_token=", "feishu": f"{url}/hook/"}[kind]
    return Robot(
        kind=kind, key_file=str(folder / "key"), secret_file=str(folder / "secret") if secret else "", base_url=base
    )


@pytest.mark.parametrize("medium", ["webhook", "push", "chat"])
@pytest.mark.parametrize("check", CONTRACT, ids=name_of)
def test_contract(check: Check, medium: Medium, tmp_path: Path) -> None:
    run_check(check, partial(harness, tmp_path, medium))


def test_signatures_hold_for_old_and_new_secret(tmp_path: Path) -> None:
    async def main() -> None:
        clock = SystemClock()
        async with post_box() as (box, _):
            sender = WebhookSender(endpoints(tmp_path, box.url), clock)
            provider = WebhookProvider(sender, clock)
            for _ in range(2):
                assert (await provider.send(notice())).reference == "a-1"
            await provider.close()
        for headers, body, _ in box.posts:
            for secret in SECRETS:
                assert standardwebhooks.Webhook(secret).verify(body, headers) == msgspec.json.decode(body)
            stranger = standardwebhooks.Webhook("whsec_" + base64.b64encode(b"s" * 32).decode())
            with pytest.raises(standardwebhooks.WebhookVerificationError):
                stranger.verify(body, headers)
            with pytest.raises(standardwebhooks.WebhookVerificationError):
                standardwebhooks.Webhook(SECRETS[0]).verify(body + b" ", headers)
            assert headers["webhook-id"] == "a-1"
            assert "王秀英" not in body.decode()  # thin
            assert msgspec.json.decode(body)["data"]["alert_id"] == "17-0"

    asyncio.run(main())


def test_the_id_stays_and_the_time_moves(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock(datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC))
        async with post_box() as (box, _):
            sender = WebhookSender(endpoints(tmp_path, box.url, 1), clock)
            box.answers.append((500, {}, {}))
            with pytest.raises(DeliveryUnknownError):
                await sender.post("backend", "m-1", b"{}")
            clock.advance(300)
            await sender.post("backend", "m-1", b"{}")
            await sender.close()
        (first, _, _), (second, _, _) = box.posts
        assert first["webhook-id"] == second["webhook-id"] == "m-1"
        assert int(second["webhook-timestamp"]) - int(first["webhook-timestamp"]) == 300
        assert first["webhook-signature"] != second["webhook-signature"]

    asyncio.run(main())


def test_gone_disables_and_redirects_are_not_followed(tmp_path: Path) -> None:
    async def main() -> None:
        gone: list[str] = []
        async with post_box() as (box, _):
            sender = WebhookSender(endpoints(tmp_path, box.url), SystemClock(), on_gone=gone.append)
            box.answers.append((302, {}, {"Location": f"{box.url}/elsewhere"}))
            with pytest.raises(DeliveryRefusedError, match="redirect"):
                await sender.post("backend", "m-1", b"{}")
            box.answers.append((410, {}, {}))
            for _ in range(3):
                with pytest.raises(DeliveryRefusedError, match="410"):
                    await sender.post("backend", "m-1", b"{}")
            await sender.close()
        assert len(box.posts) == 2
        assert gone == ["backend"]
        assert sender.gone() == {"backend"}

    asyncio.run(main())


def test_private_addresses_are_not_reached(tmp_path: Path) -> None:
    async def main() -> None:
        async with post_box() as (box, _):
            sender = WebhookSender(endpoints(tmp_path, box.url, allowed_networks=()), SystemClock())
            with pytest.raises(DeliveryRefusedError):
                await sender.post("backend", "m-1", b"{}")
            await sender.close()
        assert not box.posts

    asyncio.run(main())


def test_tls_proves_the_name_and_not_the_address(tmp_path: Path) -> None:
    certificate, key = certificate_for(tmp_path, "hooks.example.org")

    async def main() -> None:
        async def resolver(host: str, port: int) -> Sequence[str]:
            return ["127.0.0.1"]

        async with tls_post_box(certificate, key) as box:
            port = box.url.rpartition(":")[2]
            trust = ssl.create_default_context(cafile=certificate)
            for name, works in (("hooks.example.org", True), ("other.example.org", False)):
                members = endpoints(tmp_path, f"https://{name}:{port}")
                sender = WebhookSender(members, SystemClock(), resolver=resolver, tls=trust)
                if works:
                    await sender.post("backend", "m-1", b"{}")
                else:
                    with pytest.raises(DeliveryDeferredError):
                        await sender.post("backend", "m-1", b"{}")
                await sender.close()
        ((headers, _, _),) = box.posts
        assert headers["host"] == f"hooks.example.org:{port}"

    asyncio.run(main())


def test_secrets_that_are_none(tmp_path: Path) -> None:
    async def main() -> None:
        sender = WebhookSender(endpoints(tmp_path, "http://127.0.0.1:1", 1), SystemClock())
        for secret in ("whsec_!!!", "whsec_" + base64.b64encode(b"short").decode(), ""):
            (tmp_path / "secret-0").write_text(secret)
            with pytest.raises(DeliveryDeferredError, match="secret"):
                await sender.post("backend", "m-1", b"{}")
        await sender.close()
        with pytest.raises(ConfigError):
            WebhookSender(endpoints(tmp_path, "x", 0), SystemClock())
        with pytest.raises(ConfigError):
            WebhookSender(endpoints(tmp_path, "x", allowed_networks=("10.0.0.1/8",)), SystemClock())

    asyncio.run(main())


def test_a_push_says_what_to_show_to_whom(tmp_path: Path) -> None:
    async def main() -> None:
        async with post_box() as (box, _):
            sender = WebhookSender(endpoints(tmp_path, box.url), SystemClock())
            await PushProvider(sender, "backend", SystemClock()).send(
                notice("push", subject="紧急呼叫", text="长" * 5000, link="https://example.org/a")
            )
            await sender.close()
        ((headers, body, _),) = box.posts
        told = standardwebhooks.Webhook(SECRETS[0]).verify(body, headers)
        assert told["type"] == "org.carebell.push.v1"
        data = told["data"]
        assert (data["to"], data["title"], data["urgency"], data["collapse_key"]) == (
            "user-77",
            "紧急呼叫",
            "high",
            "17-0",
        )
        assert len(data["body"].encode()) <= 2000

    asyncio.run(main())


@pytest.mark.parametrize("kind", ["wecom", "dingtalk", "feishu"])
def test_robots_speak_their_services_language(kind: Any, tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock(datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC))
        async with post_box({"errcode": 0, "code": 0}) as (box, _):
            provider = RobotsProvider({"duty": robot(tmp_path, box.url, kind, secret=True)}, clock)
            await provider.send(notice("chat"))
            with pytest.raises(DeliveryRefusedError, match="no robot"):
                await provider.send(notice("chat", to="nobody"))
            await provider.close()
        ((_, body, path),) = box.posts
        shown = msgspec.json.decode(body)
        stamp = 1_795_309_323
        if kind == "wecom":
            assert path == "/send?key=k%2Fe%2By"
            assert shown["text"]["content"] == notice("chat").text
        elif kind == "dingtalk":
            sign = dingtalk_sign(f"{stamp}000", "SECret").replace("+", "%2B").replace("/", "%2F").replace("=", "%3D")
            assert path == f"/send?access_token=k%2Fe%2By&timestamp={stamp}000&sign={sign}"
        else:
            assert path in ("/hook/k%2Fe%2By", "/hook/k/e+y")
            assert (shown["timestamp"], shown["sign"]) == (str(stamp), feishu_sign(str(stamp), "SECret"))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "answer", "error", "retry_after_s"),
    [
        ("wecom", (200, {"errcode": 45009}, {}), DeliveryDeferredError, 60),
        ("dingtalk", (200, {"errcode": 130101}, {}), DeliveryDeferredError, 600),
        ("dingtalk", (200, {"errcode": 310000}, {}), DeliveryRefusedError, None),
        ("feishu", (200, {"code": 11232}, {}), DeliveryDeferredError, 60),
        ("feishu", (400, {"code": 19021}, {}), DeliveryRefusedError, None),
        ("feishu", (200, {"StatusCode": 0}, {}), None, None),
        ("wecom", (200, {}, {}), DeliveryUnknownError, None),
        ("wecom", (502, {}, {}), DeliveryUnknownError, None),
        ("wecom", (404, {}, {}), DeliveryRefusedError, None),
    ],
)
def test_answers_of_robots(
    kind: Any, answer: Any, error: type[Exception] | None, retry_after_s: float | None, tmp_path: Path
) -> None:
    async def main() -> None:
        async with post_box() as (box, _):
            provider = RobotsProvider({"duty": robot(tmp_path, box.url, kind)}, SystemClock())
            box.answers.append(answer)
            if error is None:
                await provider.send(notice("chat"))
            else:
                with pytest.raises(error) as caught:
                    await provider.send(notice("chat"))
                assert getattr(caught.value, "retry_after_s", None) == retry_after_s
                assert "k/e+y" not in str(caught.value)
            await provider.close()

    asyncio.run(main())


def test_a_robot_says_twenty_things_a_minute(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock(datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC))
        async with post_box({"errcode": 0}) as (box, _):
            provider = RobotsProvider({"duty": robot(tmp_path, box.url)}, clock)
            for _ in range(20):
                await provider.send(notice("chat"))
                clock.advance(1)
            with pytest.raises(DeliveryDeferredError) as caught:
                await provider.send(notice("chat"))
            assert caught.value.retry_after_s == 40
            clock.advance(40)
            await provider.send(notice("chat"))
            await provider.close()
        assert len(box.posts) == 21

    asyncio.run(main())
