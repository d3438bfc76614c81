"""Notifications (RFC 7641): matched by their token, also after a restart; acknowledged once they are on disk."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiocoap.message import Message
from aiocoap.numbers import codes
from aiocoap.numbers.types import ACK, RST

from gateway.model import Frame, Verdict
from protocols.codecs.lwm2m_values import TLV, read_path
from protocols.transports.coap.stack import ASKING, plain_host
from protocols.transports.lwm2m.asking import preferred
from protocols.transports.lwm2m.registrations import ITS_OWN, UNKNOWN, Observation, Registration

if TYPE_CHECKING:
    from protocols.transports.lwm2m.server import Lwm2mServer

FRESH_S: Final = 128.0  # RFC 7641, section 3.4
HALF: Final = 1 << 23

log = structlog.get_logger("lwm2m")


class Notifications:
    """Takes the responses to the server's observe requests, the first and those that follow."""

    def __init__(self, server: Lwm2mServer) -> None:
        self._server = server
        self._first: dict[bytes, asyncio.Future[Message | None]] = {}

    async def begin(self, known: Registration, path: str, token: bytes) -> bool:
        """Ask with Observe 0 under this token; whether the client has taken it."""
        for wanted in preferred(known):
            answer = await self._ask(known, path, token, wanted)
            if answer is None or answer.code in (codes.NOT_ACCEPTABLE, codes.INTERNAL_SERVER_ERROR):
                continue
            if not answer.code.is_successful():
                return False
            if known.format == UNKNOWN and (wanted < 0 or answer.opt.content_format == wanted):
                known.format = wanted if wanted >= 0 else ITS_OWN
                self._server.known.changed.add(known.id)
            return answer.opt.observe is not None and bool(answer.payload)
        return False

    async def _ask(self, known: Registration, path: str, token: bytes, wanted: int) -> Message | None:
        message = Message(code=codes.GET, _token=token, transport_tuning=ASKING)
        message.opt.uri_path = tuple(part for part in path.split("/") if part)
        message.opt.observe = 0
        if wanted >= 0:
            message.opt.accept = wanted
        message.remote = known.remote
        first: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._first[token] = first

        def reset() -> None:
            if not first.done():
                first.set_result(None)

        try:
            known.messages.send_message(message, reset)
            async with asyncio.timeout(self._server.asking.patience_s(wanted)):
                return await first
        except (TimeoutError, OSError):
            known.messages.give_up(known.remote)
            return None
        finally:
            self._first.pop(token, None)

    def take(self, message: Message, messages: Any) -> bool:
        """Whether this response belongs to an observation; it is then under way."""
        known = self._server.known.by_token.get(message.token)
        if known is None or message.mtype is RST:
            return False
        observation = known.observations[message.token]
        if not _from_its_client(known, message.remote):
            return False
        mine = (-1, -1) if message.mtype is ACK else (message.mid, message.opt.observe)
        if mine[0] >= 0 and observation.message == mine:  # again: its ACK was lost, or its commit is under way
            if observation.stored:
                messages.acknowledge(message)
            return True
        observation.message, observation.stored = mine, False
        if message.code.is_successful():
            self._store(known, observation, message, messages)
        else:
            messages.acknowledge(message)
            self._answered(message)
            if message.token not in self._first:
                self._server.known.forget(known, message.token)
                self._server.put(known, None)
        return True

    def _answered(self, message: Message) -> None:
        first = self._first.get(message.token)
        if first is not None and not first.done():
            first.set_result(message)

    def _store(self, known: Registration, observation: Observation, message: Message, messages: Any) -> None:
        server = self._server
        stated = message.opt.content_format
        content_format = (TLV if len(read_path(observation.path)) < 3 else 0) if stated is None else int(stated)
        header: dict[str, Any] = {"op": "notify", "path": observation.path, "format": content_format}
        was = server.counters_before(known, observation.path, content_format, message.payload)
        if was:
            header["was"] = was
        number = message.opt.observe
        if number is not None and not _is_fresh(observation, number, server.now_s()):
            header["stale"] = True
        elif number is not None:
            observation.number, observation.at_s = number, server.now_s()
        frame: Frame = server.frame(known, header, message.payload, f"{observation.token.hex()}.{number}.{message.mid}")
        server.counts["notifications"] += 1
        server.heard(known, message.remote, messages)

        def committed(verdict: asyncio.Future[Verdict]) -> None:
            if verdict.result() is Verdict.ACCEPTED:
                observation.stored = True
                messages.acknowledge(message)
            else:
                observation.message = (-1, -1)  # it comes again
            self._answered(message)

        server.ingest.offer([frame]).add_done_callback(committed)


def _is_fresh(observation: Observation, number: int, now_s: float) -> bool:
    before = observation.number
    if before < 0 or now_s > observation.at_s + FRESH_S:
        return True
    return (before < number and number - before < HALF) or (before > number and before - number > HALF)


def _from_its_client(known: Registration, remote: Any) -> bool:
    """Whether a message comes from whom it should: the same key, or without keys the same address."""
    while (outer := getattr(remote, "underlying_address", None)) is not None:
        remote = outer
    if known.secured:
        return f":{known.device_id}" in (remote.authenticated_claims or ())
    sockaddr = getattr(remote, "sockaddr", None)
    return sockaddr is not None and plain_host(str(sockaddr[0])) == known.host
