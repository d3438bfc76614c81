"""The lane of notices: composes a message or call when it is sent, and tries the providers of its medium in order.

Every provider that is asked has its row in ``attempt`` before it is asked, so that neither a quota nor a crash is
forgotten. For an emergency the next provider is tried at once; for anything else an unknown outcome is looked into
first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import apsw
import structlog
from msgspec import Struct, field
from prometheus_client import Counter

from alerts import attempts, ladders, rows
from alerts.breaker import Breaker
from alerts.channel import Dispatch, NotNeededError, Receipt
from alerts.compose import Composer, Language, compose
from alerts.dossier import load, snapshot
from alerts.facts import role_of
from alerts.lifecycle import transition
from alerts.notice import Medium, Notice, Provider, Told, caller_of
from alerts.people import NoticeSource, contact_of, hash_of
from alerts.policy import Policy
from alerts.policy_schema import Snapshot
from alerts.rows import Alert
from alerts.states import Handling, is_emergency
from gateway import crashpoints
from gateway.clock import US_PER_S, Clock
from gateway.errors import (
    DeliveryDeferredError,
    DeliveryError,
    DeliveryRefusedError,
    DeliveryUnknownError,
    StorageError,
)
from gateway.model import Actor
from gateway.ports import Store

FAILOVER_S: Final = 4.0
"""How long one provider may take for an emergency while there is another: the second is asked within 5 s."""
PROVIDER_LIMIT_S: Final = 20.0
OUTBOX: Final = Actor("system", "outbox")

NOTICES: Final = Counter(
    "carebell_notices_total", "Messages and calls handed to providers, by what came of it", ["medium", "result"]
)
_log = structlog.get_logger(__name__)


class Prepared(Struct, frozen=True):
    """What one dispatch comes to, read in one snapshot of the file."""

    notice: Notice
    alert: Alert
    snapshot: Snapshot
    begun: list[tuple[str, str, int]]


class Failures(Struct):
    """What the providers that were tried said."""

    refused: list[str] = field(default_factory=list)
    deferred: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    retry_after_s: float | None = None


class NotifyChannel:
    """A Channel for one medium; its dispatches have the destination ``notify_<medium>``."""

    def __init__(
        self,
        medium: Medium,
        providers: Sequence[Provider],
        *,
        store: Store,
        source: NoticeSource,
        clock: Clock,
        rng: random.Random,
        link: Callable[[str, str], str] | None = None,
        composer: Composer = compose,
        failover_s: float = FAILOVER_S,
    ) -> None:
        """``providers`` in the order in which they are tried. ``link`` makes an alert's page for a contact."""
        self._medium = medium
        self._providers = [provider for provider in providers if medium in provider.media]
        self._store = store
        self._source = source
        self._clock = clock
        self._link = link or _no_link
        self._composer = composer
        self._failover_s = failover_s
        self._breakers = {provider.name: Breaker(rng) for provider in self._providers}

    def ready(self) -> bool:
        return any(provider.ready() for provider in self._providers)

    async def close(self) -> None:
        """The providers belong to whoever made them: several channels share one."""

    async def send(self, dispatch: Dispatch) -> Receipt:
        if dispatch.expires_at_us is not None and dispatch.expires_at_us <= self._clock.now_us():
            raise NotNeededError("too late: the ladder has gone on")
        prepared = await self._store.read(lambda c: self._prepare(c, dispatch))
        if dispatch.uncertain:
            found = await self._look_for(prepared)
            if found is not None:
                return _receipt(found.provider, found.provider_id, found)
        failures = Failures()
        ready = [provider for provider in self._providers if provider.ready()]
        for place, provider in enumerate(ready):
            others = place + 1 < len(ready)
            receipt = await self._try(dispatch, prepared, provider, failures, others=others)
            if receipt is not None:
                return receipt
        raise _conclusion(failures)

    # ---- one provider ------------------------------------------------------------------------------------------------

    async def _try(  # noqa: PLR0911 - one return for each thing that a provider can say
        self, dispatch: Dispatch, prepared: Prepared, provider: Provider, failures: Failures, *, others: bool
    ) -> Receipt | None:
        """Ask one provider. None when the next one is to be asked. Raises DeliveryUnknownError when it must not be."""
        name = provider.name
        breaker = self._breakers[name]
        if breaker.allowance(self._clock.monotonic_s(), 1, 0) == 0:
            failures.deferred.append(f"{name}: left alone after failures")
            return None
        if not await self._begin(dispatch, prepared, provider, failures):
            return None
        urgent = is_emergency(prepared.alert.kind, prepared.alert.severity)
        limit_s = self._failover_s if urgent and others else PROVIDER_LIMIT_S
        try:
            async with asyncio.timeout(limit_s):
                receipt = await provider.send(prepared.notice)
        except DeliveryRefusedError as error:
            breaker.succeeded()
            await self._failed(dispatch, name, "refused", error)
            failures.refused.append(f"{name}: {error}")
            return None
        except DeliveryDeferredError as error:
            if error.retry_after_s is None:
                breaker.failed(self._clock.monotonic_s())
            failures.retry_after_s = _sooner(failures.retry_after_s, error.retry_after_s)
            await self._failed(dispatch, name, "deferred", error)
            failures.deferred.append(f"{name}: {error}")
            return None
        except (DeliveryUnknownError, TimeoutError) as error:
            breaker.failed(self._clock.monotonic_s())
            await self._failed(dispatch, name, "unknown", error)
            failures.unknown.append(f"{name}: {error or 'no answer in time'}")
            if urgent:
                return None  # told twice is better than not at all
            raise DeliveryUnknownError(failures.unknown[-1]) from error
        except Exception as error:  # noqa: BLE001 - a provider's bug must not keep the next one from being asked
            breaker.failed(self._clock.monotonic_s())
            _log.error("provider_failed", provider=name, dispatch_id=dispatch.id, error=type(error).__name__)
            await self._failed(dispatch, name, "unknown", error)
            failures.unknown.append(f"{name}: {type(error).__name__}")
            return None
        breaker.succeeded()
        crashpoints.reached(crashpoints.AFTER_SENDING)
        NOTICES.labels(self._medium, "sent").inc()
        return _receipt(name, receipt.reference, None)

    async def _begin(self, dispatch: Dispatch, prepared: Prepared, asked: Provider, failures: Failures) -> bool:
        """Write the attempt down. False when the quota of this number at this provider is used up."""
        now_us = self._clock.now_us()
        provider = asked.name
        address_hash = hash_of(prepared.notice.to)
        parties = attempts.Parties(
            caller=caller_of(asked, self._medium), callee=prepared.notice.to, person_id=prepared.alert.person_id
        )

        def begin(connection: apsw.Connection) -> int:
            wait_us = attempts.wait_us(
                connection, address_hash, self._medium, provider, prepared.snapshot.quotas, now_us
            )
            again = any(name == provider for name, _, _ in prepared.begun)
            if wait_us and not again:
                return wait_us
            attempts.begin(connection, dispatch, provider, address_hash, now_us, parties)
            return 0

        wait_us = await self._store.write(begin)
        if wait_us:
            NOTICES.labels(self._medium, "quota").inc()
            failures.refused.append(f"{provider}: the quota of this number is used up for {wait_us // US_PER_S} s")
        return wait_us == 0

    async def _failed(self, dispatch: Dispatch, provider: str, state: str, error: Exception) -> None:
        """Write down that a provider failed; the next one is asked even when that cannot be written."""
        NOTICES.labels(self._medium, state).inc()
        now_us = self._clock.now_us()
        reason = str(error) if isinstance(error, DeliveryError) else type(error).__name__
        try:
            await self._store.write(
                lambda c: attempts.failed(c, dispatch.idempotency_key, provider, state, reason, now_us)
            )
        except StorageError as storage_error:
            _log.error("attempt_not_written", dispatch_id=dispatch.id, error=str(storage_error))

    async def _look_for(self, prepared: Prepared) -> Told | None:
        """An earlier attempt may have had its effect: what the providers that were asked know of it."""
        for name, state, _ in prepared.begun:
            provider = next((each for each in self._providers if each.name == name), None)
            if provider is None or not provider.ready() or state in attempts.NOT_MADE:
                continue
            try:
                async with asyncio.timeout(self._failover_s):
                    found = await provider.find(prepared.notice)
            except (DeliveryError, TimeoutError) as error:
                _log.warning("attempt_not_found_out", provider=name, error=type(error).__name__)
                continue
            if found is not None:
                return found
        return None

    # ---- what to say -------------------------------------------------------------------------------------------------

    def _prepare(self, connection: apsw.Connection, dispatch: Dispatch) -> Prepared:
        """Raises NotNeededError when somebody has it, DeliveryRefusedError when there is nobody to tell."""
        dossier = load(connection, dispatch.alert_id)
        alert, payload = dossier.alert, dispatch.payload
        rung, policy = dossier.rungs.get(payload["ladder"]), snapshot(connection, dossier.policy_hash)
        if alert.handling is not Handling.RAISED or rung is None or rung.state != "running" or policy is None:
            raise NotNeededError("somebody has it")
        to, language, recipient = self._addressee(connection, alert, policy, str(payload["contact_id"]))
        if not to:
            raise DeliveryRefusedError("the contact is gone, or cannot be reached this way any more")
        begun = attempts.begun_with(connection, dispatch.idempotency_key)
        person = self._source.person(connection, alert.person_id) if alert.person_id else None
        link = self._link(alert.id, str(payload["contact_id"]))
        device = self._source.device(connection, alert.device_id) if alert.device_id else None
        words = self._composer(
            alert, person, language=language, recipient=recipient, link=link, timezone=policy.timezone,
            medium=self._medium, role=role_of(str(payload["contact_id"]), self._medium), device=device,
        )  # fmt: skip
        notice = Notice(
            attempt_id=dispatch.idempotency_key,
            alert_id=alert.id,
            medium=self._medium,
            to=to,
            language=language,
            text=words.text,
            subject=words.subject,
            speech=words.speech,
            html=words.html,
            template=str(payload["template"]),
            params=words.params,
            priority=int(alert.severity),
            wants_answer=self._medium == "voice",
            link=link,
            since_us=dispatch.created_at_us,
        )
        return Prepared(notice, alert, policy, begun)

    def _addressee(
        self, connection: apsw.Connection, alert: Alert, snapshot: Snapshot, contact_id: str
    ) -> tuple[str, Language, str]:
        """Address, language and address form of who is to be told; the address is "" when there is none."""
        table: Mapping[str, Any] = {"staff:": snapshot.staff, "center:": snapshot.centers}
        for prefix, people in table.items():
            if contact_id.startswith(prefix):
                who = people.get(contact_id.removeprefix(prefix))
                return ("", "zh", "") if who is None else (who.address(self._medium), who.language, who.name)
        for view in self._source.contacts(connection, alert.person_id):
            contact = contact_of(view)
            if contact.contact_id == contact_id:
                address = contact.address(self._medium)
                if address and attempts.is_wrong(connection, contact_id, hash_of(address)):
                    return "", "zh", ""
                return address, "en" if contact.language == "en" else "zh", contact.name
        return "", "zh", ""


def _no_link(alert_id: str, contact_id: str) -> str:
    del alert_id, contact_id
    return ""


def _receipt(provider: str, provider_id: str, told: Told | None) -> Receipt:
    return Receipt(provider_id, {"provider": provider, "told": told})


def _sooner(first: float | None, second: float | None) -> float | None:
    known = [each for each in (first, second) if each is not None]
    return min(known, default=None)


def _conclusion(failures: Failures) -> DeliveryError:
    """What to tell the outbox when no provider took it."""
    if failures.unknown:
        return DeliveryUnknownError("; ".join(failures.unknown))
    if failures.deferred:
        return DeliveryDeferredError("; ".join(failures.deferred), failures.retry_after_s)
    return DeliveryRefusedError("; ".join(failures.refused) or "no provider is ready")


class NotifyHandler:
    """A DeliveryHandler for the lane of notices."""

    def __init__(self, policy: Policy, take_told: Callable[[apsw.Connection, Told, int], object]) -> None:
        """``take_told``: what a provider tells of an attempt that was looked for after a crash."""
        self._policy = policy
        self._take_told = take_told

    def delivered(self, connection: apsw.Connection, dispatch: Dispatch, receipt: Receipt, now_us: int) -> None:
        provider = str(receipt.detail["provider"])
        attempts.sent(connection, dispatch.idempotency_key, provider, receipt.reference, now_us)
        told = receipt.detail.get("told")
        if isinstance(told, Told):
            self._take_told(connection, told, now_us)

    def died(self, connection: apsw.Connection, dispatch: Dispatch, reason: str, now_us: int) -> None:
        """Nobody took it: the next center, or for a call the next step of the ladder, at once."""
        del reason
        alert = rows.get(connection, dispatch.alert_id)
        if alert.handling is not Handling.RAISED:
            return
        payload = dispatch.payload
        if str(payload["contact_id"]).startswith("center:") and self._policy.reach is not None:
            ladders.tell_next_center(connection, alert, payload, self._policy.reach, now_us)
        elif payload["medium"] == "voice" and payload["ladder"] == "family":
            transition(
                connection, alert.id, "next_step", expected_version=None, actor=OUTBOX, now_us=now_us,
                policy=self._policy,
                detail={
                    "dispatch_id": dispatch.id, "contact_id": payload["contact_id"], "medium": payload["medium"],
                    "ladder": payload["ladder"],
                },
            )  # fmt: skip
