"""Terminals that read service codes: what a device said in ``service_checkin`` becomes a visit of the order's staff."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, Protocol

import structlog
from msgspec import Struct

from gateway.errors import CarebellError, StorageBrokenError
from gateway.model import Actor, Committed, Record

WAITING: Final = 1000
MEMBER: Final = "service_checkin"

log = structlog.get_logger("visits")


class Orders(Protocol):
    """alerts.order_desk.OrderDesk."""

    async def check_in(self, told: Mapping[str, Any], *, device_id: str, actor: Actor) -> dict[str, Any]: ...


class _Told(Struct, frozen=True):
    device_id: str
    scan: dict[str, Any]


class Visits:
    """A CommittedListener; ``run`` writes them. What a terminal says is in the journal, whatever becomes of it."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._waiting: deque[_Told] = deque(maxlen=WAITING)
        self._woken = asyncio.Event()
        self.taken = 0
        self.refused = 0

    def __call__(self, committed: Committed) -> None:
        for record in committed.records:
            reading = record.reading
            if reading is not None and reading.unknown:  # hardly any: no call for the others
                self._look_at(record, reading.unknown)

    def _look_at(self, record: Record, unknown: Mapping[str, Any]) -> None:
        scan = unknown.get(MEMBER)
        if isinstance(scan, dict) and record.verified and record.device_id:
            self._waiting.append(_Told(record.device_id, scan))
            self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._waiting:
                await self._take(self._waiting.popleft())

    async def _take(self, told: _Told) -> None:
        actor = Actor("device", told.device_id, channel="terminal")
        try:
            await self._orders.check_in(told.scan, device_id=told.device_id, actor=actor)
            self.taken += 1
        except StorageBrokenError:
            raise
        except CarebellError as error:  # an unknown or used code is in the audit; the terminal asks for no answer
            self.refused += 1
            log.warning("service_checkin_refused", device=told.device_id, error=str(error))
