"""Alerts to an alarm receiving center by SIA DC-09. A Provider of ``webhook``: a center's or a person's entry in a
policy names the receiver. An ACK is the receipt; anything else is tried again, at the second address too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Mapping
from typing import Final, Literal, Protocol

import structlog
from msgspec import Struct

from alerts.channel import Receipt
from alerts.notice import Medium, Notice, Told
from gateway.clock import Clock
from gateway.errors import DeliveryDeferredError, DeliveryRefusedError

MAX_ANSWER_BYTES: Final = 4096
MAX_FRAMES: Final = 8
_log = structlog.get_logger(__name__)


class AnswerLike(Protocol):
    @property
    def kind(self) -> Literal["ack", "nak", "duh", "other"]: ...

    @property
    def clock_us(self) -> int: ...


class Dialogue(Protocol):
    """The protocol's sender side with one route (protocols.codecs.dc09_sender); the composition root plugs it in."""

    def event(self, number: int, kind: str, reference: str, at_us: int) -> bytes: ...

    def link_test(self, at_us: int) -> bytes: ...

    def answer(self, payload: bytes, number: int) -> AnswerLike: ...


class Center(Struct, frozen=True, kw_only=True):
    """A receiver: ``addresses`` (host, port) in the order in which they are tried, each ``tries`` times.

    ``test_s``: seconds between link tests, 0 for none; any message that was acknowledged counts as one.
    """

    addresses: tuple[tuple[str, int], ...]
    dialogue: Dialogue
    transport: Literal["tcp", "udp"] = "tcp"
    timeout_s: float = 5.0
    tries: int = 2
    test_s: float = 0.0


class Dc09Provider:
    """A Provider for ``webhook``; ``to`` is a receiver's name. A ``HealthPart`` where link tests are on."""

    def __init__(self, centers: Mapping[str, Center], clock: Clock) -> None:
        self._centers = centers
        self._clock = clock
        self._skew_us: dict[str, int] = {}
        self._heard_s: dict[str, float] = {}
        self._silent: dict[str, str] = {}
        self._locks = {name: asyncio.Semaphore(2) for name in centers}

    @property
    def name(self) -> str:
        return "dc09"

    @property
    def media(self) -> frozenset[Medium]:
        return frozenset({"webhook"})

    def ready(self) -> bool:
        return bool(self._centers)

    def state(self) -> tuple[bool, str]:
        """A gateway.ports.HealthPart: which receivers do not answer."""
        if self._silent:
            return False, "; ".join(f"{name}: {reason}" for name, reason in sorted(self._silent.items()))
        return True, f"{len(self._centers)} receivers"

    async def close(self) -> None:
        """Nothing stays open between messages."""

    async def find(self, notice: Notice) -> Told | None:
        """None: told again, and the receiver knows the number."""
        del notice
        return None

    async def send(self, notice: Notice) -> Receipt:
        """Raises DeliveryRefusedError for a receiver that is not configured, else DeliveryDeferredError."""
        center = self._centers.get(notice.to)
        if center is None:
            raise DeliveryRefusedError(f"there is no alarm receiver {notice.to!r}")
        number = 1 + int.from_bytes(hashlib.sha256(notice.attempt_id.encode()).digest()[:4]) % 9999
        try:
            async with asyncio.timeout(2 * center.timeout_s):
                await self._locks[notice.to].acquire()
        except TimeoutError as error:
            raise DeliveryDeferredError("the alarm receiver is busy with our other messages") from error
        try:
            address = await self._tell(notice.to, center, number, notice)
        finally:
            self._locks[notice.to].release()
        return Receipt(f"{notice.to}/{number:04d}", {"address": address})

    async def run(self) -> None:
        """Link tests, until cancelled."""
        tested = [name for name, center in self._centers.items() if center.test_s]
        while True:
            now_s = self._clock.monotonic_s()
            for name in tested:
                center = self._centers[name]
                if now_s - self._heard_s.get(name, -center.test_s) >= center.test_s:
                    with contextlib.suppress(DeliveryDeferredError):
                        await self._tell(name, center, 0, None)
            await asyncio.sleep(1.0)

    # ---- one message -------------------------------------------------------------------------------------------------

    async def _tell(self, name: str, center: Center, number: int, notice: Notice | None) -> str:
        """Until somebody acknowledges it; returns the address that did. Raises DeliveryDeferredError."""
        reasons: list[str] = []
        for host, port in center.addresses:
            for _ in range(center.tries):
                said = await self._ask(name, center, (host, port), number, notice)
                if said.kind == "nak" and said.clock_us:  # our clock, or its, is off: say it in its time
                    self._skew_us[name] = said.clock_us - self._clock.now_us()
                    said = await self._ask(name, center, (host, port), number, notice)
                if said.kind == "ack":
                    self._heard(name)
                    return f"{host}:{port}"
                reasons.append(said.reason or said.kind)
                if said.kind == "duh":
                    break  # it cannot: the next one has to
        self._failed(name, reasons[-1])
        raise DeliveryDeferredError(f"the alarm receiver did not acknowledge: {', '.join(reasons)}"[:200])

    async def _ask(
        self, name: str, center: Center, address: tuple[str, int], number: int, notice: Notice | None
    ) -> _Said:
        at_us = self._clock.now_us() + self._skew_us.get(name, 0)
        dialogue = center.dialogue
        frame = (
            dialogue.link_test(at_us)
            if notice is None
            else dialogue.event(number, notice.template, notice.alert_id, at_us)
        )
        try:
            async with asyncio.timeout(center.timeout_s):
                if center.transport == "udp":
                    return await _by_datagram(dialogue, address, frame, number)
                return await _by_stream(dialogue, address, frame, number)
        except TimeoutError:
            return _Said("other", reason="no answer")
        except OSError as error:
            return _Said("other", reason=type(error).__name__)

    def _heard(self, name: str) -> None:
        self._heard_s[name] = self._clock.monotonic_s()
        if self._silent.pop(name, None):
            _log.info("alarm_receiver_answers", destination=name)

    def _failed(self, name: str, reason: str) -> None:
        self._heard_s[name] = self._clock.monotonic_s()  # the next link test in its time, not at once
        if name not in self._silent:
            _log.error("alarm_receiver_does_not_answer", destination=name, error=reason)
        self._silent[name] = reason


class _Said(Struct, frozen=True):
    kind: Literal["ack", "nak", "duh", "other"]
    clock_us: int = 0
    reason: str = ""


def _read(dialogue: Dialogue, payload: bytes, number: int) -> _Said:
    found = dialogue.answer(payload, number)
    return _Said(found.kind, found.clock_us)


async def _by_stream(dialogue: Dialogue, address: tuple[str, int], frame: bytes, number: int) -> _Said:
    reader, writer = await asyncio.open_connection(*address, limit=MAX_ANSWER_BYTES)
    try:
        writer.write(frame)
        for _ in range(MAX_FRAMES):
            said = _read(dialogue, await reader.readuntil(b"\r"), number)
            if said.kind != "other":
                return said
    except asyncio.IncompleteReadError:
        return _Said("other", reason="it closed the connection")
    except asyncio.LimitOverrunError:
        return _Said("other", reason="an answer without an end")
    finally:
        writer.close()
    return _Said("other", reason="answers to something else")


async def _by_datagram(dialogue: Dialogue, address: tuple[str, int], frame: bytes, number: int) -> _Said:
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[_Said] = loop.create_future()

    class Endpoint(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            del addr
            said = _read(dialogue, data[:MAX_ANSWER_BYTES], number)
            if said.kind != "other" and not answered.done():
                answered.set_result(said)

        def error_received(self, exc: Exception) -> None:
            if not answered.done():
                answered.set_result(_Said("other", reason=type(exc).__name__))

    transport, _ = await loop.create_datagram_endpoint(Endpoint, remote_addr=address)
    try:
        transport.sendto(frame)
        return await answered
    finally:
        transport.close()
