"""What the outbox and its channels say to each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import apsw
from msgspec import Struct, field

from gateway.errors import DeliveryDeferredError, DeliveryError, DeliveryUnknownError


class Dispatch(Struct, frozen=True, kw_only=True):
    """One thing that has to reach one destination.

    ``payload`` holds references, no personal data. ``attempt`` counts from 1. ``uncertain``: an earlier attempt may
    have had its effect, so ask the destination before sending again. ``idempotency_key`` stays over all attempts.
    ``prepared`` is what the channel's ``prepare`` gave, None when it has none or failed.
    """

    id: int
    lane: str
    destination: str
    order_key: str
    priority: int
    idempotency_key: str
    alert_id: str
    payload: Mapping[str, Any]
    attempt: int
    uncertain: bool
    created_at_us: int
    expires_at_us: int | None
    prepared: Any = None


class Receipt(Struct, frozen=True):
    """The destination has it: its own id for it, and what else it said."""

    reference: str
    detail: Mapping[str, Any] = field(default_factory=dict)


class Channel(Protocol):
    """A way out."""

    def ready(self) -> bool:
        """False while the channel is not configured: its dispatches then wait, and that is no error."""
        ...

    async def send(self, dispatch: Dispatch) -> Receipt:
        """Deliver. Ends within a bounded time. Raises DeliveryDeferredError, ...UnknownError or ...RefusedError."""
        ...

    async def close(self) -> None: ...


@runtime_checkable
class Preparing(Protocol):
    """A channel that reads what it needs in the transaction that takes its dispatches: the way to a read of its own
    is long beside a busy loop.
    """

    def prepare(self, connection: apsw.Connection, dispatch: Dispatch) -> Any:
        """What ``send`` will need, or None; quick. Its failure is no failure of the transaction."""
        ...

    def start(self, dispatch: Dispatch) -> None:
        """On the loop, when the transaction is on disk: what can leave at once may. ``send`` follows. Never raises."""
        ...


class DeliveryHandler(Protocol):
    """What a delivery means to its alert. Both run inside the transaction that finishes the dispatch."""

    def delivered(self, connection: apsw.Connection, dispatch: Dispatch, receipt: Receipt, now_us: int) -> None: ...

    def died(self, connection: apsw.Connection, dispatch: Dispatch, reason: str, now_us: int) -> None: ...


class Technician(Protocol):
    """Told, in a transaction, when a destination fails altogether (``reason``), and when it works again ("")."""

    def __call__(self, connection: apsw.Connection, destination: str, reason: str, now_us: int) -> None: ...


class NotNeededError(DeliveryError):
    """What was to be told no longer needs to be. Handler: the outbox, which supersedes the dispatch."""


class InFlightError(DeliveryDeferredError):
    """The destination still works on an earlier attempt. Handler: the outbox, which waits and blames nobody."""


class ServerFailedError(DeliveryUnknownError):
    """The destination answered that it failed, perhaps half-way. Handler: the outbox, as an unknown outcome."""

    def __init__(self, reason: str, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
