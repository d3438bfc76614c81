"""What a platform consumes, plugged in: the event bus and the webhooks, each with its bookmark."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable, Callable
from typing import Any, Final

import apsw
import msgspec

from gateway.clock import Clock, SystemClock
from gateway.config import Settings, read_secret
from gateway.config_feeds import RedisSection
from gateway.errors import ConfigError
from gateway.live_states import LiveStates
from gateway.ports import EventFeed, Store
from gateway.storage import webhook_rows
from gateway.storage.webhooks import Post, Technician, WebhookFeed
from gateway.supervise import keep_running

CONNECT_S: Final = 3.0
ANSWER_S: Final = 8.0


def open_redis(url: str, username: str = "", password: str = "") -> Callable[[], Any]:
    """What makes a client of that server. One that does not answer in time is away; nothing is retried in silence."""
    from redis.asyncio import Redis  # noqa: PLC0415 - only where it is configured
    from redis.asyncio.retry import Retry  # noqa: PLC0415
    from redis.backoff import NoBackoff  # noqa: PLC0415

    def connect() -> Any:
        return Redis.from_url(
            url,
            username=username or None,
            password=password or None,
            socket_connect_timeout=CONNECT_S,
            socket_timeout=ANSWER_S,
            retry=Retry(NoBackoff(), 0),
            max_connections=2,
        )

    return connect


def webhook_endpoint(settings: Settings, name: str) -> Any:
    """The alerts.channels.webhook.Endpoint of a configured name. Raises ConfigError for what cannot work."""
    from alerts.channels.webhook import Endpoint, WebhookSender  # noqa: PLC0415 - only where it is configured

    configured = settings.feed.webhook[name]
    for path in configured.secret_files:
        read_secret(path, f"feed.webhook.{name}.secret_files")
    endpoint = msgspec.convert(configured.model_dump(include={"url", "secret_files", "allowed_networks"}), Endpoint)
    WebhookSender({name: endpoint}, SystemClock())  # says what cannot work
    return endpoint


def redis_trouble(redis: RedisSection) -> str:
    """Why Redis does not answer now, "" when it does. Raises ConfigError."""
    if importlib.util.find_spec("redis") is None:
        raise ConfigError("redis.url: needs the package redis; pip install redis")
    from redis import Redis, RedisError  # noqa: PLC0415 - only where it is configured

    password = read_secret(redis.password_file, "redis.password_file") if redis.password_file else None
    client = Redis.from_url(
        redis.url, username=redis.username or None, password=password, socket_connect_timeout=CONNECT_S,
        socket_timeout=CONNECT_S,
    )  # fmt: skip
    try:
        client.ping()
    except (RedisError, OSError) as error:
        return f"redis.url: Redis does not answer now: {type(error).__name__}"
    finally:
        client.close()
    return ""


class Feeding:
    """The configured feeds. Raises ConfigError for what cannot work as it is configured."""

    def __init__(
        self,
        settings: Settings,
        *,
        feed: EventFeed,
        store: Store,
        clock: Clock,
        live: LiveStates,
        technician: Technician,
    ) -> None:
        self._settings = settings
        self._feed = feed
        self._store = store
        self._clock = clock
        self._technician = technician
        self.bus = self._bus(live) if settings.redis.url else None
        self.webhooks = [self._webhook(name) for name in settings.feed.webhook]

    @property
    def parts(self) -> list[Any]:
        """For /readyz."""
        return [*([] if self.bus is None else [self.bus]), *self.webhooks]

    def outside_readers(self) -> dict[str, Any]:
        """For housekeeping. The webhooks write their bookmarks themselves."""
        return {} if self.bus is None else {self.bus.name: self.bus}

    def reader_names(self) -> list[str]:
        """Readers that stay in the journal's file."""
        return [*self.outside_readers(), *(webhook.name for webhook in self.webhooks)]

    def prepare(self, connection: apsw.Connection, at_us: int) -> None:
        """Before anything runs, in a write transaction."""
        webhook_rows.prepare(connection, [webhook.endpoint for webhook in self.webhooks], at_us)

    async def run(self) -> None:
        """Everything, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in self.parts:
                group.create_task(keep_running(part.name, part.run))

    def redis_counters(self) -> dict[str, int]:
        bus = self.bus
        if bus is None:
            return {}
        return {"published": bus.published, "republished": bus.republished, "trimmed": bus.trimmed}

    def webhook_counters(self) -> dict[str, int]:
        """Events delivered and attempts in vain, over all endpoints."""
        return {
            "delivered": sum(each.delivered for each in self.webhooks),
            "failed": sum(each.attempts_failed for each in self.webhooks),
        }

    def _bus(self, live: LiveStates) -> Any:
        if importlib.util.find_spec("redis") is None:
            raise ConfigError("redis.url: needs the package redis; pip install redis")
        from gateway.storage.eventbus import EventBus  # noqa: PLC0415 - only where it is configured

        redis = self._settings.redis
        password = read_secret(redis.password_file, "redis.password_file") if redis.password_file else ""
        return EventBus(
            feed=self._feed,
            store=self._store,
            clock=self._clock,
            site=self._settings.site,
            connect=open_redis(redis.url, redis.username, password),
            live=live,
            partitions=redis.partitions,
            max_entries=redis.max_entries,
            republish_hours=redis.republish_hours,
        )

    def _webhook(self, name: str) -> WebhookFeed:
        from alerts.channels.webhook import WebhookSender  # noqa: PLC0415 - only where it is configured

        configured, endpoint = self._settings.feed.webhook[name], webhook_endpoint(self._settings, name)

        def open_post() -> tuple[Post, Callable[[], Awaitable[None]], Callable[[], bool]]:
            sender = WebhookSender({name: endpoint}, self._clock)
            return (lambda event_id, body: sender.post(name, event_id, body)), sender.close, lambda: bool(sender.gone())

        return WebhookFeed(
            name,
            feed=self._feed,
            store=self._store,
            clock=self._clock,
            open_post=open_post,
            types=configured.types,
            technician=self._technician,
            disable_after_s=configured.disable_after_hours * 3600,
        )
