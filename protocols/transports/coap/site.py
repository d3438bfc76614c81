"""The resources of the CoAP listeners, for everything that the hot path leaves: who asks, then whose turn it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiocoap import interfaces
from aiocoap.message import Message
from aiocoap.numbers import codes
from msgspec import Struct

from gateway.clock import Clock
from gateway.model import DeviceBinding
from gateway.ports import Directory
from protocols.transports.coap import wire
from protocols.transports.coap.blocks import Bodies, in_blocks
from protocols.transports.coap.down import Downs
from protocols.transports.coap.stack import plain_host
from protocols.transports.coap.uplink import MAX_DEVICE_KEY, Uplink

_CORE: Final = b'</up>;rt="carebell.up";ct="50 110 112",</down>;rt="carebell.down";obs,</rd>;rt="core.rd",</dp>'
_LINK_FORMAT: Final = 40


class Asked(Struct):
    """A whole request of somebody. ``proved`` is the device by DTLS or OSCORE, "" when nothing was proved."""

    request: Message
    payload: bytes
    query: Mapping[str, str]
    proved: str
    host: str
    messages: Any


Handler = Callable[[Asked], Awaitable[Message]]


class Site(interfaces.Resource):  # type: ignore[misc]  # aiocoap is not typed
    """Serves ``/up``, ``/down``, ``/.well-known/core``, and what others add under their first path segment."""

    def __init__(self, *, uplink: Uplink, downs: Downs, directory: Directory, clock: Clock) -> None:
        self._uplink = uplink
        self._downs = downs
        self._directory = directory
        self._bodies = Bodies(clock)
        self._others: dict[str, Handler] = {}
        self.messages: Any = None

    def add(self, segment: str, handler: Handler) -> None:
        """Serve every path that begins with this segment."""
        self._others[segment] = handler

    async def render(self, request: Message) -> Message:
        raise NotImplementedError  # aiocoap's interface has it; render_to_pipe below is what aiocoap calls

    async def needs_blockwise_assembly(self, request: Message) -> bool:
        del request
        return False

    def get_resources_as_linkheader(self) -> str:
        return _CORE.decode()

    async def render_to_pipe(self, pipe: Any) -> None:
        request = pipe.request
        host = _host(request.remote)
        payload, refusal = self._bodies.take(request, host)
        if payload is None:
            pipe.add_response(refusal, is_last=True)
            return
        asked = Asked(request, payload, _query(request), _claimed(request.remote), host, self.messages)
        path = request.opt.uri_path
        if path == ("down",) and request.code is codes.GET and request.opt.observe == 0:
            await self._observe(asked, pipe)
            return
        answer = await self._answer(asked, path)
        if request.opt.block1 is not None and answer.opt.block1 is None:
            answer.opt.block1 = request.opt.block1
        pipe.add_response(in_blocks(request, answer), is_last=True)

    async def _answer(self, asked: Asked, path: tuple[str, ...]) -> Message:
        code = asked.request.code
        first = path[0] if path else ""
        if path == ("up",):
            return await self._up(asked) if code is codes.POST else Message(code=codes.METHOD_NOT_ALLOWED)
        if path == ("down",):
            if code is not codes.GET:
                return Message(code=codes.METHOD_NOT_ALLOWED)
            device = await self._whose(asked)
            return Message(code=codes.UNAUTHORIZED) if device is None else await self._downs.poll(device.device_id)
        if path == (".well-known", "core"):
            return Message(code=codes.CONTENT, payload=_CORE, content_format=_LINK_FORMAT)
        handler = self._others.get(first)
        return Message(code=codes.NOT_FOUND) if handler is None else await handler(asked)

    async def _up(self, asked: Asked) -> Message:
        stated = asked.request.opt.content_format
        post = wire.Post(
            confirmable=True,
            mid=0,
            token=b"",
            device=(asked.proved or asked.query.get("d", ""))[:MAX_DEVICE_KEY],
            secret="" if asked.proved else asked.query.get("t", ""),
            content_format=-1 if stated is None else int(stated),
            payload=asked.payload,
        )
        code = await self._uplink.deliver(post, asked.host, self._binding(asked.proved))
        answer = Message(code=code)
        if code == wire.UNAVAILABLE:
            answer.opt.max_age = wire.RETRY_AFTER_S
        return answer

    async def _whose(self, asked: Asked) -> DeviceBinding | None:
        if asked.proved:
            return self._binding(asked.proved)
        return self._uplink.by_token(asked.query.get("d", ""), asked.query.get("t", ""))

    def _binding(self, proved: str) -> DeviceBinding | None:
        """The active device that a key belongs to."""
        binding = self._directory.device(proved) if proved else None
        return binding if binding is not None and binding.state == "active" else None

    async def _observe(self, asked: Asked, pipe: Any) -> None:
        device = await self._whose(asked)
        if device is None:
            pipe.add_response(Message(code=codes.UNAUTHORIZED), is_last=True)
            return
        await self._downs.serve(device.device_id, asked.request, pipe)


def _query(request: Message) -> dict[str, str]:
    found: dict[str, str] = {}
    for part in request.opt.uri_query:
        name, _, value = part.partition("=")
        found.setdefault(name, value)
    return found


def _claimed(remote: Any) -> str:
    """The device that DTLS or OSCORE proved."""
    for claim in remote.authenticated_claims or ():
        if isinstance(claim, str) and claim.startswith(":"):
            return claim[1:]
    return ""


def _host(remote: Any) -> str:
    """The bare address of a sender, without its port."""
    while (outer := getattr(remote, "underlying_address", None)) is not None:
        remote = outer  # OSCORE
    remote = getattr(remote, "_underlying_address", remote)  # DTLS
    address = getattr(remote, "sockaddr", None) or getattr(remote, "address", None) or ("",)
    return plain_host(str(address[0]))
