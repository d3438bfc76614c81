"""The way of every request to Twilio: the SDK's async client with bounds, without its logs, and with our errors.

Imported only where Twilio is used: the SDK costs 0.2 s and 50 MB.
"""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

import aiohttp
from twilio.http.async_http_client import AsyncTwilioHttpClient  # type: ignore[import-untyped] # ships no types
from twilio.http.response import Response  # type: ignore[import-untyped] # ships no types
from twilio.rest import Client  # type: ignore[import-untyped] # ships no types
from twilio.rest.api import v2010  # type: ignore[import-untyped] # ships no types

from alerts.channel import ServerFailedError
from gateway.errors import DeliveryDeferredError, DeliveryError, DeliveryRefusedError, DeliveryUnknownError

CONNECT_S: Final = 5.0
MAX_ANSWER_BYTES: Final = 1024 * 1024
CONNECTIONS: Final = 32
KEEP_ALIVE_S: Final = 30.0

PARTS: Final = v2010
"""Read in with this module: the SDK would read it in at the first request, on the loop, for a tenth of a second."""
_LATER_CODES: Final = frozenset({10001, 10004, 14107, 20003, 20005, 20429, 21611, 30001, 30022, 63038})
"""Quota, concurrency and queue limits; an account that is closed or not let in, which an administrator puts right."""
_LATER: Final = frozenset({401, 403, 404, 407, 408, 425, 429, 503})
"""404: the account's own path is unknown, a fault of the configuration and not of the number."""


class TwilioRefusedError(DeliveryRefusedError):
    """Twilio named a reason of this one request: 21211 no such number, 21614 no mobile. Handler: the outbox."""

    def __init__(self, reason: str, status: int, code: int | None) -> None:
        super().__init__(reason)
        self.status = status
        self.code = code


class TwilioMissingError(DeliveryRefusedError):
    """The call, conference or participant is not there any more. Handler: the conference, as gone; else the outbox."""


class DirectHttpClient(AsyncTwilioHttpClient):  # type: ignore[misc] # the SDK ships no types
    """Sends to ``base_url`` instead of Twilio's hosts. Answers with JSON of a success, or raises a DeliveryError.

    Connects directly, follows no redirect, keeps no cookie, reads at most 1 MiB. ``timeout_s`` bounds a whole request.
    Must be made on a running loop.
    """

    def __init__(self, base_url: str, timeout_s: float) -> None:
        logger = logging.Logger("twilio.silent")  # noqa: LOG001 - the SDK logs numbers: its logger has no parent
        logger.disabled = True
        super().__init__(pool_connections=False, timeout=timeout_s, logger=logger)
        base = urlsplit(base_url)
        self._base = (base.scheme, base.netloc, base.path.rstrip("/"))
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(
                total=timeout_s, connect=min(CONNECT_S, timeout_s), sock_connect=min(CONNECT_S, timeout_s)
            ),
            trust_env=False,
        )

    async def request(
        self,
        method: str,
        url: str,
        params: Mapping[str, Any] | None = None,
        data: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: tuple[str, str] | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - the SDK's signature; the session's own bound holds
        allow_redirects: bool = False,
    ) -> Response:
        del timeout, allow_redirects
        asked = urlsplit(url)
        scheme, host, prefix = self._base
        target = urlunsplit((scheme, host, prefix + asked.path, asked.query, ""))
        sent_headers = dict(headers or {})
        if auth is not None:
            sent_headers["Authorization"] = "Basic " + base64.b64encode(":".join(auth).encode()).decode()
        form = None if data is None else _form(data)
        if form is not None:
            sent_headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            async with self.session.request(
                method, target, params=params, data=form, headers=sent_headers, allow_redirects=False
            ) as response:
                body = await _read(response.content)
                status, answer_headers = response.status, response.headers
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.InvalidURL) as error:
            raise DeliveryDeferredError(f"Twilio cannot be reached: {type(error).__name__}") from error
        except TimeoutError as error:
            raise ServerFailedError("Twilio did not answer in time") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise DeliveryUnknownError(f"the connection to Twilio broke: {type(error).__name__}") from error
        if not 200 <= status < 300:
            raise failure(status, body, answer_headers.get("Retry-After"))
        if status != 204 and not isinstance(_json(body), dict):
            raise DeliveryUnknownError(f"Twilio answered {status} with something that is no JSON object")
        return Response(status, body.decode("utf-8", "replace"), answer_headers)


def client(account_sid: str, auth_token: str, base_url: str, timeout_s: float) -> Client:
    """The SDK's client over a DirectHttpClient. The environment's credentials are not looked at."""
    return Client(
        account_sid, auth_token, http_client=DirectHttpClient(base_url, timeout_s), environment={"TWILIO": "unused"}
    )


def failure(status: int, body: bytes, retry_after: str | None) -> DeliveryError:
    """What an answer that is no success means for the request. Twilio's words are not passed on: they hold numbers."""
    answer = _json(body)
    code = answer.get("code") if isinstance(answer, dict) else None
    if not isinstance(code, int) or isinstance(code, bool):
        code = None
    retry_after_s = float(retry_after) if retry_after and retry_after.isdecimal() and len(retry_after) < 10 else None
    text = f"Twilio answered {status}" + (f", error {code}" if code is not None else "")
    if code == 20404 and status == 404:
        return TwilioMissingError(text)
    if code in _LATER_CODES or status == 429:
        return DeliveryDeferredError(text, retry_after_s)
    if code is not None and 400 <= status < 500 and 10000 <= code < 70000:
        return TwilioRefusedError(text, status, code)
    if status in _LATER or 300 <= status < 400:
        return DeliveryDeferredError(text, retry_after_s)
    if status >= 500:  # it may have failed half-way
        return ServerFailedError(text, retry_after_s)
    return TwilioRefusedError(text, status, code)


def _form(data: Mapping[str, Any]) -> bytes:
    """A form (application/x-www-form-urlencoded); a list is a repeated key."""
    return urlencode(data, doseq=True, safe="", quote_via=quote).encode()


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for chunk in content.iter_any():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise DeliveryUnknownError("Twilio's answer is longer than 1 MiB")
    return bytes(body)


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return None
