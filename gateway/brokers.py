"""The connections of ``[[broker]]`` in the daemon: built from the configuration, kept running, remembered, counted."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import apsw
import msgspec
import structlog

from alerts.policy import Policy
from alerts.technical import raise_technical
from gateway.clock import Clock
from gateway.config import read_secret
from gateway.config_broker import BrokerSection
from gateway.errors import ConfigError, StorageBrokenError, StorageError
from gateway.model import Committed
from gateway.ports import Directory, Ingest, Store
from gateway.supervise import keep_running
from protocols.registry import CODECS

if TYPE_CHECKING:  # the libraries behind it are loaded when a broker is configured
    from protocols.transports.mqtt_broker.link import BrokerLink, BrokerOptions

SESSION_LOST: Final = "broker_session_lost"
LONGEST_PAUSE_S: Final = 10.0
MAX_BROKERS: Final = 32

log: Final = structlog.get_logger("broker")


def options_of(sections: Sequence[BrokerSection]) -> list[BrokerOptions]:
    """The checked options of every connection. Raises ConfigError; reads secrets and certificates."""
    if not sections:
        return []
    from protocols.transports.mqtt_broker.link import BrokerOptions  # noqa: PLC0415
    from protocols.transports.mqtt_broker.tap import check_libraries  # noqa: PLC0415
    from protocols.transports.mqtt_broker.topics import TopicRule, Topics  # noqa: PLC0415

    check_libraries()
    if len(sections) > MAX_BROKERS:
        raise ConfigError(f"broker: {len(sections)} connections; at most {MAX_BROKERS}")
    found: list[BrokerOptions] = []
    for section in sections:
        host, port, tls = section.address
        name = f"broker {section.client_id}"
        if any(one.client_id == section.client_id for one in found):
            raise ConfigError(f"{name}: another [[broker]] has this client_id; two connections need two")
        rules = [TopicRule(rule.topic, rule.codec, rule.down, rule.retained) for rule in section.topics]
        try:
            for rule in rules:
                if rule.codec not in CODECS or hasattr(CODECS[rule.codec], "framer"):
                    raise ConfigError(f"topics: {rule.codec!r} is no codec of messages")  # noqa: TRY301
            topics = Topics(
                section.codecs, rules,
                base=section.zigbee2mqtt_base, share_group=section.share_group, label=section.client_id,
            )  # fmt: skip
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
        if not topics.subscriptions():
            raise ConfigError(f"{name}: it subscribes to nothing; give it codecs or [[broker.topics]]")
        found.append(
            BrokerOptions(
                host,
                port,
                section.client_id,
                username=section.username,
                password=read_secret(section.password_file, f"{name}.password_file") if section.password_file else "",
                ssl_context=_tls(section, name) if tls else None,
                version=5 if section.version == "5" else 4,
                keepalive_s=section.keepalive_s,
                session_expiry_s=section.session_expiry_s,
                receive_maximum=section.receive_maximum,
                share_group=section.share_group,
                codecs=section.codecs,
                zigbee2mqtt_base=section.zigbee2mqtt_base,
                topics=rules,
            )
        )
    return found


def _tls(section: BrokerSection, name: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=section.ca_file or None)
        if section.certificate_file:
            context.load_cert_chain(section.certificate_file, section.key_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{name}: the CA, certificate or key cannot be used: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class StoredMemory:
    """What a link remembers, as a row of the journal's own table of small facts. Implements ``link.Memory``."""

    def __init__(self, store: Store, client_id: str) -> None:
        self._store = store
        self._key = f"broker/{client_id}"

    async def load(self) -> dict[str, Any]:
        def read(connection: apsw.Connection) -> str | None:
            row = connection.execute("SELECT value FROM meta WHERE key = ?", (self._key,)).fetchone()
            return None if row is None else str(row[0])

        stored = await self._store.read(read)
        try:
            return {} if stored is None else msgspec.json.decode(stored, type=dict[str, Any])
        except msgspec.DecodeError:
            log.error("broker_memory_unreadable", key=self._key)
            return {}

    async def save(self, value: Mapping[str, Any]) -> None:
        """Not being able to remember is no reason to stop listening. Raises StorageBrokenError."""
        text = msgspec.json.encode(value).decode()

        def write(connection: apsw.Connection) -> None:
            connection.execute(
                "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (self._key, text),
            )

        try:
            await self._store.write(write)
        except StorageBrokenError:
            raise
        except StorageError as error:
            log.error("broker_memory_not_written", key=self._key, error=str(error))


class SessionLoss:
    """Turns the loss of a session into an open alert of the site. ``run`` writes what was told."""

    def __init__(self, store: Store, clock: Clock, policy: Policy, wake: Callable[[], None]) -> None:
        self._store = store
        self._clock = clock
        self._policy = policy
        self._wake_outbox = wake
        self._told: list[tuple[str, int]] = []
        self._wake = asyncio.Event()

    def __call__(self, client_id: str) -> None:
        self._told.append((client_id, self._clock.now_us()))
        self._wake.set()

    async def run(self) -> None:
        """Until cancelled. Raises StorageBrokenError."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._told:
                client_id, at_us = self._told[0]
                try:
                    await self._store.write(partial(self._raise, client_id, at_us))
                except StorageBrokenError:
                    raise
                except StorageError as error:
                    log.error("broker_session_loss_not_written", client_id=client_id, at_us=at_us, error=str(error))
                    await asyncio.sleep(1.0)
                    continue
                del self._told[0]
                self._wake_outbox()

    def _raise(self, client_id: str, at_us: int, connection: apsw.Connection) -> None:
        effect_id = f"broker/{client_id}/{at_us}/session_lost"
        raise_technical(
            connection, SESSION_LOST, effect_id, at_us, self._policy, evidence={"broker": client_id}
        )  # fmt: skip


class Brokers:
    """Every broker connection. Implements ``ports.Downlink``. A ``HealthPart``."""

    name = "brokers"

    def __init__(
        self,
        sections: Sequence[BrokerSection],
        *,
        ingest: Ingest,
        directory: Directory,
        store: Store,
        clock: Clock,
        policy: Policy,
        wake: Callable[[], None],
    ) -> None:
        """Raises ConfigError."""
        self.links: list[BrokerLink] = []
        self._losses = SessionLoss(store, clock, policy, wake)
        options = options_of(sections)
        if not options:
            return
        from protocols.transports.mqtt_broker.link import BrokerLink  # noqa: PLC0415 - only where it is configured

        self.links = [
            BrokerLink(
                one,
                ingest=ingest,
                directory=directory,
                clock=clock,
                memory=StoredMemory(store, one.client_id),
                session_lost=self._losses,
            )
            for one in options
        ]

    async def run(self) -> None:
        """Until cancelled; each connection by itself, made again after a pause with jitter."""
        if not self.links:
            return
        async with asyncio.TaskGroup() as group:
            group.create_task(keep_running("broker_session_loss", self._losses.run))
            for link in self.links:
                group.create_task(keep_running(link.name, link.run, longest_pause_s=LONGEST_PAUSE_S))

    def announce(self, say: Callable[[str], None]) -> None:
        for link in self.links:
            say(f"broker   {link.address} as {link.options.client_id}")

    def observe(self, committed: Committed) -> None:
        """A listener of ingest: the links remember where their devices spoke."""
        for link in self.links:
            link.observe(committed)

    async def send(self, device_id: str, payload: bytes) -> bool:
        """``ports.Downlink``: by whichever broker the device spoke through. Raises UsageError."""
        for link in self.links:
            if await link.send(device_id, payload):
                return True
        return False

    def state(self) -> tuple[bool, str]:
        states = [link.state() for link in self.links]
        return all(ok for ok, _ in states), "; ".join(text for _, text in states) or "off"

    def counters(self) -> dict[str, int]:
        """Over all connections."""
        total: dict[str, int] = {}
        for link in self.links:
            for name, value in link.counters().items():
                total[name] = total.get(name, 0) + value
        return total
