"""Events to one webhook endpoint, in order, from its own bookmark.

The body is the CloudEvent, ``webhook-id`` its id: the same for every attempt and after every restart, so that a
receiver that keeps the ids it has seen handles each event once. An endpoint that does not answer is tried again, ever
more slowly (at last every five minutes), and holds nobody but itself; after a long failure it is disabled, and the site
has an alert.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Final

import apsw
import msgspec
import structlog

from gateway.clock import US_PER_S, Clock
from gateway.errors import DeliveryDeferredError, DeliveryError
from gateway.ports import EventFeed, Store
from gateway.storage import webhook_rows as rows

BATCH: Final = 200
SAVE_S: Final = 1.0
PAUSE_FIRST_S: Final = 1.0
PAUSE_MAX_S: Final = 300.0
ASK_FOR_LATER_MAX_S: Final = 3600.0
DISABLED_POLL_S: Final = 2.0

Post = Callable[[str, bytes], Awaitable[Any]]
"""Posts a body under an id. Raises DeliveryError."""

Technician = Callable[[apsw.Connection, str, str, int], None]
"""Told that a destination failed (with the reason) or works again (""), in a write transaction."""

log = structlog.get_logger("webhooks")


class WebhookFeed:
    """``run`` until cancelled. A HealthPart."""

    def __init__(
        self,
        name: str,
        *,
        feed: EventFeed,
        store: Store,
        clock: Clock,
        open_post: Callable[[], tuple[Post, Callable[[], Awaitable[None]], Callable[[], bool]]],
        types: Collection[str],
        technician: Technician,
        disable_after_s: float = 72 * 3600.0,
    ) -> None:
        """``open_post`` gives what posts, what closes it, and what says that the endpoint answered 410 Gone."""
        self.endpoint = name
        self.name = f"webhook:{name}"
        self._feed = feed
        self._store = store
        self._clock = clock
        self._open_post = open_post
        self._types = frozenset(types)
        self._technician = technician
        self._disable_after_us = round(disable_after_s * US_PER_S)
        self._seq = 0
        self._saved = (0, float("-inf"))
        self._told = False  # the technician knows that it fails
        self._state = (True, "not started yet")
        self.delivered = 0
        self.attempts_failed = 0

    def state(self) -> tuple[bool, str]:
        ok, text = self._state
        behind = max(0, self._feed.last_seq() - self._seq)
        return ok, f"{text}, {behind} behind" if behind and not ok else text

    async def run(self) -> None:
        """Raises StorageError; whatever the endpoint does stays inside."""
        while True:
            found, self._seq = await self._store.read(lambda c: rows.position(c, self.endpoint))
            if found == "disabled":
                self._state = (False, f"disabled; `carebell feeds resume {self.endpoint}`")
                self._told = True
                await asyncio.sleep(DISABLED_POLL_S)
                continue
            self._saved = (self._seq, self._clock.monotonic_s())
            self._state = (True, "delivers")
            post, close, gone = self._open_post()
            try:
                await self._serve(post, gone)
            finally:
                await close()

    async def _serve(self, post: Post, gone: Callable[[], bool]) -> None:
        """Until the endpoint is disabled."""
        while True:
            reached = self._feed.last_seq()
            events = await self._feed.after(self._seq, BATCH)
            for number, found in _by_number(events):
                for event in found:
                    if _noun(event) in self._types and not await self._deliver(post, gone, event):
                        return
                self._seq = number
                await self._save(SAVE_S)
            if events:
                continue
            self._seq = max(self._seq, reached)
            await self._save(SAVE_S)
            try:
                async with asyncio.timeout(SAVE_S):
                    await self._feed.wait(self._seq)
            except TimeoutError:
                await self._save(0.0)

    async def _deliver(self, post: Post, gone: Callable[[], bool], event: dict[str, Any]) -> bool:
        """Post one event until the endpoint took it. False: the endpoint is disabled now."""
        body = msgspec.json.encode(event)
        attempt = 0
        while True:
            try:
                await post(str(event["id"]), body)
            except DeliveryError as error:
                self.attempts_failed += 1
                if not await self._failed(error, disable=gone()):
                    return False
                await asyncio.sleep(_pause_s(attempt, error))
                attempt += 1
            else:
                self.delivered += 1
                if attempt or self._told:
                    await self._works()
                return True

    async def _failed(self, error: DeliveryError, *, disable: bool) -> bool:
        """Write an attempt in vain down. False: it was one too many."""
        now_us, name, behind = self._clock.now_us(), self.endpoint, self._seq

        def write(connection: apsw.Connection) -> bool:
            since_us = rows.failed(connection, name, behind, str(error), now_us)
            if not disable and now_us - since_us < self._disable_after_us:
                return False
            rows.disable(connection, name, now_us)
            self._technician(connection, f"webhook-{name}", str(error), now_us)
            return True

        disabled = await self._store.write(write)
        if self._state[0]:
            log.error("webhook_fails", destination=name, reason=str(error))
        self._state = (False, f"fails: {error}")
        if disabled:
            log.error("webhook_disabled", destination=name, reason=str(error))
        return not disabled

    async def _works(self) -> None:
        now_us, told = self._clock.now_us(), self._told

        def write(connection: apsw.Connection) -> None:
            rows.moved(connection, self.endpoint, self._seq, now_us)
            if told:
                self._technician(connection, f"webhook-{self.endpoint}", "", now_us)

        await self._store.write(write)
        self._told = False
        self._state = (True, "delivers")
        log.info("webhook_works", destination=self.endpoint)

    async def _save(self, every_s: float) -> None:
        seq, saved_s = self._saved
        now_s = self._clock.monotonic_s()
        if self._seq == seq or now_s - saved_s < every_s:
            return
        now_us, reached = self._clock.now_us(), self._seq
        await self._store.write(lambda c: rows.moved(c, self.endpoint, reached, now_us))
        self._saved = (reached, now_s)


def _by_number(events: list[dict[str, Any]]) -> list[tuple[int, list[dict[str, Any]]]]:
    found: dict[int, list[dict[str, Any]]] = {}
    for event in events:
        found.setdefault(int(str(event["id"]).partition("-")[0]), []).append(event)
    return list(found.items())


def _noun(event: dict[str, Any]) -> str:
    return str(event["type"]).removeprefix("org.carebell.").removesuffix(".v1")


def _pause_s(attempt: int, error: DeliveryError) -> float:
    """Doubling with jitter, never sooner than the endpoint asked for, as far as that is reasonable."""
    pause_s = min(PAUSE_MAX_S, PAUSE_FIRST_S * 2.0 ** min(attempt, 20)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
    if isinstance(error, DeliveryDeferredError) and error.retry_after_s is not None:
        pause_s = max(pause_s, min(error.retry_after_s, ASK_FOR_LATER_MAX_S))
    return pause_s
