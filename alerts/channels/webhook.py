"""Webhooks with Standard Webhooks signatures (standardwebhooks.com, specification 1.0), to configured endpoints.

``webhook-id`` stays over all attempts, so a receiver that saw it once ignores it later; the timestamp is new each time.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from alerts.channel import Receipt, ServerFailedError
from alerts.channels import webhook_guard
from alerts.channels.http_request import HttpAnswer, HttpRequester, read_secret
from alerts.channels.webhook_guard import Network, Resolver, system_resolver
from alerts.notice import Medium, Notice, Told
from gateway.clock import US_PER_S, Clock, iso
from gateway.errors import ConfigError, DeliveryDeferredError, DeliveryRefusedError

NOTICE_TYPE: Final = "org.carebell.notice.v1"
MAX_BODY_BYTES: Final = 256 * 1024
MAX_SECRETS: Final = 5
_PREFIX: Final = "whsec_"
_LATER: Final = frozenset({408, 425, 429, 503})
_log = structlog.get_logger(__name__)


class Endpoint(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A receiver. Each of ``secret_files`` holds a ``whsec_<base64>`` secret; while one is replaced, both sign.

    ``allowed_networks`` (CIDR): the private networks that its host may be in.
    """

    url: str
    secret_files: tuple[str, ...]
    allowed_networks: tuple[str, ...] = ()


class WebhookSender:
    """Signs and posts. Knows the endpoints by name, and which of them answered 410 Gone since the start."""

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        clock: Clock,
        *,
        timeout_s: float = 15.0,
        on_gone: Callable[[str], None] | None = None,
        resolver: Resolver = system_resolver,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """``on_gone`` is told the name of an endpoint that does not want to hear from us again. Raises ConfigError."""
        self._endpoints = endpoints
        self._allowed = {name: _networks(name, endpoint) for name, endpoint in endpoints.items()}
        self._clock = clock
        self._on_gone = on_gone
        self._resolver = resolver
        self._gone: set[str] = set()
        self._http = HttpRequester("the webhook's endpoint", timeout_s, tls=tls)

    def ready(self) -> bool:
        return bool(self._endpoints)

    def gone(self) -> frozenset[str]:
        """Endpoints that answered 410. They stay disabled until the next start, when their entry should be gone too."""
        return frozenset(self._gone)

    async def close(self) -> None:
        await self._http.close()

    async def post(self, name: str, message_id: str, body: bytes) -> Receipt:
        """Post a JSON body to an endpoint. Raises DeliveryDeferred-, ...Unknown- or ...RefusedError."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            raise DeliveryRefusedError(f"there is no webhook endpoint {name!r}")
        if name in self._gone:
            raise DeliveryRefusedError("the webhook's endpoint is disabled: it answered 410 Gone")
        if len(body) > MAX_BODY_BYTES:
            raise DeliveryRefusedError("the webhook's body is longer than 256 KiB")
        secrets = [_secret(path) for path in endpoint.secret_files]
        target = await webhook_guard.resolve(endpoint.url, self._allowed[name], self._resolver)
        stamp_s = self._clock.now_us() // US_PER_S
        answer = await self._http.ask(
            "POST",
            target.url,
            headers={
                "Host": target.host,
                "Content-Type": "application/json",
                "User-Agent": "carebell",
                "webhook-id": message_id,
                "webhook-timestamp": str(stamp_s),
                "webhook-signature": signatures(secrets, message_id, stamp_s, body),
            },
            content=body,
            extensions={"sni_hostname": target.name},
        )
        self._judge(name, answer)
        return Receipt(message_id, {"status": answer.status})

    def _judge(self, name: str, answer: HttpAnswer) -> None:
        status = answer.status
        if 200 <= status < 300:
            return
        if status == 410:
            self._gone.add(name)
            _log.error("webhook_endpoint_gone", destination=name)
            if self._on_gone is not None:
                self._on_gone(name)
            raise DeliveryRefusedError("the webhook's endpoint answered 410 Gone and is disabled")
        if 300 <= status < 400:
            raise DeliveryRefusedError(f"the webhook's endpoint answered {status}: redirects are not followed")
        if status in _LATER:
            raise DeliveryDeferredError(f"the webhook's endpoint answered {status}", answer.retry_after_s)
        if status >= 500:
            raise ServerFailedError(f"the webhook's endpoint answered {status}", answer.retry_after_s)
        raise DeliveryRefusedError(f"the webhook's endpoint answered {status}")


class WebhookProvider:
    """A Provider for ``webhook``: tells that there is something, by ids. Names and texts are fetched over the API."""

    def __init__(self, sender: WebhookSender, clock: Clock) -> None:
        self._sender = sender
        self._clock = clock

    @property
    def name(self) -> str:
        return "webhook"

    @property
    def media(self) -> frozenset[Medium]:
        return frozenset({"webhook"})

    def ready(self) -> bool:
        return self._sender.ready()

    async def send(self, notice: Notice) -> Receipt:
        """``notice.to`` is an endpoint's name."""
        return await self._sender.post(notice.to, notice.attempt_id, thin_body(notice, self._clock.now_us()))

    async def find(self, notice: Notice) -> Told | None:
        """None: sent again, and the receiver knows the id."""
        del notice
        return None

    async def close(self) -> None:
        await self._sender.close()


def thin_body(notice: Notice, now_us: int) -> bytes:
    """Ids and what kind of thing it is, nothing personal."""
    data: dict[str, Any] = {
        "alert_id": notice.alert_id,
        "attempt_id": notice.attempt_id,
        "priority": notice.priority,
        "template": notice.template,
        "language": notice.language,
    }
    return msgspec.json.encode({"type": NOTICE_TYPE, "timestamp": iso(now_us), "data": data})


def signatures(secrets: Sequence[bytes], message_id: str, stamp_s: int, body: bytes) -> str:
    """``v1,<base64 HMAC-SHA256 of id.timestamp.body>`` for each secret, separated by spaces."""
    signed = f"{message_id}.{stamp_s}.".encode() + body
    made = (base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode() for secret in secrets)
    return " ".join(f"v1,{signature}" for signature in made)


def _secret(path: str) -> bytes:
    text = read_secret(path, "the webhook's secret")
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError) as error:
        raise DeliveryDeferredError("the webhook's secret is not whsec_<base64>") from error
    if not 24 <= len(secret) <= 64:
        raise DeliveryDeferredError("the webhook's secret must have 24 to 64 bytes")
    return secret


def _networks(name: str, endpoint: Endpoint) -> tuple[Network, ...]:
    if not 1 <= len(endpoint.secret_files) <= MAX_SECRETS:
        raise ConfigError(f"webhook endpoint {name}: give 1 to {MAX_SECRETS} secret files")
    try:
        return tuple(ipaddress.ip_network(network) for network in endpoint.allowed_networks)
    except ValueError as error:
        raise ConfigError(f"webhook endpoint {name}: {error}") from error
