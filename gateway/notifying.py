"""The ways to reach people, plugged in: providers from the configuration, the registry for the ladders, callbacks."""

from __future__ import annotations

import importlib.util
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import apsw
import msgspec
import structlog

from alerts.notice import IncomingMessage, Medium, Provider, Told
from alerts.people import MEDIA
from gateway.address import host_and_port
from gateway.api.services import Answered
from gateway.clock import Clock
from gateway.config import read_secret
from gateway.config_notify import NotifySection
from gateway.errors import ConfigError, NotFoundError, StorageError
from gateway.model import Verdict
from gateway.ports import Store
from gateway.registry.people import notice_contacts, notice_device, notice_person
from gateway.telephones import Telephones, spellings

MODEM: Final = "modem"
REMEMBERED: Final = 1000
_log = structlog.get_logger(__name__)


class Incoming(Protocol):
    """What happens to messages and calls that come in. An error means: tell it again later."""

    async def sms(self, message: Any) -> None:
        """An alerts.channels.modem_inbox.IncomingSms. Return once it is kept: then it is deleted from the SIM."""
        ...

    async def message(self, message: IncomingMessage) -> None:
        """A message that a carrier tells of. Return once it is kept."""
        ...

    async def call(self, call: Any) -> None:
        """An alerts.channels.modem_inbox.IncomingCall."""
        ...


class Answers(Protocol):
    """What becomes of messages and calls that come in (alerts.replies.Replies). Raises StorageError."""

    async def take_message(self, provider: str, sender: str, text: str, key: str, to: str = "") -> str: ...

    async def note_call(self, provider: str, number: str, key: str) -> None: ...


class JournalIncoming:
    """Incoming: what comes in is kept as frames of the transport that brought it, and means what its sender's number
    and words mean (gateway.telephones). Messages are first offered as replies to ours.
    """

    def __init__(self, telephones: Telephones) -> None:
        self._telephones = telephones
        self._answers: Answers | None = None
        self._kept: deque[str] = deque(maxlen=REMEMBERED)  # the journal takes a stranger's message as often as it comes
        self._wake: Callable[[], None] = lambda: None

    def connect(self, answers: Answers, wake: Callable[[], None]) -> None:
        """``wake`` is the outbox's."""
        self._answers, self._wake = answers, wake

    async def sms(self, message: Any) -> None:
        await self._take(MODEM, message, "")

    async def message(self, message: IncomingMessage) -> None:
        await self._take(message.provider, message, message.to)

    async def _take(self, provider: str, message: Any, to: str) -> None:
        taken = "unknown"
        if message.key in self._kept:
            return
        if self._answers is not None:
            sender = in_e164(message.sender)
            taken = await self._answers.take_message(provider, sender, message.text, message.key, to)
            _log.info("message_came_in", provider=provider, result=taken)
            self._wake()
        verdict = await self._telephones.message(
            message.sender, message.text, message.received_us, msgspec.json.encode(message),
            key=message.key, reply=taken != "unknown", transport=provider,
        )  # fmt: skip
        _must_be_kept(verdict)
        self._kept.append(message.key)

    async def call(self, call: Any) -> None:
        if self._answers is not None:
            await self._answers.note_call(MODEM, in_e164(call.number), f"ring/{call.number}/{call.at_us}")
        _must_be_kept(await self._telephones.call(call.number, call.at_us, msgspec.json.encode(call)))


def in_e164(number: str) -> str:
    """A number as the registry has it, however a carrier writes it; as it is when it is none."""
    return next((each for each in spellings(number) if each.startswith("+")), number) if number else ""


def _must_be_kept(verdict: Verdict) -> None:
    if verdict is not Verdict.ACCEPTED:
        raise StorageError("not in the journal")


class Intake:
    """Takes what providers tell: stores it, lets it act on its alert, and only then returns."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._take: Callable[[apsw.Connection, Told, int], str] | None = None
        self._wake: Callable[[], None] = lambda: None

    def connect(self, take: Callable[[apsw.Connection, Told, int], str], wake: Callable[[], None]) -> None:
        """``take`` is Escalation.take_told, ``wake`` the outbox's."""
        self._take, self._wake = take, wake

    async def told(self, *told: Told) -> None:
        """Raises StorageError when nothing was kept."""
        if not told:
            return
        take, now_us = self._take, self._clock.now_us()
        assert take is not None, "connected before anything serves"
        came = await self._store.write(lambda c: [take(c, each, now_us) for each in told])
        for each, result in zip(told, came, strict=True):
            _log.info("told", provider=each.provider, attempt_id=each.attempt_id, state=each.state, result=result)
        self._wake()


class RegistryNotices:
    """alerts.people.NoticeSource from the registry's tables."""

    def person(self, connection: apsw.Connection, person_id: str) -> Mapping[str, Any] | None:
        return notice_person(connection, person_id)

    def device(self, connection: apsw.Connection, device_id: str) -> Mapping[str, Any] | None:
        return notice_device(connection, device_id)

    def contacts(self, connection: apsw.Connection, person_id: str) -> Sequence[Mapping[str, Any]]:
        return notice_contacts(connection, person_id)


class Ways:
    """The configured providers. Made before the loop serves: reading in an SDK takes 0.3 s.

    Raises ConfigError for what cannot work as it is configured. Libraries are read in for what is configured alone.
    Without ``intake`` and ``incoming`` (``carebell check``) nothing that comes in is taken.
    """

    def __init__(
        self, notify: NotifySection, clock: Clock, intake: Intake | None = None, incoming: Incoming | None = None
    ) -> None:
        self._clock = clock
        self._told = _nobody if intake is None else intake.told
        self._message = _nobody if incoming is None else incoming.message
        self.providers: list[Provider] = []
        self.order: dict[Medium, tuple[str, ...]] = {medium: getattr(notify.order, medium) for medium in MEDIA}
        self.link = _link(notify.alert_url)
        self.twilio = self._twilio(notify) if notify.twilio.account_sid else None
        self.aliyun = self._aliyun(notify) if notify.aliyun.access_key_id else None
        self.modem = self._modem(notify, incoming) if notify.modem.port else None
        for provider in (self.twilio, self.aliyun, self.modem):
            if provider is not None:
                self.providers.append(provider)
        if notify.robots:
            self.providers.append(self._robots(notify))
        if notify.webhook or notify.push.endpoint:
            self.providers.extend(self._webhooks(notify))
        self.alarm_centers = self._alarm_centers(notify) if notify.dc09 else None
        if self.alarm_centers is not None:
            self.providers.append(self.alarm_centers)
        if notify.email.host:
            self.providers.append(self._email(notify))

    def media(self) -> frozenset[Medium]:
        """By which media somebody can be reached."""
        return frozenset(medium for each in self.providers if each.ready() for medium in each.media)

    # ---- callbacks (gateway.api.services.Callbacks) ------------------------------------------------------------------

    async def take_twilio(self, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Answered:
        """Raises NotFoundError when this site has no Twilio, StorageError when what was told could not be kept."""
        if self.twilio is None or not self.twilio.media >= {"voice"}:
            raise NotFoundError("no such callback")
        status, content_type, answer, heard = self.twilio.callbacks.handle(path, query, headers, body)
        if heard is not None:
            await self._take([heard])
        return status, content_type, answer

    async def take_aliyun(self, path: str, body: bytes) -> Answered:
        """Raises as ``take_twilio``."""
        if self.aliyun is None:
            raise NotFoundError("no such callback")
        status, content_type, answer, heard = self.aliyun.handle(path, body)
        await self._take(heard)
        return status, content_type, answer

    async def _take(self, heard: Sequence[Told | IncomingMessage]) -> None:
        await self._told(*(each for each in heard if isinstance(each, Told)))
        for each in heard:
            if isinstance(each, IncomingMessage):
                await self._message(each)

    # ---- providers ---------------------------------------------------------------------------------------------------

    def _twilio(self, notify: NotifySection) -> Any:
        twilio = notify.twilio
        _need("notify.twilio", twilio.auth_token_file, "auth_token_file")
        _need("notify.twilio", twilio.from_number or twilio.messaging_service_sid, "from_number")
        _installed("notify.twilio", "twilio", "aiohttp")
        from alerts.channels.twilio import TwilioProvider  # noqa: PLC0415 - only where it is configured

        secret = twilio.capability_secret_file
        provider = TwilioProvider(
            twilio.account_sid,
            read_secret(twilio.auth_token_file, "notify.twilio.auth_token_file"),
            twilio.from_number,
            clock=self._clock,
            base_url=twilio.base_url,
            public_url=twilio.public_url,
            messaging_service_sid=twilio.messaging_service_sid,
            capability_secret=read_secret(secret, "notify.twilio.capability_secret_file") if secret else "",
            machine_detection=twilio.machine_detection,
            timeout_s=twilio.timeout_s,
        )
        if twilio.public_url:
            _ = provider.callbacks  # read in now, not at the first call
        return provider

    def _aliyun(self, notify: NotifySection) -> Any:
        _need("notify.aliyun", notify.aliyun.access_key_secret_file, "access_key_secret_file")
        if not (notify.aliyun.sms or notify.aliyun.voice):
            raise ConfigError("notify.aliyun: no template; add [notify.aliyun.sms.alert] or ...voice.alert")
        from alerts.channels.aliyun import AliyunProvider, AliyunSettings  # noqa: PLC0415 - as above

        return AliyunProvider(msgspec.convert(notify.aliyun.model_dump(), AliyunSettings), self._clock)

    def _modem(self, notify: NotifySection, incoming: Incoming | None) -> Any:
        _installed("notify.modem", "serialx")
        from alerts.channels.modem import Listeners, ModemProvider, ModemSettings  # noqa: PLC0415 - as above

        sms, call = (_nobody, _nobody) if incoming is None else (incoming.sms, incoming.call)
        listeners = Listeners(told=self._told, sms=sms, call=call)
        return ModemProvider(msgspec.convert(notify.modem.model_dump(), ModemSettings), self._clock, listeners)

    def _robots(self, notify: NotifySection) -> Provider:
        from alerts.channels.robots import Robot, RobotsProvider  # noqa: PLC0415 - as above

        robots = {name: msgspec.convert(robot.model_dump(), Robot) for name, robot in notify.robots.items()}
        return RobotsProvider(robots, self._clock)

    def _webhooks(self, notify: NotifySection) -> list[Provider]:
        from alerts.channels.push import PushProvider  # noqa: PLC0415 - as above
        from alerts.channels.webhook import Endpoint, WebhookProvider, WebhookSender  # noqa: PLC0415

        endpoints = {name: msgspec.convert(each.model_dump(), Endpoint) for name, each in notify.webhook.items()}
        push = notify.push.endpoint
        if push and push not in endpoints:
            raise ConfigError(f"notify.push.endpoint: there is no [notify.webhook.{push}]; add it")
        sender = WebhookSender(endpoints, self._clock)
        found: list[Provider] = [WebhookProvider(sender, self._clock)]
        return [*found, PushProvider(sender, push, self._clock)] if push else found

    def _alarm_centers(self, notify: NotifySection) -> Any:
        from alerts.channels.dc09 import Center, Dc09Provider  # noqa: PLC0415 - as above
        from protocols.codecs.dc09_sender import Route  # noqa: PLC0415

        centers: dict[str, Center] = {}
        for name, section in notify.dc09.items():
            key = b""
            if section.key_file:
                secret = f"notify.dc09.{name}.key_file"
                try:
                    key = bytes.fromhex(read_secret(section.key_file, secret))
                except ValueError:
                    key = b"?"
                if len(key) not in (16, 24, 32):
                    raise ConfigError(f"{secret}: write 32, 48 or 64 hexadecimal digits")
                _installed("notify.dc09", "cryptography")
            route = Route(
                account=section.account.upper(),
                line=section.line,
                receiver=section.receiver,
                form=section.format,
                key=key,
            )
            addresses = tuple(host_and_port(each) for each in (section.address, section.second_address) if each)
            centers[name] = Center(
                addresses=addresses, dialogue=route, transport=section.transport, timeout_s=section.timeout_s,
                tries=section.tries, test_s=section.test_s,
            )  # fmt: skip
        return Dc09Provider(centers, self._clock)

    def _email(self, notify: NotifySection) -> Provider:
        _need("notify.email", notify.email.sender, "sender")
        _installed("notify.email", "aiosmtplib")
        from alerts.channels.email import EmailProvider, EmailSettings  # noqa: PLC0415 - as above

        return EmailProvider(msgspec.convert(notify.email.model_dump(), EmailSettings), self._clock)


class ModemHealth:
    """A gateway.ports.HealthPart: whether messages would go out through the modem."""

    name: Final = MODEM

    def __init__(self, modem: Any) -> None:
        self._modem = modem

    def state(self) -> tuple[bool, str]:
        found: tuple[bool, str] = self._modem.state()
        return found


async def _nobody(*_told: Any) -> None:
    raise StorageError("nobody takes this")


def _need(section: str, value: str, key: str) -> None:
    if not value:
        raise ConfigError(f"{section}: {key} is missing")


def _installed(section: str, *modules: str) -> None:
    extra = section.rpartition(".")[2]
    if any(importlib.util.find_spec(module) is None for module in modules):
        raise ConfigError(f"{section}: its libraries are not installed; pip install 'carebell[{extra}]'")


def _link(alert_url: str) -> Callable[[str], str]:
    if alert_url and "{id}" not in alert_url:
        raise ConfigError("notify.alert_url: write {id} where the alert's id belongs")
    return lambda alert_id: alert_url.replace("{id}", alert_id)
