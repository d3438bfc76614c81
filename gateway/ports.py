"""The seams. Siblings know each other only by these; ``app`` plugs them together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeVar

import apsw

from gateway.model import Actor, Committed, DeviceBinding, Effect, Frame, Position, Reading, Report, Verdict

T = TypeVar("T")


class VerdictFuture(asyncio.Future[Verdict]):
    """A future that tells some before the turn of the loop in which it is set ends: a full loop's turn is milliseconds.

    ``promptly`` is for what is short and raises nothing; ordinary callbacks come with the next turn, as always.
    """

    _prompt: Callable[[asyncio.Future[Verdict]], None] | None = None

    def promptly(self, told: Callable[[asyncio.Future[Verdict]], None]) -> None:
        """Call this with the future as soon as it is set; at most one is told so, further ones a turn later."""
        if self._prompt is None and not self.done():
            self._prompt = told
        else:
            self.add_done_callback(told)

    def set_result(self, result: Verdict) -> None:
        super().set_result(result)
        if self._prompt is not None:
            self._prompt(self)


class Ingest(Protocol):
    """The only road in."""

    def offer(self, frames: Sequence[Frame]) -> asyncio.Future[Verdict]:
        """Take frames and return the future of the commit that will hold them. Never blocks.

        The future is shared by everything in that commit: add a callback or keep it, but do not await it from a task
        that may be cancelled (that would cancel it for all; ``deliver`` is for that). It never carries an exception.
        """
        ...

    async def deliver(self, frames: Sequence[Frame]) -> Verdict:
        """Take frames and return their verdict once it is known. Safe to cancel; the frames then may still be kept."""
        ...


class Transport(Protocol):
    """A way in. Ends only by TransportError or cancellation."""

    async def run(self) -> None: ...


class Engine(Protocol):
    """What judges committed records (rules.engine.RulesEngine)."""

    def observe(self, committed: Committed) -> list[Effect]: ...
    def tick(self, now_us: int) -> list[Effect]: ...
    def next_wake_us(self) -> int | None: ...
    def dirty(self) -> Iterable[tuple[str, str, bytes | None]]: ...
    def restore(self, rows: Iterable[tuple[str, str, bytes]]) -> None: ...


class Framer(Protocol):
    """Cuts a byte stream into frames. Raises FramingError before it would buffer more than its bound."""

    def feed(self, data: bytes) -> Sequence[bytes]: ...


class Codec(Protocol):
    """What frames literally say. Pure and total: any bytes give reports or a ParseError, and nothing else."""

    name: str

    def parse(self, frame: Frame) -> Sequence[Report]: ...


class TerminalCodec(Codec, Protocol):
    """A codec of terminals that keep up a conversation over TCP or UDP.

    ``parse`` stays pure: what a connection has taught so far stands in ``Frame.device_key`` and ``Frame.context``; a
    report that carries the terminal's identity puts it into ``Report.device_key``, what else the frames behind it need
    into ``Report.context``, and the connection remembers both. ``Report.reply`` is what the terminal waits for; the
    connection writes it after the commit. ``default_port`` is the well-known one; ``text`` frames are readable lines;
    ``datagrams``: the protocol is also spoken over UDP.
    """

    default_port: int
    text: bool
    datagrams: bool

    def framer(self) -> Framer:
        """A framer for one new connection (or one datagram): bounded, and in step again behind rubbish."""
        ...


class Downlink(Protocol):
    """The way back to a device that is connected now."""

    async def send(self, device_id: str, payload: bytes) -> bool:
        """Write the bytes on the device's live connection. False: it has none, or it reads nothing.

        True says that the bytes were handed to the operating system, not that the device has them.
        """
        ...


class Resolver(Protocol):
    """Makes a place of the mobile cells and access points that a device sees (``Reading.unknown["network"]``)."""

    async def locate(self, network: Sequence[Mapping[str, Any]]) -> Position | None:
        """Where that is, or None. ``observed_at_us`` of the position is 0. Never raises for what a peer does."""
        ...


class Profiles(Protocol):
    """What reports mean."""

    def explain(self, profile: str, report: Report, received_at_us: int) -> Reading:
        """The observations of a report by the named profile. Raises ProfileError.

        May complete the report in place (``faults``, ``dedup_key``, ``at_us``, ``stored``): read those afterwards.
        """
        ...


class Directory(Protocol):
    """What ingest asks of the registry. In memory, synchronous."""

    def device(self, device_id: str) -> DeviceBinding | None: ...

    def device_by_key(self, key: str) -> DeviceBinding | None:
        """The device that has this serial number, IMEI or other maker's identity."""
        ...


class Credentials(Protocol):
    """Who may connect. Both look the registry up anew before they say no."""

    async def authenticate(self, device_id: str, token: bytes) -> DeviceBinding | None:
        """The active device whose current token this is (compared in constant time), else None."""
        ...

    async def by_certificate(self, common_name: str) -> DeviceBinding | None:
        """The active device of a client certificate that TLS has already verified, else None."""
        ...


class Store(Protocol):
    """The SQLite file, for everything that is not the hot path."""

    async def write(self, fn: Callable[[apsw.Connection], T]) -> T:
        """Run fn in a transaction on the writer thread; return its result once that is durable.

        An exception of fn rolls back what fn did and is raised here. Raises StorageError when nothing was committed.
        fn must be quick (milliseconds) and must not commit, roll back or keep the connection.
        """
        ...

    async def read(self, fn: Callable[[apsw.Connection], T]) -> T:
        """Run fn on a read-only connection in another thread, in one snapshot."""
        ...


class NearStore(Store, Protocol):
    """A store of the same process, with a way to it that needs no thread."""

    async def glance(self, fn: Callable[[apsw.Connection], T]) -> T:
        """As ``read``, for a few rows by their keys: at once on the loop, where that is not held up for it.

        A row of the file's cache takes some microseconds; the way through a thread beside a busy loop takes a
        thousand times as long.
        """
        ...


class CommittedListener(Protocol):
    """Called on the loop, in order, for every commit of records."""

    def __call__(self, committed: Committed) -> None: ...


class EventFeed(Protocol):
    """Normalized events (contracts, section 4) in journal order."""

    async def after(self, seq: int, limit: int) -> list[dict[str, Any]]:
        """CloudEvents of the records and transitions behind ``seq``, at most about ``limit``, whole numbers only.

        Each event's id is ``<seq>-<n>``; n counts the events of one number from 0.
        """
        ...

    async def transitions(self, seq: int, limit: int) -> list[dict[str, Any]]:
        """As ``after``, of alerts, orders and devices alone: it costs nothing for each observation."""
        ...

    async def wait(self, seq: int) -> None:
        """Return when something behind ``seq`` is committed."""
        ...

    def last_seq(self) -> int: ...


class AlertDesk(Protocol):
    """Alerts and the outbox, for whoever acts on them. Views are JSON-ready dicts as the contract shows them."""

    async def alerts(
        self, *, open_only: bool = False, person_id: str = "", kind: str = "", limit: int = 100, before_id: str = ""
    ) -> list[dict[str, Any]]: ...

    async def alert(self, alert_id: str) -> dict[str, Any]:
        """One alert with its occurrences, transitions and order. Raises NotFoundError."""
        ...

    async def act(
        self,
        alert_id: str,
        action: str,
        *,
        actor: Actor,
        version: int | None,
        outcome: str = "",
        note: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One of alerts.states.DESK_ACTIONS (``accept``, ``resolve``, ...); returns the alert as it is now.

        Raises NotFoundError, UsageError (unknown action, outcome, ...) and ConflictError, whose text names the owner,
        when ``version`` is not the alert's or its state does not allow the action.
        """
        ...

    async def order_status(self, order_id: str, status: Mapping[str, Any], *, actor: Actor) -> dict[str, Any]:
        """The platform's callback (contracts, section 5). Raises NotFoundError, UsageError, ConflictError."""
        ...

    async def suppressions(self) -> list[dict[str, Any]]:
        """Test modes and maintenance in force: ``id, kind, subject, until, actor, reason``."""
        ...

    async def suppress(
        self, kind: Literal["test", "maintenance"], subject: str, until_us: int, *, actor: Actor, reason: str
    ) -> dict[str, Any]:
        """Begin one, of ``device/<id>``, ``person/<id>`` or ``site/<site>``. Raises UsageError."""
        ...

    async def end_suppression(self, number: int, *, actor: Actor) -> None:
        """End one before its time. Raises NotFoundError."""
        ...

    async def outbox(self, *, state: str = "", limit: int = 100) -> list[dict[str, Any]]: ...

    async def outbox_act(self, dispatch_id: int, action: str, *, actor: Actor, reason: str) -> dict[str, Any]:
        """``retry`` or ``discard`` a dead dispatch. Raises NotFoundError, ConflictError."""
        ...


class HistoryQueries(Protocol):
    """Questions to the time series. Each raises StorageError when the database is away."""

    async def latest(self, person_id: str) -> dict[str, Any]:
        """The newest value of each metric, signal and position of a person, each with its times and device."""
        ...

    async def series(
        self, person_id: str, metric: str, from_us: int, to_us: int, bucket_s: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Raw points (``at``, ``value``, ``device_id``) or buckets (``at``, ``count``, ``min``, ``max``, ``mean``)."""
        ...

    async def positions(self, person_id: str, from_us: int, to_us: int, limit: int) -> dict[str, Any]:
        """A GeoJSON FeatureCollection of points (RFC 7946: longitude first), oldest first."""
        ...


class HealthPart(Protocol):
    """Something that /readyz lists."""

    @property
    def name(self) -> str: ...

    def state(self) -> tuple[bool, str]:
        """Whether it works, and a word or sentence on it. ``required`` parts that do not work make /readyz fail."""
        ...
