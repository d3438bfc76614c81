"""What the API needs of the rest of the daemon; the composition root fills it in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gateway.access.tokens import Claims
from gateway.clock import Clock
from gateway.health import Health
from gateway.metrics import Metrics
from gateway.model import Actor
from gateway.ports import AlertDesk, Credentials, EventFeed, HistoryQueries, NearStore
from gateway.registry.keys import ApiKey


class ProfileCatalog(Protocol):
    """The device profiles that are loaded. Views are JSON-ready dicts with at least ``name``."""

    def list(self) -> list[dict[str, Any]]: ...

    def show(self, name: str) -> dict[str, Any] | None: ...


class KeyRing(Protocol):
    """Who holds an API key (gateway.registry.directory.Registry)."""

    async def api_key(self, presented: str) -> ApiKey | None:
        """The key in force that was presented, else None."""
        ...


Answered = tuple[int, str, bytes]
"""Status, content type and body of an answer."""


class Callbacks(Protocol):
    """What carriers call back. ``path`` and ``query`` as they came. Raises NotFoundError, StorageError."""

    async def take_twilio(self, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answered: ...

    async def take_aliyun(self, path: str, body: bytes) -> Answered: ...


class Commands(Protocol):
    """Commands to devices (gateway.commands.desk.CommandDesk)."""

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
    ) -> dict[str, Any]: ...

    async def commands(
        self, *, device_id: str = "", state: str = "", open_only: bool = False, before: int = 0, limit: int = 100
    ) -> list[dict[str, Any]]: ...

    async def command(self, command_id: str) -> dict[str, Any]: ...

    async def cancel(self, command_id: str, *, actor: Actor, reason: str = "") -> dict[str, Any]: ...


class OrderCases(Protocol):
    """Cases of orders (alerts.order_desk.OrderDesk). Views are JSON-ready dicts. Raise as ports.AlertDesk does."""

    async def cases(
        self,
        *,
        open_only: bool = False,
        overdue: bool = False,
        supervised: bool = False,
        category: str = "",
        person_id: str = "",
        limit: int = 100,
    ) -> list[dict[str, Any]]: ...

    async def case(self, reference: str) -> dict[str, Any]: ...

    async def request(
        self, intent: str, *, person_id: str, device_id: str, text: str, actor: Actor
    ) -> dict[str, Any]: ...

    async def check_in(self, told: Mapping[str, Any], *, device_id: str, actor: Actor) -> dict[str, Any]: ...

    async def act(
        self,
        reference: str,
        action: str,
        *,
        actor: Actor,
        note: str,
        version: int | None = None,
        satisfied: bool | None = None,
    ) -> dict[str, Any]: ...


class Care(Protocol):
    """Caring messages and checks (alerts.care_desk.CareDesk). Views are JSON-ready dicts. Raise as ports.AlertDesk."""

    async def schedules(self, *, person_id: str = "", limit: int = 100) -> list[dict[str, Any]]: ...

    async def schedule(self, schedule_id: str) -> dict[str, Any]: ...

    async def add(
        self, person_id: str, members: Mapping[str, Any], timezone: str, *, actor: Actor
    ) -> dict[str, Any]: ...

    async def change(
        self, schedule_id: str, changes: Mapping[str, Any], timezone: str, *, actor: Actor
    ) -> dict[str, Any]: ...

    async def stop(self, schedule_id: str, *, actor: Actor) -> None: ...

    async def opt_outs(self, *, person_id: str = "", limit: int = 100) -> list[dict[str, Any]]: ...

    async def opt_out(self, person_id: str, contact_id: str, medium: str, *, actor: Actor) -> list[dict[str, Any]]: ...

    async def opt_in(self, person_id: str, contact_id: str, *, actor: Actor) -> None: ...

    async def occasions(self, *, person_id: str = "", limit: int = 100) -> list[dict[str, Any]]: ...

    async def answer(self, person_id: str, answer: str, *, actor: Actor) -> list[dict[str, Any]]: ...


class LiveStates(Protocol):
    """The live state of devices and persons (gateway.live_states.LiveStates). Views are JSON-ready dicts."""

    def device(self, device_id: str) -> dict[str, Any]: ...

    def person(self, person_id: str) -> dict[str, Any]: ...

    def brief(self, device_id: str) -> dict[str, Any]: ...


class Conferences(Protocol):
    """Conferences of alerts (alerts.conference_desk.Conferences). Raise also DeliveryError, of the provider."""

    async def legs(self, alert_id: str) -> list[dict[str, Any]]: ...

    async def add(
        self, alert_id: str, role: Any, *, actor: Actor, to: str = "", contact_id: str = "", muted: bool = False
    ) -> dict[str, Any]: ...

    async def gather(self, alert_id: str, parties: Any, *, actor: Actor) -> dict[str, Any]: ...

    async def change(self, alert_id: str, role: Any, change: Any, *, actor: Actor) -> list[dict[str, Any]]: ...

    async def drop(self, alert_id: str, role: Any, *, actor: Actor, attempt_id: str = "") -> list[dict[str, Any]]: ...

    async def end(self, alert_id: str, *, actor: Actor) -> bool: ...


class Tokens(Protocol):
    """Tokens of an identity provider (gateway.access.tokens.TokenVerifier)."""

    async def verify(self, token: str) -> Claims | None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Shared:
    """What pages and streams need, in whatever process they are served. ``closing`` is set when the listener drains:
    event streams then end.
    """

    store: NearStore
    keys: KeyRing
    desk: AlertDesk
    history: HistoryQueries
    feed: EventFeed
    clock: Clock
    orders: OrderCases | None = None
    conferences: Conferences | None = None
    limits: Callable[[str], Awaitable[list[dict[str, Any]]]] | None = None
    """The limits of a person's readings now (rules.engine.RulesEngine.limits); None: nobody judges."""
    tokens: Tokens | None = None
    """Who checks bearer tokens of an identity provider; None: only API keys are taken."""
    closing: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Services(Shared):
    """The ports behind the API.

    ``ingest`` is the ASGI callable of POST /ingest/v1/. ``versions`` are those of carebell and of what it is built on.
    """

    health: Health
    metrics: Metrics
    profiles: ProfileCatalog
    commands: Commands
    ingest: Callable[..., Awaitable[None]]
    callbacks: Callbacks | None = None
    push: Any = None
    """The receiver of the operators' pushes, an ASGI callable; None: there is none."""
    cti: Any = None
    """The receiver of calls that a telephone system tells of, an ASGI callable; None: there is none."""
    care: Care | None = None
    live: LiveStates | None = None
    outdoors: Callable[..., Awaitable[None]] | None = None
    """The ASGI application of the installer's and the family's pages, /installer and /f/; None: there are none."""
    credentials: Credentials | None = None
    emqx_secret: str = ""
    """What an EMQX sends along when it asks who may connect; "" answers nobody."""
    console: Callable[..., Awaitable[None]] | None = None
    """The ASGI application of the paths under /console; None: there are no pages."""
    elsewhere: Callable[[str, str], bool] | None = None
    """Whether another process serves this method and path (gateway.faces); None: everything is served here."""
    versions: Mapping[str, str] = field(default_factory=dict)
