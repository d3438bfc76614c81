"""``POST /up``: who sends, whether that is proved, and the answer after the commit.

The hot path has no task and no future of its own: what one turn of the loop brought is one offer to ingest, and one
callback answers all of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import structlog
from aiocoap.message import Message
from msgspec import Struct

from gateway.clock import Clock
from gateway.errors import StorageError
from gateway.model import EMERGENCY_SIGNALS, DeviceBinding, Frame, Verdict
from gateway.ports import Credentials, Directory, Ingest
from protocols.transports.coap import wire
from protocols.transports.coap.stack import EMPTY_ACK_DELAY_S, PlainAddress, PlainInterface, Stack, plain_host
from protocols.transports.http_ingest import SourceLimiter

TRANSPORT: Final = "coap"
MAX_DEVICE_KEY: Final = 128
MAX_SECRET: Final = 512
MAX_PAYLOAD_BYTES: Final = 65_536
MAX_DOUBTFUL: Final = 512  # requests whose credential is being looked at
MAX_DOUBTFUL_PER_ADDRESS: Final = 32
DOUBTFUL_WORKERS: Final = 8
COMMIT_TIMEOUT_S: Final = 60.0  # behind the empty ACK a device waits for as long as the exchange lives

_ALARM_WORDS: Final = tuple(f'"{signal}"'.encode() for signal in sorted(EMERGENCY_SIGNALS)) + tuple(
    bytes((0x60 | len(signal),)) + signal.encode() for signal in sorted(EMERGENCY_SIGNALS)
)
"""How an emergency is named in JSON, and in CBOR (texts of up to 23 bytes)."""

OTHER_ROADS: Final = frozenset({"lwm2m", "onenet", "ctwing"})
"""Codecs of frames that another part writes; what such a device posts itself is the native protocol."""

log = structlog.get_logger("coap")


class TokenCredentials(Credentials, Protocol):
    """Credentials that also answer at once, from what is known now."""

    def with_token(self, device_id: str, token: bytes) -> DeviceBinding | None: ...


class _Waiting(Struct, gc=False):
    """A request whose answer is to come, and where it came from."""

    post: wire.Post
    sockaddr: Any
    separate: bool = False


class Uplink:
    """Takes what devices say and hands it to ingest. ``observe_ack`` gets the seconds from receipt to the answer."""

    def __init__(
        self,
        *,
        ingest: Ingest,
        credentials: TokenCredentials,
        directory: Directory,
        clock: Clock,
        tokens_allowed: bool,
        secured: Callable[[str], bool],
        observe_ack: Callable[[float], None] = lambda _seconds: None,
    ) -> None:
        self._ingest = ingest
        self._credentials = credentials
        self._directory = directory
        self._clock = clock
        self._tokens_allowed = tokens_allowed
        self._secured = secured
        self._observe_ack = observe_ack
        self._alarm_limit = SourceLimiter(clock, per_minute=10, total_per_minute=600)
        self._other_limit = SourceLimiter(clock, per_minute=10, total_per_minute=600)
        self._doubtful: asyncio.Queue[tuple[wire.Post, Any]] = asyncio.Queue(MAX_DOUBTFUL)
        self._doubtful_of: dict[str, int] = {}
        self._frames: list[Frame] = []
        self._batch: list[_Waiting] = []
        self._loop = asyncio.get_running_loop()
        self._mid = 0
        self.plain: PlainInterface | None = None
        self.stack: Stack | None = None
        self.counts = dict.fromkeys(
            ("accepted", "retry", "unverified_kept", "unverified_shed", "too_large", "bad_format", "separate"), 0
        )

    # ---- the hot path ------------------------------------------------------------------------------------------------

    def take(self, data: bytes, sockaddr: Any) -> bool:
        """A datagram of the plain listener: True when it is a whole ``POST /up``, which then is under way."""
        post = wire.read_post(data)
        if post is None:
            return False
        binding = self.by_token(post.device, post.secret)
        if binding is None:
            self._doubt(post, sockaddr)
            return True
        self._frames.append(self.frame(post, binding.codec, plain_host(sockaddr[0]), verified=True))
        self._batch.append(_Waiting(post, sockaddr))
        return True

    def by_token(self, device: str, secret: str) -> DeviceBinding | None:
        """Whose token this is, by what is known now. None where tokens do not count."""
        if not self._tokens_allowed or not device or not secret or self._secured(device):
            return None
        if len(device) > MAX_DEVICE_KEY or len(secret) > MAX_SECRET:
            return None
        return self._credentials.with_token(device, secret.encode())

    def turn_ends(self) -> None:
        """All that waited has been read: one offer."""
        if not self._batch:
            return
        frames, batch = self._frames, self._batch
        self._frames, self._batch = [], []
        begun_s = self._loop.time()
        timer = self._loop.call_later(EMPTY_ACK_DELAY_S, self._say_that_it_takes_time, batch)

        def committed(verdict: asyncio.Future[Verdict]) -> None:
            timer.cancel()
            accepted = verdict.result() is Verdict.ACCEPTED
            self._observe_ack(self._loop.time() - begun_s)
            for waiting in batch:
                self._answer(waiting, accepted=accepted)

        self._ingest.offer(frames).add_done_callback(committed)

    def _answer(self, waiting: _Waiting, *, accepted: bool) -> None:
        post = waiting.post
        code = wire.CHANGED if accepted else wire.UNAVAILABLE
        if accepted and post.content_format not in wire.PLAIN_FORMATS | wire.SENML_FORMATS:
            self.counts["bad_format"] += 1
            code = wire.UNSUPPORTED_FORMAT
        else:
            self.counts["accepted" if accepted else "retry"] += 1
        self._reply(post, waiting.sockaddr, code, separate=waiting.separate)

    def _reply(self, post: wire.Post, sockaddr: Any, code: int, *, separate: bool = False) -> None:
        plain, stack = self.plain, self.stack
        if plain is None or stack is None:
            return
        if separate:
            message = Message(code=code, _token=post.token, max_age=wire.RETRY_AFTER_S if code == 0xA3 else None)
            message.remote = PlainAddress(sockaddr, plain)
            stack.messages.send_message(message, lambda: None)  # a CON: sent again until its ACK comes
            return
        self._mid = (self._mid + 1) & 0xFFFF
        plain.answered(wire.answer(post, code, self._mid), sockaddr, post.mid)
        if code == wire.UNAVAILABLE and not post.confirmable:
            plain.exchanges.forget(sockaddr, post.mid)

    def _say_that_it_takes_time(self, batch: Sequence[_Waiting]) -> None:
        plain = self.plain
        for waiting in batch:
            if waiting.post.confirmable and plain is not None:
                waiting.separate = True
                self.counts["separate"] += 1
                plain.answered(wire.empty_ack(waiting.post.mid), waiting.sockaddr, waiting.post.mid)

    def frame(self, post: wire.Post, codec: str, source: str, *, verified: bool) -> Frame:
        if post.content_format in wire.SENML_FORMATS:
            codec = "senml"
        elif codec in OTHER_ROADS:
            codec = "native"
        return Frame(
            TRANSPORT, codec or "native", source, post.payload, self._clock.now_us(),
            post.device[:MAX_DEVICE_KEY], verified,
        )  # fmt: skip

    # ---- whoever has not proved who they are -------------------------------------------------------------------------

    def _doubt(self, post: wire.Post, sockaddr: Any) -> None:
        host = sockaddr[0]
        if self._doubtful_of.get(host, 0) >= MAX_DOUBTFUL_PER_ADDRESS or self._doubtful.full():
            self.counts["unverified_shed"] += 1
            self._reply(post, sockaddr, wire.UNAUTHORIZED)
            return
        self._doubtful_of[host] = self._doubtful_of.get(host, 0) + 1
        self._doubtful.put_nowait((post, sockaddr))

    async def judge_doubtful(self) -> None:
        """One of the workers that look again, and keep what may be an emergency."""
        while True:
            post, sockaddr = await self._doubtful.get()
            host = sockaddr[0]
            self._doubtful_of[host] -= 1
            if not self._doubtful_of[host]:
                del self._doubtful_of[host]
            code = await self.deliver(post, plain_host(host))
            self._reply(post, sockaddr, code)

    async def deliver(self, post: wire.Post, source: str, proved: DeviceBinding | None = None) -> int:
        """The slow way: look at the credential, keep the frame, and return the code of the answer.

        ``proved``: who it is by DTLS or OSCORE. Without proof the frame counts as unverified and nobody is told of
        success; the answer is the same whether it was kept or not.
        """
        binding = proved
        try:
            if binding is None and self._tokens_allowed and not self._secured(post.device):
                binding = await self._credentials.authenticate(post.device[:MAX_DEVICE_KEY], post.secret.encode())
        except StorageError:
            return wire.UNAVAILABLE
        if binding is None:
            await self._keep_unverified(post, source)
            return wire.UNAUTHORIZED
        post.device = binding.device_id
        verdict = await self._commit(self.frame(post, binding.codec, source, verified=True))
        if verdict is not Verdict.ACCEPTED:
            self.counts["retry"] += 1
            return wire.UNAVAILABLE
        if post.content_format not in wire.PLAIN_FORMATS | wire.SENML_FORMATS:
            self.counts["bad_format"] += 1
            return wire.UNSUPPORTED_FORMAT
        self.counts["accepted"] += 1
        return wire.CHANGED

    async def _keep_unverified(self, post: wire.Post, source: str) -> None:
        alarm = any(word in post.payload for word in _ALARM_WORDS)
        if not (self._alarm_limit if alarm else self._other_limit).allow(source):
            self.counts["unverified_shed"] += 1
            return
        known = self._directory.device(post.device) if post.device else None
        frame = self.frame(post, known.codec if known is not None else "native", source, verified=False)
        if await self._commit(frame) is Verdict.ACCEPTED:
            self.counts["unverified_kept"] += 1

    async def _commit(self, frame: Frame) -> Verdict:
        begun_s = self._loop.time()
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                verdict = await self._ingest.deliver([frame])
        except TimeoutError:
            return Verdict.RETRY
        self._observe_ack(self._loop.time() - begun_s)
        return verdict
