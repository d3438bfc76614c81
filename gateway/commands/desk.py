"""Commands for whoever gives them over the API. Views are JSON-ready dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from gateway.clock import Clock
from gateway.commands import ledger
from gateway.commands.catalog import Catalog
from gateway.model import Actor
from gateway.ports import Store


class CommandDesk:
    """``wake`` is called after each change, so that the sender looks at once."""

    def __init__(self, store: Store, clock: Clock, catalog: Catalog, wake: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._catalog = catalog
        self._wake = wake

    async def request(
        self,
        device_id: str,
        name: str,
        parameters: Mapping[str, Any],
        *,
        actor: Actor,
        expires_s: int | None = None,
        reason: str = "",
        may_be_dangerous: bool = False,
    ) -> dict[str, Any]:
        """Queue a command; its view. Raises what ``ledger.request`` does."""
        now_us = self._clock.now_us()
        command = await self._store.write(
            lambda connection: ledger.request(
                connection,
                self._catalog,
                device_id,
                name,
                parameters,
                now_us=now_us,
                actor=actor,
                expires_s=expires_s,
                reason=reason,
                may_be_dangerous=may_be_dangerous,
            )
        )
        self._wake()
        return ledger.view(command)

    async def commands(
        self, *, device_id: str = "", state: str = "", open_only: bool = False, before: int = 0, limit: int = 100
    ) -> list[dict[str, Any]]:
        """Newest first. Raises UsageError."""
        return await self._store.read(
            lambda connection: ledger.list_commands(
                connection, device_id=device_id, state=state, open_only=open_only, before=before, limit=limit
            )
        )

    async def command(self, command_id: str) -> dict[str, Any]:
        """One command with its steps. Raises NotFoundError."""
        return await self._store.read(lambda connection: ledger.show(connection, command_id))

    async def cancel(self, command_id: str, *, actor: Actor, reason: str = "") -> dict[str, Any]:
        """Take back what was not sent. Raises NotFoundError, ConflictError."""
        now_us = self._clock.now_us()
        command = await self._store.write(
            lambda connection: ledger.cancel(connection, command_id, now_us=now_us, actor=actor, reason=reason)
        )
        self._wake()
        return ledger.view(command)
