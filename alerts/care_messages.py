"""Care at run time: the clockwork of schedules, the way out for each medium, and signs of life from devices."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

import apsw
import structlog
from msgspec import Struct

from alerts import attempts, care, care_rows, care_words, outbox_rows
from alerts.breaker import Breaker
from alerts.care import LANE, Site
from alerts.care_rows import SIGN_RULE
from alerts.channel import Channel, DeliveryHandler, Dispatch, InFlightError, NotNeededError, Receipt
from alerts.notice import Medium, Notice, Provider, Told, caller_of
from alerts.people import NoticeSource, contact_of, hash_of
from alerts.policy import Policy
from alerts.policy_schema import Quota
from gateway.clock import Clock
from gateway.errors import (
    DeliveryDeferredError,
    DeliveryError,
    DeliveryRefusedError,
    DeliveryUnknownError,
    StorageBrokenError,
    StorageError,
)
from gateway.model import Clear, Committed, Effect
from gateway.ports import Engine, Store

MEDIA: Final[tuple[Medium, ...]] = ("sms", "voice")
KEPT_FOR_ALARMS: Final = frozenset({"modem"})
"""Providers that care does not use: they carry one thing at a time, and are the way out when the Internet is down."""
QUOTAS: Final = (Quota(medium="voice", per_hour=2, per_day=5), Quota(medium="sms", per_hour=3, per_day=6))
"""What care allows itself for one number at one provider, alarms to it counted: it leaves most of it to them."""
POLL_S: Final = 1.0
PROVIDER_LIMIT_S: Final = 20.0
BEHIND_ALARMS_S: Final = 5.0
SIGNS: Final = ("im_ok", "check_in")
SIGN_KIND: Final = "no_answer"
_log = structlog.get_logger(__name__)


class Care(Struct, frozen=True, kw_only=True):
    """What the roof plugs in: ``service.run()`` beside the others, ``channels`` and ``handlers`` into the outbox."""

    service: CareService
    channels: Mapping[str, Channel]
    handlers: Mapping[str, DeliveryHandler]


def build_care(
    *,
    policy: Policy,
    providers: Sequence[Provider],
    source: NoticeSource,
    store: Store,
    clock: Clock,
    rng: random.Random,
    timezone: str = "Asia/Shanghai",
) -> Care:
    """``providers`` in the order in which they are tried; those of KEPT_FOR_ALARMS are left out."""
    free = [provider for provider in providers if provider.name not in KEPT_FOR_ALARMS]
    by_medium = {medium: [each for each in free if medium in each.media] for medium in MEDIA}

    def site() -> Site:
        ready = frozenset(medium for medium in MEDIA if any(each.ready() for each in by_medium[medium]))
        return Site(policy, source, ready, timezone)

    channels: dict[str, Channel] = {
        f"{LANE}_{medium}": CareChannel(medium, by_medium[medium], store=store, source=source, clock=clock, rng=rng)
        for medium in MEDIA
    }
    return Care(service=CareService(store, clock, site), channels=channels, handlers={LANE: CareHandler(policy)})


class SiteNow(Protocol):
    """The site as it is now."""

    def __call__(self) -> Site: ...


class CareService:
    """Looks every second for what is due. Outages of the disk are waited for."""

    def __init__(self, store: Store, clock: Clock, site: SiteNow) -> None:
        self._store = store
        self._clock = clock
        self._site = site

    async def run(self) -> None:
        """Until cancelled. Raises StorageBrokenError. The outbox finds by its own poll what was put into it."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                await self.tick()
            except StorageBrokenError:
                raise
            except StorageError as error:
                _log.error("care_not_written", error=str(error))

    async def tick(self) -> None:
        """Begin and end what is due now. Raises StorageError."""
        now_us = self._clock.now_us()
        if await self._store.read(lambda c: care_rows.is_due(c, now_us)):
            site = self._site()
            while await self._store.write(lambda c: care.tick(c, site, now_us)) and await self._store.read(
                lambda c: care_rows.is_due(c, now_us)
            ):
                pass


# ---- the way out -----------------------------------------------------------------------------------------------------


class _Prepared(Struct, frozen=True):
    notice: Notice
    person_id: str
    begun: list[str]


class CareChannel:
    """A Channel for one medium, with workers of its own; it waits while alarms of its medium are to be sent."""

    def __init__(
        self,
        medium: Medium,
        providers: Sequence[Provider],
        *,
        store: Store,
        source: NoticeSource,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self._medium = medium
        self._providers = providers
        self._store = store
        self._source = source
        self._clock = clock
        self._breakers = {provider.name: Breaker(rng) for provider in providers}

    def ready(self) -> bool:
        return any(provider.ready() for provider in self._providers)

    async def close(self) -> None:
        """The providers belong to whoever made them."""

    async def send(self, dispatch: Dispatch) -> Receipt:
        if dispatch.expires_at_us is not None and dispatch.expires_at_us <= self._clock.now_us():
            raise DeliveryRefusedError("too late")
        prepared = await self._store.read(lambda c: self._prepare(c, dispatch))
        if dispatch.uncertain and prepared.begun:
            found = await self._look_for(prepared)
            if found is not None:
                return Receipt(found.provider_id, {"provider": found.provider})
        reasons: list[str] = []
        deferred = False
        for provider in self._providers:
            if not provider.ready() or self._breakers[provider.name].allowance(self._clock.monotonic_s(), 1, 0) == 0:
                deferred = True
                continue
            try:
                return await self._try(dispatch, prepared, provider)
            except DeliveryDeferredError as error:
                deferred = True
                reasons.append(f"{provider.name}: {error}")
            except DeliveryRefusedError as error:
                reasons.append(f"{provider.name}: {error}")
        text = "; ".join(reasons) or "no provider is ready"
        raise DeliveryDeferredError(text) if deferred else DeliveryRefusedError(text)

    async def _try(self, dispatch: Dispatch, prepared: _Prepared, provider: Provider) -> Receipt:
        """Ask one provider. Raises DeliveryError."""
        now_us = self._clock.now_us()
        address_hash = hash_of(prepared.notice.to)
        parties = attempts.Parties(
            caller=caller_of(provider, self._medium), callee=prepared.notice.to, person_id=prepared.person_id,
            role="contact" if "person:" not in str(dispatch.payload["contact_id"]) else "person",
        )  # fmt: skip

        def begin(connection: apsw.Connection) -> int:
            wait_us = attempts.wait_us(
                connection, address_hash, self._medium, provider.name, QUOTAS, now_us, with_care=True
            )
            if not wait_us:
                attempts.begin(connection, dispatch, provider.name, address_hash, now_us, parties)
            return wait_us

        if await self._store.write(begin):
            raise DeliveryRefusedError("the quota of this number is kept for alarms")
        breaker = self._breakers[provider.name]
        try:
            async with asyncio.timeout(PROVIDER_LIMIT_S):
                receipt = await provider.send(prepared.notice)
        except DeliveryRefusedError as error:
            await self._failed(dispatch, provider.name, "refused", error)
            raise
        except DeliveryDeferredError as error:
            breaker.failed(self._clock.monotonic_s())
            await self._failed(dispatch, provider.name, "deferred", error)
            raise
        except (DeliveryUnknownError, TimeoutError) as error:
            breaker.failed(self._clock.monotonic_s())
            await self._failed(dispatch, provider.name, "unknown", error)
            raise DeliveryUnknownError(f"{provider.name}: {error or 'no answer in time'}") from error
        breaker.succeeded()
        return Receipt(receipt.reference, {"provider": provider.name})

    async def _failed(self, dispatch: Dispatch, provider: str, state: str, error: Exception) -> None:
        now_us = self._clock.now_us()
        reason = str(error) if isinstance(error, DeliveryError) else type(error).__name__
        await self._store.write(lambda c: attempts.failed(c, dispatch.idempotency_key, provider, state, reason, now_us))

    async def _look_for(self, prepared: _Prepared) -> Told | None:
        """An earlier attempt may have had its effect."""
        for provider in self._providers:
            if provider.name in prepared.begun and provider.ready():
                try:
                    async with asyncio.timeout(PROVIDER_LIMIT_S):
                        found = await provider.find(prepared.notice)
                except (DeliveryError, TimeoutError):
                    continue
                if found is not None:
                    return found
        return None

    def _prepare(self, connection: apsw.Connection, dispatch: Dispatch) -> _Prepared:
        """Raises NotNeededError, InFlightError (alarms go first) and DeliveryRefusedError."""
        if outbox_rows.is_any_due(connection, f"notify_{self._medium}", self._clock.now_us()):
            raise InFlightError("alarms go first", BEHIND_ALARMS_S)
        occasion = care_rows.find_occasion(connection, int(dispatch.payload["occasion_id"]))
        if occasion is None or occasion.state != "asking":
            raise NotNeededError("it is no longer needed")
        schedule = care_rows.get(connection, occasion.schedule_id)
        if care_rows.has_opted_out(connection, schedule.person_id, schedule.contact_id, schedule.medium):
            raise NotNeededError("opted out")
        if care.has_alarm(connection, schedule.person_id):
            raise NotNeededError("an alarm is open")
        person = self._source.person(connection, schedule.person_id) or {}
        to, language, name = self._addressee(connection, schedule, person)
        if not to:
            raise DeliveryRefusedError("there is no number to reach them")
        said = care_words.words(
            schedule.kind, schedule.words, language="en" if language == "en" else "zh", name=name, medium=self._medium
        )
        begun = attempts.begun_with(connection, dispatch.idempotency_key)
        notice = Notice(
            attempt_id=dispatch.idempotency_key,
            alert_id="",
            medium=self._medium,
            to=to,
            language="en" if language == "en" else "zh",
            text=said.text,
            subject=said.subject,
            speech=said.speech,
            template=f"care_{schedule.kind}",
            params=said.params,
            priority=outbox_rows.CARE_PRIORITY,
            wants_answer=self._medium == "voice" and schedule.kind == "check",
            question="well",
            since_us=dispatch.created_at_us,
        )
        return _Prepared(notice, schedule.person_id, [str(each[0]) for each in begun])

    def _addressee(
        self, connection: apsw.Connection, schedule: care_rows.Schedule, person: Mapping[str, Any]
    ) -> tuple[str, str, str]:
        """Number, language and address form."""
        if not schedule.contact_id:
            return str(person.get("phone") or ""), str(person.get("language") or "zh"), str(person.get("name") or "")
        for view in self._source.contacts(connection, schedule.person_id):
            contact = contact_of(view)
            if contact.contact_id == schedule.contact_id:
                wrong = attempts.is_wrong(connection, contact.contact_id, hash_of(contact.phone))
                return ("" if wrong else contact.phone), contact.language, contact.name
        return "", "zh", ""


class CareHandler:
    """A DeliveryHandler for the lane of care."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def delivered(self, connection: apsw.Connection, dispatch: Dispatch, receipt: Receipt, now_us: int) -> None:
        provider = str(receipt.detail["provider"])
        attempts.sent(connection, dispatch.idempotency_key, provider, receipt.reference, now_us)
        care.said(connection, int(dispatch.payload["occasion_id"]), dispatch.idempotency_key, provider, now_us)

    def died(self, connection: apsw.Connection, dispatch: Dispatch, reason: str, now_us: int) -> None:
        care.not_said(connection, int(dispatch.payload["occasion_id"]), reason, now_us)


# ---- signs of life ---------------------------------------------------------------------------------------------------


class SignsOfLife:
    """The rules engine with one thing more: an "I'm OK" of a verified device is an effect, so that a replay of the
    journal answers the same checks. Its rule is SIGN_RULE.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.tick = engine.tick
        self.next_wake_us = engine.next_wake_us
        self.dirty = engine.dirty
        self.restore = engine.restore

    def observe(self, committed: Committed) -> list[Effect]:
        effects = self._engine.observe(committed)
        for place, record in enumerate(committed.records):
            reading = record.reading
            if reading is None or not reading.signals or not record.person_id or not record.verified or reading.stored:
                continue
            if any(reading.signals.get(sign) for sign in SIGNS):
                seq = committed.first_seq + place
                effects.append(
                    Clear(
                        effect_id=f"r{seq}:{SIGN_RULE}", kind=SIGN_KIND, person_id=record.person_id,
                        device_id=record.device_id, seq=seq, at_us=record.received_at_us, rule_id=SIGN_RULE,
                    )
                )  # fmt: skip
        return effects
