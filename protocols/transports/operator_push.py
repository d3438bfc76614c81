"""HTTP pushes of the operators' NB-IoT platforms: ``/push/onenet`` and ``/push/ctwing/<token>``. 200 after the commit.

OneNET checks the address first (GET with msg, nonce, signature; the bare msg is the answer), then posts ``msg``,
``nonce`` and ``msg_signature`` = base64(md5(token + nonce + msg)); in its encrypted mode msg is base64 of AES-256-CBC
(key: base64 of EncodingAESKey + "=", IV: its first half) over 16 random bytes, a length of four bytes, and the message.
CTWing (AEP) signs nothing that is documented: the secret is the last part of the address that it is given.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, unquote

import msgspec
import structlog
from msgspec import Struct

from gateway.clock import Clock
from gateway.errors import ConfigError, ParseError
from gateway.model import Frame, Verdict
from gateway.ports import Directory, Ingest
from protocols.codecs.operator_messages import text_of
from protocols.codecs.tolerant_json import load
from protocols.transports.http_ingest import SourceLimiter

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

PREFIX: Final = "/push/"
MAX_BODY_BYTES: Final = 1_048_576
MAX_MESSAGE_BYTES: Final = 65_536
MAX_MESSAGES: Final = 1000  # of one push
MAX_AT_ONE_TIME: Final = 256
BODY_TIMEOUT_S: Final = 10.0
COMMIT_TIMEOUT_S: Final = 30.0
AES_KEY_CHARACTERS: Final = 43

log = structlog.get_logger("push")


class _Envelope(Struct):
    """OneNET's body; ``msg`` exactly as it was written, for that is what is signed."""

    msg: msgspec.Raw
    nonce: str = ""
    msg_signature: str = ""


class OneNet:
    """The token and, in the encrypted mode, the key of one configuration on the platform."""

    def __init__(self, token: str, aes_key: str = "") -> None:
        """Raises ConfigError for a key that cannot be."""
        self._token = token
        self._key = b""
        if aes_key:
            try:
                self._key = base64.b64decode(aes_key + "=", validate=True)
            except (binascii.Error, ValueError):
                self._key = b""
            if len(aes_key) != AES_KEY_CHARACTERS or len(self._key) != 32:
                raise ConfigError(f"push.onenet.aes_key_file: not a key of {AES_KEY_CHARACTERS} characters of base64")
            check_cipher()

    def signature(self, nonce: str, msg: str) -> str:
        """base64(md5(token + nonce + msg))."""
        return base64.b64encode(hashlib.md5(f"{self._token}{nonce}{msg}".encode()).digest()).decode()  # noqa: S324 - OneNET's choice

    def echo(self, query: str) -> str | None:
        """The answer to the check of the address, None when it does not prove the token."""
        stated = {name: values[0] for name, values in parse_qs(query, max_num_fields=16).items()}
        msg, nonce, signature = (stated.get(name, "") for name in ("msg", "nonce", "signature"))
        candidates = {signature, signature.replace(" ", "+"), unquote(signature)}
        expected = self.signature(nonce, msg)
        return msg if msg and any(hmac.compare_digest(one.encode(), expected.encode()) for one in candidates) else None

    def open(self, body: bytes) -> tuple[list[bytes], bool]:
        """The messages of a push, and whether the token signed them. Raises ParseError."""
        try:
            envelope = msgspec.json.decode(body, type=_Envelope)
            raw = bytes(envelope.msg)
            text = msgspec.json.decode(raw, type=str) if raw[:1] == b'"' else raw.decode()
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ParseError("not a push of OneNET: msg, nonce and msg_signature are expected") from error
        expected = self.signature(envelope.nonce, text)
        proved = hmac.compare_digest(envelope.msg_signature.encode(), expected.encode())
        if proved and self._key and raw[:1] == b'"':
            text = self._decrypt(text)
        return split(text.encode()), proved

    def _decrypt(self, text: str) -> str:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes  # noqa: PLC0415 - optional

        try:
            sealed = base64.b64decode(text, validate=True)
            opener = Cipher(algorithms.AES(self._key), modes.CBC(self._key[:16])).decryptor()
            plain = opener.update(sealed) + opener.finalize()
        except (binascii.Error, ValueError) as error:
            raise ParseError("the encrypted msg cannot be opened with this key") from error
        length = int.from_bytes(plain[16:20])
        if len(plain) < 20 or not 0 < length <= len(plain) - 20:
            raise ParseError("the encrypted msg cannot be opened with this key")
        return plain[20 : 20 + length].decode("utf-8", "replace")


class Ctwing:
    """The secret part of the address that the platform was given."""

    def __init__(self, token: str) -> None:
        self._token = token

    def proves(self, presented: str) -> bool:
        return hmac.compare_digest(presented.encode(), self._token.encode())


def split(text: bytes) -> list[bytes]:
    """The messages of an object or of an array of objects, each as JSON. Raises ParseError."""
    value, _ = load(text)
    if isinstance(value, dict) and isinstance(value.get("data"), list) and "messageType" not in value:
        value = value["data"]
    if not isinstance(value, list):
        return [text]
    if not value or len(value) > MAX_MESSAGES:
        raise ParseError(f"{len(value)} messages; a push has 1 to {MAX_MESSAGES}")
    return [msgspec.json.encode(one) for one in value]


def check_cipher() -> None:
    """Raises ConfigError when the library for AES is not installed."""
    try:
        import cryptography  # noqa: F401, PLC0415 - optional
    except ImportError as error:
        raise ConfigError("push.onenet.aes_key_file: needs carebell[nbiot]: pip install 'carebell[nbiot]'") from error


class PushReceivers:
    """An ASGI callable for every path that begins with PREFIX."""

    def __init__(
        self, *, onenet: OneNet | None, ctwing: Ctwing | None, ingest: Ingest, directory: Directory, clock: Clock
    ) -> None:
        self._onenet = onenet
        self._ctwing = ctwing
        self._ingest = ingest
        self._directory = directory
        self._clock = clock
        self._limit = SourceLimiter(clock, per_minute=10, total_per_minute=600)
        self._busy = 0
        self._counts = dict.fromkeys(("accepted", "retry", "unverified", "bad", "messages"), 0)

    def counters(self) -> dict[str, int]:
        return dict(self._counts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(PREFIX).rstrip("/")
        name, _, rest = path.partition("/")
        if name == "onenet" and self._onenet is not None and not rest:
            if scope["method"] == "GET":
                echo = self._onenet.echo(scope["query_string"].decode("latin-1"))
                await _answer(send, 403 if echo is None else 200, b"" if echo is None else echo.encode())
            else:
                await self._take("onenet", "", scope, receive, send)
        elif name == "ctwing" and self._ctwing is not None:
            await self._take("ctwing", rest, scope, receive, send)
        else:
            await _answer(send, 404, b"")

    async def _take(self, codec: str, presented: str, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] != "POST":
            await _answer(send, 405, b"")
            return
        if self._busy >= MAX_AT_ONE_TIME:
            await _answer(send, 503, b"")
            return
        self._busy += 1
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                body = await _read(receive)
            if body is not None:
                await _answer(send, await self._keep(codec, presented, body, _address(scope)), b"")
        except TimeoutError:
            await _answer(send, 408, b"")
        finally:
            self._busy -= 1

    async def _keep(self, codec: str, presented: str, body: bytes, source: str) -> int:
        """Journal what a push holds; the status that tells its sender what became of it."""
        if len(body) > MAX_BODY_BYTES:
            return 413
        proved = self._ctwing is not None and codec == "ctwing" and self._ctwing.proves(presented)
        fault = False
        try:
            if codec == "onenet" and self._onenet is not None:
                messages, proved = self._onenet.open(body)
            else:
                messages = split(body)
        except ParseError:
            messages, fault = [body[:MAX_MESSAGE_BYTES]], True
        if (not proved or fault) and not self._limit.allow(source):
            return 401 if not proved else 400
        verdict = await self._deliver([self._frame(codec, message, source, proved=proved) for message in messages])
        if verdict is not Verdict.ACCEPTED:
            self._counts["retry"] += 1
            return 503
        if fault:
            self._counts["bad"] += 1
            return 400
        self._counts["accepted" if proved else "unverified"] += 1
        self._counts["messages"] += len(messages)
        return 200 if proved else 401

    def _frame(self, codec: str, message: bytes, source: str, *, proved: bool) -> Frame:
        key = _identity(message)
        binding = (self._directory.device_by_key(key) or self._directory.device(key)) if key else None
        return Frame(
            "http", codec, source, message[: MAX_MESSAGE_BYTES + 1], self._clock.now_us(),
            key if binding is None else binding.device_id, proved,
        )  # fmt: skip

    async def _deliver(self, frames: Sequence[Frame]) -> Verdict:
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                return await self._ingest.deliver(frames)
        except TimeoutError:
            return Verdict.RETRY


def _identity(message: bytes) -> str:
    """IMEI, else what the platform calls the device."""
    try:
        value, _ = load(message)
    except ParseError:
        return ""
    if not isinstance(value, dict):
        return ""
    names = ("IMEI", "imei", "deviceSn", "dev_name", "deviceId", "dev_id")
    return next((found for name in names if (found := text_of(value.get(name)))), "")


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else "local"


async def _read(receive: Receive) -> bytes | None:
    """The body, at most MAX_BODY_BYTES + 1 bytes of it; None when its sender went away."""
    kept = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        kept += message.get("body", b"")[: MAX_BODY_BYTES + 1 - len(kept)]
        if not message.get("more_body", False):
            return bytes(kept)


async def _answer(send: Send, status: int, body: bytes) -> None:
    lines = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    if status == 503:
        lines.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})
