"""E-mail at aiosmtpd, an SMTP server that is not ours: what arrives, how it gets in, and how it fails."""

from __future__ import annotations

import asyncio
import contextlib
import email
import email.policy
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from email.message import EmailMessage
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session

from alerts.channels.email import EmailProvider, EmailSettings, compose
from alerts.notice import Notice, Told
from gateway.clock import SystemClock
from gateway.errors import DeliveryDeferredError, DeliveryRefusedError, DeliveryUnknownError
from tests.live.certificates import certificate_for
from tests.provider_contract import CONTRACT, SLOW_LIMIT_S, Check, Failure, name_of, run_check

CONTACT: Final = "family@example.org"
PASSWORD: Final = "密码-secret"


class MailServer:
    """aiosmtpd's protocol on a port of ours. ``fault`` decides what the next message meets."""

    def __init__(self, *, tls: ssl.SSLContext | None, implicit: bool, auth: bool) -> None:
        self.messages: list[EmailMessage] = []
        self.envelopes: list[Envelope] = []
        self.users: list[bytes] = []
        self.faults: list[Failure] = []
        self.port = 0
        self._tls = tls
        self._implicit = implicit
        self._auth = auth
        self._server: asyncio.Server | None = None
        self._protocols: list[SMTP] = []

    async def start(self) -> None:
        with socket.create_server(("127.0.0.1", self.port)) as probe:
            self.port = probe.getsockname()[1]
        context = self._tls if self._implicit else None
        self._server = await asyncio.get_running_loop().create_server(
            self._protocol, "127.0.0.1", self.port, ssl=context
        )

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        for protocol in self._protocols:
            if protocol.transport is not None:
                protocol.transport.close()
        self._protocols.clear()
        await self._server.wait_closed()
        await asyncio.sleep(0.01)  # closing a transport takes a turn of the loop

    def _protocol(self) -> SMTP:
        with warnings.catch_warnings(action="ignore"):  # it warns of passwords without TLS, which one test wants
            protocol = SMTP(
                self,
                enable_SMTPUTF8=True,
                tls_context=None if self._implicit else self._tls,
                require_starttls=bool(self._tls) and not self._implicit,
                auth_required=self._auth,
                auth_require_tls=False,
                authenticator=self._authenticate,
                loop=asyncio.get_running_loop(),
            )
        self._protocols.append(protocol)
        return protocol

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        self.users.append(data.login)
        return AuthResult(success=data.password == PASSWORD.encode(), handled=False)  # so that it answers itself

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        fault = self.faults[0] if self.faults else None
        if fault in (Failure.BAD_NUMBER, Failure.OUTAGE, Failure.BROKEN_BEFORE):
            self.faults.pop(0)
        if fault is Failure.BAD_NUMBER:
            return "550 no such mailbox"
        if fault is Failure.OUTAGE:
            return "451 later"
        if fault is Failure.BROKEN_BEFORE:
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        assert isinstance(envelope.content, bytes)
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.messages.append(message)
        self.envelopes.append(envelope)
        fault = self.faults.pop(0) if self.faults else None
        if fault is Failure.SLOW:
            await asyncio.sleep(3 * SLOW_LIMIT_S)
        if fault is Failure.NO_ANSWER:
            assert isinstance(server.transport, asyncio.WriteTransport)
            server.transport.abort()
        return "250 OK"


class EmailHarness:
    def __init__(self, provider: EmailProvider, server: MailServer) -> None:
        self.provider = provider
        self.server = server
        self.heard: list[Told] = []

    @property
    def cannot(self) -> dict[Failure | str, str]:
        nobody = "mail gives no receipts and a relay cannot be asked; Message-ID is the attempt's"
        return {"find": nobody, "receipts": nobody, "forge": nobody, Failure.QUOTA: "SMTP names no time to wait"}

    def notice(self, attempt_id: str, *, text: str = "紧急呼叫 emergency call", **more: Any) -> Notice:
        usual: dict[str, Any] = {
            "attempt_id": attempt_id, "alert_id": "17-0", "medium": "email", "to": CONTACT, "language": "zh",
            "text": text, "subject": "紧急呼叫：王秀英 emergency call",
        }  # fmt: skip
        return Notice(**(usual | more))

    def fail(self, failure: Failure) -> None:
        if failure is Failure.SLOW:
            settings = self.provider._settings
            self.provider._settings = msgspec.structs.replace(settings, timeout_s=SLOW_LIMIT_S)
        self.server.faults.append(failure)

    def effects(self) -> int:
        return len(self.server.messages)

    async def be_down(self) -> None:
        await self.server.stop()

    async def be_up(self) -> None:
        await self.server.start()

    async def reborn(self) -> EmailProvider:
        return self.provider

    async def forge(self, attempt_id: str) -> None:
        raise NotImplementedError


@contextlib.asynccontextmanager
async def mail(
    folder: Path, security: Any = "none", *, auth: bool = False, password: str = PASSWORD, trusted: bool = True
) -> AsyncIterator[EmailHarness]:
    context = trust = None
    if security != "none":
        certificate, key = certificate_for(folder, "127.0.0.1")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        trust = ssl.create_default_context(cafile=certificate) if trusted else None
    (folder / "password").write_text(password, encoding="utf-8")
    server = MailServer(tls=context, implicit=security == "tls", auth=auth)
    await server.start()
    settings = EmailSettings(
        host="127.0.0.1", port=server.port, security=security, sender="alarm@carebell.example",
        username="alarm" if auth else "", password_file=str(folder / "password"), timeout_s=60.0,
    )  # fmt: skip
    provider = EmailProvider(settings, SystemClock(), tls=trust)
    try:
        yield EmailHarness(provider, server)
    finally:
        await provider.close()
        await server.stop()


@pytest.mark.parametrize("check", CONTRACT, ids=name_of)
def test_contract(check: Check, tmp_path: Path) -> None:
    run_check(check, partial(mail, tmp_path))


@pytest.mark.parametrize("security", ["none", "starttls", "tls"])
@pytest.mark.parametrize("auth", [False, True])
def test_what_is_read_at_the_other_end(security: str, auth: bool, tmp_path: Path) -> None:
    async def main() -> None:
        async with mail(tmp_path, security, auth=auth) as harness:
            text = "王秀英 按了紧急呼叫。\n.\nFrom here: 请马上回电 😀"
            for _ in range(2):
                receipt = await harness.provider.send(harness.notice("a-1", text=text, link="https://example.org/a"))
            first, second = harness.server.messages
            assert first["Subject"] == "紧急呼叫：王秀英 emergency call"
            assert first["Message-ID"] == second["Message-ID"] == "<a-1@carebell.example>" == receipt.reference
            assert first["To"] == CONTACT
            assert str(first["From"]) == "安心铃 carebell <alarm@carebell.example>"
            assert first["Auto-Submitted"] == "auto-generated"
            assert first.get_content().replace("\r\n", "\n").strip() == f"{text}\n\nhttps://example.org/a"
            assert harness.server.envelopes[0].rcpt_tos == [CONTACT]
            assert harness.server.users == ([b"alarm"] * 2 if auth else [])

    asyncio.run(main())


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_an_unknown_certificate_gets_neither_password_nor_message(security: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with mail(tmp_path, security, auth=True, trusted=False) as harness:
            with pytest.raises(DeliveryDeferredError):
                await harness.provider.send(harness.notice("a-1"))
            assert not harness.server.users
            assert not harness.server.messages

    asyncio.run(main())


def test_starttls_is_demanded(tmp_path: Path) -> None:
    async def main() -> None:
        async with mail(tmp_path) as harness:  # a server without TLS
            settings = EmailSettings(host="127.0.0.1", port=harness.server.port, sender="a@b.example", timeout_s=60.0)
            with pytest.raises(DeliveryDeferredError):
                await EmailProvider(settings, SystemClock()).send(harness.notice("a-1"))
            assert not harness.server.messages

    asyncio.run(main())


def test_a_wrong_password_waits_for_an_administrator(tmp_path: Path) -> None:
    async def main() -> None:
        async with mail(tmp_path, auth=True, password="wrong") as harness:
            with pytest.raises(DeliveryDeferredError, match="SMTPAuthenticationError") as caught:
                await harness.provider.send(harness.notice("a-1"))
            assert "wrong" not in str(caught.value)

    asyncio.run(main())


def test_a_server_that_says_nothing(tmp_path: Path) -> None:
    async def silence(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.4)
        writer.close()

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            silent = await asyncio.start_server(silence, "127.0.0.1", 0)
            stack.push_async_callback(silent.wait_closed)
            stack.callback(silent.close)
            settings = EmailSettings(
                host="127.0.0.1", port=silent.sockets[0].getsockname()[1], security="none", sender="a@b.example",
                timeout_s=0.2,
            )  # fmt: skip
            harness = EmailHarness(
                EmailProvider(settings, SystemClock()), MailServer(tls=None, implicit=False, auth=False)
            )
            with pytest.raises((DeliveryDeferredError, DeliveryUnknownError)):
                await harness.provider.send(harness.notice("a-1"))
            await asyncio.sleep(0.6)

    asyncio.run(main())


@pytest.mark.parametrize(
    "to", ["", "nobody", "a@", "@b", "a@b\r\nBcc: c@d.example", "a@b.example, c@d.example", "a" * 300 + "@b.example"]
)
def test_addresses_that_are_none(to: str) -> None:
    notice = Notice(attempt_id="a-1", alert_id="1-0", medium="email", to=to, language="zh", text="x")
    with pytest.raises(DeliveryRefusedError):
        compose(notice, EmailSettings(sender="alarm@carebell.example"), 0)


def test_a_subject_cannot_smuggle_headers() -> None:
    notice = Notice(
        attempt_id="a-1", alert_id="1-0", medium="email", to=CONTACT, language="zh",
        text="x" * 100_000, subject="a\r\nBcc: victim@example.org\r\n\r\nb" + "长" * 500,
    )  # fmt: skip
    raw = compose(notice, EmailSettings(sender="alarm@carebell.example"), 0).as_bytes()
    read = email.message_from_bytes(raw, policy=email.policy.default)
    assert read["Bcc"] is None
    assert len(read["Subject"]) == 200
    assert len(raw) < 30_000
