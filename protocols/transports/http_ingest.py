"""HTTP ingest (contracts, section 3): ``POST /ingest/v1/<device_id>``, answered 202 only after the commit.

A plain ASGI callable: nothing stands between the request and ingest but what is written here.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, Final
from urllib.parse import unquote

import structlog

from gateway.clock import Clock
from gateway.errors import StorageError
from gateway.model import EMERGENCY_SIGNALS, DeviceBinding, Frame, Verdict
from gateway.ports import Credentials, Directory, Ingest

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PREFIX: Final = "/ingest/v1/"
MAX_BODY_BYTES: Final = 65_536
MAX_DRAIN_BYTES: Final = 1_048_576  # of a body that is too long: read on, so that its sender sees the answer
MAX_DEVICE_KEY: Final = 128
MAX_IDEMPOTENCY_KEY: Final = 128
BODY_TIMEOUT_S: Final = 10.0
COMMIT_TIMEOUT_S: Final = 30.0
MAX_BODIES: Final = 1024  # of authenticated senders, being read at one time
MAX_BODIES_PER_DEVICE: Final = 64
MAX_UNVERIFIED: Final = 64  # requests of others, at one time
RETRY_AFTER_S: Final = 5

_ALARM_WORDS: Final = tuple(f'"{signal}"'.encode() for signal in sorted(EMERGENCY_SIGNALS))


class SourceLimiter:
    """Token buckets, one per source address and one for all of them together.

    Holds at most ``max_sources`` addresses; the one that was seen longest ago makes room.
    """

    def __init__(self, clock: Clock, *, per_minute: float, total_per_minute: float, max_sources: int = 10_000) -> None:
        self._clock = clock
        self._per_minute = per_minute
        self._total_per_minute = total_per_minute
        self._max_sources = max_sources
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._total = (total_per_minute, clock.monotonic_s())

    def allow(self, source: str) -> bool:
        """Take a token of this source and one of the total; False, and nothing taken, when either has none."""
        now = self._clock.monotonic_s()
        mine, at = self._buckets.pop(source, (self._per_minute, now))
        mine = min(self._per_minute, mine + (now - at) * self._per_minute / 60)
        total, at = self._total
        total = min(self._total_per_minute, total + (now - at) * self._total_per_minute / 60)
        allowed = mine >= 1 and total >= 1
        if allowed:
            mine, total = mine - 1, total - 1
        self._total = (total, now)
        self._buckets[source] = (mine, now)
        if len(self._buckets) > self._max_sources:
            self._buckets.popitem(last=False)
        return allowed


class HttpIngest:
    """The ASGI callable. ``observe_ack`` gets the seconds from the last body byte to a verdict of ACCEPTED."""

    def __init__(
        self,
        *,
        ingest: Ingest,
        credentials: Credentials,
        directory: Directory,
        clock: Clock,
        observe_ack: Callable[[float], None] = lambda _seconds: None,
        body_timeout_s: float = BODY_TIMEOUT_S,
        commit_timeout_s: float = COMMIT_TIMEOUT_S,
    ) -> None:
        self._ingest = ingest
        self._credentials = credentials
        self._directory = directory
        self._clock = clock
        self._observe_ack = observe_ack
        self._body_timeout_s = body_timeout_s
        self._commit_timeout_s = commit_timeout_s
        self._bodies = asyncio.Semaphore(MAX_BODIES)
        self._reading: dict[str, int] = {}
        self._unverified = 0
        # What names an emergency in clear text has tokens of its own: a misconfigured neighbour behind the same
        # address, sending telemetry, cannot use up those of a press.
        self._alarm_limit = SourceLimiter(clock, per_minute=10, total_per_minute=600)
        self._other_limit = SourceLimiter(clock, per_minute=10, total_per_minute=600)
        self._shedding = False
        self._log = structlog.get_logger("http_ingest")
        self._counts = dict.fromkeys(
            ("accepted", "retry", "unverified_kept", "unverified_shed", "too_large", "slow", "broken_off", "busy"), 0
        )

    def counters(self) -> dict[str, int]:
        """How requests ended, since the start. The keys are a closed set."""
        return dict(self._counts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; ``scope["path"]`` begins with PREFIX."""
        key = _device_key(scope)
        if key is None:
            await _problem(send, 404, "there is no such resource; frames go to POST /ingest/v1/<device_id>")
        elif scope["method"] != "POST":
            await _problem(send, 405, "frames are sent with POST", {"allow": "POST"})
        else:
            await self._take(key, scope, receive, send)

    async def _take(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = _headers(scope)
        try:
            binding = await self._authenticate(key, headers.get("authorization", ""))
        except StorageError:
            await self._unavailable(send)
            return
        if binding is None:
            await self._take_unverified(key, scope, headers, receive, send)
            return
        body = await self._read_verified(key, receive, send)
        if body is None:
            return
        too_large = len(body) > MAX_BODY_BYTES
        verdict = await self._deliver(_frame(scope, headers, binding.codec, key, body, self._clock.now_us(), True))
        if verdict is not Verdict.ACCEPTED:
            await self._unavailable(send)
        elif too_large:
            self._counts["too_large"] += 1
            await _too_large(send)
        else:
            self._counts["accepted"] += 1
            await _answer(send, 202, b"application/json", b'{"status":"accepted"}')

    async def _authenticate(self, key: str, authorization: str) -> DeviceBinding | None:
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > 512:
            return None
        return await self._credentials.authenticate(key, token.encode("latin-1", "replace"))

    async def _read_verified(self, key: str, receive: Receive, send: Send) -> bytes | None:
        """The body, or None when the request is already answered or gone."""
        if self._reading.get(key, 0) >= MAX_BODIES_PER_DEVICE:
            self._counts["busy"] += 1
            await self._unavailable(send)
            return None
        self._reading[key] = self._reading.get(key, 0) + 1
        try:
            async with asyncio.timeout(self._body_timeout_s), self._bodies:
                body = await _read(receive)
        except TimeoutError:
            await self._slow(send)
            return None
        finally:
            self._reading[key] -= 1
            if not self._reading[key]:
                del self._reading[key]
        if body is None:
            self._counts["broken_off"] += 1
        return body

    async def _take_unverified(
        self, key: str, scope: Scope, headers: Mapping[str, str], receive: Receive, send: Send
    ) -> None:
        """Keep the frame within bounds, for it may be an emergency; never tell its sender of success.

        The answer is the same whether the device exists or not, and whether the frame was kept or not.
        """
        if self._unverified >= MAX_UNVERIFIED:
            self._shed()
            await _unauthorized(send)
            return
        self._unverified += 1
        try:
            async with asyncio.timeout(self._body_timeout_s):
                body = await _read(receive)
            if body is None:
                self._counts["broken_off"] += 1
                return
            alarm = any(word in body for word in _ALARM_WORDS)
            if (self._alarm_limit if alarm else self._other_limit).allow(_address(scope)):
                known = self._directory.device(key)
                codec = known.codec if known else "native"
                frame = _frame(scope, headers, codec, key, body, self._clock.now_us(), False)
                if await self._deliver(frame) is Verdict.ACCEPTED:
                    self._counts["unverified_kept"] += 1
                self._shedding = False
            else:
                self._shed()
            await _unauthorized(send)
        except TimeoutError:
            await self._slow(send)
        finally:
            self._unverified -= 1

    async def _deliver(self, frame: Frame) -> Verdict:
        """The verdict; RETRY also when none came in time."""
        begun = self._clock.monotonic_s()
        try:
            async with asyncio.timeout(self._commit_timeout_s):
                verdict = await self._ingest.deliver([frame])
        except TimeoutError:
            return Verdict.RETRY
        if verdict is Verdict.ACCEPTED:
            self._observe_ack(self._clock.monotonic_s() - begun)
        return verdict

    def _shed(self) -> None:
        self._counts["unverified_shed"] += 1
        if not self._shedding:  # once per change of state
            self._shedding = True
            self._log.warning("unverified_frames_shed", total=self._counts["unverified_shed"])

    async def _unavailable(self, send: Send) -> None:
        self._counts["retry"] += 1
        await _problem(send, 503, "the frame is not stored; send it again", {"retry-after": str(RETRY_AFTER_S)})

    async def _slow(self, send: Send) -> None:
        self._counts["slow"] += 1
        detail = f"the body did not arrive within {self._body_timeout_s:g} s; nothing is stored"
        await _problem(send, 408, detail, {"connection": "close"})


def _device_key(scope: Scope) -> str | None:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    try:
        key = unquote(raw.partition(b"?")[0].decode("ascii").removeprefix(PREFIX), errors="strict")
    except UnicodeDecodeError:
        return None
    return key if 0 < len(key) <= MAX_DEVICE_KEY and key.isprintable() and "/" not in key else None


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "local"


def _frame(
    scope: Scope, headers: Mapping[str, str], codec: str, key: str, body: bytes, at_us: int, verified: bool
) -> Frame:
    return Frame(
        transport=scope["scheme"],
        codec=codec or "native",
        source=_address(scope),
        payload=body,
        received_at_us=at_us,
        device_key=key,
        verified=verified,
        idempotency_key=_idempotency_key(headers.get("idempotency-key", "")),
    )


def _idempotency_key(value: str) -> str:
    """The key without the quotes of a structured-field string (draft-ietf-httpapi-idempotency-key-header).

    One that is too long to be kept, or not printable, becomes its SHA-256: an alarm is not refused for a header.
    """
    value = value.strip().strip('"')
    if len(value) <= MAX_IDEMPOTENCY_KEY and value.isascii() and value.isprintable():
        return value
    return hashlib.sha256(value.encode()).hexdigest()


async def _read(receive: Receive) -> bytes | None:
    """The body, or None when the sender went away before its end.

    Of a body that is too long: its first MAX_BODY_BYTES + 1 bytes, so that the journal shows what came and why it
    was not used.
    """
    kept = bytearray()
    length = 0
    more = True
    while more and length <= MAX_DRAIN_BYTES:
        message = await receive()
        if message["type"] != "http.request":
            return None
        chunk = message.get("body", b"")
        length += len(chunk)
        kept += chunk[: MAX_BODY_BYTES + 1 - len(kept)]
        more = message.get("more_body", False)
    return bytes(kept)


async def _unauthorized(send: Send) -> None:
    detail = "the device id and the token do not belong together; the frame counts as unverified"
    await _problem(send, 401, detail, {"www-authenticate": 'Bearer realm="carebell"'})


async def _too_large(send: Send) -> None:
    await _problem(send, 413, f"a frame has at most {MAX_BODY_BYTES} bytes", {"connection": "close"})


_TITLES: Final = {
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    503: "Service Unavailable",
}


async def _problem(send: Send, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
    """An RFC 9457 problem."""
    body = json.dumps({"type": "about:blank", "title": _TITLES[status], "status": status, "detail": detail}).encode()
    await _answer(send, status, b"application/problem+json", body, headers)


async def _answer(
    send: Send, status: int, content_type: bytes, body: bytes, headers: Mapping[str, str] | None = None
) -> None:
    lines = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    lines += [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
