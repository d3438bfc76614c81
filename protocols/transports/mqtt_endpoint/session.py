"""Sessions of devices (MQTT 5.0 section 4.1), shared by all listeners, and the messages that wait for devices."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import structlog

from gateway.clock import US_PER_S, Clock
from gateway.errors import StorageError, UsageError
from gateway.ports import Directory, Ingest, Store
from protocols.transports.mqtt_endpoint import packets, queue
from protocols.transports.mqtt_endpoint import properties as p
from protocols.transports.mqtt_endpoint.limits import Limits
from protocols.transports.mqtt_endpoint.queue import Changes, Down, SessionRow, Subscriptions
from protocols.transports.mqtt_endpoint.topics import down_topic, matches
from protocols.transports.mqtt_endpoint.wills import LastWill, Wills

OnAck = Callable[[str], None]
"""Told once what became of a message: ``acknowledged``, ``sent`` (QoS 0), ``refused``, ``too_large`` or ``expired``."""

OnFinished = Callable[[int, str, bool], None]
"""Told of every message that is over: its id, what became of it, and whether a device may have got it."""

PATROL: Final = 2000  # sessions looked at in one sweep

log = structlog.get_logger(__name__)


class Peer(Protocol):
    """The connection of a session."""

    version: int
    receive_maximum: int
    packet_maximum: int

    @property
    def open(self) -> bool: ...

    def send(self, packet: bytes) -> None: ...

    def close(self, code: int, reason: str) -> None: ...


class Session:
    """What outlives a connection. Without a connection it ends at ``expires_at_us``."""

    __slots__ = (
        "client_id", "device_id", "ended", "expires_at_us", "expiry_s", "last_packet_id", "last_will", "peer",
        "received", "sent", "stored", "subscriptions", "will_due_us",
    )  # fmt: skip

    def __init__(self, device_id: str, client_id: str) -> None:
        self.device_id = device_id
        self.client_id = client_id
        self.peer: Peer | None = None
        self.expiry_s = 0
        self.expires_at_us: int | None = None
        self.subscriptions: Subscriptions = {}
        self.received: set[int] = set()  # QoS 2 identifiers whose PUBREL is still to come
        self.sent: dict[int, Down] = {}  # by packet identifier, unacknowledged, in order
        self.last_packet_id = 0
        self.last_will: LastWill | None = None
        self.will_due_us: int | None = None
        self.ended = False
        self.stored = False  # whether there may be a row of it

    def next_packet_id(self) -> int:
        while True:
            self.last_packet_id = self.last_packet_id % 65_535 + 1
            if self.last_packet_id not in self.sent:
                return self.last_packet_id

    def granted(self, topic: str) -> tuple[int, list[int]] | None:
        """The highest QoS and the identifiers of the subscriptions that cover a topic, None when none does."""
        found = [entry for pattern, entry in self.subscriptions.items() if matches(pattern, topic)]
        if not found:
            return None
        return max(qos for qos, _ in found), [identifier for _, identifier in found if identifier]


class Sessions:
    """All sessions. Their changes, and the fate of messages, reach the disk in batches."""

    def __init__(self, *, store: Store, ingest: Ingest, directory: Directory, clock: Clock, limits: Limits) -> None:
        self._store = store
        self._clock = clock
        self._limits = limits
        self._devices: dict[str, dict[str, Session]] = {}
        self._delayed: set[Session] = set()  # those whose will waits for its delay
        self._patrol: Iterator[Session] = iter(())
        self._queued: dict[str, dict[int, Down]] = {}
        self._newest_down = 0
        self._on_ack: dict[int, OnAck] = {}
        self._changed: dict[tuple[str, str], Session] = {}
        self._marks: dict[int, tuple[str, int, int]] = {}
        self._finished: set[int] = set()
        self._when_stored: list[Callable[[], None]] = []
        self._wake = asyncio.Event()
        self._admitting = asyncio.Lock()
        self._running = asyncio.Lock()
        self._loaded = False
        self._store_works = True
        self.takeovers = 0
        self.downs_finished: dict[str, int] = {}
        self.on_finished: OnFinished = lambda _number, _outcome, _transmitted: None
        self.wills = Wills(ingest, directory, clock, 2 * limits.connections)

    # ---- life of a session -------------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read what an earlier run left. Idempotent; the listeners call it before they accept anybody."""
        async with self._admitting:
            if self._loaded:
                return
            now_us = self._clock.now_us()
            for row in await self._store.read(queue.load_sessions):
                session = Session(row.device_id, row.client_id)
                session.expiry_s = row.expiry_s
                session.subscriptions = row.subscriptions
                session.expires_at_us = row.expires_at_us
                session.stored = True
                if row.expires_at_us is None:  # it was connected when the process ended
                    session.expires_at_us = now_us + row.expiry_s * US_PER_S
                self._devices.setdefault(row.device_id, {})[row.client_id] = session
            await self._admit()
            for queued in self._queued.values():
                for down in queued.values():
                    down.transmitted = True  # by the run before this one, for all that is known
            self._loaded = True

    def attach(
        self, peer: Peer, device_id: str, client_id: str, *, clean_start: bool, expiry_s: int, will: LastWill | None
    ) -> tuple[Session, bool]:
        """The session of a new connection, and whether it existed before ([MQTT-3.1.2-4] to [-6], [MQTT-3.1.4-3])."""
        session = self._devices.get(device_id, {}).get(client_id)
        if session is not None and session.peer is not None:
            self.takeovers += 1
            session.peer.close(packets.TAKEN_OVER, "the same client connected again")
            self.detach(session, session.peer)
        if session is not None and not session.ended and (clean_start or self._expired(session)):
            self._end(session)
        present = session is not None and not session.ended
        if session is None or session.ended:
            self._make_room(device_id)
            session = Session(device_id, client_id)
            self._devices.setdefault(device_id, {})[client_id] = session
        session.peer = peer
        session.expiry_s = expiry_s
        session.expires_at_us = None
        session.last_will = will
        session.will_due_us = None
        self._delayed.discard(session)
        self._change(session)
        return session, present

    def detach(self, session: Session, peer: Peer, *, with_will: bool = True) -> None:
        """The connection of a session is gone. A will is published now, or after its delay, or not at all."""
        if session.peer is not peer:
            return
        session.peer = None
        last = session.last_will
        if last is not None and not with_will:
            session.last_will = last = None
        if session.expiry_s == 0:
            self._end(session)
            return
        now_us = self._clock.now_us()
        session.expires_at_us = now_us + session.expiry_s * US_PER_S
        if last is not None and last.will.delay_s:
            session.will_due_us = now_us + last.will.delay_s * US_PER_S
            self._delayed.add(session)
        elif last is not None:
            self._publish_will(session)
        self._change(session)

    def change_expiry(self, session: Session, expiry_s: int) -> None:
        """DISCONNECT of MQTT 5 may change it (3.14.2.2.2)."""
        session.expiry_s = expiry_s
        self._change(session)

    def _expired(self, session: Session) -> bool:
        return session.expires_at_us is not None and session.expires_at_us <= self._clock.now_us()

    def _publish_will(self, session: Session) -> None:
        last, session.last_will, session.will_due_us = session.last_will, None, None
        self._delayed.discard(session)
        if last is not None:
            self.wills.publish(last)

    def _end(self, session: Session) -> None:
        session.ended = True
        self._publish_will(session)  # a session that ends does not wait for the will's delay (3.1.3.2.2)
        of_device = self._devices.get(session.device_id)
        if of_device is not None and of_device.get(session.client_id) is session:
            del of_device[session.client_id]
            if not of_device:
                del self._devices[session.device_id]
        self._change(session)

    def _make_room(self, device_id: str) -> None:
        of_device = self._devices.get(device_id, {})
        while len(of_device) >= self._limits.sessions_per_device:
            victim = min(of_device.values(), key=lambda session: (session.peer is not None, session.expires_at_us or 0))
            log.warning("mqtt_session_displaced", device_id=victim.device_id)
            if victim.peer is not None:
                peer = victim.peer
                peer.close(packets.QUOTA_EXCEEDED, "too many clients with the credential of this device")
                victim.expiry_s = 0
                self.detach(victim, peer)
            else:
                self._end(victim)

    # ---- subscriptions -----------------------------------------------------------------------------------------------

    def subscribe(self, session: Session, subscriptions: Subscriptions, then: Callable[[], None]) -> None:
        """Add subscriptions; ``then`` is called once they survive a restart, if the session is one that does."""
        session.subscriptions.update(subscriptions)
        self._after_storing(session, then)

    def unsubscribe(self, session: Session, patterns: list[str], then: Callable[[], None]) -> None:
        for pattern in patterns:
            session.subscriptions.pop(pattern, None)
        self._after_storing(session, then)

    def _after_storing(self, session: Session, then: Callable[[], None]) -> None:
        if session.expiry_s:
            self._change(session)
            self._when_stored.append(then)
        else:
            then()

    # ---- messages for devices ----------------------------------------------------------------------------------------

    async def send_down(
        self,
        device_id: str,
        payload: bytes,
        *,
        topic_suffix: str = "",
        expires_at_us: int | None = None,
        on_ack: OnAck | None = None,
    ) -> int:
        """Queue a message for a device and return its id once it is on disk.

        It waits until a connection of the device subscribes to ``carebell/<device_id>/down[/<topic_suffix>]``, goes to
        every one that does, and is finished with the first PUBACK. ``on_ack`` is forgotten when the process ends.
        Raises UsageError, ConflictError (queue full) and StorageError.
        """
        now_us, limits = self._clock.now_us(), self._limits
        async with self._admitting:  # nobody else may find the row before on_ack is known
            number = await self._store.write(
                lambda connection: queue.add_down(
                    connection,
                    device_id,
                    payload,
                    topic_suffix=topic_suffix,
                    created_at_us=now_us,
                    expires_at_us=expires_at_us,
                    limits=limits,
                )
            )
            if on_ack is not None:
                self._on_ack[number] = on_ack
            await self._admit()
        return number

    def listening(self, device_id: str) -> bool:
        """Whether a live connection of the device subscribes to its down topic."""
        return self._listener_of(device_id) is not None

    def _listener_of(self, device_id: str) -> tuple[Peer, str] | None:
        topic = down_topic(device_id)
        for session in self._devices.get(device_id, {}).values():
            if session.peer is not None and session.peer.open and session.granted(topic) is not None:
                return session.peer, topic
        return None

    def send_once(self, device_id: str, payload: bytes) -> bool:
        """Send to one live connection at QoS 0: never again, and no acknowledgement. False when there is none.

        Raises UsageError for what is longer than the device takes.
        """
        found = self._listener_of(device_id)
        if found is None:
            return False
        peer, topic = found
        packet = packets.publish(
            topic, payload, qos=0, packet_id=0, dup=False, version=peer.version, properties={}
        )  # fmt: skip
        if len(packet) > peer.packet_maximum:
            raise UsageError(f"{len(payload)} bytes are more than device {device_id} takes")
        peer.send(packet)
        return True

    async def admit(self) -> None:
        """Take in messages that were queued by ``queue.add_down``, now instead of with the next sweep."""
        async with self._admitting:
            await self._admit()

    async def _admit(self) -> None:
        """Take in the rows that are new, whoever wrote them."""
        newest = self._newest_down
        for down in await self._store.read(lambda connection: queue.load_downs(connection, newest)):
            self._newest_down = down.id
            self._queued.setdefault(down.device_id, {})[down.id] = down
            sessions = self._devices.get(down.device_id, {})
            if down.client_id is not None and down.packet_id is not None and down.client_id in sessions:
                sessions[down.client_id].sent[down.packet_id] = down
            for session in list(sessions.values()):
                self.pump(session)

    def pump(self, session: Session, *, again: bool = False) -> None:
        """Send what may be sent to a connected session; ``again``: first what it got and never acknowledged."""
        peer = session.peer
        queued = self._queued.get(session.device_id)
        if peer is None or queued is None:
            return
        now_us = self._clock.now_us()
        if again:
            session.sent = {
                number: down for number, down in session.sent.items() if down.id in queued and not down.expired(now_us)
            }
            for packet_id, down in session.sent.items():  # [MQTT-4.4.0-1], in order [MQTT-4.6.0-1]
                self._transmit(session, peer, down, packet_id)
        flying = {down.id for down in session.sent.values()}
        window = min(peer.receive_maximum, self._limits.down_inflight)
        for down in list(queued.values()):
            if len(session.sent) >= window:
                break
            if down.id in flying or down.expired(now_us):  # [MQTT-3.3.2-5]; the sweep reports it
                continue
            granted = session.granted(down.topic)
            if granted is not None:
                self._transmit(session, peer, down, 0, *granted)

    def _transmit(
        self,
        session: Session,
        peer: Peer,
        down: Down,
        packet_id: int,
        qos: int = 1,
        identifiers: list[int] | None = None,
    ) -> None:
        dup = packet_id > 0
        if qos and not dup:
            packet_id = session.next_packet_id()
        properties: p.Properties = {}
        if down.expires_at_us is not None:
            left_s = -(-(down.expires_at_us - self._clock.now_us()) // US_PER_S)
            properties[p.MESSAGE_EXPIRY] = min(max(left_s, 1), 0xFFFF_FFFF)
        if identifiers:
            properties[p.SUBSCRIPTION_IDENTIFIER] = identifiers
        packet = packets.publish(
            down.topic, down.payload, qos=qos, packet_id=packet_id, dup=dup, version=peer.version, properties=properties
        )
        if len(packet) > peer.packet_maximum:  # [MQTT-3.1.2-24], [MQTT-3.1.2-25]
            log.warning("mqtt_down_too_large", device_id=down.device_id, down_id=down.id, bytes=len(packet))
            self._finish(down, "too_large")
            return
        peer.send(packet)
        down.transmitted = True
        if not qos:
            self._finish(down, "sent")
            return
        session.sent[packet_id] = down
        if session.expiry_s:
            self._marks[down.id] = (session.client_id, packet_id, down.id)
            self._wake.set()

    def acknowledged(self, session: Session, packet_id: int, code: int) -> None:
        """A PUBACK of the device. One for an identifier that is not in use is of an earlier run, and harmless."""
        down = session.sent.pop(packet_id, None)
        if down is None:
            return
        if down.id in self._queued.get(down.device_id, {}):
            self._finish(down, "acknowledged" if code < packets.UNSPECIFIED else "refused")
        self.pump(session)

    def _finish(self, down: Down, outcome: str) -> None:
        queued = self._queued.get(down.device_id, {})
        queued.pop(down.id, None)
        if not queued:
            self._queued.pop(down.device_id, None)
        self._marks.pop(down.id, None)
        self._finished.add(down.id)
        self._wake.set()
        self.downs_finished[outcome] = self.downs_finished.get(outcome, 0) + 1
        self.on_finished(down.id, outcome, down.transmitted)
        tell = self._on_ack.pop(down.id, None)
        if tell is not None:
            tell(outcome)

    # ---- in the background -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Store changes, deliver wills, end what expired. Every listener runs it; one of them does the work."""
        async with self._running, asyncio.TaskGroup() as group:
            group.create_task(self.wills.run())
            group.create_task(self._keep_stored())
            while True:
                await asyncio.sleep(self._limits.sweep_s)
                self._sweep()
                try:
                    await self.admit()
                except StorageError:
                    log.debug("mqtt_downs_unread")  # the next sweep reads them; _keep_stored tells of the store

    async def _keep_stored(self) -> None:
        while True:
            await self._wake.wait()
            if not await self.flush():
                await asyncio.sleep(self._limits.sweep_s)

    async def flush(self) -> bool:
        """Write down what changed; False when the store would not."""
        self._wake.clear()
        changed, marks, finished, tell = self._changed, self._marks, self._finished, self._when_stored
        if not (changed or marks or finished or tell):
            return True
        self._changed, self._marks, self._finished, self._when_stored = {}, {}, set(), []
        changes = _changes(changed, marks, finished)
        stored = False
        try:
            await self._store.write(lambda connection: queue.apply_changes(connection, changes))
            stored = True
        except StorageError as error:
            if self._store_works:
                log.error("mqtt_sessions_not_stored", error=str(error))
        finally:
            if not stored:  # also when cancelled
                self._changed = changed | self._changed
                self._marks = marks | self._marks
                self._finished |= finished
                self._when_stored = tell + self._when_stored
                self._wake.set()
        self._store_works = stored
        if stored:
            for then in tell:
                then()
        return stored

    async def close(self) -> None:
        """Publish the wills that are still waiting and write everything down."""
        for session in list(self._delayed):
            self._publish_will(session)
        await self.wills.drain()
        await self.flush()

    def _change(self, session: Session) -> None:
        if not (session.stored or session.expiry_s):
            return
        session.stored = True
        self._changed[session.device_id, session.client_id] = session
        self._wake.set()

    def _sweep(self) -> None:
        now_us = self._clock.now_us()
        for session in [one for one in self._delayed if one.will_due_us is not None and one.will_due_us <= now_us]:
            self._publish_will(session)
        for _ in range(PATROL):
            session_or_none = next(self._patrol, None)
            if session_or_none is None:
                self._patrol = iter([one for of_device in self._devices.values() for one in of_device.values()])
                break
            if session_or_none.peer is None and not session_or_none.ended and self._expired(session_or_none):
                self._end(session_or_none)
        for down in [one for queued in self._queued.values() for one in queued.values()]:
            if down.expired(now_us) and not self._flying(down):
                self._finish(down, "expired")

    def _flying(self, down: Down) -> bool:
        """Whether a live connection has it and may still acknowledge it."""
        sessions = self._devices.get(down.device_id, {}).values()
        return any(down is flying for one in sessions if one.peer is not None for flying in one.sent.values())


def _changes(
    changed: dict[tuple[str, str], Session], marks: dict[int, tuple[str, int, int]], finished: set[int]
) -> Changes:
    """A snapshot that another thread may read."""
    kept = []
    dropped = []
    for key, session in changed.items():
        if session.ended or session.expiry_s == 0:
            dropped.append(key)
        else:
            kept.append(SessionRow(*key, session.expiry_s, session.expires_at_us, dict(session.subscriptions)))
    return Changes(kept, dropped, list(marks.values()), list(finished))
