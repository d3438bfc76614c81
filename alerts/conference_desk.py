"""The conference of an alert, for whoever leads it: who is on the line, and legs added and dropped by role.

Every leg is written down before it is called (the call log), and who wanted it in the audit.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, Protocol, get_args
from weakref import WeakValueDictionary

import apsw
from msgspec import Struct

from alerts import call_legs, rows
from alerts.attempts import Parties
from alerts.people import NoticeSource
from gateway import audit
from gateway.clock import Clock
from gateway.errors import DeliveryError, NotFoundError, UsageError
from gateway.model import Actor
from gateway.ports import Store

Role = Literal["person", "call_center", "family", "doctor", "social_worker", "ems120"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
"""In the order in which they are called."""
Change = Literal["hold", "unhold", "mute", "unmute"]
CHANGES: Final[tuple[Change, ...]] = ("hold", "unhold", "mute", "unmute")


class Party(Struct, frozen=True, kw_only=True):
    """Somebody to be called in: ``to`` (a number, or sip:...), else the contact's number, else the person's own."""

    role: Role
    to: str = ""
    contact_id: str = ""
    muted: bool = False


class Leg(Protocol):
    """One party, as alerts.channels.twilio_conference has it."""

    @property
    def role(self) -> Role: ...
    @property
    def label(self) -> str: ...
    @property
    def call_id(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def muted(self) -> bool: ...
    @property
    def on_hold(self) -> bool: ...


class Conference(Protocol):
    """The conference of one alert at its provider. Raises DeliveryError, NotFoundError, UsageError."""

    async def add(
        self, role: Role, to: str, attempt_id: str, *, muted: bool = False, commanded_by: str = ""
    ) -> Leg: ...
    async def legs(self) -> list[Any]: ...
    async def hold(self, role: Role, *, on: bool) -> list[str]: ...
    async def mute(self, role: Role, *, on: bool) -> list[str]: ...
    async def drop(self, role: Role, *, attempt_id: str = "", even_the_person: bool = False) -> list[str]: ...
    async def end(self) -> str | None: ...


class Conferences:
    """Conferences by alert. ``of`` makes the conference of an alert, ``caller`` is the number that parties see.

    Raises what ``Conference`` raises, and NotFoundError for an alert, person or contact that is not there.
    """

    def __init__(
        self,
        of: Callable[[str], Conference],
        *,
        provider: str,
        caller: str,
        source: NoticeSource,
        store: Store,
        clock: Clock,
    ) -> None:
        self._of = of
        self._provider = provider
        self._caller = caller
        self._source = source
        self._store = store
        self._clock = clock
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def legs(self, alert_id: str) -> list[dict[str, Any]]:
        """Who is in it or being called into it, without their numbers."""
        await self._store.read(lambda c: rows.get(c, alert_id))
        return [_view(leg) for leg in await self._of(alert_id).legs()]

    async def add(
        self, alert_id: str, role: Role, *, actor: Actor, to: str = "", contact_id: str = "", muted: bool = False
    ) -> dict[str, Any]:
        """Call a party in: ``to`` (a number, or sip:...), else the contact's number, else the person's own.

        120 is called because ``actor`` commands it; everybody may be added again after they hung up. Who is being
        called already, or is there, is not called twice: a browser may send the same act again by itself.
        """
        async with self._turns.setdefault(alert_id, asyncio.Lock()):
            return await self._add(alert_id, role, actor, to, contact_id, muted=muted)

    async def _add(
        self, alert_id: str, role: Role, actor: Actor, to: str, contact_id: str, *, muted: bool
    ) -> dict[str, Any]:
        now_us = self._clock.now_us()

        def begin(connection: apsw.Connection) -> tuple[str, str]:
            alert = rows.get(connection, alert_id)
            number = to or self._number(connection, alert.person_id, role, contact_id)
            known = call_legs.open_leg(
                connection, provider=self._provider, alert_id=alert_id, role=role, callee=number, now_us=now_us
            )
            if known is not None:
                return number, known
            attempt_id = uuid.uuid4().hex
            call_legs.begin_conference(
                connection, provider=self._provider, alert_id=alert_id, person_id=alert.person_id, now_us=now_us
            )
            call_legs.begin_leg(
                connection, attempt_id=attempt_id, provider=self._provider, alert_id=alert_id,
                parties=Parties(caller=self._caller, callee=number, person_id=alert.person_id, role=role),
                now_us=now_us, contact_id=contact_id,
            )  # fmt: skip
            self._note(connection, alert_id, "conference.add", actor, {"role": role, "attempt_id": attempt_id})
            return number, attempt_id

        number, attempt_id = await self._store.write(begin)
        leg = await self._of(alert_id).add(
            role, number, attempt_id, muted=muted, commanded_by=f"{actor.role}/{actor.id}"
        )
        return _view(leg)

    async def gather(self, alert_id: str, parties: Sequence[Mapping[str, Any]], *, actor: Actor) -> dict[str, Any]:
        """Call several in, by the order of ROLES; each is the members of a Party. ``legs``, and ``failed`` with why.

        Who cannot be called keeps nobody else from being called. Raises NotFoundError for the alert.
        """
        await self._store.read(lambda c: rows.get(c, alert_id))
        legs: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for party in sorted((Party(**each) for each in parties), key=lambda each: ROLES.index(each.role)):
            try:
                leg = await self.add(
                    alert_id, party.role, actor=actor, to=party.to, contact_id=party.contact_id, muted=party.muted
                )
            except (UsageError, DeliveryError) as error:
                failed.append({"role": party.role, "contact_id": party.contact_id or None, "detail": str(error)})
            else:
                legs.append(leg)
        return {"legs": legs, "failed": failed}

    async def change(self, alert_id: str, role: Role, change: Change, *, actor: Actor) -> list[dict[str, Any]]:
        """Hold or mute all legs of a role, or end that; who is in it then."""
        if change not in CHANGES:
            raise UsageError(f"unknown change {change!r}; known are {', '.join(CHANGES)}")
        conference = self._of(alert_id)
        await self._write_note(alert_id, f"conference.{change}", actor, {"role": role})
        if change in ("hold", "unhold"):
            await conference.hold(role, on=change == "hold")
        else:
            await conference.mute(role, on=change == "mute")
        return await self.legs(alert_id)

    async def drop(self, alert_id: str, role: Role, *, actor: Actor, attempt_id: str = "") -> list[dict[str, Any]]:
        """Hang up the legs of a role, or one of them; never the person's own. Who is in it then."""
        await self._write_note(alert_id, "conference.drop", actor, {"role": role, "attempt_id": attempt_id})
        await self._of(alert_id).drop(role, attempt_id=attempt_id)
        return await self.legs(alert_id)

    async def end(self, alert_id: str, *, actor: Actor) -> bool:
        """End it for everybody, the person included; False when there was none."""
        await self._write_note(alert_id, "conference.end", actor, {})
        return await self._of(alert_id).end() is not None

    def _number(self, connection: apsw.Connection, person_id: str, role: Role, contact_id: str) -> str:
        if contact_id:
            contacts = self._source.contacts(connection, person_id)
            known = next((each for each in contacts if each["contact_id"] == contact_id), None)
            if known is None:
                raise NotFoundError(f"{person_id} has no active contact {contact_id}")
            number = known.get("phone")
        elif role == "person":
            number = (self._source.person(connection, person_id) or {}).get("phone")
        else:
            raise UsageError(f"to: whom to call as {role}? give a number, sip:... or a contact_id")
        if not number:
            raise UsageError("to: there is no number in the registry; give one")
        return str(number)

    async def _write_note(self, alert_id: str, action: str, actor: Actor, after: Mapping[str, Any]) -> None:
        def write(connection: apsw.Connection) -> None:
            rows.get(connection, alert_id)
            self._note(connection, alert_id, action, actor, after)

        await self._store.write(write)

    def _note(
        self, connection: apsw.Connection, alert_id: str, action: str, actor: Actor, after: Mapping[str, Any]
    ) -> None:
        audit.append(
            connection, at_us=self._clock.now_us(), actor=actor, action=action, subject=f"conference/{alert_id}",
            after=after,
        )  # fmt: skip


def _view(leg: Leg) -> dict[str, Any]:
    return {
        "role": leg.role,
        "attempt_id": leg.label.removeprefix(f"{leg.role}-"),
        "call_id": leg.call_id,
        "status": leg.status,
        "muted": leg.muted,
        "on_hold": leg.on_hold,
    }
