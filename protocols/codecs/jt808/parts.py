"""JT/T 808: messages in parts (JT/T 808-2019, clause 4.4.3), put together within bounds of number, bytes and time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.clock import US_PER_S
from protocols.codecs.jt808.wire import Message

MAX_MESSAGES: Final = 4
MAX_PARTS: Final = 512
MAX_BYTES: Final = 262_144
MAX_AGE_US: Final = 300 * US_PER_S

Waiting = dict[str, Any]


def take_part(
    message: Message, parts: Mapping[str, Waiting] | None, now_us: int
) -> tuple[Message | None, dict[str, Waiting] | None]:
    """The whole message when this part completes it, and what still waits. Pure: ``parts`` is not changed.

    Parts of one message have rising serial numbers, so that the serial of the first names it. A part that comes twice
    counts once. What exceeds a bound is given up, oldest first; each part is in the journal anyway.
    """
    waiting = {
        name: value for name, value in (parts or {}).items() if now_us - int(value["at_us"]) <= MAX_AGE_US
    }  # fmt: skip
    if not 1 <= message.number <= message.total <= MAX_PARTS:
        return None, waiting or None
    first = message.serial - (message.number - 1) & 0xFFFF
    name = f"{message.message_id:04x}-{first:04x}-{message.total}"
    held = waiting.pop(name, {"at_us": now_us, "bodies": {}})
    bodies: dict[int, bytes] = {**held["bodies"], message.number: message.body}
    if len(bodies) == message.total:
        body = b"".join(bodies[number] for number in sorted(bodies))
        whole = Message(
            message.message_id, message.terminal, message.key, message.version, first, body,
            encrypted=message.encrypted, other=message.other,
        )  # fmt: skip
        return whole, waiting or None
    waiting[name] = {"at_us": now_us, "bodies": bodies}
    while len(waiting) > MAX_MESSAGES or _size(waiting) > MAX_BYTES:
        del waiting[next(iter(waiting))]
    return None, waiting or None


def _size(waiting: Mapping[str, Waiting]) -> int:
    return sum(len(body) for value in waiting.values() for body in value["bodies"].values())
