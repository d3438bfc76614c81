"""Answers of devices to their commands, as codecs leave them in ``Reading.unknown["command_reply"]``.

That is either an object, ``command`` (the command's id, or its name where the protocol knows no id), ``result``
(``done``, ``refused`` or ``unknown``; ``done`` when it is missing) and whatever else the codec keeps; or a text: the
name of the command that was answered, or "" when the protocol does not say which.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from gateway.commands.states import Event
from gateway.model import Committed

MEMBER: Final = "command_reply"
MAX_NAME: Final = 64

EVENTS: Final[Mapping[str, Event]] = {
    "done": Event.CONFIRM, "refused": Event.REFUSE, "unknown": Event.NOT_KNOWN,
}  # fmt: skip


class Reply(Struct, frozen=True):
    """``named`` is a command's id or name, or ""."""

    seq: int
    device_id: str
    named: str
    event: Event


def replies(committed: Committed) -> Iterator[Reply]:
    """The answers among these records, of devices that proved who they are."""
    for offset, record in enumerate(committed.records):
        reading = record.reading
        if reading is None or reading.unknown is None or not record.verified or not record.device_id:
            continue
        for answer in _answers(reading.unknown.get(MEMBER)):
            yield Reply(committed.first_seq + offset, record.device_id, *answer)


def _answers(told: Any) -> Iterator[tuple[str, Event]]:
    if isinstance(told, list):
        for entry in told[:16]:
            if not isinstance(entry, list):
                yield from _answers(entry)
    elif isinstance(told, str):
        yield told[:MAX_NAME], Event.CONFIRM
    elif isinstance(told, dict):
        named, result = told.get("command", ""), told.get("result", "done")
        event = EVENTS.get(result) if isinstance(result, str) else None
        if event is not None and isinstance(named, str) and len(named) <= MAX_NAME:
            yield named, event
