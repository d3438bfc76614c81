"""What listeners for terminals share: who is speaking, what one turn of the loop brought, and the way back.

Nothing here knows sockets. A ``Talk`` is one conversation (a TCP connection, the datagrams of one address); the
``Switchboard`` of a listener turns its bytes into frames, offers them together, and hands replies out after the commit.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, NotRequired, TypedDict, TypeVar

import structlog
from msgspec import Struct

from gateway.address import host_and_port, shown
from gateway.clock import Clock
from gateway.errors import ParseError, TransportError
from gateway.model import EMERGENCY_SIGNALS, Frame, Report, Verdict
from gateway.ports import Directory, Ingest, TerminalCodec

TOLD_MAX: Final = 10_000
ADDRESSES_MAX: Final = 200_000
KEY_MAX: Final = 128

log = structlog.get_logger(__name__)


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of one listener."""

    connections: int = 20_000
    unknown_per_address: int = 200  # conversations that have not named a terminal of the registry
    identify_s: float = 180.0  # from the first contact to the first whole frame
    idle_s: float = 3600.0  # without a byte
    inflight: int = 500  # frames of one conversation that wait for their commit; above it nothing more is read
    waiting: int = 50_000  # the same, of all conversations of a listener; datagrams above it are dropped
    frames_per_offer: int = 500
    unknown_per_s: float = 200.0  # frames of terminals that the registry does not know, of a listener
    unknown_burst: float = 5000.0
    unknown_alarms_per_s: float = 20.0  # the same, of those with an emergency in them
    unknown_alarms_burst: float = 1000.0
    write_buffer_bytes: int = 65_536
    write_stall_s: float = 30.0
    drain_s: float = 5.0
    sweep_s: float = 1.0


class Room:
    """How much may still come: so many a second in the long run, so many at once."""

    __slots__ = ("_at_s", "_burst", "_left", "_per_s")

    def __init__(self, per_s: float, burst: float, now_s: float) -> None:
        self._per_s = per_s
        self._burst = self._left = burst
        self._at_s = now_s

    def take(self, now_s: float) -> bool:
        """Take one; False when there is none left."""
        self._left = min(self._burst, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Talk(ABC):
    """One conversation: what it has taught so far. A transport subclasses it and knows how to answer."""

    __slots__ = ("address", "context", "device_id", "key", "proof", "source", "superseded", "told_twice", "trusted",
                 "waiting")  # fmt: skip

    def __init__(self) -> None:
        self.address = self.source = ""
        self.key = ""  # what the terminal calls itself
        self.device_id = ""  # what the registry calls it; "": it does not know it
        self.trusted = True  # False: it calls itself like a device that does not speak this protocol
        self.proof: bool | None = None
        self.context: Mapping[str, Any] | None = None
        self.superseded = False  # a younger conversation has the same terminal
        self.told_twice = False
        self.waiting = 0  # frames that wait for their commit

    @abstractmethod
    def answered(self, replies: list[bytes]) -> None:
        """These frames are on disk; write what is not empty, at once."""

    @abstractmethod
    def refused(self, frames: int) -> None:
        """Frames of this conversation are not on disk: nothing may look to the terminal as if they were."""

    @abstractmethod
    def write(self, payload: bytes) -> bool:
        """Send a command; False when the terminal cannot be reached this way."""


class Switchboard:
    """The conversations of one listener, and everything they share."""

    def __init__(
        self,
        *,
        transport: str,
        codec: TerminalCodec,
        ingest: Ingest,
        directory: Directory,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self.transport = transport
        self.codec = codec
        self.clock = clock
        self.limits = limits
        self.refusal: bytes = getattr(codec, "refusal", b"")  # what a protocol has to say "not stored", if anything
        self.idle_s: float = min(limits.idle_s, getattr(codec, "idle_s", limits.idle_s))
        self._stranger: bytes = getattr(codec, "stranger_reply", b"")  # in place of what a known terminal is answered
        # The same where it depends on the reply; it is also what is said when a frame could not be kept.
        self._declined: Callable[[bytes], bytes] | None = getattr(codec, "declined", None)
        # What is answered without being kept (another layer's courtesies): the answer, None for a frame to be kept.
        self._small_talk: Callable[[bytes, str], bytes | None] | None = getattr(codec, "small_talk", None)
        self._ingest = ingest
        self._directory = directory
        self._loop = asyncio.get_running_loop()
        now_s = clock.monotonic_s()
        self._room = Room(limits.unknown_per_s, limits.unknown_burst, now_s)
        self._room_for_alarms = Room(limits.unknown_alarms_per_s, limits.unknown_alarms_burst, now_s)
        self._live: dict[str, Talk] = {}  # by device id
        self._addresses: dict[str, str] = {}  # of each device, the last one
        self._collected: list[Frame] = []
        self._replies: dict[Talk, list[bytes]] = {}
        self._idle: asyncio.Event = asyncio.Event()
        self._offers = 0
        self._told: set[tuple[str, str]] = set()
        self.waiting = 0
        self.closing = False
        self.counts: dict[str, int] = dict.fromkeys(
            ("frames", "replies", "faults", "unknown", "shed", "retried", "doubles", "address_changes", "commands"), 0
        )

    # ---- from bytes to frames ----------------------------------------------------------------------------------------

    def take(self, talk: Talk, payload: bytes) -> None:
        """One frame of this conversation. It is offered with everything else that this turn of the loop brings."""
        self.counts["frames"] += 1
        if self._small_talk is not None and (courtesy := self._small_talk(payload, talk.source)) is not None:
            if courtesy:
                talk.write(courtesy)
            return
        frame = Frame(
            self.transport, self.codec.name, talk.source, payload, self.clock.now_us(), talk.key, context=talk.context
        )
        reply = self._parse(talk, frame)
        if talk.key and not talk.device_id:
            self._identify(talk, talk.key)  # it may have been registered meanwhile
        if not talk.device_id:
            self.counts["unknown"] += 1
            if not self._admitted(frame):
                self.counts["shed"] += 1
                return  # neither kept nor answered
            if self._stranger and reply and talk.key:
                reply = self._stranger
            elif self._declined is not None and reply:
                reply = self._declined(reply)
        frame.device_key = talk.device_id or talk.key
        frame.verified = talk.trusted and talk.proof is not False
        frame.context = None
        talk.waiting += 1
        self.waiting += 1
        mine = self._replies.get(talk)
        if mine is None:
            self._replies[talk] = [reply]
        else:
            mine.append(reply)
        if not self._collected:
            self._loop.call_soon(self._offer)
        self._collected.append(frame)
        if len(self._collected) >= self.limits.frames_per_offer:
            self._offer()

    def _parse(self, talk: Talk, frame: Frame) -> bytes:
        """Parse the frame into itself, learn what it teaches; return what it is answered with."""
        try:
            reports = self.codec.parse(frame)
        except ParseError:
            self.counts["faults"] += 1  # ingest meets it again, and writes it down
            return b""
        except Exception as error:  # noqa: BLE001 - as in ingest, which journals it: a bug must not lose the frame
            self.counts["faults"] += 1
            log.error("codec_failed", codec=self.codec.name, error=type(error).__name__)
            return b""
        reply = b""
        for report in reports:
            self._learn(talk, report)
            if report.reply:
                reply += report.reply
        frame.reports = self._tell_twice(talk, reports) if talk.superseded and talk.device_id else reports
        return reply

    def _admitted(self, frame: Frame) -> bool:
        """Whether there is room for a frame of somebody unknown; their emergencies have room of their own."""
        now_s = self.clock.monotonic_s()
        emergency = any(
            name in EMERGENCY_SIGNALS
            for report in frame.reports or ()
            if report.reading is not None
            for name in report.reading.signals
        )
        return (self._room_for_alarms if emergency else self._room).take(now_s)

    def _offer(self) -> None:
        """Hand over what was collected. Called once a turn, and when that is a lot."""
        frames, self._collected = self._collected, []
        replies, self._replies = self._replies, {}
        if not frames:
            return
        self._offers += 1
        future = self._ingest.offer(frames)
        future.add_done_callback(lambda done: self._settled(done, replies))

    def _settled(self, future: asyncio.Future[Verdict], replies: dict[Talk, list[bytes]]) -> None:
        self._offers -= 1
        stored = not future.cancelled() and future.result() is Verdict.ACCEPTED
        if not stored:
            self.counts["retried"] += 1
        for talk, mine in replies.items():
            talk.waiting -= len(mine)
            self.waiting -= len(mine)
            if stored:
                self.counts["replies"] += len(mine) - mine.count(b"")
                talk.answered(mine)
            else:
                for reply in mine if self._declined is not None else ():
                    if reply and self._declined is not None:
                        talk.write(self._declined(reply))
                talk.refused(len(mine))
        if not self._offers:
            self._idle.set()

    async def drained(self) -> None:
        """Return when nothing waits for a commit, or after ``drain_s``."""
        self._offer()
        try:
            async with asyncio.timeout(self.limits.drain_s):
                while self._offers:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.warning("terminals_not_drained", transport=self.transport, codec=self.codec.name)

    # ---- who it is ---------------------------------------------------------------------------------------------------

    def _learn(self, talk: Talk, report: Report) -> None:
        key = report.device_key
        if key and key != talk.key and len(key) <= KEY_MAX:
            self._identify(talk, key)  # another terminal has proved nothing yet
        if report.context is not None:
            talk.context = report.context
        if report.proof is not None:
            talk.proof = report.proof

    def _identify(self, talk: Talk, key: str) -> None:
        """The terminal calls itself this. It is known when a device of this codec is registered by that name."""
        directory = self._directory
        if talk.key and key != talk.key:
            talk.proof = None
        talk.key = key
        binding = directory.device(key) or directory.device_by_key(key)
        if binding is None and key.startswith("0"):
            binding = directory.device_by_key(key.lstrip("0"))
        known = binding is not None and binding.codec == self.codec.name
        talk.trusted = binding is None or known
        device_id = binding.device_id if binding is not None and known else ""
        if device_id != talk.device_id:
            self.leave(talk)
            talk.device_id = device_id
            if device_id:
                self._enter(talk)
                self.identified(talk)
        elif not known and binding is not None:
            self.tell_once("terminal_of_another_protocol", binding.device_id)

    def identified(self, talk: Talk) -> None:
        """A hook for transports: the registry knows this terminal."""

    def _enter(self, talk: Talk) -> None:
        device_id = talk.device_id
        other = self._live.get(device_id)
        if other is not None and other is not talk:
            other.superseded = True  # most often its terminal has left it without a word; if it speaks, it is reported
        talk.superseded = False
        self._live[device_id] = talk
        before = self._addresses.get(device_id)
        if before != talk.address:
            if len(self._addresses) >= ADDRESSES_MAX:
                del self._addresses[next(iter(self._addresses))]
            self._addresses[device_id] = talk.address
            if before is not None:
                self.counts["address_changes"] += 1
                log.info("terminal_new_address", device=device_id, transport=self.transport, codec=self.codec.name)

    def leave(self, talk: Talk) -> None:
        """The conversation is over, or is about another terminal now."""
        if self._live.get(talk.device_id) is talk:
            del self._live[talk.device_id]

    def _tell_twice(self, talk: Talk, reports: Sequence[Report]) -> Sequence[Report]:
        """An older conversation speaks although a younger one has its terminal: two senders use one identity."""
        if talk.told_twice:
            return reports
        talk.told_twice = True
        self.counts["doubles"] += 1
        log.warning("terminal_connected_twice", device=talk.device_id, transport=self.transport, codec=self.codec.name)
        fault = "connection: two at the same time call themselves by this identity"
        return [*reports, Report(talk.key, faults=[fault])]

    def tell_once(self, event: str, subject: str) -> None:
        """Log a warning the first time that it concerns this device or address."""
        if (event, subject) in self._told:
            return
        if len(self._told) >= TOLD_MAX:
            self._told.clear()
        self._told.add((event, subject))
        log.warning(event, subject=subject, transport=self.transport, codec=self.codec.name)

    # ---- the way back ------------------------------------------------------------------------------------------------

    def send(self, device_id: str, payload: bytes) -> bool:
        """Write a command on the youngest conversation of this device; whether there is one that takes it."""
        talk = self._live.get(device_id)
        if talk is None or not talk.write(payload):
            return False
        self.counts["commands"] += 1
        return True

    def live(self) -> int:
        """How many devices of the registry have a conversation."""
        return len(self._live)

    def counters(self) -> dict[str, int]:
        """Totals since the start (names end in ``_total``) and what is now; a transport adds its own."""
        return {
            "devices": self.live(),
            "waiting": self.waiting,
            **{f"{name}_total": count for name, count in self.counts.items()},
        }


Board = TypeVar("Board", bound=Switchboard)


class ListenerParts(TypedDict):
    """What a listener is made of. ``listen`` is ``host:port`` (an IPv6 host in brackets, port 0 for any)."""

    listen: str
    codec: TerminalCodec
    ingest: Ingest
    directory: Directory
    clock: Clock
    limits: NotRequired[Limits | None]


class TerminalListener(Generic[Board]):
    """``ports.Downlink``, and what is the same for the terminals of one codec over any transport."""

    def __init__(self, board: type[Board], transport: str, parts: ListenerParts) -> None:
        self._host, self._port = host_and_port(parts["listen"])
        self.address = ""
        """``host:port`` as bound, once started."""
        self.switchboard = board(
            transport=transport,
            codec=parts["codec"],
            ingest=parts["ingest"],
            directory=parts["directory"],
            clock=parts["clock"],
            limits=parts.get("limits") or Limits(),
        )

    async def send(self, device_id: str, payload: bytes) -> bool:
        """``ports.Downlink``: on the conversation that the device had last, while it lasts."""
        return self.switchboard.send(device_id, payload)

    def counters(self) -> dict[str, int]:
        """Totals since the start (names end in ``_total``) and what is now."""
        return self.switchboard.counters()

    def bound(self, name: tuple[Any, ...]) -> None:
        """Note the name of the socket."""
        self.address = shown(*name[:2])

    def not_bound(self, error: OSError) -> TransportError:
        """What to raise when the address cannot be bound."""
        return TransportError(f"{self.switchboard.codec.name} cannot listen on {self._host}:{self._port}: {error}")
