"""The desk: alerts and the outbox for the API, over ports.Store. The CLI calls the functions below on a connection."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

import apsw

from alerts import attempts, ladders, outbox_rows, rows, suppression
from alerts.lifecycle import transition
from alerts.orders import order_status
from alerts.policy import Policy
from alerts.refusals import Refused
from alerts.states import DESK_ACTIONS
from gateway.clock import Clock
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Actor
from gateway.ports import NearStore

EARLY_CALLBACK_S: Final = 2.0
EARLY_POLL_S: Final = 0.05

list_alerts = rows.list_alerts
list_outbox = outbox_rows.list_outbox
outbox_act = outbox_rows.act


def show_alert(connection: apsw.Connection, alert_id: str) -> dict[str, Any]:
    """As rows.show_alert, with the escalation, whether it is suppressed, and every message and call."""
    return rows.show_alert(connection, alert_id) | {
        "escalation": ladders.view(connection, alert_id),
        "suppressed": suppression.is_suppressed(connection, alert_id),
        "attempts": attempts.of_alert(connection, alert_id),
    }


def act(
    connection: apsw.Connection,
    alert_id: str,
    action: str,
    *,
    actor: Actor,
    now_us: int,
    policy: Policy,
    version: int | None = None,
    outcome: str = "",
    note: str = "",
    detail: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One of DESK_ACTIONS in the caller's transaction; returns the alert's view. Raises as ports.AlertDesk.act."""
    if action not in DESK_ACTIONS:
        raise UsageError(f"unknown action {action!r}; known are {', '.join(DESK_ACTIONS)}")
    alert = transition(
        connection, alert_id, action, expected_version=version, actor=actor, now_us=now_us, policy=policy,
        outcome=outcome, note=note, detail=detail,
    )  # fmt: skip
    return rows.view(connection, alert)


class Desk:
    """ports.AlertDesk."""

    def __init__(self, store: NearStore, clock: Clock, policy: Policy, *, wake: Callable[[], None]) -> None:
        """``wake`` tells the outbox that there may be something to send."""
        self._store = store
        self._clock = clock
        self._policy = policy
        self._wake = wake

    async def alerts(
        self, *, open_only: bool = False, person_id: str = "", kind: str = "", limit: int = 100, before_id: str = ""
    ) -> list[dict[str, Any]]:
        return await self._store.read(
            lambda c: rows.list_alerts(
                c, open_only=open_only, person_id=person_id, kind=kind, limit=limit, before_id=before_id
            )
        )

    async def alert(self, alert_id: str) -> dict[str, Any]:
        return await self._store.glance(lambda c: show_alert(c, alert_id))

    async def act(
        self,
        alert_id: str,
        action: str,
        *,
        actor: Actor,
        version: int | None,
        outcome: str = "",
        note: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        shown = await self._store.write(
            lambda c: act(
                c, alert_id, action, actor=actor, now_us=self._clock.now_us(), policy=self._policy, version=version,
                outcome=outcome, note=note, detail=detail,
            )
        )  # fmt: skip
        self._wake()
        return shown

    async def order_status(self, order_id: str, status: Mapping[str, Any], *, actor: Actor) -> dict[str, Any]:
        """As ports.AlertDesk. A callback that overtakes the answer to its own order waits up to 2 s for that."""

        def take(connection: apsw.Connection) -> dict[str, Any] | Refused:
            alert = order_status(connection, order_id, status, actor, self._clock.now_us(), self._policy)
            return alert if isinstance(alert, Refused) else rows.view(connection, alert)

        for _ in range(round(EARLY_CALLBACK_S / EARLY_POLL_S)):
            try:
                taken = await self._store.write(take)
                break
            except NotFoundError:
                if not await self._store.read(outbox_rows.is_any_sending):
                    raise
                await asyncio.sleep(EARLY_POLL_S)
        else:
            taken = await self._store.write(take)
        if isinstance(taken, Refused):
            raise ConflictError(taken.reason)
        self._wake()
        return taken

    async def suppressions(self) -> list[dict[str, Any]]:
        return await self._store.read(lambda c: suppression.in_force(c, self._clock.now_us()))

    async def suppress(
        self, kind: Literal["test", "maintenance"], subject: str, until_us: int, *, actor: Actor, reason: str
    ) -> dict[str, Any]:
        now_us = self._clock.now_us()

        def begin(connection: apsw.Connection) -> dict[str, Any]:
            number = suppression.start(connection, kind, subject, until_us, actor=actor, reason=reason, now_us=now_us)
            return next(each for each in suppression.in_force(connection, now_us) if each["id"] == number)

        return await self._store.write(begin)

    async def end_suppression(self, number: int, *, actor: Actor) -> None:
        await self._store.write(lambda c: suppression.stop(c, number, actor=actor, now_us=self._clock.now_us()))

    async def outbox(self, *, state: str = "", limit: int = 100) -> list[dict[str, Any]]:
        return await self._store.read(lambda c: outbox_rows.list_outbox(c, state=state, limit=limit))

    async def outbox_act(self, dispatch_id: int, action: str, *, actor: Actor, reason: str) -> dict[str, Any]:
        shown = await self._store.write(
            lambda c: outbox_rows.act(c, dispatch_id, action, actor=actor, reason=reason, now_us=self._clock.now_us())
        )
        self._wake()
        return shown
