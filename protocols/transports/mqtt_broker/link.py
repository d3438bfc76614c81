"""One connection to a broker that somebody else runs: aiomqtt, with acknowledgements after our own commit.

The session is the broker's memory of what we have not acknowledged, so it is one and the same for ever: a fixed client
id, ``clean_start`` false, an expiry of days. A broker that has lost it may have lost messages: that is told.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import aiomqtt
import structlog
from msgspec import Struct
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.clock import Clock
from gateway.errors import ParseError, TransportError
from gateway.model import Committed, Frame
from gateway.ports import Directory, Ingest
from protocols.codecs.zigbee2mqtt import Zigbee2MqttCodec, key_of
from protocols.transports.mqtt_broker.inbox import Inbox, Unacknowledged
from protocols.transports.mqtt_broker.tap import Tap
from protocols.transports.mqtt_broker.topics import TopicRule, Topics

TRANSPORT: Final = "broker"
CONNECT_S: Final = 10.0
WATCH_S: Final = 1.0
STUCK_S: Final = 30.0
DRAIN_S: Final = 3.0
FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 5.0
STEADY_S: Final = 5.0
PUBLISH_S: Final = 5.0
MAX_KNOWN: Final = 50_000
MAX_INFLIGHT_OUT: Final = 20

log: Final = structlog.get_logger("broker")


class BrokerOptions(Struct, frozen=True):
    """Times in seconds. ``version`` is 5, or 4 for MQTT 3.1.1. ``receive_maximum`` counts for version 5 alone."""

    host: str
    port: int
    client_id: str
    username: str = ""
    password: str = ""
    ssl_context: ssl.SSLContext | None = None
    version: int = 5
    keepalive_s: int = 20
    session_expiry_s: int = 604_800
    receive_maximum: int = 1000
    share_group: str = ""
    codecs: Sequence[str] = ()
    zigbee2mqtt_base: str = "zigbee2mqtt"
    topics: Sequence[TopicRule] = ()


class Memory(Protocol):
    """What is remembered of a broker over restarts: JSON values, small."""

    async def load(self) -> dict[str, Any]: ...

    async def save(self, value: Mapping[str, Any]) -> None: ...


class BrokerLink:
    """One entry of ``[[broker]]``. A ``ports.Transport`` and ``ports.Downlink``; ``observe`` listens to ingest."""

    def __init__(
        self,
        options: BrokerOptions,
        *,
        ingest: Ingest,
        directory: Directory,
        clock: Clock,
        memory: Memory,
        session_lost: Callable[[str], None],
    ) -> None:
        """``session_lost`` is called with the client id. Raises ConfigError."""
        self.options = options
        self._topics = Topics(
            options.codecs, options.topics,
            base=options.zigbee2mqtt_base, share_group=options.share_group, label=options.client_id,
        )  # fmt: skip
        self._ingest = ingest
        self._directory = directory
        self._clock = clock
        self._memory = memory
        self._session_lost = session_lost
        self._zigbee = Zigbee2MqttCodec()
        self._known = Unacknowledged()
        self._names: dict[str, str] = {}
        self._context: dict[str, Any] = {"base": options.zigbee2mqtt_base, "names": self._names}
        self._had_session = False
        self._loaded = False
        self._changed = False
        self._spoken_on: dict[str, str] = {}
        self._client: aiomqtt.Client | None = None
        self._inbox: Inbox | None = None
        self._trouble = "not connected yet"
        self._note = ""
        self.totals: dict[str, int] = dict.fromkeys(
            ("connections", "messages", "acknowledged", "duplicates", "retained", "dropped", "sessions_lost", "sent",
             "stuck"), 0,
        )  # fmt: skip

    @property
    def name(self) -> str:
        return f"broker {self.options.client_id}"

    @property
    def address(self) -> str:
        return f"{self.options.host}:{self.options.port}"

    # ---- the connection ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep up the connection. Ends by TransportError, when none can be made, or cancellation.

        A connection that was there is made again soon, later each time that it does not hold: another client with
        our id would take the session over as often as we take it back.
        """
        pause_s = FIRST_PAUSE_S
        while True:
            begun_s = asyncio.get_running_loop().time()
            before = self.totals["connections"]
            try:
                await self._connection()
            except TransportError as error:
                if self.totals["connections"] == before:
                    raise
                log.warning("broker_connection_lost", client_id=self.options.client_id, error=str(error))
            if asyncio.get_running_loop().time() - begun_s > STEADY_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            pause_s = min(LAST_PAUSE_S, pause_s * 2)

    async def _connection(self) -> None:
        """One connection, from the first byte to the last acknowledgement. Ends by TransportError or cancellation."""
        if not self._loaded:
            self._recall(await self._memory.load())
        client = self._make_client()
        inbox: Inbox | None = None
        tap = Tap(client, arrived=self._arrived, turn=self._turn, version=self.options.version)
        self._inbox = inbox = Inbox(
            self._ingest, self._known, acknowledge=tap.acknowledge, fail=self._failing(tap), pause=tap.pause
        )
        try:
            async with _entered(client):
                try:
                    await self._connected(tap, client)
                    self._trouble = await self._watch(tap, inbox)
                except asyncio.CancelledError:
                    await self._drain(tap, inbox)
                    raise
                tap.break_off()
        except (aiomqtt.MqttError, OSError, ValueError) as error:
            self._trouble = str(error) or type(error).__name__
            raise TransportError(f"{self.address}: {self._trouble}") from error
        except asyncio.CancelledError:
            self._trouble = "stopped"
            raise
        finally:
            inbox.close()
            self.totals["acknowledged"] += inbox.acknowledged
            self.totals["duplicates"] += inbox.duplicates
            self._client, self._inbox = None, None
            tap.release()
            if tap.ended.done() and not tap.ended.cancelled():
                tap.ended.exception()  # heard
        raise TransportError(f"{self.address}: {self._trouble}")

    def _make_client(self) -> aiomqtt.Client:
        options = self.options
        properties: Properties | None = None
        session: dict[str, Any] = {"clean_session": False}
        if options.version == 5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no types here
            properties.SessionExpiryInterval = options.session_expiry_s
            properties.ReceiveMaximum = options.receive_maximum
            session = {"clean_start": False}
        return aiomqtt.Client(
            options.host,
            options.port,
            username=options.username or None,
            password=options.password or None,
            identifier=options.client_id,
            protocol=aiomqtt.ProtocolVersion(options.version),
            keepalive=options.keepalive_s,
            timeout=CONNECT_S,
            properties=properties,
            tls_context=options.ssl_context,
            max_inflight_messages=MAX_INFLIGHT_OUT,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            logger=_quiet(),
            **session,
        )

    async def _connected(self, tap: Tap, client: aiomqtt.Client) -> None:
        present = tap.session_present
        self.totals["connections"] += 1
        if not present:
            self._known.forget()
            if self._had_session:
                self.totals["sessions_lost"] += 1
                log.error("broker_session_lost", client_id=self.options.client_id)
                self._session_lost(self.options.client_id)
        self._had_session, self._changed = True, self._changed or not self._had_session
        async with asyncio.TaskGroup() as group:  # a call of the library outlives its connection
            subscribing = group.create_task(self._subscribe(client))
            either: list[asyncio.Future[Any]] = [subscribing, tap.ended]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            subscribing.cancel()
        trouble = "the connection ended" if subscribing.cancelled() else subscribing.result()
        if trouble:
            raise aiomqtt.MqttError(trouble)
        granted = getattr(tap.properties, "SessionExpiryInterval", None)
        self._note = ""
        if isinstance(granted, int) and granted < self.options.session_expiry_s and self.options.version == 5:
            self._note = f"; the broker keeps the session for {granted} s only"
            log.warning("broker_session_short", client_id=self.options.client_id, seconds=granted)
        self._client = client
        self._trouble = ""
        log.info("broker_connected" if present else "broker_connected_anew", client_id=self.options.client_id)

    async def _subscribe(self, client: aiomqtt.Client) -> str:
        """What went wrong, "" when nothing did."""
        for wanted in self._topics.subscriptions():
            try:
                codes = await client.subscribe(wanted, **self._how(wanted))
            except aiomqtt.MqttError as error:
                return str(error)
            if any((code if isinstance(code, int) else code.value) >= 0x80 for code in codes):
                return f"the broker refuses the subscription to {wanted}"
        return ""

    def _how(self, wanted: str) -> dict[str, Any]:
        """QoS 1: a QoS 2 message would be confirmed by paho before it is stored."""
        if self.options.version != 5:
            return {"qos": 1}
        if wanted.startswith("$share/"):
            return {"options": SubscribeOptions(qos=1)}
        return {"options": SubscribeOptions(qos=1, noLocal=True, retainHandling=1)}  # retained: to new subscriptions

    async def _watch(self, tap: Tap, inbox: Inbox) -> str:
        """Until the connection has ended, or has to; why. What is to be remembered is written down meanwhile."""
        while True:
            if self._changed:
                self._changed = False
                await self._memory.save({"session": True, "names": self._names})
            await asyncio.wait([tap.ended], timeout=WATCH_S)
            _heed_cancellation()
            if tap.ended.done():
                error = tap.ended.exception()
                return f"the connection ended: {error or 'closed'}"
            if inbox.oldest_s() > STUCK_S:
                self.totals["stuck"] += 1
                return f"an acknowledgement is due for {STUCK_S:g} s"

    def _failing(self, tap: Tap) -> Callable[[str], None]:
        def fail(reason: str) -> None:
            log.error("broker_not_stored", client_id=self.options.client_id, reason=reason)
            tap.break_off()

        return fail

    async def _drain(self, tap: Tap, inbox: Inbox) -> None:
        """Acknowledge what is being committed, and read no more; the broker keeps the rest for the next start."""
        if not self.connected:
            return
        tap.pause(True)
        inbox.offer()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                while inbox.waiting():
                    await asyncio.sleep(0.005)
        await asyncio.sleep(0.05)  # for the last write

    def _recall(self, value: Mapping[str, Any]) -> None:
        self._had_session = value.get("session") is True
        names = value.get("names")
        if isinstance(names, dict):
            self._learn({str(name): str(address) for name, address in names.items()})
        self._loaded, self._changed = True, False

    def _learn(self, names: dict[str, str]) -> None:
        if names != self._names:
            self._names = names
            self._context = {"base": self.options.zigbee2mqtt_base, "names": names}
            self._changed = True

    # ---- messages ----------------------------------------------------------------------------------------------------

    def _arrived(self, packet_id: int, topic: bytes, payload: bytes, retained: bool, duplicate: bool) -> None:
        inbox = self._inbox
        if inbox is None:
            return
        self.totals["messages"] += 1
        route = self._topics.route(topic)
        if not route.codec or (retained and not route.retained):
            self.totals["retained" if route.codec else "dropped"] += 1
            inbox.add(packet_id, None, 0, duplicate=False)
            return
        if route.prefix:
            payload = (route.retained_prefix if retained else route.prefix) + payload
        frame = Frame(
            TRANSPORT, route.codec, route.source, payload, self._clock.now_us(), route.device_key,
            redelivered=retained, context=self._context if route.base else None,
        )  # fmt: skip
        if retained:
            self.totals["retained"] += 1
        if route.names_devices:
            self._devices(frame)
        inbox.add(packet_id, frame, hash((topic, payload)), duplicate=duplicate)

    def _turn(self) -> None:
        if self._inbox is not None:
            self._inbox.offer()

    def _devices(self, frame: Frame) -> None:
        """The list of Zigbee devices explains the names of all other messages."""
        with contextlib.suppress(ParseError):  # ingest says so
            frame.reports = self._zigbee.parse(frame)
            for report in frame.reports:
                if report.context is not None:
                    self._learn(report.context["names"])

    def observe(self, committed: Committed) -> None:
        """Remember on which topic each device spoke: that is where it can be answered."""
        for record in committed.records:
            if record.transport == TRANSPORT and record.device_id:
                label, _, topic = record.source.partition(" ")
                if label == self.options.client_id and (
                    record.device_id in self._spoken_on or len(self._spoken_on) < MAX_KNOWN
                ):
                    self._spoken_on[record.device_id] = topic

    # ---- the way down ------------------------------------------------------------------------------------------------

    @property
    def connected(self) -> bool:
        return self._client is not None

    async def send(self, device_id: str, payload: bytes) -> bool:
        """Publish to the device's topic of commands at QoS 1; True once the broker has it. Raises UsageError.

        The broker having it is all that is known: answers come as messages, if the protocol has any.
        """
        client = self._client
        if client is None:
            return False
        way = self._way(device_id, payload)
        if way is None:
            return False
        try:
            async with asyncio.timeout(PUBLISH_S):
                await client.publish(way[0], way[1], qos=1, timeout=math.inf)
        except (aiomqtt.MqttError, TimeoutError, ValueError) as error:
            log.warning("broker_command_not_sent", device=device_id, error=type(error).__name__)
            return False
        self.totals["sent"] += 1
        return True

    def _way(self, device_id: str, payload: bytes) -> tuple[str, bytes] | None:
        topic = self._spoken_on.get(device_id)
        name = self._zigbee_name(device_id, topic)
        if name:
            return self._topics.zigbee_down(name), payload
        return None if topic is None else self._topics.down(topic, payload)

    def _zigbee_name(self, device_id: str, topic: str | None) -> str:
        """The friendly name of today: it may have changed since the device last spoke."""
        base = f"{self.options.zigbee2mqtt_base}/"
        if topic is not None and not topic.startswith(base):
            return ""
        spoken = "" if topic is None else topic.removeprefix(base)
        for name, address in self._names.items():
            if spoken in (name, f"{name}/availability"):
                return name
            if topic is None or key_of(spoken, {}) == address:
                binding = self._directory.device_by_key(address)
                if binding is not None and binding.device_id == device_id:
                    return name
        return ""

    # ---- what it says of itself --------------------------------------------------------------------------------------

    def state(self) -> tuple[bool, str]:
        inbox = self._inbox
        if not self.connected or inbox is None:
            return False, f"{self.address}: {self._trouble}"
        return True, f"{self.address}: connected, {inbox.waiting()} unacknowledged{self._note}"

    def counters(self) -> dict[str, int]:
        inbox = self._inbox
        found = {f"{name}_total": value for name, value in self.totals.items()}
        if inbox is not None:
            found["acknowledged_total"] += inbox.acknowledged
            found["duplicates_total"] += inbox.duplicates
        return found | {
            "connected": int(self.connected), "unacknowledged": inbox.waiting() if inbox is not None else 0,
            "zigbee_names": len(self._names),
        }  # fmt: skip


@contextlib.asynccontextmanager
async def _entered(client: aiomqtt.Client) -> AsyncIterator[None]:
    """Connected, and disconnected at the end. What goes wrong with the latter takes no other error's place.

    Above all not that of a cancellation: a broker that resets the connection that is being closed would keep us going.
    """
    await client.__aenter__()
    try:
        _heed_cancellation()
        yield
    finally:
        with contextlib.suppress(aiomqtt.MqttError, OSError, ValueError):
            await client.__aexit__(None, None, None)


def _heed_cancellation() -> None:
    """The library waits by ``asyncio.wait_for``; before Python 3.12 that loses a cancellation that meets a result."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


def _quiet() -> logging.Logger:
    """What the library logs may hold topics and payloads, which name people; its errors reach us as exceptions."""
    logger = logging.getLogger("carebell.aiomqtt")
    logger.setLevel(logging.CRITICAL)
    return logger
