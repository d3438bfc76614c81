"""The life of a command. Pure: a command, what happened and when give the command as it is then, or nothing.

``queued`` until its device is in contact; ``sent`` once it is handed to a transport; ``acknowledged`` when the
device's transport has it; ``confirmed`` when the device says that it did it. ``failed`` says why in ``result``;
``expired`` was never given to the device; ``cancelled`` neither. A command that its device does not confirm ends with
what is known at last: ``acknowledged``, or ``sent`` where the transport knows no acknowledgement.
"""

from __future__ import annotations

import enum
from typing import Any, Final

from msgspec import Struct, field, structs

from gateway.clock import US_PER_S

MAX_ATTEMPTS: Final = 3
"""How often a harmless command is handed to a transport that keeps nothing itself."""


class State(enum.StrEnum):
    QUEUED = "queued"
    SENT = "sent"
    ACKNOWLEDGED = "acknowledged"
    CONFIRMED = "confirmed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class Event(enum.StrEnum):
    """What can happen to a command."""

    SEND = "send"  # it goes to a transport
    RELEASE = "release"  # the transport had no connection: nothing of it went out
    HAND_OVER = "hand_over"  # the transport has sent it and will hear no more of it
    ACKNOWLEDGE = "acknowledge"  # the device's transport has it
    CONFIRM = "confirm"  # the device did it
    REFUSE = "refuse"  # the device would not, or its transport would not
    NOT_KNOWN = "not_known"  # the device does not know such a command
    SILENCE = "silence"  # no answer in time
    RETRY = "retry"  # no answer in time, or a restart, and it may run twice
    CANNOT_SEND = "cannot_send"  # it cannot be said to this device at all
    EXPIRE = "expire"  # its time is over, and the device never got it
    CANCEL = "cancel"


OVER: Final = frozenset({State.CONFIRMED, State.FAILED, State.EXPIRED, State.CANCELLED})
IN_FLIGHT: Final = frozenset({State.SENT, State.ACKNOWLEDGED})
RESULTS: Final = ("", "done", "refused", "unknown", "unanswered", "unsendable")
"""``unanswered``: whether the device did it is not known."""

_ANSWERS: Final = {Event.CONFIRM: "done", Event.REFUSE: "refused", Event.NOT_KNOWN: "unknown"}


class Command(Struct, frozen=True, kw_only=True):
    """One row of the ledger. ``handle`` names it in the queue of a transport that has one."""

    number: int
    id: str
    device_id: str
    person_id: str | None = None
    name: str
    parameters: dict[str, Any] = field(default_factory=dict)
    personal: list[str] = field(default_factory=list)
    dangerous: bool = False
    confirms: bool = True
    confirm_within_s: int = 120
    state: State = State.QUEUED
    result: str = ""
    attempts: int = 0
    transport: str = ""
    handle: int | None = None
    actor: dict[str, str] = field(default_factory=dict)
    created_at_us: int
    expires_at_us: int
    sent_at_us: int | None = None
    answer_by_us: int | None = None
    finished_at_us: int | None = None
    first_seq: int = 0
    version: int = 1

    @property
    def may_repeat(self) -> bool:
        """Whether it may be handed to a transport once more after an attempt of unknown outcome."""
        return not self.dangerous and self.handle is None and self.attempts < MAX_ATTEMPTS

    @property
    def unanswered(self) -> bool:
        return self.state is State.FAILED and self.result == "unanswered"


def step(
    command: Command,
    event: Event,
    now_us: int,
    *,
    transport: str = "",
    handle: int | None = None,
    last_word: bool = False,
) -> Command | None:
    """The command after the event; None when the event means nothing in its state.

    With SEND: ``transport`` is where it goes; ``handle`` its number in a queue that keeps it until it is acknowledged
    or expired; ``last_word``: nothing more will ever be heard of it.
    """
    state = command.state
    changes: dict[str, Any] | None = None
    if event in _ANSWERS:
        changes = _answered(command, event, now_us)
    elif state is State.QUEUED:
        changes = _queued(command, event, now_us, transport, handle, last_word=last_word)
    elif state is State.SENT and command.finished_at_us is None:
        changes = _sent(command, event, now_us)
    elif state is State.ACKNOWLEDGED and command.finished_at_us is None and event is Event.SILENCE:
        changes = _failed("unanswered", now_us)
    return None if changes is None else structs.replace(command, **changes, version=command.version + 1)


def _answered(command: Command, event: Event, now_us: int) -> dict[str, Any] | None:
    """What the device says counts also when it says so late, or unasked."""
    if command.state not in IN_FLIGHT and not command.unanswered:
        return None
    state = State.CONFIRMED if event is Event.CONFIRM else State.FAILED
    return {"state": state, "result": _ANSWERS[event], "answer_by_us": None, "finished_at_us": now_us}


def _queued(
    command: Command, event: Event, now_us: int, transport: str, handle: int | None, *, last_word: bool
) -> dict[str, Any] | None:
    late = now_us >= command.expires_at_us
    if event is Event.SEND:
        if late or (command.dangerous and command.attempts > 0):
            return None
        # A queue of the transport's own delivers until the command expires, and then says so within seconds.
        since_us = now_us if handle is None else command.expires_at_us
        over = last_word and not command.confirms
        return {
            "state": State.SENT,
            "attempts": command.attempts + 1,
            "transport": transport,
            "handle": handle,
            "sent_at_us": now_us,
            "answer_by_us": None if over else since_us + command.confirm_within_s * US_PER_S,
            "finished_at_us": now_us if over else None,
        }
    if event is Event.EXPIRE and late:
        return {"state": State.EXPIRED, "finished_at_us": now_us}
    if event is Event.CANCEL:
        return {"state": State.CANCELLED, "finished_at_us": now_us}
    return _failed("unsendable", now_us) if event is Event.CANNOT_SEND else None


def _sent(command: Command, event: Event, now_us: int) -> dict[str, Any] | None:
    answer = {"answer_by_us": now_us + command.confirm_within_s * US_PER_S} if command.confirms else None
    done = {"answer_by_us": None, "finished_at_us": now_us}
    queued = {"state": State.QUEUED, "transport": "", "handle": None, "sent_at_us": None, "answer_by_us": None}
    late = now_us >= command.expires_at_us
    changes: dict[str, Any] | None = None
    match event:
        case Event.ACKNOWLEDGE:
            changes = {"state": State.ACKNOWLEDGED} | (answer or done)
        case Event.HAND_OVER:
            changes = answer or done
        case Event.RELEASE if command.handle is None:
            changes = queued | {"attempts": command.attempts - 1}
        case Event.RETRY if command.may_repeat and not late:
            changes = queued
        case Event.EXPIRE if late:
            changes = {"state": State.EXPIRED} | done
        case Event.SILENCE:
            changes = _failed("unanswered", now_us)
        case Event.CANNOT_SEND:
            changes = _failed("unsendable", now_us)
    return changes


def _failed(result: str, now_us: int) -> dict[str, Any]:
    return {"state": State.FAILED, "result": result, "answer_by_us": None, "finished_at_us": now_us}
