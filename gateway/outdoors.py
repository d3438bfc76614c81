"""The installer's and the family's pages, put together: what the composition root plugs in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from alerts import link_answers
from alerts.attempts import role_of
from alerts.policy import Policy
from gateway.api.services import Services
from gateway.clock import Clock
from gateway.config_console import ConsoleSection
from gateway.console.family_link import FamilyLinks
from gateway.console.installer import build_outdoors
from gateway.console.installer_frame import Outdoors
from gateway.console.outline import read_outline
from gateway.ports import Store
from gateway.provisioning.recent import RecentFrames


def links_for(family: FamilyLinks, alert_url: Callable[[str], str]) -> Callable[[str, str], str]:
    """The page of an alert for one contact: the family's own, signed, when the site has a public address.

    Staff, call centers and sites without one get ``alert_url`` (``[notify] alert_url``).
    """

    def link(alert_id: str, contact_id: str) -> str:
        if family.ready and role_of(contact_id) == "contact":
            return family.make(alert_id, contact_id)
        return alert_url(alert_id)

    return link


def pages(
    services: Services,
    settings: ConsoleSection,
    family: FamilyLinks,
    recent: RecentFrames,
    policy: Policy,
    *,
    store: Store,
    clock: Clock,
    wake: Callable[[], None],
) -> Callable[..., Awaitable[None]]:
    """The ASGI application. Raises ConfigError for an outline that cannot be read."""

    async def answer(alert_id: str, contact_id: str, going: bool) -> str:
        now_us = clock.now_us()

        def take(connection: Any) -> str:
            return link_answers.answer(connection, alert_id, contact_id, going=going, now_us=now_us, policy=policy)

        came = await store.write(take)
        wake()
        return came

    return build_outdoors(
        Outdoors(
            services=services,
            family=family,
            answer=answer,
            recent=recent,
            public_url=settings.public_url,
            hotline=settings.hotline,
            outline=read_outline(settings.outline_file),
        )
    )
