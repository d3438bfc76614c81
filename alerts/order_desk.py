"""Cases of orders for the API, over ports.Store. The CLI calls alerts.order_cases on a connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from alerts import order_cases, visits
from alerts.policy import Policy
from alerts.refusals import Refused
from gateway.clock import Clock
from gateway.errors import ConflictError, NotFoundError
from gateway.model import Actor
from gateway.ports import Store


class OrderDesk:
    """gateway.api.services.OrderCases."""

    def __init__(self, store: Store, clock: Clock, policy: Policy, *, wake: Callable[[], None]) -> None:
        """``wake`` tells the outbox that there may be something to send."""
        self._store = store
        self._clock = clock
        self._policy = policy
        self._wake = wake

    async def cases(
        self,
        *,
        open_only: bool = False,
        overdue: bool = False,
        supervised: bool = False,
        category: str = "",
        person_id: str = "",
        limit: int = 100,
    ) -> list[dict[str, Any]]:
        return await self._store.read(
            lambda c: order_cases.list_cases(
                c, open_only=open_only, overdue=overdue, supervised=supervised, category=category,
                person_id=person_id, limit=limit,
            )
        )  # fmt: skip

    async def case(self, reference: str) -> dict[str, Any]:
        return await self._store.read(lambda c: order_cases.show(c, reference))

    async def request(self, intent: str, *, person_id: str, device_id: str, text: str, actor: Actor) -> dict[str, Any]:
        shown = await self._store.write(
            lambda c: order_cases.request(
                c, intent, person_id=person_id, device_id=device_id, text=text, actor=actor,
                now_us=self._clock.now_us(), policy=self._policy,
            )
        )  # fmt: skip
        self._wake()
        return shown

    async def check_in(
        self, told: Mapping[str, Any], *, device_id: str, actor: Actor, heard_us: int | None = None
    ) -> dict[str, Any]:
        """A service code that was read (alerts.visits); ``device_id`` is the terminal's, "" for none.

        ``heard_us`` is when the gateway heard it, None for now.

        Raises UsageError, NotFoundError for an unknown code and ConflictError for one that is not taken any more.
        """
        now_us = self._clock.now_us()
        scan = visits.read_scan(told, device_id, now_us if heard_us is None else heard_us)
        taken = await self._store.write(lambda c: visits.take(c, scan, actor, now_us, self._policy))
        if isinstance(taken, Refused):
            raise (NotFoundError if taken.reason == visits.UNKNOWN_CODE else ConflictError)(taken.reason)
        self._wake()
        return taken

    async def act(
        self,
        reference: str,
        action: str,
        *,
        actor: Actor,
        note: str,
        version: int | None = None,
        satisfied: bool | None = None,
    ) -> dict[str, Any]:
        shown = await self._store.write(
            lambda c: order_cases.act(
                c, reference, action, actor=actor, now_us=self._clock.now_us(), policy=self._policy, note=note,
                version=version, satisfied=satisfied,
            )
        )  # fmt: skip
        self._wake()
        return shown
