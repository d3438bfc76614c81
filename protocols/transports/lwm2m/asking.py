"""Requests of the server to one client: read, write, execute, attributes, observe; one at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, Final

from aiocoap import error
from aiocoap.message import Message
from aiocoap.numbers import codes
from msgspec import Struct

from gateway.errors import UsageError
from protocols.codecs import lwm2m_values
from protocols.codecs.lwm2m_values import JSON, SENML_CBOR, SENML_JSON, TLV, read_path, to_bytes, write_tlv
from protocols.transports.coap.stack import ASKING
from protocols.transports.lwm2m.registrations import ITS_OWN, UNKNOWN, Registration

ANSWER_S: Final = 30.0
SILENT_S: Final = 15.0  # a client that does not know a format may say nothing at all
MAX_BODY_BYTES: Final = 65_536
OPERATIONS: Final = frozenset({"read", "write", "execute", "discover", "attributes", "observe", "cancel"})
ATTRIBUTES: Final = ("pmin", "pmax", "gt", "lt", "st", "epmin", "epmax")


class Order(Struct):
    """What the server wants of a client, as a command's payload says it; ``command`` is the command's id."""

    op: str
    path: str
    value: Any = None
    attributes: dict[str, float] = {}
    command: str = ""


def read_order(payload: bytes) -> Order:
    """Raises UsageError."""
    try:
        stated = json.loads(payload)
        if not isinstance(stated, dict):
            raise ValueError("not an object")  # noqa: TRY004, TRY301 - one place says what is wrong
        order = Order(str(stated.get("op")), str(stated.get("path", "")), stated.get("value"))
        order.command = str(stated.get("command", ""))[:64]
        read_path(order.path)
        given = stated.get("attributes", {})
        order.attributes = {name: float(given[name]) for name in ATTRIBUTES if name in given}
    except (ValueError, TypeError, AttributeError, UnicodeDecodeError, RecursionError) as fault:
        raise UsageError(f"not an order for LwM2M: {fault}") from fault
    except Exception as fault:
        raise UsageError("not an order for LwM2M: the path") from fault
    if order.op not in OPERATIONS:
        raise UsageError(f"{order.op} is not one of {', '.join(sorted(OPERATIONS))}")
    return order


def preferred(known: Registration) -> list[int]:
    """Content formats to ask for, the best first; -1 leaves the choice to the client."""
    if known.format != UNKNOWN:
        return [known.format if known.format != ITS_OWN else -1]
    return [TLV, JSON, -1] if known.version == "1.0" else [SENML_CBOR, SENML_JSON, TLV, -1]


class Asking:
    """Asks one client. Raises nothing of aiocoap's: no answer is None."""

    def __init__(self, answer_s: float = ANSWER_S, silent_s: float = SILENT_S) -> None:
        self._answer_s = answer_s
        self._silent_s = silent_s

    def patience_s(self, wanted: int) -> float:
        """How long to wait for an answer in this format (-1: in any): some say nothing to one that they do not know."""
        return self._silent_s if wanted >= 0 else self._answer_s

    async def carry_out(self, known: Registration, order: Order) -> tuple[Message | None, bytes]:
        """The client's answer and the whole of its body."""
        if order.op == "read":
            return await self.read(known, order.path)
        if order.op == "execute":
            argument = "" if order.value is None else str(order.value)
            return await self._ask(known, Message(code=codes.POST, payload=argument.encode()), order.path), b""
        if order.op == "discover":
            answer = await self._ask(known, Message(code=codes.GET, accept=40), order.path)
            return answer, b"" if answer is None else answer.payload
        if order.op == "attributes":
            return await self.write_attributes(known, order.path, order.attributes), b""
        return await self._ask(known, _write(known, order), order.path), b""

    async def read(self, known: Registration, path: str) -> tuple[Message | None, bytes]:
        """GET, in a format that the client can write; that one is remembered."""
        answer: Message | None = None
        for wanted in preferred(known):
            accept = {} if wanted < 0 else {"accept": wanted}
            answer = await self._ask(known, Message(code=codes.GET, **accept), path, self.patience_s(wanted))
            if answer is None or answer.code in (codes.NOT_ACCEPTABLE, codes.INTERNAL_SERVER_ERROR):
                continue
            if answer.code.is_successful():
                known.format = wanted if wanted >= 0 and answer.opt.content_format == wanted else known.format
                return answer, await self._rest(known, path, answer, wanted)
            break
        return answer, b""

    async def write_attributes(self, known: Registration, path: str, attributes: dict[str, float]) -> Message | None:
        """PUT with the attributes of notification as a query."""
        message = Message(code=codes.PUT)
        message.opt.uri_query = tuple(f"{name}={value:g}" for name, value in attributes.items())
        return await self._ask(known, message, path, self._silent_s)

    async def _rest(self, known: Registration, path: str, first: Message, wanted: int) -> bytes:
        """The body with all its blocks (Block2), at most MAX_BODY_BYTES."""
        body = bytearray(first.payload)
        block = first.opt.block2
        while block is not None and block.more and len(body) < MAX_BODY_BYTES:
            message = Message(code=codes.GET, **({} if wanted < 0 else {"accept": wanted}))
            message.opt.block2 = (block.block_number + 1, False, block.size_exponent)
            answer = await self._ask(known, message, path)
            if answer is None or answer.opt.block2 is None or not answer.code.is_successful():
                break
            if answer.opt.block2.block_number != block.block_number + 1:
                break
            block = answer.opt.block2
            body += answer.payload
        return bytes(body)

    async def _ask(
        self, known: Registration, message: Message, path: str, timeout_s: float | None = None
    ) -> Message | None:
        if known.remote is None or known.messages is None:
            return None
        message.opt.uri_path = tuple(part for part in path.split("/") if part)
        message.remote = known.remote
        message.transport_tuning = ASKING
        stack = known.messages.token_manager.context
        try:
            async with asyncio.timeout(timeout_s or self._answer_s):
                answer: Message = await stack.request(message, handle_blockwise=False).response
        except (error.Error, OSError, TimeoutError):
            known.messages.give_up(known.remote)
            return None
        return answer


def _write(known: Registration, order: Order) -> Message:
    """A resource as text, what TLV says of an instance as TLV (the value is then an object of resources)."""
    path = read_path(order.path)
    message = Message(code=codes.PUT)
    value = order.value
    if isinstance(value, dict):
        resources = [(int(number), to_bytes(one)) for number, one in value.items()]
        message.payload = write_tlv(resources)
        message.opt.content_format = TLV
        message.code = codes.POST  # a partial update of the instance
    elif known.version == "1.0" and len(path) == 3:
        message.payload = write_tlv([(path[2], to_bytes(value))])
        message.opt.content_format = TLV
    else:
        message.payload = str(int(value) if isinstance(value, bool) else value).encode()
        message.opt.content_format = lwm2m_values.TEXT
    return message


def paths_to_observe(objects: Sequence[str], wanted: Sequence[str], is_vendor: Callable[[int], bool]) -> list[str]:
    """Of the instances that a client has, those that are wanted: by object, by instance, or as a vendor's object."""
    chosen = []
    for path in objects:
        parts = path.strip("/").split("/")
        if len(parts) == 2 and (path in wanted or f"/{parts[0]}" in wanted or is_vendor(int(parts[0]))):
            chosen.append(path)
    return chosen
