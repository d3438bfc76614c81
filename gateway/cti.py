"""``POST /cti/v1/call``: where a telephone system (PBX, SIP trunk, call center) tells who calls the number for help."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final
from urllib.parse import parse_qs

from gateway.errors import ParseError, StorageError
from gateway.model import Verdict
from gateway.ports import Credentials
from gateway.registry.keys import ApiKey
from gateway.telephones import Telephones

PREFIX: Final = "/cti/v1/"
PATH: Final = "/cti/v1/call"
MAX_BODY_BYTES: Final = 8192
BODY_S: Final = 10.0
COMMIT_S: Final = 30.0
MAX_REQUESTS: Final = 200
MAX_CALL_ID: Final = 128
ROLES: Final = frozenset({"backend", "admin"})

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class CtiReceiver:
    """An ASGI callable. 202 only behind the commit; without a right credential the call is kept as unverified, and the
    answer is 401. ``keys`` looks an API key up; a device proves itself by its token and ``?device=<id>``.
    """

    def __init__(
        self, telephones: Telephones, *, credentials: Credentials, keys: Callable[[str], Awaitable[ApiKey | None]]
    ) -> None:
        self._telephones = telephones
        self._credentials = credentials
        self._keys = keys
        self._requests = 0
        self.counts = dict.fromkeys(("accepted", "refused", "unverified", "retry", "bad"), 0)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != PATH:
            await self._answer(send, 404, "refused", "there is no such resource; calls go to POST /cti/v1/call")
        elif scope["method"] != "POST":
            await self._answer(send, 405, "refused", "calls are told with POST")
        elif self._requests >= MAX_REQUESTS:
            await self._answer(send, 503, "retry", "too many at one time")
        else:
            self._requests += 1
            try:
                await self._take(scope, receive, send)
            finally:
                self._requests -= 1

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        body = await _body(receive)
        if body is None:
            await self._answer(send, 413, "bad", f"at most {MAX_BODY_BYTES} bytes within {BODY_S:g} s")
            return
        source = "{}:{}".format(*(scope.get("client") or ("?", 0)))
        try:
            verified = await self._proved(headers.get(b"authorization", ""), scope)
            key = headers.get(b"idempotency-key", "")[:MAX_CALL_ID]
            async with asyncio.timeout(COMMIT_S):
                verdict = await self._telephones.told(body, source, verified=verified, key=key)
        except ParseError as error:
            await self._answer(send, 400, "bad", str(error))
            return
        except (StorageError, TimeoutError):
            verdict, verified = Verdict.RETRY, True
        if verdict is not Verdict.ACCEPTED:
            await self._answer(send, 503, "retry", "not stored: try again")
        elif not verified:
            text = "kept as unverified: this needs the API key of a backend, or a device's token with ?device=<id>"
            await self._answer(send, 401, "unverified", text)
        else:
            await self._answer(send, 202, "accepted", "")

    async def _proved(self, authorization: str, scope: Scope) -> bool:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token:
            return False
        device_id = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("device", [""])[0]
        if device_id:
            return await self._credentials.authenticate(device_id, token.encode()) is not None
        key = await self._keys(token)
        return key is not None and key.role in ROLES

    async def _answer(self, send: Send, status: int, count: str, text: str) -> None:
        self.counts[count] += 1
        headers = [(b"content-type", b"application/problem+json" if text else b"application/json")]
        if status == 503:
            headers.append((b"retry-after", b"5"))
        if status == 401:
            headers.append((b"www-authenticate", b'Bearer realm="carebell"'))
        body = json.dumps({"title": text, "status": status} if text else {"status": "accepted"}).encode()
        headers.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def _body(receive: Receive) -> bytes | None:
    body: bytes = b""
    try:
        async with asyncio.timeout(BODY_S):
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    return None
                body += bytes(message.get("body", b""))
                if len(body) > MAX_BODY_BYTES:
                    return None
                if not message.get("more_body"):
                    return body
    except TimeoutError:
        return None
