"""A GSM modem on a serial port: messages when the Internet is down, and the way in for calls and messages.

serialx carries the port: its asyncio transport did not stall in any of our comparisons, and an unplugged port ends it
with an error instead of a spinning reader.
"""

from __future__ import annotations

import asyncio
import heapq
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import serialx
import structlog
from msgspec import Struct, field
from prometheus_client import Gauge

from alerts.channel import Receipt
from alerts.channels import modem_inbox, modem_pdu
from alerts.channels.http_request import read_secret
from alerts.channels.modem_attempts import PROVIDER, Attempts
from alerts.channels.modem_inbox import Doorbell, Inbox, IncomingCall, IncomingSms
from alerts.channels.modem_link import (
    ModemGoneError,
    ModemLink,
    ModemRefusedError,
    ModemSilentError,
    SubmitUncertainError,
)
from alerts.channels.modem_pdu import PduError, StatusReport, Submit
from alerts.notice import Medium, Notice, Told
from gateway.clock import Clock
from gateway.errors import CarebellError, DeliveryDeferredError, DeliveryRefusedError, DeliveryUnknownError

MAX_WAITING: Final = 100
MAX_UNTOLD: Final = 500
SEND_LIMIT_S: Final = 110.0
HAND_OVER_S: Final = 10.0
_REGISTERED: Final = frozenset({1, 5})
_NEVER: Final = frozenset({1, 8, 10, 21, 28, 30, 96, 97, 98, 99, 111, 304, 305})
"""+CMS ERROR codes (3GPP TS 27.005, 3.2.5) that the same message to the same number will meet again."""
_UNCLEAR: Final = frozenset({332})  # network time-out: it may have gone
_CREG: Final = re.compile(r"\+CREG: *(?:\d+ *, *)?(\d+)")
_CSQ: Final = re.compile(r"\+CSQ: *(\d+)")
SIGNAL: Final = Gauge("carebell_modem_signal_dbm", "Received signal of the GSM modem; NaN when unknown")
REGISTERED: Final = Gauge("carebell_modem_registered", "1 while the GSM modem is registered in a network")
_log = structlog.get_logger(__name__)
T = TypeVar("T")


class ModemSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``pin_file``: the SIM's PIN; it is tried once per start, because the third wrong one locks the SIM.

    ``hang_up``: end an incoming call once it has been told (it is never answered). ``validity``: TP-VP, 170 = 4 days.
    """

    port: str = ""
    baudrate: int = 115_200
    pin_file: str = ""
    reports: bool = True
    hang_up: bool = True
    validity: int = modem_pdu.VALIDITY_FOUR_DAYS
    poll_s: float = 30.0
    inbox_s: float = 300.0
    reopen_s: float = 2.0
    retry_part_s: float = 2.0
    prompt_s: float = 10.0
    submit_s: float = 60.0


class Listeners(Struct, frozen=True, kw_only=True):
    """Who is told. Each returns once it has kept what it was told; an error means: tell it again later."""

    told: Callable[[Told], Awaitable[None]]
    sms: Callable[[IncomingSms], Awaitable[None]]
    call: Callable[[IncomingCall], Awaitable[None]]


class _Job(Struct):
    """A message on its way out. Ordered by priority, then age; one part is sent at a time."""

    priority: int
    number: int
    attempt_id: str
    recipient: str
    parts: list[Submit]
    done: asyncio.Future[Receipt]
    sent: list[int] = field(default_factory=list)
    tries: int = 0

    def __lt__(self, other: _Job) -> bool:
        return (self.priority, self.number) < (other.priority, other.number)


class ModemProvider:
    """A Provider for ``sms``. ``run`` keeps the modem; without it nothing is sent."""

    def __init__(self, settings: ModemSettings, clock: Clock, listeners: Listeners) -> None:
        self._settings = settings
        self._clock = clock
        self._listeners = listeners
        self._link: ModemLink | None = None
        self._fault = "not opened yet"
        self._registered = False
        self._signal_dbm: int | None = None
        self._jobs: list[_Job] = []
        self._at_port: _Job | None = None
        self._count = 0
        self._reference = 0
        self._work = asyncio.Event()
        self._attempts = Attempts()
        self._untold: deque[Told | IncomingCall] = deque(maxlen=MAX_UNTOLD)
        self._untold_event = asyncio.Event()
        self._inbox = Inbox()
        self._inbox_due = True
        self._inbox_pause_s = settings.inbox_s
        self._hang_up_due = False
        self._doorbell = Doorbell()
        self._pin_tried = False

    @property
    def name(self) -> str:
        return PROVIDER

    @property
    def media(self) -> frozenset[Medium]:
        return frozenset({"sms"})

    def ready(self) -> bool:
        return bool(self._settings.port)

    def state(self) -> tuple[bool, str]:
        """For /readyz: whether messages would go out now, and why not."""
        if self._link is None or self._link.gone or self._fault:
            return False, self._fault or "the port closed"
        if not self._registered:
            return False, "not registered in a network"
        signal = "unknown" if self._signal_dbm is None else f"{self._signal_dbm} dBm"
        return True, f"registered, signal {signal}"

    async def send(self, notice: Notice) -> Receipt:
        """Deferred at once while the modem is away or has no network, so that another way can be taken."""
        if notice.medium != "sms":
            raise DeliveryRefusedError(f"the modem carries no {notice.medium}")
        self._check()
        if len(self._jobs) >= MAX_WAITING:
            self._make_room(notice.priority)
        self._reference = (self._reference + 1) % 256
        try:
            parts = modem_pdu.encode(
                notice.to,
                notice.text,
                reference=self._reference,
                report=self._settings.reports,
                validity=self._settings.validity,
            )
        except ValueError as error:
            raise DeliveryRefusedError("the contact's number is none that a modem can send to") from error
        self._count += 1
        done: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        job = _Job(notice.priority, self._count, notice.attempt_id, notice.to, parts, done)
        heapq.heappush(self._jobs, job)
        self._work.set()
        try:
            async with asyncio.timeout(SEND_LIMIT_S):
                return await done
        except TimeoutError as error:
            if job.sent:
                raise DeliveryUnknownError("the modem was too slow; a part of the message went out") from error
            raise DeliveryDeferredError("the modem is busy with other messages", 5.0) from error

    async def find(self, notice: Notice) -> Told | None:
        """What this process knows of the attempt; a modem keeps nothing."""
        return self._attempts.find(notice.attempt_id, self._clock.now_us())

    async def close(self) -> None:
        """Nothing more is sent. ``run`` is ended by cancelling it."""
        for job in self._jobs:
            self._fail(job, DeliveryDeferredError("the modem is being closed"))
        self._jobs.clear()

    async def run(self) -> None:
        """Open the port, keep the modem at work, and open it again whenever it goes. Never returns."""
        while True:
            try:
                await self._session()
            except* (ModemGoneError, ModemSilentError, ModemRefusedError, OSError, serialx.SerialException) as group:
                reason = _reason(group)
                if reason != self._fault:
                    _log.warning("modem_away", port=self._settings.port, reason=reason)
                self._fault = reason
            finally:
                link, self._link = self._link, None
                self._registered = False
                REGISTERED.set(0)
                self._fail_waiting(link)
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # a task group that fails meanwhile swallows the cancellation
                raise asyncio.CancelledError
            await asyncio.sleep(self._settings.reopen_s)

    async def _session(self) -> None:
        async with asyncio.timeout(10.0):
            reader, writer = await serialx.open_serial_connection(self._settings.port, baudrate=self._settings.baudrate)
        settings = self._settings
        link = ModemLink(reader, writer, self._heard, prompt_s=settings.prompt_s, submit_s=settings.submit_s)
        async with asyncio.TaskGroup() as group:
            group.create_task(link.run())
            await self._initialize(link)
            self._link = link
            self._fault = ""
            self._inbox_due = True
            _log.info("modem_ready", port=self._settings.port)
            group.create_task(self._tell())
            await self._work_off(link)

    async def _initialize(self, link: ModemLink) -> None:
        await link.recover()
        for command in ("ATE0", "AT+CMEE=1"):
            await link.command(command)
        await self._unlock(link)
        await link.command("AT+CMGF=0")
        for wish in ('AT+CPMS="SM","SM","SM"', "AT+CLIP=1"):
            try:
                await link.command(wish)
            except ModemRefusedError:
                _log.info("modem_lacks", port=self._settings.port, operation=wish.partition("=")[0])
        await link.command("AT+CNMI=2,1,0,1,0")
        await self._look(link)

    async def _unlock(self, link: ModemLink) -> None:
        lines = await link.command("AT+CPIN?")
        if any("READY" in line for line in lines):
            return
        if not any("SIM PIN" in line for line in lines) or not self._settings.pin_file or self._pin_tried:
            raise ModemGoneError("the SIM is locked")
        self._pin_tried = True
        try:
            pin = read_secret(self._settings.pin_file, "the SIM's PIN")
        except DeliveryDeferredError as error:
            raise ModemGoneError(str(error)) from error
        if not (pin.isascii() and pin.isdecimal() and 4 <= len(pin) <= 8):
            raise ModemGoneError("the SIM's PIN is not 4 to 8 digits")
        await link.command(f'AT+CPIN="{pin}"', 20.0)
        await asyncio.sleep(1.0)  # the SIM's files are read before the next command can use them

    async def _look(self, link: ModemLink) -> None:
        """Registration and signal."""
        status = _first(_CREG, await link.command("AT+CREG?"))
        registered = status in _REGISTERED
        if registered != self._registered:
            _log.info("modem_registration", port=self._settings.port, state="registered" if registered else "none")
        self._registered = registered
        REGISTERED.set(registered)
        level = _first(_CSQ, await link.command("AT+CSQ"))
        self._signal_dbm = None if level is None or level > 31 else -113 + 2 * level
        SIGNAL.set(float("nan") if self._signal_dbm is None else self._signal_dbm)

    async def _work_off(self, link: ModemLink) -> None:
        """One thing at a time: emergencies first, then what came in, then other messages."""
        clock = self._clock
        looked_s = listed_s = clock.monotonic_s()
        while True:
            self._work.clear()
            urgent = bool(self._jobs) and self._jobs[0].priority <= 1
            if urgent:
                await self._send_part(link)
            elif self._hang_up_due:
                self._hang_up_due = False
                await self._try(link, "AT+CHUP")
            elif self._inbox_due or clock.monotonic_s() - listed_s >= self._inbox_pause_s:
                self._inbox_due = False
                listed_s = clock.monotonic_s()
                await self._read_inbox(link)
            elif self._jobs:
                await self._send_part(link)
            elif clock.monotonic_s() - looked_s >= self._settings.poll_s:
                looked_s = clock.monotonic_s()
                await self._guarded(link, self._look)
            else:
                await self._pause()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(self._settings.poll_s):
                await self._work.wait()
        except TimeoutError:
            return

    async def _guarded(self, link: ModemLink, step: Callable[[ModemLink], Awaitable[None]]) -> None:
        """A step that may be refused or go unanswered; then the modem has to show that it is still there."""
        try:
            await step(link)
        except ModemRefusedError as error:
            _log.warning("modem_refused", port=self._settings.port, error=str(error))
        except ModemSilentError:
            await link.recover()

    async def _try(self, link: ModemLink, command: str) -> None:
        async def step(link: ModemLink) -> None:
            await link.command(command)

        await self._guarded(link, step)

    async def _send_part(self, link: ModemLink) -> None:
        job = heapq.heappop(self._jobs)
        if job.done.done():
            return  # its sender has stopped waiting
        if not job.sent:
            self._attempts.begin(job.attempt_id, len(job.parts))
        part = job.parts[len(job.sent)]
        self._at_port = job
        try:
            reference = await link.submit(part.pdu, part.length)
        except ModemRefusedError as error:
            self._at_port = None
            await self._refused(job, error)
        except SubmitUncertainError as error:
            self._fail(job, self._uncertain(job, written=error.written))
            if error.gone:
                raise ModemGoneError("the port closed") from error
            await link.recover()
        else:
            self._sent(job, reference)
        self._at_port = None

    def _sent(self, job: _Job, reference: int) -> None:
        job.sent.append(reference)
        job.tries = 0
        told = self._attempts.sent(job.attempt_id, job.recipient, reference, self._clock.now_us())
        if told is not None:
            self._put_untold(told)
        if len(job.sent) < len(job.parts):
            heapq.heappush(self._jobs, job)
        elif not job.done.done():
            references = ",".join(str(number) for number in job.sent)
            job.done.set_result(Receipt(references, {"parts": len(job.parts)}))

    def _uncertain(self, job: _Job, *, written: bool) -> Exception:
        """``written``: the modem had the part that was under way."""
        if written or job.sent:
            return DeliveryUnknownError("the modem did not say whether the whole message went out")
        return DeliveryDeferredError("the modem did not take the message", self._settings.reopen_s)

    async def _refused(self, job: _Job, error: ModemRefusedError) -> None:
        code = error.code if error.kind == "CMS" else None
        if code in _NEVER:
            self._fail(job, DeliveryRefusedError(f"the network refused the message: {error}"))
        elif code in _UNCLEAR:
            self._fail(job, DeliveryUnknownError(f"the network did not answer: {error}"))
        elif job.tries < 2:
            job.tries += 1
            heapq.heappush(self._jobs, job)
            await asyncio.sleep(self._settings.retry_part_s)
        elif job.sent:
            self._fail(job, DeliveryUnknownError(f"a part went out and the next did not: {error}"))
        else:
            self._fail(job, DeliveryDeferredError(f"the modem could not send: {error}", 10.0))

    async def _read_inbox(self, link: ModemLink) -> None:
        """Read, hand over, and delete only what has been kept."""
        try:
            stored = modem_inbox.listed(await link.command("AT+CMGL=4", 20.0))
        except ModemRefusedError as error:
            _log.warning("modem_refused", port=self._settings.port, error=str(error))
            return
        except ModemSilentError:
            await link.recover()
            return
        self._inbox_pause_s = self._settings.inbox_s
        for found in self._inbox.sort(stored, self._clock.now_us()):
            if isinstance(found.message, StatusReport):
                self._reported(found.message)
            elif not await self._keep(self._listeners.sms, found.message):
                self._inbox_pause_s = self._settings.poll_s  # it stays in the modem, and is offered again soon
                continue
            for index in found.indexes:
                await self._try(link, f"AT+CMGD={index}")

    async def _tell(self) -> None:
        """Hand on receipts and calls, beside the work at the port."""
        while True:
            self._untold_event.clear()
            while self._untold:
                first = self._untold[0]
                if isinstance(first, Told):
                    kept = await self._keep(self._listeners.told, first)
                else:
                    kept = await self._keep(self._listeners.call, first)
                if not kept:
                    await asyncio.sleep(self._settings.reopen_s)
                elif self._untold and self._untold[0] is first:
                    self._untold.popleft()
            await self._untold_event.wait()

    async def _keep(self, listener: Callable[[T], Awaitable[None]], thing: T) -> bool:
        try:
            async with asyncio.timeout(HAND_OVER_S):
                await listener(thing)
        except (CarebellError, TimeoutError) as error:
            _log.error("modem_not_kept", kind=type(thing).__name__, error=type(error).__name__)
            return False
        return True

    def _heard(self, line: str, pdu: str) -> None:
        """What the modem said on its own. Called by the link, on the loop."""
        if pdu:
            try:
                report = modem_pdu.decode(pdu)
            except PduError as error:
                _log.warning("modem_report_unreadable", error=str(error))
                return
            if isinstance(report, StatusReport):
                self._reported(report)
        elif line.startswith(("+CMTI:", "+CDSI:")):
            self._inbox_due = True
            self._work.set()
        else:
            call = self._doorbell.hears(line, self._clock.monotonic_s(), self._clock.now_us())
            if call is not None:
                self._put_untold(call)
                self._hang_up_due = self._settings.hang_up
                self._work.set()

    def _reported(self, report: StatusReport) -> None:
        told = self._attempts.reported(report, self._clock.now_us())
        if told is not None:
            self._put_untold(told)

    def _put_untold(self, thing: Told | IncomingCall) -> None:
        self._untold.append(thing)
        self._untold_event.set()

    def _check(self) -> None:
        if self._link is None or self._link.gone:
            raise DeliveryDeferredError(
                f"the modem is away: {self._fault or 'the port closed'}", self._settings.reopen_s
            )
        if not self._registered:
            raise DeliveryDeferredError("the modem is not registered in a network", 10.0)

    def _make_room(self, priority: int) -> None:
        """Bounded: an emergency takes the place of the least urgent that waits."""
        last = max(self._jobs)
        if priority >= last.priority:
            raise DeliveryDeferredError("too many messages wait for the modem", 10.0)
        self._jobs.remove(last)
        heapq.heapify(self._jobs)
        self._fail(last, DeliveryDeferredError("an emergency took its place at the modem", 10.0))

    def _fail_waiting(self, link: ModemLink | None) -> None:
        """The modem went: who waits learns it at once and can take another way."""
        at_port, self._at_port = self._at_port, None
        if at_port is not None:
            self._fail(at_port, self._uncertain(at_port, written=link is None or link.written))
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            self._fail(job, self._uncertain(job, written=False))

    @staticmethod
    def _fail(job: _Job, error: Exception) -> None:
        if not job.done.done():
            job.done.set_exception(error)


def _first(pattern: re.Pattern[str], lines: list[str]) -> int | None:
    return next((int(found[1]) for line in lines if (found := pattern.search(line))), None)


def _reason(group: BaseExceptionGroup[BaseException]) -> str:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ModemGoneError):
        return str(error)
    return f"{type(error).__name__}: {error}" if isinstance(error, ModemRefusedError) else type(error).__name__
