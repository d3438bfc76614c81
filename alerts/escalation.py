"""Puts the third axis together for the roof: policies, ladders, the lane of notices, and what providers tell back."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import apsw
import msgspec
from msgspec import Struct

from alerts import answers, ladders
from alerts.channel import Channel, DeliveryHandler
from alerts.compose import Composer, compose
from alerts.notice import Medium, Provider, Told
from alerts.notify import FAILOVER_S, NotifyChannel, NotifyHandler
from alerts.people import MEDIA, NoticeSource, Reach
from alerts.policy import Policy
from alerts.policy_files import PolicyBook
from gateway.clock import Clock
from gateway.ports import Store

LANE: Final = ladders.LANE


class Escalation(Struct, frozen=True, kw_only=True):
    """What the roof plugs in.

    ``policy`` is for AlertService, Desk, OrderHandler and DestinationWatch. ``channels`` and ``handlers`` are for the
    Outbox, beside those of orders. ``providers`` are to be closed by the roof when the outbox has ended.
    """

    policy: Policy
    channels: Mapping[str, Channel]
    handlers: Mapping[str, DeliveryHandler]
    providers: tuple[Provider, ...]

    def take_told(self, connection: apsw.Connection, told: Told, now_us: int) -> str:
        """What a callback tells, in a transaction; wake the outbox afterwards. See answers.take_told."""
        return answers.take_told(connection, told, now_us, self.policy)

    def findings(self) -> list[str]:
        """What ``carebell check`` and the start of the daemon say of the ways to reach people."""
        assert self.policy.reach is not None
        return findings(self.policy.reach.book, self.policy.reach.media())


def build(
    *,
    policy: Policy,
    book: PolicyBook,
    providers: Sequence[Provider],
    source: NoticeSource,
    store: Store,
    clock: Clock,
    rng: random.Random,
    order: Mapping[Medium, Sequence[str]] | None = None,
    link: Callable[[str, str], str] | None = None,
    composer: Composer = compose,
    failover_s: float = FAILOVER_S,
) -> Escalation:
    """``policy`` without reach; ``providers`` in the order in which they are tried, unless ``order`` says otherwise.

    A medium without a provider that is ready is not used: nothing is put into the outbox for it.
    """
    by_medium = {medium: _in_order(medium, providers, (order or {}).get(medium, ())) for medium in MEDIA}
    reach = Reach(
        book=book,
        source=source,
        providers=lambda medium: tuple(each.name for each in by_medium[medium] if each.ready()),
    )
    full = msgspec.structs.replace(policy, reach=reach)
    channels: dict[str, Channel] = {
        f"{LANE}_{medium}": NotifyChannel(
            medium, by_medium[medium], store=store, source=source, clock=clock, rng=rng, link=link, composer=composer,
            failover_s=failover_s,
        )
        for medium in MEDIA
    }  # fmt: skip

    def take_told(connection: apsw.Connection, told: Told, now_us: int) -> str:
        return answers.take_told(connection, told, now_us, full)

    return Escalation(
        policy=full,
        channels=channels,
        handlers={LANE: NotifyHandler(full, take_told)},
        providers=tuple(providers),
    )


def findings(book: PolicyBook, media: frozenset[Medium]) -> list[str]:
    """What a site should know about whom it can reach, one line each; empty when all is well."""
    found = []
    if not media:
        found.append("nobody can be called: no provider configured; add one under [notify]")
    if not any(who.address(medium) for who in book.staff.values() for medium in MEDIA):
        found.append("no member of staff has an address; add for example [staff.duty] voice to a file in policies.d")
    cities = [center for center in book.centers.values() if center.city]
    if not any(center.address(medium) for center in cities for medium in MEDIA):
        found.append("the city's call center has no address; it hears of alerts in the console alone")
    return found


def _in_order(medium: Medium, providers: Sequence[Provider], names: Sequence[str]) -> list[Provider]:
    """The providers of a medium: those that are named first, then the others as they were given."""
    fitting = [provider for provider in providers if medium in provider.media]
    places = {name: place for place, name in enumerate(names)}
    return sorted(fitting, key=lambda provider: places.get(provider.name, len(places)))
