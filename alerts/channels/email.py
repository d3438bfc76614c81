"""E-mail by SMTP: one message, one connection, TLS that is checked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from typing import Final, Literal

import aiosmtplib
from msgspec import Struct

from alerts.channel import Receipt
from alerts.channels.http_request import read_secret
from alerts.notice import Medium, Notice, Told
from gateway.clock import Clock, from_us
from gateway.errors import DeliveryDeferredError, DeliveryRefusedError, DeliveryUnknownError

MAX_SUBJECT: Final = 200
MAX_TEXT: Final = 20_000
CONNECTIONS: Final = 4
QUIT_S: Final = 2.0
_PERMANENT: Final = 500


class EmailSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``security``: ``starttls`` (demanded, not merely tried), ``tls`` (from the first byte), ``none`` (a relay here).

    ``timeout_s`` bounds each step of the dialogue; a message as a whole has four times as long.
    """

    host: str = ""
    port: int = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    username: str = ""
    password_file: str = ""
    sender: str = ""
    sender_name: str = "安心铃 carebell"
    timeout_s: float = 15.0


class EmailProvider:
    """A Provider for ``email``. ``Message-ID`` is made of the attempt id, so it is the same when sent again."""

    def __init__(self, settings: EmailSettings, clock: Clock, *, tls: ssl.SSLContext | None = None) -> None:
        self._settings = settings
        self._clock = clock
        self._tls = tls
        self._slots = asyncio.Semaphore(CONNECTIONS)

    @property
    def name(self) -> str:
        return "email"

    @property
    def media(self) -> frozenset[Medium]:
        return frozenset({"email"})

    def caller(self, medium: Medium) -> str:
        del medium
        return self._settings.sender

    def ready(self) -> bool:
        return bool(self._settings.host and self._settings.sender)

    async def close(self) -> None:
        """Nothing stays open between messages."""

    async def find(self, notice: Notice) -> Told | None:
        """None: a relay cannot be asked."""
        del notice
        return None

    async def send(self, notice: Notice) -> Receipt:
        settings = self._settings
        message = compose(notice, settings, self._clock.now_us())
        password = read_secret(settings.password_file, "the SMTP password") if settings.username else ""
        client = aiosmtplib.SMTP(
            hostname=settings.host,
            port=settings.port,
            timeout=settings.timeout_s,
            use_tls=settings.security == "tls",
            start_tls=settings.security == "starttls",
            tls_context=self._tls,
        )
        try:
            async with asyncio.timeout(settings.timeout_s):
                await self._slots.acquire()
        except TimeoutError as error:
            raise DeliveryDeferredError("the mail server is busy with our other messages") from error
        try:
            async with asyncio.timeout(4 * settings.timeout_s):
                await self._log_in(client, password)
                reply = await _submit(client, message, notice.to, settings.sender)
        except TimeoutError as error:
            raise DeliveryUnknownError("the mail server did not answer in time") from error
        else:
            await _leave(client)
        finally:
            client.close()
            self._slots.release()
        return Receipt(str(message["Message-ID"]), {"reply": reply})

    async def _log_in(self, client: aiosmtplib.SMTP, password: str) -> None:
        """Nothing was submitted yet: every failure is one that time or an administrator puts right."""
        try:
            await client.connect()
            if self._settings.username:
                await client.login(self._settings.username, password)
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            raise DeliveryDeferredError(f"the mail server lets nobody in: {type(error).__name__}") from error


async def _leave(client: aiosmtplib.SMTP) -> None:
    """Politeness: the message is delivered whatever comes of it."""
    with contextlib.suppress(aiosmtplib.SMTPException, OSError):
        async with asyncio.timeout(QUIT_S):
            await client.quit()


async def _submit(client: aiosmtplib.SMTP, message: EmailMessage, to: str, sender: str) -> str:
    try:
        await client.mail(sender, encoding="utf-8")
        await client.rcpt(to, encoding="utf-8")
    except aiosmtplib.SMTPRecipientRefused as error:
        if error.code >= _PERMANENT:
            raise DeliveryRefusedError(f"the mail server refused the recipient: {error.code}") from error
        raise DeliveryDeferredError(f"the mail server put the recipient off: {error.code}") from error
    except (aiosmtplib.SMTPException, OSError, ValueError) as error:
        raise DeliveryDeferredError(f"the mail server did not take the envelope: {type(error).__name__}") from error
    try:
        response = await client.data(message.as_bytes(policy=SMTP))
    except aiosmtplib.SMTPDataError as error:
        if error.code >= _PERMANENT:
            raise DeliveryRefusedError(f"the mail server refused the message: {error.code}") from error
        raise DeliveryDeferredError(f"the mail server put the message off: {error.code}") from error
    except (aiosmtplib.SMTPException, OSError) as error:
        raise DeliveryUnknownError(f"the connection broke inside the message: {type(error).__name__}") from error
    return str(response.code)


def compose(notice: Notice, settings: EmailSettings, now_us: int) -> EmailMessage:
    """The message. Raises DeliveryRefusedError when ``to`` is no address of one mailbox."""
    try:
        to = Address(addr_spec=notice.to)
        sender = Address(settings.sender_name, addr_spec=settings.sender)
    except (ValueError, IndexError, MessageError) as error:
        raise DeliveryRefusedError("the contact's or the sender's e-mail address is malformed") from error
    if not to.domain or not notice.to.isprintable() or len(notice.to) > 254:
        raise DeliveryRefusedError("the contact's e-mail address is malformed")
    message = EmailMessage(policy=SMTP)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = _one_line(notice.subject or notice.text)[:MAX_SUBJECT]
    message["Date"] = format_datetime(from_us(now_us))
    message["Message-ID"] = f"<{notice.attempt_id}@{sender.domain}>"
    message["Content-Language"] = notice.language
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office replies
    if notice.priority <= 2:
        message["Importance"] = "high"
        message["X-Priority"] = "1"
    text = f"{notice.text}\n\n{notice.link}" if notice.link and notice.link not in notice.text else notice.text
    message.set_content(_sound(text)[:MAX_TEXT])
    if notice.html and len(notice.html) <= MAX_TEXT:
        message.add_alternative(_sound(notice.html), subtype="html")
    return message


def _one_line(text: str) -> str:
    return " ".join(_sound(text).split())


def _sound(text: str) -> str:
    """Without what cannot be written as UTF-8 or would end a line in a header."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(character for character in text if character.isprintable() or character in "\n\t ")
