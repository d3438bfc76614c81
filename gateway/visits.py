"""Terminals that read service codes: what a device said in ``service_checkin`` becomes a visit of the order's staff."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Protocol

import structlog
from msgspec import Struct

from gateway.duties import Duties
from gateway.errors import CarebellError, StorageError
from gateway.model import Actor, Committed, Record

MEMBER: Final = "service_checkin"

log = structlog.get_logger("visits")


class Orders(Protocol):
    """alerts.order_desk.OrderDesk."""

    async def check_in(
        self, told: Mapping[str, Any], *, device_id: str, actor: Actor, heard_us: int | None = None
    ) -> dict[str, Any]: ...


class _Told(Struct, frozen=True):
    device_id: str
    scan: dict[str, Any]
    heard_us: int


class Visits:
    """A CommittedListener that Judge follows; ``run`` writes the visits, each once."""

    def __init__(self, orders: Orders) -> None:
        self._orders = orders
        self._duties = Duties("visits", self._take)
        self.run = self._duties.run
        self.is_open = self._duties.is_open
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
            self._duties.add(_Told(record.device_id, scan, record.received_at_us))

    async def _take(self, told: _Told) -> None:
        actor = Actor("device", told.device_id, channel="terminal")
        try:
            await self._orders.check_in(told.scan, device_id=told.device_id, actor=actor, heard_us=told.heard_us)
            self.taken += 1
        except StorageError:
            raise
        except CarebellError as error:  # an unknown or used code is in the audit; the terminal asks for no answer
            self.refused += 1
            log.warning("service_checkin_refused", device=told.device_id, error=str(error))
