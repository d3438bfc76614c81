"""Plugs the parts together. The one place that knows them all; it starts nothing."""

from __future__ import annotations

import dataclasses
import random
import ssl
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any, Final

import apsw

from alerts import escalation
from alerts.care_desk import CareDesk
from alerts.care_messages import SignsOfLife, build_care
from alerts.channels.order_api import OrderApi
from alerts.conference_desk import Conferences
from alerts.desk import Desk
from alerts.order_desk import OrderDesk
from alerts.orders import DestinationWatch, OrderHandler
from alerts.outbox import Outbox
from alerts.policy import Policy
from alerts.policy_files import load_policies
from alerts.replies import Replies
from alerts.service import AlertService
from alerts.wording import Wording
from device_profiles.loader import Profiles, load_profiles
from gateway import mqtt, outdoors
from gateway.access.door import WrittenAttendance
from gateway.address import host_and_port
from gateway.api.app import build_app
from gateway.api.passing import PassingProtocol
from gateway.api.server import ApiServer
from gateway.api.services import Services
from gateway.brokers import Brokers
from gateway.call_backs import CallBacks
from gateway.care import DeviceCare
from gateway.clock import Clock
from gateway.commands.desk import CommandDesk
from gateway.commands.sender import Sender
from gateway.config import Settings, read_secret
from gateway.console.app import build_console
from gateway.console.board import Board
from gateway.console.family_link import FamilyLinks
from gateway.cti import CtiReceiver
from gateway.downlink import ProfileCommands
from gateway.errors import StorageBrokenError
from gateway.faces.compose import errands_of, page_frame, token_verifier
from gateway.faces.process import Faces
from gateway.feeding import Feeding
from gateway.health import Health, HostLoad, LoopLag
from gateway.housekeeping import Housekeeping
from gateway.ingest import JournalIngest
from gateway.judge import Judge
from gateway.live_states import LiveStates
from gateway.metrics import Histogram, Metrics
from gateway.mobile import MobileLinks, push_receivers
from gateway.nearby import ble_hub
from gateway.notifying import Intake, JournalIncoming, ModemHealth, RegistryNotices, Ways
from gateway.provisioning.recent import RecentFrames
from gateway.receivers import ReceiverCodecs, Receivers
from gateway.registry.directory import Registry
from gateway.registry.people import order_details
from gateway.registry.unknown import UnknownDevices
from gateway.replaying.task import Replaying
from gateway.serial_lines import SerialLines
from gateway.storage.call_retention import Retention
from gateway.storage.database import FILE_NAME
from gateway.storage.dedup import Marks
from gateway.storage.embedded import EmbeddedPostgres
from gateway.storage.feed import JournalFeed
from gateway.storage.history.process import HistoryProcess
from gateway.storage.history.queries import PostgresHistory
from gateway.storage.writer import JournalWriter
from gateway.telephones import Telephones
from gateway.terminals import Terminals
from gateway.visits import Visits
from protocols.registry import CODECS
from protocols.transports.http_ingest import HttpIngest
from protocols.transports.mqtt_endpoint.mailbox import Mailbox
from rules.engine import RulesEngine
from rules.loader import load_rules

ORDERS: Final = "order_api"


class RegistryOrderDetails:
    """Who and what an order is about, from the registry's tables."""

    def person(self, connection: apsw.Connection, person_id: str) -> Mapping[str, Any] | None:
        found = order_details(connection, person_id, "")
        person: dict[str, Any] = found["person"]
        return None if person["name"] is None else person | {"preferred_organization": found["preferred_organization"]}

    def device(self, connection: apsw.Connection, device_id: str) -> Mapping[str, Any] | None:
        device: dict[str, Any] = order_details(connection, "", device_id)["device"]
        return None if device["model"] is None else device


class ProfileViews:
    """The loaded profiles, as the API shows them."""

    def __init__(self, profiles: Profiles) -> None:
        self._profiles = profiles

    def list(self) -> list[dict[str, Any]]:
        return [view for name in self._profiles.names() if (view := self.show(name)) is not None]

    def show(self, name: str) -> dict[str, Any] | None:
        profile = self._profiles.get(name)
        return None if profile is None else {"name": name, **profile.model_dump(mode="json", exclude={"fields"})}


class Parts:
    """Every part of a running gateway, wired. Raises ConfigError when a file of the site is wrong."""

    def __init__(self, settings: Settings, clock: Clock, on_broken: Callable[[StorageBrokenError], None]) -> None:
        self.settings = settings
        self.clock = clock
        self.profiles = load_profiles([settings.profiles_dir])
        rules = load_rules([settings.rules_dir])
        tls = mqtt.tls_context(settings.mqtt)
        self.writer = JournalWriter(
            settings.data_dir, on_broken=on_broken, reserve_bytes=settings.journal.reserve_megabytes << 20
        )
        self.registry = Registry(self.writer, codec_of=self._codec_of, care_of=self._care_of, clock=clock)
        self.marks = Marks()
        self.receiver_codecs = ReceiverCodecs(settings, self._dialect_of)
        self.ingest = JournalIngest(
            codecs={**CODECS, **self.receiver_codecs.by_name()},
            profiles=self.profiles,
            directory=self.registry,
            marks=self.marks,
            journal=self.writer,
            clock=clock,
            linger_max_s=settings.journal.linger_max_ms / 1000,
        )
        self.engine = RulesEngine(rules, self.registry, settings.timezone)
        self.registry.on_change(lambda: self.engine.reload(now_us=clock.now_us()))
        self.family = FamilyLinks(settings.console.public_url if settings.console.enabled else "", clock)
        self.states = LiveStates(clock, self._heartbeat_of)
        self.recent = RecentFrames(self.states.device)
        self._build_alerts()
        self.judge = Judge(engine=SignsOfLife(self.engine), alerts=self.alerts, store=self.writer, clock=clock)
        for follower in (self.call_backs, self.visits):
            self.ingest.listen(follower)
            self.judge.follow(follower)
        self.unknown = UnknownDevices()
        self._build_history()
        self.feed = JournalFeed(self.writer, settings.site)
        self.feeding = Feeding(
            settings,
            feed=self.feed,
            store=self.writer,
            clock=clock,
            live=self.states,
            technician=DestinationWatch(self.escalation.policy),
        )
        self.housekeeping = Housekeeping(
            writer=self.writer,
            marks=self.marks,
            clock=clock,
            settings=settings.journal,
            outside_readers=self.feeding.outside_readers()
            | ({} if self.history is None else {"history": self.history}),
            settled=self.ingest.settled,
            calls=Retention(**dict(settings.calls)),
        )
        for listener in (self.judge.observe, self.housekeeping.observe, self.states.observe, self.unknown):
            self.ingest.listen(listener)
        self.ingest.listen(self.recent.observe)
        self.ingest.listen(lambda committed: self.feed.committed(committed.last_seq))
        self.replaying = Replaying(ingest=self.ingest, store=self.writer, directory=self.registry, clock=clock)
        self._build_mqtt(tls)
        self._build_transports()
        self._build_health()
        self._build_api()

    # ---- pieces ------------------------------------------------------------------------------------------------------

    def _codec_of(self, profile: str) -> str | None:
        known = self.profiles.get(profile)
        return None if known is None else known.codec

    def _heartbeat_of(self, device_id: str) -> float | None:
        """How often this device speaks when all is well, None when nobody knows."""
        binding = self.registry.device(device_id)
        profile = None if binding is None else self.profiles.get(binding.profile)
        return None if profile is None else profile.heartbeat_s

    def _care_of(self, profile: str) -> DeviceCare | None:
        known = self.profiles.get(profile)
        if known is None:
            return None
        low = known.battery.low_percent if known.battery is not None else None
        return DeviceCare(device_id="", heartbeat_s=known.heartbeat_s, battery_low_percent=low)

    def _dialect_of(self, key: str) -> dict[str, str] | None:
        """How the profile of the device with this key wants to be answered (SCAIP)."""
        binding = self.registry.device_by_key(key) or self.registry.device(key)
        profile = None if binding is None else self.profiles.get(binding.profile)
        return None if profile is None or profile.dialect is None else dict(profile.dialect)

    def _build_alerts(self) -> None:
        settings = self.settings
        rng = random.Random()  # noqa: S311 - jitter
        intake = Intake(self.writer, self.clock)
        self.telephones = Telephones(
            ingest=self.ingest,
            store=self.writer,
            directory=self.registry,
            refresh=self.registry.refresh_if_changed,
            clock=self.clock,
            codec=CODECS["cti"],
        )
        self.incoming = JournalIncoming(self.telephones)
        self.ways = Ways(settings.notify, self.clock, intake, self.incoming)
        self.escalation = escalation.build(
            policy=Policy(site=settings.site, readings=self.states.vitals),
            book=load_policies([settings.policies_dir], settings.timezone),
            providers=self.ways.providers,
            source=RegistryNotices(),
            store=self.writer,
            clock=self.clock,
            rng=rng,
            order=self.ways.order,
            link=outdoors.links_for(self.family, self.ways.link),
            composer=Wording(settings.templates_dir, replies=settings.notify.replies),
        )
        policy = self.escalation.policy
        self.care = build_care(
            policy=policy,
            providers=self.ways.providers,
            source=RegistryNotices(),
            store=self.writer,
            clock=self.clock,
            rng=rng,
            timezone=settings.timezone,
        )
        self.order_api = OrderApi(
            settings.order_api.base_url,
            settings.order_api.token_file,
            settings.order_api.timeout_s,
            store=self.writer,
            details=RegistryOrderDetails(),
        )
        self.outbox = Outbox(
            self.writer,
            {ORDERS: self.order_api, **self.escalation.channels, **self.care.channels},
            self.clock,
            handlers={"order": OrderHandler(policy), **self.escalation.handlers, **self.care.handlers},
            technician=DestinationWatch(policy),
            rng=rng,
        )
        intake.connect(self.escalation.take_told, self.outbox.wake)
        self.incoming.connect(Replies(self.writer, self.clock, policy), self.outbox.wake)
        self.alerts = AlertService(self.writer, self.clock, policy, outbox=self.outbox)
        self.desk = Desk(self.writer, self.clock, policy, wake=self.outbox.wake)
        self.call_backs = CallBacks(self.desk)
        self.order_desk = OrderDesk(self.writer, self.clock, policy, wake=self.outbox.wake)
        self.visits = Visits(self.order_desk)

    def _conferences(self) -> Conferences | None:
        twilio, settings = self.ways.twilio, self.settings.notify.twilio
        if twilio is None or not (settings.public_url and settings.from_number):
            return None
        from alerts.channels.twilio_conference import TwilioConference  # noqa: PLC0415 - only where it is configured

        return Conferences(
            lambda alert_id: TwilioConference(twilio, alert_id, caller=settings.from_number),
            provider=twilio.name,
            caller=settings.from_number,
            source=RegistryNotices(),
            store=self.writer,
            clock=self.clock,
        )

    def _build_history(self) -> None:
        settings = self.settings
        dsn = settings.history.dsn
        self.postgres = EmbeddedPostgres(settings.data_dir) if dsn == "embedded" else None
        self.read_dsn: Callable[[], str | None] = (
            self.postgres.dsn if self.postgres is not None else lambda: dsn or None
        )
        self.history = (
            HistoryProcess(
                settings.data_dir / FILE_NAME, self.read_dsn, settings.site, retention_days=settings.history.keep_days
            )
            if dsn
            else None
        )
        self.queries = PostgresHistory(self.read_dsn)

    def _build_mqtt(self, tls: ssl.SSLContext | None) -> None:
        self.mqtt = mqtt.endpoints(
            self.settings.mqtt,
            tls,
            ingest=self.ingest,
            registry=self.registry,
            store=self.writer,
            clock=self.clock,
            profiles=self.profiles,
        )
        self._build_commands()

    def _build_transports(self) -> None:
        settings, clock = self.settings, self.clock
        self.mobile = MobileLinks(settings, ingest=self.ingest, registry=self.registry, store=self.writer, clock=clock)
        self.ble = ble_hub(settings, ingest=self.ingest, registry=self.registry, clock=clock)
        self.terminals = Terminals(settings.trackers, ingest=self.ingest, directory=self.registry, clock=clock)
        self.brokers = Brokers(
            settings.broker,
            ingest=self.ingest,
            directory=self.registry,
            store=self.writer,
            clock=clock,
            policy=self.escalation.policy,
            wake=self.outbox.wake,
        )
        if self.brokers.links:
            self.ingest.listen(self.brokers.observe)
            self.commands.attach("broker", self.brokers)
        self.serial = SerialLines(settings.serial, ingest=self.ingest, directory=self.registry, clock=clock)
        self.receivers = Receivers(
            settings, self.receiver_codecs, ingest=self.ingest, directory=self.registry, clock=clock
        )
        self.commands.attach("trackers", self.terminals)
        self.commands.attach("coap", self.mobile)
        self.mobile.coap.downs.on_contact = self.commands.contact
        if self.terminals.locator is not None:
            self.ingest.listen(self.terminals.locator)

    def _build_health(self) -> None:
        clock = self.clock
        self.commit_seconds, self.ack_seconds = Histogram(), Histogram()
        self.writer.on_commit_time = self.commit_seconds.observe
        self.ingest.observe_commit = self.ack_seconds.observe
        self.lag, self.load = LoopLag(clock), HostLoad(clock)
        self.health = Health(store=self.writer, clock=clock)
        self.ingest.listen(lambda committed: self.health.committed(committed))  # noqa: PLW0108 - names differ
        for part in (self.lag, self.load, self.postgres, self.history, *self.feeding.parts):
            if part is not None:
                self.health.add(part)
        self.health.add(self.terminals)
        self.health.add(self.mobile)
        if self.ble is not None:
            self.health.add(self.ble)
        for house in (self.receivers, self.serial):
            self.health.add(house)
        if self.ways.alarm_centers is not None:
            self.health.add(self.ways.alarm_centers)
        if self.brokers.links:
            self.health.add(self.brokers)
        if self.ways.modem is not None:
            self.health.add(ModemHealth(self.ways.modem))

    def _build_api(self) -> None:
        settings, clock = self.settings, self.clock
        self.metrics = Metrics(metadata.version("carebell"))
        self.http_ingest = HttpIngest(
            ingest=self.ingest, credentials=self.registry, directory=self.registry, clock=clock,
        )  # fmt: skip
        self.push = push_receivers(settings, ingest=self.ingest, directory=self.registry, clock=clock)
        self.cti = (
            CtiReceiver(self.telephones, credentials=self.registry, keys=self.registry.api_key)
            if settings.cti.enabled
            else None
        )
        self.services = Services(
            store=self.writer,
            desk=self.desk,
            history=self.queries,
            feed=self.feed,
            clock=clock,
            health=self.health,
            metrics=self.metrics,
            keys=self.registry,
            profiles=ProfileViews(self.profiles),
            commands=CommandDesk(self.writer, clock, self.catalog, self.commands.wake),
            ingest=self.http_ingest,
            callbacks=self.ways,
            push=self.push,
            cti=self.cti,
            orders=self.order_desk,
            care=CareDesk(self.writer, clock, self.escalation.policy, wake=self.outbox.wake),
            live=self.states,
            conferences=self._conferences(),
            limits=self._limits,
            tokens=token_verifier(settings.access, clock),
            credentials=self.registry,
            emqx_secret=(
                read_secret(settings.emqx.secret_file, "emqx.secret_file") if settings.emqx.secret_file else ""
            ),
            versions={name: metadata.version(name) for name in ("carebell", "apsw", "msgspec", "psycopg", "uvloop")},
        )
        self.api: ApiServer | None = None
        self.faces: Faces | None = None
        if not settings.http.listen:
            return
        if settings.console.enabled:
            self.faces = self._build_console()
        host, port = host_and_port(settings.http.listen)
        passing: dict[str, Any] = {} if self.faces is None else {"protocol": PassingProtocol, "switch": self.faces}
        app, closing = build_app(self.services), self.services.closing
        self.api = ApiServer(app, host=host, port=port, on_drain=closing.set, **passing)

    async def _limits(self, person_id: str) -> list[dict[str, Any]]:
        return self.engine.limits(person_id, self.clock.now_us())

    def _build_console(self) -> Faces:
        """The pages: those which write are served here, the others by a process of their own, which is returned."""
        settings, access, services = self.settings.console, self.settings.access, self.services
        attendance = WrittenAttendance(self.writer, self.clock)
        conferences = services.conferences is not None
        board = Board(self.writer, self.clock)  # followed there
        frame = page_frame(services, board, settings, access, conferences=conferences, attendance=attendance)
        faces = Faces(
            self.writer.path,
            self.settings.site,
            settings,
            access,
            log_format=self.settings.log_format,
            conferences=conferences,
            errands=errands_of(services, attendance),
            dsn=self.read_dsn,
            adopt=self._adopt,
        )
        self.health.add(faces)
        self.services = dataclasses.replace(
            services,
            console=build_console(frame),
            elsewhere=faces.is_elsewhere,
            outdoors=outdoors.pages(
                services,
                settings,
                self.family,
                self.recent,
                self.escalation.policy,
                store=self.writer,
                clock=self.clock,
                wake=self.outbox.wake,
            ),
        )
        return faces

    async def _adopt(self, descriptor: int, begun: bytes) -> None:
        assert self.api is not None  # it is the listener of what comes back
        await self.api.adopt(descriptor, begun)

    def _build_commands(self) -> None:
        """The road down. A transport of terminals joins it with ``commands.attach(name, downlink)``."""
        self.catalog = ProfileCommands(self.profiles, CODECS)
        sessions = next((endpoint.sessions for endpoint in self.mqtt.values()), None)
        self.commands = Sender(
            store=self.writer,
            clock=self.clock,
            catalog=self.catalog,
            directory=self.registry,
            mailbox=None if sessions is None else Mailbox(sessions, mqtt.limits_of(self.settings.mqtt)),
        )
        if sessions is not None:
            sessions.on_finished = self.commands.outcome
        self.ingest.listen(self.commands.observe)
