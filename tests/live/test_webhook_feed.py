"""Events to real HTTP endpoints, in order, each once, whatever one of them does. The oracle is standardwebhooks."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from aiohttp import web
from standardwebhooks import Webhook

from alerts.channels.webhook import Endpoint, WebhookSender
from gateway import audit
from gateway.clock import SystemClock
from gateway.model import Actor
from gateway.storage import journal, webhook_rows, webhooks
from gateway.storage.feed import JournalFeed
from gateway.storage.webhooks import WebhookFeed
from tests.factory import record
from tests.live.api_harness import FileStore
from tests.live.http_harness import run, until

pytestmark = pytest.mark.live
SECRETS = ["whsec_" + base64.b64encode(bytes([n]) * 32).decode() for n in (1, 2)]


class Receiver:
    """An endpoint. ``answers`` are the next statuses; without one 204. Every body is verified with both secrets."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.events: list[dict[str, Any]] = []
        self.tried = 0

    async def take(self, request: web.Request) -> web.Response:
        body = await request.text()
        for secret in SECRETS:  # while a secret is replaced, a receiver may know either
            Webhook(secret).verify(body, dict(request.headers))
        event = json.loads(body)
        assert request.headers["webhook-id"] == event["id"]
        self.tried += 1
        status = self.answers.pop(0) if self.answers else 204
        if status < 300:
            self.events.append(event)
        return web.Response(status=status)

    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]


class World:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store, self.clock = FileStore(folder), SystemClock()
        self.feed = JournalFeed(self.store, "default")
        self.told: list[tuple[str, str]] = []
        self.secret_files = []
        for number, secret in enumerate(SECRETS):
            path = folder / f"secret-{number}"
            path.write_text(secret)
            self.secret_files.append(str(path))

    async def commit(self, *signals: str) -> list[str]:
        """Records with these signals, and a transition behind them; the ids of their events."""
        before = await self.store.read(journal.last_seq)
        await self.store.write(lambda c: journal.insert(c, [record(n, signal=s) for n, s in enumerate(signals)]))
        last = await self.store.write(
            lambda c: audit.append(
                c, at_us=1, actor=Actor("rule", "sos"), action="raised", subject="alert/a", alert_id="a", version=1,
                after={"person_id": "P-0001"},
            )
        )  # fmt: skip
        self.feed.committed(last)
        return [event["id"] for event in await self.feed.after(before, 1000)]

    def webhook(self, name: str, url: str, **options: Any) -> WebhookFeed:
        endpoint = Endpoint(url=url, secret_files=tuple(self.secret_files), allowed_networks=("127.0.0.0/8",))

        def open_post() -> Any:
            sender = WebhookSender({name: endpoint}, self.clock)
            return (lambda event_id, body: sender.post(name, event_id, body)), sender.close, lambda: bool(sender.gone())

        def technician(connection: apsw.Connection, destination: str, reason: str, now_us: int) -> None:
            self.told.append((destination, reason))

        settings: dict[str, Any] = {"types": ("observation", "alert")} | options
        return WebhookFeed(
            name, feed=self.feed, store=self.store, clock=self.clock, open_post=open_post, technician=technician,
            **settings,
        )  # fmt: skip

    @asynccontextmanager
    async def running(self, *feeds: WebhookFeed) -> AsyncIterator[None]:
        now_us = self.clock.now_us()
        names = [each.endpoint for each in feeds]
        await self.store.write(lambda c: webhook_rows.prepare(c, names, now_us))
        self.feed.committed(await self.store.read(journal.last_seq))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each.run()) for each in feeds]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()


@asynccontextmanager
async def world(folder: Path, *receivers: Receiver) -> AsyncIterator[tuple[World, list[str]]]:
    it = World(folder)
    async with AsyncExitStack() as stack:
        urls = []
        for receiver in receivers:
            app = web.Application()
            app.router.add_post("/hook", receiver.take)
            runner = web.AppRunner(app)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            tcp = web.TCPSite(runner, "127.0.0.1", 0)
            await tcp.start()
            urls.append(f"http://127.0.0.1:{runner.addresses[0][1]}/hook")
        yield it, urls
    it.store.connection.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "PAUSE_FIRST_S", 0.02)
    monkeypatch.setattr(webhooks, "PAUSE_MAX_S", 0.05)
    monkeypatch.setattr(webhooks, "SAVE_S", 0.05)
    monkeypatch.setattr(webhooks, "DISABLED_POLL_S", 0.05)


def test_events_arrive_signed_in_order_and_once(tmp_path: Path) -> None:
    async def main() -> None:
        receiver = Receiver()
        async with world(tmp_path, receiver) as (it, (url,)):
            await it.commit("sos")  # before the endpoint was there
            feed = it.webhook("backend", url)
            async with it.running(feed):
                expected = await it.commit("", "sos", "fall")
                receiver.answers = [500, 404, 429]
                expected += await it.commit("smoke")
                await until(lambda: receiver.ids() == expected)
                newest = it.feed.last_seq()
                await until(lambda: webhook_rows.position(it.store.connection, "backend") == ("active", newest))
                assert feed.state() == (True, "delivers")
                assert journal.readers(it.store.connection)["webhook:backend"] == it.feed.last_seq()
            again = it.webhook("backend", url, types=("alert",))
            async with it.running(again):  # a restart goes on where it was
                alert = (await it.commit("sos"))[-1:]
                await until(lambda: receiver.ids() == expected + alert)

    run(main())


def test_a_dead_endpoint_holds_nobody_and_is_disabled_in_the_end(tmp_path: Path) -> None:
    async def main() -> None:
        dead, alive = Receiver(), Receiver()
        dead.answers = [500] * 10_000
        async with world(tmp_path, dead, alive) as (it, urls):
            feeds = [
                it.webhook("dead", urls[0], disable_after_s=0.3),
                it.webhook("alive", urls[1]),
            ]
            async with it.running(*feeds):
                expected = await it.commit("sos", "", "")
                await until(lambda: alive.ids() == expected)
                await until(lambda: "disabled" in feeds[0].state()[1])
                assert it.told == [("webhook-dead", "the webhook's endpoint answered 500")]
                assert dead.tried > 1
                assert "webhook:dead" not in journal.readers(it.store.connection), "the journal need not wait for it"
                expected += await it.commit("fall")
                dead.answers = []
                now_us = it.clock.now_us()
                await it.store.write(lambda c: webhook_rows.resume(c, "dead", skip=False, at_us=now_us))
                await until(lambda: dead.ids() == expected)
                await until(lambda: it.told[1:] == [("webhook-dead", "")])

    run(main())


def test_gone_is_disabled_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        receiver = Receiver()
        receiver.answers = [410]
        async with world(tmp_path, receiver) as (it, (url,)):
            feed = it.webhook("old", url)
            async with it.running(feed):
                await it.commit("sos")
                await until(lambda: "disabled" in feed.state()[1])
                assert receiver.tried == 1
                (row,) = webhook_rows.listed(it.store.connection)
                assert (row["state"], row["behind"] > 0) == ("disabled", True)

    run(main())
