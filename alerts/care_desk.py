"""Care for the API, over ports.Store. The CLI calls alerts.care_rows and alerts.care on a connection."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import apsw

from alerts import care, care_rows
from alerts.policy import Policy
from gateway.clock import Clock
from gateway.model import Actor
from gateway.ports import Store


class CareDesk:
    """gateway.api.services.Care. That persons and contacts are there is for the caller to see."""

    def __init__(self, store: Store, clock: Clock, policy: Policy, *, wake: Callable[[], None]) -> None:
        """``wake`` tells the outbox that there may be something to send."""
        self._store = store
        self._clock = clock
        self._policy = policy
        self._wake = wake

    async def schedules(self, *, person_id: str = "", limit: int = 100) -> list[dict[str, Any]]:
        return await self._store.read(
            lambda c: care_rows.list_schedules(c, person_id=person_id, limit=limit, with_words=True)
        )

    async def schedule(self, schedule_id: str) -> dict[str, Any]:
        return await self._store.read(lambda c: care_rows.show_active(c, schedule_id))

    async def add(self, person_id: str, members: Mapping[str, Any], timezone: str, *, actor: Actor) -> dict[str, Any]:
        """``members`` are keywords of care_rows.new_schedule."""
        schedule = care_rows.new_schedule(person_id, **members)

        def write(connection: apsw.Connection) -> dict[str, Any]:
            care_rows.add(connection, schedule, timezone, actor=actor, now_us=self._clock.now_us())
            return care_rows.show_active(connection, schedule.id)

        return await self._store.write(write)

    async def change(
        self, schedule_id: str, changes: Mapping[str, Any], timezone: str, *, actor: Actor
    ) -> dict[str, Any]:
        def write(connection: apsw.Connection) -> dict[str, Any]:
            now_us = self._clock.now_us()
            care_rows.change(connection, schedule_id, changes, timezone, actor=actor, now_us=now_us)
            return care_rows.show_active(connection, schedule_id)

        return await self._store.write(write)

    async def stop(self, schedule_id: str, *, actor: Actor) -> None:
        now_us = self._clock.now_us()
        await self._store.write(lambda c: care_rows.remove(c, schedule_id, actor=actor, now_us=now_us))

    async def opt_outs(self, *, person_id: str = "", limit: int = 100) -> list[dict[str, Any]]:
        return await self._store.read(lambda c: care_rows.list_opt_outs(c, person_id=person_id, limit=limit))

    async def opt_out(self, person_id: str, contact_id: str, medium: str, *, actor: Actor) -> list[dict[str, Any]]:
        def write(connection: apsw.Connection) -> list[dict[str, Any]]:
            care_rows.opt_out(connection, person_id, contact_id, medium, actor=actor, now_us=self._clock.now_us())
            return care_rows.list_opt_outs(connection, person_id=person_id)

        return await self._store.write(write)

    async def opt_in(self, person_id: str, contact_id: str, *, actor: Actor) -> None:
        now_us = self._clock.now_us()
        await self._store.write(lambda c: care_rows.opt_in(c, person_id, contact_id, actor=actor, now_us=now_us))

    async def occasions(self, *, person_id: str = "", limit: int = 100) -> list[dict[str, Any]]:
        return await self._store.read(lambda c: care_rows.list_occasions(c, person_id=person_id, limit=limit))

    async def answer(self, person_id: str, answer: str, *, actor: Actor) -> list[dict[str, Any]]:
        """``well`` or ``help``; the person's newest occasions."""
        shown = await self._store.write(
            lambda c: care.told_by(
                c, person_id, answer, actor=actor, now_us=self._clock.now_us(), policy=self._policy
            )
        )  # fmt: skip
        self._wake()
        return shown
