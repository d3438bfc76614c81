"""One bounded HTTP request to a provider, and what its failure means: nothing happened, or nobody knows."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import httpx2
import msgspec
from msgspec import Struct

from alerts.channel import ServerFailedError
from gateway.errors import DeliveryDeferredError, DeliveryUnknownError

CONNECT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_SECRET_BYTES: Final = 4096
CONNECTIONS: Final = 16
KEEP_ALIVE_S: Final = 30.0


class HttpAnswer(Struct, frozen=True):
    """``retry_after_s`` is the answer's Retry-After when that is a number of seconds."""

    status: int
    body: bytes
    retry_after_s: float | None

    def json(self) -> Any:
        """The body as JSON; None when it is none."""
        try:
            return msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None


class HttpRequester:
    """Connects directly, follows no redirect, reads bounded answers.

    Errors name ``who``, never a URL, which may be secret.
    """

    def __init__(self, who: str, timeout_s: float, *, tls: ssl.SSLContext | None = None) -> None:
        """``tls``: whom to trust instead of the usual authorities."""
        self._who = who
        self._timeout_s = timeout_s
        self._client = httpx2.AsyncClient(
            verify=True if tls is None else tls,
            timeout=httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s)),
            limits=httpx2.Limits(
                max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=KEEP_ALIVE_S
            ),
            follow_redirects=False,
            trust_env=False,
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        content: bytes = b"",
        extensions: Mapping[str, Any] | None = None,
    ) -> HttpAnswer:
        """Raises DeliveryDeferredError when the request cannot have had an effect, else DeliveryUnknownError.

        Ends within twice the time limit, also when the answer trickles in.
        """
        try:
            async with (
                asyncio.timeout(2 * self._timeout_s),
                self._client.stream(
                    method, url, headers=dict(headers), content=content, extensions=dict(extensions or {})
                ) as response,
            ):
                answer = bytearray()
                async for chunk in response.aiter_bytes():
                    answer += chunk
                    if len(answer) > MAX_ANSWER_BYTES:
                        raise DeliveryUnknownError(f"{self._who}: the answer is longer than 256 KiB")
                return HttpAnswer(response.status_code, bytes(answer), _seconds(response.headers.get("Retry-After")))
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol) as error:
            raise DeliveryDeferredError(f"{self._who} cannot be reached: {type(error).__name__}") from error
        except (httpx2.InvalidURL, httpx2.LocalProtocolError) as error:
            raise DeliveryDeferredError(f"{self._who}: the configured address or credential is malformed") from error
        except (httpx2.TimeoutException, TimeoutError) as error:
            raise ServerFailedError(f"{self._who} did not answer in time") from error
        except (httpx2.HTTPError, httpx2.StreamError) as error:
            raise DeliveryUnknownError(f"the connection to {self._who} broke: {type(error).__name__}") from error


def read_secret(path: str, what: str) -> str:
    """The secret in a file, read each time so that a new one counts at once. Raises DeliveryDeferredError."""
    try:
        with Path(path).open("rb") as file:
            secret = file.read(MAX_SECRET_BYTES + 1)
        text = secret.decode("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DeliveryDeferredError(f"{what}: its file cannot be read: {type(error).__name__}") from error
    if not text or len(secret) > MAX_SECRET_BYTES:
        raise DeliveryDeferredError(f"{what}: its file is empty or longer than {MAX_SECRET_BYTES} bytes")
    return text


def _seconds(value: str | None) -> float | None:
    """Retry-After as a delay (RFC 9110, 10.2.3). A date is not used: it would need both clocks to be right."""
    return float(value) if value is not None and value.isdecimal() and len(value) < 10 else None
