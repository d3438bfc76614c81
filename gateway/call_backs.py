"""Units that wait to be called back (SCAIP, ``cha`` 1): the number is noted on their alert, for whoever takes it.

The call itself is made by a person, or as a conference of the alert (``POST /api/v1/alerts/<id>/conference``).
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog
from msgspec import Struct

from gateway.duties import Duties
from gateway.errors import CarebellError, StorageError
from gateway.model import Actor, Committed, Record, Urgency
from gateway.ports import AlertDesk

TRIES: Final = 20
PAUSE_S: Final = 0.25

log = structlog.get_logger("call_backs")


class _Wish(Struct, frozen=True):
    person_id: str
    device_id: str
    address: str


class CallBacks:
    """A CommittedListener that Judge follows; ``run`` writes the notes, each once."""

    def __init__(self, desk: AlertDesk) -> None:
        self._desk = desk
        self._duties = Duties("call_backs", self._note)
        self.run = self._duties.run
        self.is_open = self._duties.is_open
        self.notes = 0

    def __call__(self, committed: Committed) -> None:
        for record in committed.records:
            if record.urgency != Urgency.ROUTINE and (address := _address(record)):
                self._duties.add(_Wish(record.person_id, record.device_id, address))

    async def _note(self, wish: _Wish) -> None:
        """On the youngest open alert of the unit, which may still be on its way from the rules."""
        try:
            for _ in range(TRIES):
                found = await self._desk.alerts(open_only=True, person_id=wish.person_id, limit=20)
                alert = next((each["id"] for each in found if each["device_id"] == wish.device_id), None)
                if alert is not None:
                    await self._write(str(alert), wish)
                    return
                await asyncio.sleep(PAUSE_S)
            log.warning("call_back_without_alert", device=wish.device_id)
        except StorageError:
            raise
        except CarebellError as error:
            log.error("call_back_not_noted", device=wish.device_id, error=str(error))

    async def _write(self, alert_id: str, wish: _Wish) -> None:
        note = f"主机等待回拨 The unit waits to be called back: {wish.address}"
        if any(step["reason"] == note for step in (await self._desk.alert(alert_id))["transitions"]):
            return
        actor = Actor("system", "call-back", channel="scaip")
        await self._desk.act(alert_id, "note", actor=actor, version=None, note=note)
        self.notes += 1


def _address(record: Record) -> str:
    unknown = record.reading.unknown if record.reading is not None else None
    address = unknown.get("call_back") if unknown and record.codec == "scaip" else None
    return address[:200] if isinstance(address, str) else ""
