"""The dispatcher: brings what lies in the outbox to its destinations, each with its own workers, order and breaker."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Mapping, Sequence
from typing import Any, Final, Self

import apsw
import msgspec
import structlog
from msgspec import Struct
from prometheus_client import Counter, Gauge, Histogram

from alerts import outbox_rows
from alerts.breaker import Breaker, BreakerState
from alerts.channel import (
    Channel,
    DeliveryHandler,
    Dispatch,
    InFlightError,
    NotNeededError,
    Preparing,
    Receipt,
    ServerFailedError,
    Technician,
)
from gateway import crashpoints
from gateway.clock import US_PER_S, Clock
from gateway.errors import (
    DeliveryError,
    DeliveryRefusedError,
    DeliveryUnknownError,
    StorageBrokenError,
    StorageError,
)
from gateway.ports import Store

BASE_S: Final = 1.0
CAP_S: Final = 60.0
LONGEST_RETRY_AFTER_S: Final = 600.0
WORKERS: Final = 24
POLL_S: Final = 1.0
STORE_PAUSE_S: Final = 0.5
SHORTEST_S: Final = 0.005
FLUSH_S: Final = 0.02
"""How long an outcome may wait to be written down together with others; nobody is kept waiting by that."""
SEND_LIMIT_S: Final = 120.0

DISPATCHES: Final = Counter(
    "carebell_dispatches_total", "Attempts to deliver, by what came of them", ["destination", "result"]
)
DELIVERY_SECONDS: Final = Histogram(
    "carebell_delivery_seconds",
    "From the commit of a dispatch to its receipt",
    ["destination"],
    buckets=(0.005, 0.01, 0.02, 0.03, 0.06, 0.1, 0.2, 0.5, 1, 5, 30, 60, 300, 3600),
)
BREAKER_OPEN: Final = Gauge("carebell_breaker_open", "1 while a destination is left alone", ["destination"])
_log = structlog.get_logger(__name__)


class Outcome(Struct, frozen=True, kw_only=True):
    """What came of one attempt. Exactly one of receipt, refusal (``refused``), end of need (``needless``) and failure
    (``reason``) counts.
    """

    dispatch: Dispatch
    receipt: Receipt | None = None
    refused: bool = False
    needless: bool = False
    reason: str = ""
    uncertain: bool = False
    delay_s: float = 0.0


class Outbox:
    """Runs until it is closed or cancelled. What was under way when it ends is asked for at the next start."""

    def __init__(
        self,
        store: Store,
        channels: Mapping[str, Channel],
        clock: Clock,
        *,
        handlers: Mapping[str, DeliveryHandler],
        technician: Technician,
        rng: random.Random,
        workers: int = WORKERS,
        poll_s: float = POLL_S,
    ) -> None:
        """``channels`` by destination, ``handlers`` by lane. ``workers``: attempts at once for each destination."""
        self._store = store
        self._clock = clock
        self._pumps = {
            name: _Pump(name, channel, store, clock, handlers, technician, rng, workers, poll_s)
            for name, channel in channels.items()
        }

    def wake(self) -> None:
        """Something was put into the outbox. Call it on the loop."""
        for pump in self._pumps.values():
            pump.wake()

    def taking(self, most: int) -> Taking:
        """For a transaction that fills the outbox. Call it on the loop, and use it around the write.

        ``most`` dispatches are taken for each destination; places are left to transactions beside this one.
        """
        return Taking([(pump, pump.reserve(most)) for pump in self._pumps.values() if pump.is_open()])

    def close(self) -> None:
        """Claim nothing more; ``run`` returns when what is under way has ended and is written down."""
        for pump in self._pumps.values():
            pump.close()

    def breakers(self) -> dict[str, str]:
        """The breaker's state of each destination; ``unconfigured`` for one whose dispatches wait."""
        return {name: pump.condition() for name, pump in self._pumps.items()}

    async def run(self) -> None:
        """Deliver. Raises StorageBrokenError."""
        recovered = await self._store.write(lambda c: outbox_rows.recover(c, self._clock.now_us()))
        if recovered:
            _log.warning("outbox_recovered", dispatches=recovered)
        async with asyncio.TaskGroup() as group:
            for pump in self._pumps.values():
                group.create_task(pump.run())


class Taking:
    """Takes what is due out of the outbox in the very transaction that filled it, so that no second commit stands
    before the first request. ``with outbox.taking() as taking``: call ``take`` in the transaction; when the block ends
    the attempts begin, or the places that were kept for them are given back.
    """

    def __init__(self, reserved: Sequence[tuple[_Pump, int]]) -> None:
        self._reserved = reserved
        self._taken: dict[str, list[Dispatch]] = {}

    def take(self, connection: apsw.Connection, now_us: int) -> None:
        """The last step of the transaction, in whatever thread that runs."""
        places = {pump.name: places for pump, places in self._reserved if places}
        if places:
            taken = outbox_rows.claim_each(connection, places, now_us)
            self._taken = {
                pump.name: pump.prepare(connection, taken[pump.name])
                for pump, _ in self._reserved
                if pump.name in taken
            }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        for pump, places in self._reserved:
            pump.begin(places, self._taken.get(pump.name, []) if kind is None else [])


class _Pump:
    """One destination. Each turn is one transaction: write down what ended, take what is due."""

    def __init__(
        self,
        name: str,
        channel: Channel,
        store: Store,
        clock: Clock,
        handlers: Mapping[str, DeliveryHandler],
        technician: Technician,
        rng: random.Random,
        workers: int,
        poll_s: float,
    ) -> None:
        self.name = name
        self._channel = channel
        self._preparing = channel if isinstance(channel, Preparing) else None
        self._store = store
        self._clock = clock
        self._handlers = handlers
        self._technician = technician
        self._rng = rng
        self._workers = workers
        self._poll_s = poll_s
        self._breaker = Breaker(rng)
        self._woken = asyncio.Event()
        self._closing = False
        self._look = True  # whether there may be something to take; stays until there was a place to take it into
        self._group: asyncio.TaskGroup | None = None
        self._in_flight = 0
        self._ended: list[Outcome] = []
        self._signals: list[str] = []  # what the technician has to be told: a reason, or "" for working again

    def wake(self) -> None:
        self._look = True
        self._woken.set()

    def close(self) -> None:
        self._closing = True
        self._woken.set()

    def is_open(self) -> bool:
        """Whether anything can be taken for it at all."""
        return self._group is not None and not self._closing and self._channel.ready()

    def reserve(self, most: int) -> int:
        """Keep free places for a transaction that may take something; ``begin`` gives them back.

        None is free while others keep them all: ``begin`` then looks again, for what the transaction left behind.
        """
        places = min(self._free(), most)
        self._in_flight += places
        return places

    def prepare(self, connection: apsw.Connection, taken: list[Dispatch]) -> list[Dispatch]:
        """In the transaction that took them: with what their channel needs of the file."""
        channel = self._preparing
        if channel is None:
            return taken
        return [msgspec.structs.replace(each, prepared=self._prepared(connection, channel, each)) for each in taken]

    def _prepared(self, connection: apsw.Connection, channel: Preparing, dispatch: Dispatch) -> Any:
        try:
            return channel.prepare(connection, dispatch)
        except (apsw.BusyError, apsw.FullError, apsw.IOError, apsw.CorruptError):
            raise  # the disk, not the dispatch
        except Exception as error:  # noqa: BLE001 - one dispatch must not stop the others (architecture, errors)
            _log.warning("dispatch_not_prepared", dispatch_id=dispatch.id, error=type(error).__name__)
            return None

    def begin(self, places: int, taken: Sequence[Dispatch]) -> None:
        """Attempt what was taken into reserved places; the others are free again."""
        self._in_flight -= places - len(taken)
        if self._group is not None:  # else this destination has ended, and the next start asks for them
            for dispatch in taken:
                if self._preparing is not None:
                    self._preparing.start(dispatch)
                self._group.create_task(self._attempt(dispatch))
        self._look |= len(taken) == places
        if self._look or self._closing:
            self._woken.set()

    def condition(self) -> str:
        return self._breaker.state.value if self._channel.ready() else "unconfigured"

    async def run(self) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                self._group = group
                try:
                    await self._pump()
                finally:
                    self._group = None
        finally:
            await self._channel.close()

    async def _pump(self) -> None:
        wait_s = 0.0
        due_us: int | None = None
        while not (self._closing and self._in_flight == 0 and not self._ended):
            await self._pause(wait_s)
            if not (self._ended or self._signals):
                if self._free() == 0:
                    wait_s = self._wait_s(None)
                    continue
                if not self._look:
                    due_us = await self._first_due_us()
                if not self._look and (due_us is None or due_us > self._clock.now_us()):
                    wait_s = self._wait_s(due_us)
                    continue
            only_ended = self._ended and not self._look
            places = self.reserve(max(1, self._workers // 3) if only_ended else self._workers)
            self._look &= places == 0
            taken, due_us = await self._turn(places)
            if places:
                self.begin(places, taken)
            wait_s = self._wait_s(due_us)

    async def _pause(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(wait_s, 0.0)):
                await self._woken.wait()
        self._woken.clear()

    def _free(self) -> int:
        if self._closing or not self._channel.ready():
            return 0
        free = self._workers - self._in_flight
        return self._breaker.allowance(self._clock.monotonic_s(), free, self._in_flight)

    async def _first_due_us(self) -> int | None:
        """When something is due; another process may have put it there."""
        return await self._store.read(lambda c: outbox_rows.next_due_us(c, self.name, after_us=-1))

    def _wait_s(self, due_us: int | None) -> float:
        """How long to sleep if nobody wakes us: until something is due or may be sent, at most the poll."""
        wait_s = self._poll_s if due_us is None else (due_us - self._clock.now_us()) / US_PER_S
        wait_s = max(wait_s, self._breaker.wait_s(self._clock.monotonic_s()), SHORTEST_S)
        return min(wait_s, self._poll_s)

    async def _turn(self, free: int) -> tuple[list[Dispatch], int | None]:
        """Write down what ended, take up to ``free``; returns that, and when the next will be due."""
        ended, self._ended = self._ended, []
        signals, self._signals = self._signals, []
        now_us = self._clock.now_us()

        def turn(connection: apsw.Connection) -> tuple[list[Dispatch], int | None]:
            for outcome in ended:
                self._finish(connection, outcome, now_us)
            for reason in signals:
                self._technician(connection, self.name, reason, now_us)
            taken = outbox_rows.claim(connection, self.name, free, now_us) if free > 0 else []
            return self.prepare(connection, taken), outbox_rows.next_due_us(connection, self.name, after_us=now_us)

        try:
            return await self._store.write(turn)
        except StorageBrokenError:
            raise
        except StorageError as error:
            _log.error("outbox_not_written", destination=self.name, error=str(error))
            self._ended = ended + self._ended
            self._signals = signals + self._signals
            await asyncio.sleep(STORE_PAUSE_S)
            self.wake()
            return [], None

    def _finish(self, connection: apsw.Connection, outcome: Outcome, now_us: int) -> None:
        """Write down one outcome; what its handler cannot digest is a dead letter and not the end of the others."""
        dispatch = outcome.dispatch
        if outcome.needless:
            outbox_rows.finish_superseded(connection, dispatch.id, outcome.reason, now_us)
            return
        expired = dispatch.expires_at_us is not None and dispatch.expires_at_us <= now_us
        if outcome.receipt is None and not outcome.refused and not expired:
            next_at_us = now_us + round(outcome.delay_s * US_PER_S)
            outbox_rows.finish_retry(connection, dispatch.id, next_at_us, outcome.reason, uncertain=outcome.uncertain)
            return
        try:
            with connection:  # a savepoint: a handler that fails leaves nothing half-done
                self._conclude(connection, outcome, now_us)
        except (apsw.BusyError, apsw.FullError, apsw.IOError, apsw.CorruptError):
            raise  # the disk, not the dispatch
        except Exception as error:  # noqa: BLE001 - one dispatch must not stop the others (architecture, errors)
            _log.error("outcome_unusable", dispatch_id=dispatch.id, alert_id=dispatch.alert_id, error=repr(error))
            outbox_rows.finish_dead(connection, dispatch.id, f"its outcome is unusable: {error!r}", now_us)

    def _conclude(self, connection: apsw.Connection, outcome: Outcome, now_us: int) -> None:
        dispatch = outcome.dispatch
        handler = self._handlers[dispatch.lane]
        if outcome.receipt is not None:
            outbox_rows.finish_done(connection, dispatch.id, now_us)
            handler.delivered(connection, dispatch, outcome.receipt, now_us)
        else:
            outbox_rows.finish_dead(connection, dispatch.id, outcome.reason, now_us)
            handler.died(connection, dispatch, outcome.reason, now_us)

    async def _attempt(self, dispatch: Dispatch) -> None:
        outcome = await self._send(dispatch)
        self._in_flight -= 1
        self._ended.append(outcome)
        if len(self._ended) >= max(1, self._workers // 4) or self._closing:
            self._woken.set()
        elif len(self._ended) == 1:
            asyncio.get_running_loop().call_later(FLUSH_S, self._woken.set)

    async def _send(self, dispatch: Dispatch) -> Outcome:
        """One attempt. Never raises but for cancellation."""
        try:
            async with asyncio.timeout(SEND_LIMIT_S):
                receipt = await self._channel.send(dispatch)
        except NotNeededError as error:
            return Outcome(dispatch=dispatch, needless=True, reason=str(error))
        except DeliveryRefusedError as error:
            self._count("refused", failed=False)
            _log.error(
                "dispatch_refused", dispatch_id=dispatch.id, alert_id=dispatch.alert_id, destination=self.name,
                error=str(error),
            )  # fmt: skip
            return Outcome(dispatch=dispatch, refused=True, reason=str(error))
        except DeliveryError as error:
            return self._failed(dispatch, error)
        except TimeoutError:
            return self._failed(dispatch, DeliveryUnknownError("no answer in time"))
        except Exception as error:  # noqa: BLE001 - one dispatch must not stop the others (architecture, errors)
            _log.error("channel_failed", dispatch_id=dispatch.id, destination=self.name, error=repr(error))
            return self._failed(dispatch, ServerFailedError(repr(error)))
        crashpoints.reached(crashpoints.AFTER_SENDING)
        self._count("done", failed=False)
        DELIVERY_SECONDS.labels(self.name).observe((self._clock.now_us() - dispatch.created_at_us) / US_PER_S)
        return Outcome(dispatch=dispatch, receipt=receipt)

    def _failed(self, dispatch: Dispatch, error: DeliveryError) -> Outcome:
        """Full jitter, and never before the destination wants to be asked again. A first lost answer: at once."""
        asked_s = getattr(error, "retry_after_s", None)
        retry_after_s = min(max(asked_s or 0.0, 0.0), LONGEST_RETRY_AFTER_S)
        in_flight = isinstance(error, InFlightError)
        uncertain = in_flight or isinstance(error, DeliveryUnknownError)
        self._count(
            "in_flight" if in_flight else "unknown" if uncertain else "deferred",
            failed=not in_flight, reason=str(error), retry_after_s=retry_after_s,
        )  # fmt: skip
        delay_s = self._rng.uniform(0.0, min(CAP_S, BASE_S * 2.0 ** min(dispatch.attempt - 1, 10)))
        if type(error) is DeliveryUnknownError and dispatch.attempt == 1:
            delay_s = 0.0
        delay_s = max(delay_s, retry_after_s)
        _log.warning(
            "dispatch_deferred", dispatch_id=dispatch.id, alert_id=dispatch.alert_id, destination=self.name,
            attempt=dispatch.attempt, retry_in_s=round(delay_s, 3), uncertain=uncertain, error=str(error),
        )  # fmt: skip
        return Outcome(dispatch=dispatch, reason=str(error), uncertain=uncertain, delay_s=delay_s)

    def _count(self, result: str, *, failed: bool, reason: str = "", retry_after_s: float = 0.0) -> None:
        DISPATCHES.labels(self.name, result).inc()
        if failed:
            if self._breaker.failed(self._clock.monotonic_s(), retry_after_s):
                _log.error("destination_unavailable", destination=self.name, error=reason)
                self._signals.append(reason or "it fails")
        elif self._breaker.succeeded():
            _log.info("destination_available", destination=self.name)
            self._signals.append("")
        BREAKER_OPEN.labels(self.name).set(self._breaker.state is not BreakerState.CLOSED)
