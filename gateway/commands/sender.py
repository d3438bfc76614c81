"""The task that hands commands to transports when their devices are in contact, and gives answers back to them.

What makes a restart safe: a command is on disk before it is sent, and each step of it is one transaction. A harmless
one may go out again when nobody knows whether it arrived; a dangerous one is written down as sent *before* it goes, at
most once, and then only ever answered or given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, Protocol

import apsw
import structlog

from gateway.clock import US_PER_S, Clock
from gateway.commands import ledger
from gateway.commands.catalog import Catalog, Declaration
from gateway.commands.replies import MEMBER, Reply, replies
from gateway.commands.states import Command, Event, State
from gateway.errors import ConflictError, StorageBrokenError, StorageError, UsageError
from gateway.model import Actor, Committed, Urgency
from gateway.ports import Directory, Downlink, Store
from gateway.storage import journal

POLL_S: Final = 0.5
PAUSE_S: Final = 0.05  # between turns, however much happens
SEND_S: Final = 10.0
ABSENT_US: Final = 30 * US_PER_S  # how long a device without a connection is left alone, unless it speaks
BOOKMARK_US: Final = 60 * US_PER_S
PRUNE_US: Final = 3600 * US_PER_S
REPLIES_MAX: Final = 10_000
LOCATE: Final = "locate"
LOCATE_S: Final = 120
LOCATES_PER_TURN: Final = 50
PARALLEL_BY_ID: Final = 5  # commands in flight of a device whose answers name them; of others one
EMERGENCY: Final = Actor("system", "locate-on-emergency")

log = structlog.get_logger("commands")


class Mailbox(Downlink, Protocol):
    """A transport that keeps messages until the device has acknowledged them (MQTT at QoS 1).

    ``send`` of it is at most once: on the live connection, never again.
    """

    def reachable(self, device_id: str) -> bool:
        """Whether the device is connected and listens."""
        ...

    def put(
        self, connection: apsw.Connection, device_id: str, payload: bytes, *, now_us: int, expires_at_us: int
    ) -> int:
        """Queue a message in the caller's transaction; its number. Raises UsageError, ConflictError (queue full)."""
        ...

    async def deliver(self) -> None:
        """Look at what was put, now. Raises StorageError."""
        ...


class Sender:
    """``observe`` is a listener of ingest, ``outcome`` one of the mailbox; ``run`` does the work. All on the loop."""

    def __init__(
        self,
        *,
        store: Store,
        clock: Clock,
        catalog: Catalog,
        directory: Directory,
        mailbox: Mailbox | None,
        downlinks: Sequence[tuple[str, Downlink]] = (),
    ) -> None:
        """``downlinks`` are tried in order, each with the name of its transport, after the mailbox."""
        self._store = store
        self._clock = clock
        self._catalog = catalog
        self._directory = directory
        self._mailbox = mailbox
        self._downlinks = list(downlinks)
        self._wake = asyncio.Event()
        self._version = -1
        self._open: list[Command] = []
        self._waiting: frozenset[str] = frozenset()  # devices with a command that is to be sent
        self._keys: dict[str, str] = {}  # the identity that a device last used in its own protocol
        self._replies: list[Reply] = []
        self._outcomes: list[tuple[int, str, bool]] = []
        self._pressed: dict[str, None] = {}  # devices in an emergency without a place
        self._absent: dict[str, int] = {}  # devices without a connection, and when to try again
        self._seq = 0
        self._bookmark_us = 0
        self._prune_us = 0
        self._working = True
        self.totals: dict[str, int] = {}

    def attach(self, transport: str, downlink: Downlink) -> None:
        """One more way to devices, tried after those before it."""
        self._downlinks.append((transport, downlink))

    # ---- what is heard -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Something was asked for: look now."""
        self._wake.set()

    def contact(self, device_id: str) -> None:
        """A device has begun to listen: look now."""
        self._absent.pop(device_id, None)
        if device_id in self._waiting:
            self._wake.set()

    def observe(self, committed: Committed) -> None:
        """Take answers, and notice which devices are in contact."""
        waiting = self._waiting
        answered = False
        for record in committed.records:
            device_id = record.device_id
            if record.device_key != device_id and record.verified and device_id:
                self._keys[device_id] = record.device_key
            if device_id in waiting:
                self._absent.pop(device_id, None)
                self._wake.set()
            reading = record.reading
            if reading is None:
                continue
            if record.urgency == Urgency.EMERGENCY and record.verified and not reading.stored:
                place = reading.position
                if (place is None or not place.valid) and self._can_be_asked(device_id):
                    self._pressed[device_id] = None
                    self._wake.set()
            if reading.unknown is not None and MEMBER in reading.unknown:
                answered = True
        if answered and len(self._replies) < REPLIES_MAX:
            self._replies.extend(replies(committed))
            self._wake.set()
        self._seq = committed.last_seq

    def outcome(self, handle: int, outcome: str, transmitted: bool) -> None:
        """What became of a message in the mailbox, and whether it ever went out."""
        self._outcomes.append((handle, outcome, transmitted))
        self._wake.set()

    # ---- the work ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until cancelled. Raises StorageBrokenError."""
        while not await self._try(self._recover):
            await asyncio.sleep(POLL_S)
        while True:
            await self._try(self._turn)
            await asyncio.sleep(PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S):
                    await self._wake.wait()
            self._wake.clear()

    async def _try(self, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        """Whether it was done. A disk that is full must not end anything; what was not done is done another time."""
        try:
            await work()
        except StorageBrokenError:
            raise
        except StorageError as error:
            if self._working:
                log.error("commands_stand_still", error=str(error))
            self._working = False
        else:
            self._working = True
        return self._working

    async def _recover(self) -> None:
        """Take up what the last run left: answers that came before it ended, then what is safe to send again."""
        found = await self._store.read(_unheard)
        await self._answer(found)
        await self._refresh()
        again = [command for command in self._open if command.state is State.SENT and command.may_repeat]
        await self._steps((command, Event.RETRY) for command in again)
        if found or again:
            log.info("commands_recovered", answers=len(found), sent_again=len(again))

    async def _turn(self) -> None:
        seq, answers, self._replies = self._seq, self._replies, []
        try:
            await self._answer(answers)
        except StorageError:
            self._replies = answers + self._replies
            raise
        await self._refresh()
        now_us = self._clock.now_us()
        changed = await self._settle()
        changed |= await self._locate(now_us)
        changed |= bool(await self._steps(_overdue(self._open, now_us)))
        if changed:
            await self._refresh()
        for command in self._sendable():
            await self._send(command)
        await self._tidy(seq, now_us)

    async def _refresh(self) -> None:
        """Read the open commands anew when anybody, in any process, changed one."""
        known = self._version

        def read(connection: apsw.Connection) -> tuple[int, list[Command] | None]:
            found = ledger.version(connection)
            return found, None if found == known else ledger.open_commands(connection)

        self._version, found = await self._store.read(read)
        if found is not None:
            self._open = found
            self._waiting = frozenset(command.device_id for command in found if command.state is State.QUEUED)
            for device_id in [one for one in self._absent if one not in self._waiting]:
                del self._absent[device_id]

    async def _steps(self, steps: Iterable[tuple[Command, Event]], **details: Any) -> list[Command]:
        """Apply events to commands in one transaction; those that were changed by it."""
        todo = list(steps)
        if not todo:
            return []
        now_us = self._clock.now_us()

        def write(connection: apsw.Connection) -> list[Command | None]:
            return [ledger.apply(connection, command.id, event, now_us=now_us, **details) for command, event in todo]

        changed = [command for command in await self._store.write(write) if command is not None]
        for command in changed:
            self._count(command)
        return changed

    def _count(self, command: Command) -> None:
        what = f"{command.state}_{command.result}" if command.state is State.FAILED else str(command.state)
        self.totals[what] = self.totals.get(what, 0) + 1

    async def _answer(self, answers: Sequence[Reply]) -> None:
        if answers:
            now_us = self._clock.now_us()

            def write(connection: apsw.Connection) -> list[Command | None]:
                known = ledger.reached(connection)  # an answer without an id must not be given to a second command
                ledger.set_reached(connection, answers[-1].seq)
                return [
                    ledger.take_reply(connection, one.device_id, one.named, one.event, now_us=now_us, seq=one.seq)
                    for one in answers
                    if one.seq > known
                ]

            taken = await self._store.write(write)
            for command in taken:
                if command is not None:
                    self._count(command)
            strays = sum(command is None for command in taken)
            if strays:
                self.totals["stray_answer"] = self.totals.get("stray_answer", 0) + strays

    async def _settle(self) -> bool:
        """What the mailbox said became of its messages."""
        outcomes, self._outcomes = self._outcomes, []
        by_handle = {command.handle: command for command in self._open if command.handle is not None}
        steps = [
            (by_handle[handle], _event_of(outcome, transmitted=transmitted))
            for handle, outcome, transmitted in outcomes
            if handle in by_handle
        ]
        try:
            return bool(await self._steps(steps))
        except StorageError:
            self._outcomes = outcomes + self._outcomes
            raise

    async def _locate(self, now_us: int) -> bool:
        """An emergency without a place: ask the device where it is. The alert has been raised and does not wait."""
        busy = {command.device_id for command in self._open if command.name == LOCATE}
        wanted = list(self._pressed)[:LOCATES_PER_TURN]
        for device_id in wanted:
            del self._pressed[device_id]
        wanted = [device_id for device_id in wanted if device_id not in busy]
        if not wanted:
            return False

        def write(connection: apsw.Connection) -> None:
            for device_id in wanted:
                try:
                    ledger.request(
                        connection, self._catalog, device_id, LOCATE, {}, now_us=now_us, actor=EMERGENCY,
                        expires_s=LOCATE_S, reason="an emergency without a position",
                    )  # fmt: skip
                except UsageError as error:  # too many commands: then one of them is the more urgent question
                    log.info("not_asked_for_position", device=device_id, reason=type(error).__name__)

        await self._store.write(write)
        return True

    def _can_be_asked(self, device_id: str) -> bool:
        """Whether it has such a command and can be reached at this moment."""
        declaration = self._declaration(device_id, LOCATE)
        if declaration is None or any(parameter.default is None for parameter in declaration.parameters.values()):
            return False
        if declaration.converses and self._downlinks:
            return True
        return self._mailbox is not None and self._mailbox.reachable(device_id)

    def _declaration(self, device_id: str, name: str) -> Declaration | None:
        binding = self._directory.device(device_id)
        return None if binding is None else self._catalog.declared(binding.profile).get(name)

    # ---- sending -----------------------------------------------------------------------------------------------------

    def _sendable(self) -> list[Command]:
        """Queued commands of devices that seem to be in contact, oldest first; of each as many as it can take."""
        now_us = self._clock.now_us()
        flying: dict[str, int] = {}
        blocked: set[str] = set()
        found = []
        for command in self._open:
            device_id = command.device_id
            if command.state is not State.QUEUED:
                flying[device_id] = flying.get(device_id, 0) + command.confirms
                continue
            declaration = self._declaration(device_id, command.name)
            most = PARALLEL_BY_ID if declaration is not None and declaration.by_id else 1
            if device_id in blocked or flying.get(device_id, 0) >= most:
                blocked.add(device_id)  # their order is kept
                continue
            here = self._mailbox is not None and self._mailbox.reachable(device_id)
            if here or (self._downlinks and self._absent.get(device_id, 0) <= now_us):
                flying[device_id] = flying.get(device_id, 0) + command.confirms
                found.append(command)
        return found

    async def _send(self, command: Command) -> None:
        device_id = command.device_id
        declaration = self._declaration(device_id, command.name)
        try:
            if declaration is None:
                raise UsageError("the profile of the device has no such command any more")  # noqa: TRY301
            payload = declaration.encode(
                command.parameters,
                command_id=command.id,
                expires_at_us=command.expires_at_us,
                device_key=self._keys.get(device_id) or await self._registered_key(device_id),
            )
        except UsageError as error:
            await self._steps([(command, Event.CANNOT_SEND)], reason=str(error)[:200])
            return
        if self._mailbox is not None and self._mailbox.reachable(device_id):
            if command.dangerous:
                await self._hand(command, "mqtt", self._mailbox, payload)
            else:
                await self._put(command, self._mailbox, payload)
            return
        for name, downlink in self._downlinks:
            if await self._hand(command, name, downlink, payload):
                return
        # To try a dangerous one leaves a trace in the audit each time.
        pause_us = 10 * ABSENT_US if command.dangerous else ABSENT_US
        self._absent[device_id] = self._clock.now_us() + pause_us

    async def _registered_key(self, device_id: str) -> str:
        return await self._store.read(lambda connection: ledger.device_key(connection, device_id))

    async def _put(self, command: Command, mailbox: Mailbox, payload: bytes) -> None:
        """Into the mailbox and the ledger in one transaction: it is in both or in none."""
        now_us = self._clock.now_us()

        def write(connection: apsw.Connection) -> Command | None:
            if ledger.get(connection, command.id).state is not State.QUEUED or now_us >= command.expires_at_us:
                return None
            handle = mailbox.put(
                connection, command.device_id, payload, now_us=now_us, expires_at_us=command.expires_at_us
            )
            return ledger.apply(
                connection, command.id, Event.SEND, now_us=now_us, transport="mqtt", handle=handle
            )  # fmt: skip

        try:
            sent = await self._store.write(write)
        except ConflictError:  # its queue is full: later
            return
        except UsageError as error:
            await self._steps([(command, Event.CANNOT_SEND)], reason=str(error)[:200])
            return
        if sent is not None:
            self._count(sent)
            await mailbox.deliver()

    async def _hand(self, command: Command, transport: str, downlink: Downlink, payload: bytes) -> bool:
        """Hand the bytes to a live connection; whether there was one. A dangerous command is on disk as sent before."""
        if command.dangerous and not await self._steps([(command, Event.SEND)], transport=transport):
            return True  # cancelled or expired meanwhile
        try:
            async with asyncio.timeout(SEND_S):
                gone = await downlink.send(command.device_id, payload)
        except OSError:  # a timeout among them: some of it may have gone out
            gone = command.dangerous
        except UsageError as error:
            await self._steps([(command, Event.CANNOT_SEND)], reason=str(error)[:200])
            return True
        if command.dangerous:
            if not gone:
                await self._steps([(command, Event.RELEASE)])
            elif not command.confirms:  # nothing more will ever be heard of it
                await self._steps([(command, Event.HAND_OVER)])
        elif gone:
            await self._steps([(command, Event.SEND)], transport=transport, last_word=True)
        return gone

    # ---- now and then ------------------------------------------------------------------------------------------------

    async def _tidy(self, seq: int, now_us: int) -> None:
        if self._open and seq and now_us >= self._bookmark_us:
            await self._store.write(lambda connection: ledger.set_reached(connection, seq))
            self._bookmark_us = now_us + BOOKMARK_US
        if now_us >= self._prune_us:
            await self._store.write(lambda connection: ledger.prune(connection, now_us=now_us))
            self._prune_us = now_us + PRUNE_US

    def counts(self) -> dict[str, int]:
        """Commands that are not over, by state."""
        found = {"queued": 0, "sent": 0, "acknowledged": 0}
        for command in self._open:
            found[command.state] += 1
        return found


def _unheard(connection: apsw.Connection) -> list[Reply]:
    """Answers in the journal that a crash kept from their commands."""
    in_flight = [command for command in ledger.open_commands(connection) if command.state is not State.QUEUED]
    if not in_flight:
        return []
    seq = max(ledger.reached(connection), min(command.first_seq for command in in_flight))
    found: list[Reply] = []
    while parts := list(journal.read_after(connection, seq)):
        for part in parts:
            seq = part.last_seq
            if isinstance(part, Committed):
                found.extend(replies(part))
    return found


def _overdue(commands: Iterable[Command], now_us: int) -> Iterable[tuple[Command, Event]]:
    for command in commands:
        if command.state is State.QUEUED:
            if now_us >= command.expires_at_us:
                yield command, Event.EXPIRE
        elif command.answer_by_us is not None and now_us >= command.answer_by_us:
            again = command.state is State.SENT and command.may_repeat and now_us < command.expires_at_us
            yield command, Event.RETRY if again else Event.SILENCE


def _event_of(outcome: str, *, transmitted: bool) -> Event:
    match outcome:
        case "acknowledged":
            return Event.ACKNOWLEDGE
        case "sent":
            return Event.HAND_OVER
        case "refused":
            return Event.REFUSE
        case "expired":
            return Event.SILENCE if transmitted else Event.EXPIRE
    return Event.CANNOT_SEND
