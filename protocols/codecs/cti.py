"""Calls that a telephone system tells of: ``{"caller": "+86...", "callee": "...", "at": "...", "event": "ring"}``.

A one-button telephone says nothing but its number: that it calls the number for help is the press.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from gateway.clock import to_us
from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.terminal import Draft

MAX_BYTES: Final = 8192
MAX_NUMBER: Final = 40
CALLS: Final = frozenset({"ring", "ringing", "call", "incoming", "press", "sos"})
OVER: Final = frozenset({"answered", "hangup", "ended", "completed", "busy", "transferred"})
WORDS: Final = ("sos", "help", "救", "求助", "紧急", "急救", "报警", "摔", "跌倒")
"""What in a message is a cry for help, whatever else it says."""


class CtiCodec:
    """``ports.Codec``. Its reports are the caller's, by the number as it was told."""

    name = "cti"

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report, of a withheld number too (its key is ""). Raises ParseError for what is no such object."""
        if len(frame.payload) > MAX_BYTES:
            raise ParseError(f"more than {MAX_BYTES} bytes")
        try:
            told = msgspec.json.decode(frame.payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ParseError(f"no JSON: {str(error)[:100]}") from error
        if not isinstance(told, dict):
            raise ParseError("not an object with caller, callee, at, event")
        draft = Draft(frame, number_of(told.get("caller")) or frame.device_key)
        if not draft.device_key:
            draft.fault("caller", "withheld or not a number")
        event = str(told.get("event", "ring"))[:40]
        if event in ("test", "low_battery"):
            draft.signal(event)
        elif event not in OVER:
            draft.signal("sos")
            if event not in CALLS:
                draft.fault("event", f"{event!r} is not known: taken as a call")
        if told.get("at") is not None:
            _learn_time(told["at"], draft)
        draft.keep("event", event)
        draft.keep("callee", number_of(told.get("callee")) or None)
        return [draft.report()]


def number_of(value: Any) -> str:
    """A telephone number as it was told, without blanks and marks between its digits; "" for what is none."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        return ""
    text = "".join(character for character in str(value)[:80] if character in "0123456789+*#")
    return text[:MAX_NUMBER] if any(character.isdecimal() for character in text) else ""


def cries_for_help(text: str) -> bool:
    """Whether a message is one, by its words."""
    lowered = text.casefold()
    return any(word in lowered for word in WORDS)


def _learn_time(value: Any, draft: Draft) -> None:
    try:
        at_us = to_us(datetime.fromisoformat(value))
    except (TypeError, ValueError, OverflowError):
        draft.fault("at", "not a time of RFC 3339")
        return
    if 0 < at_us < 1 << 53:
        draft.at_us = at_us
    else:
        draft.fault("at", "not a time that can be")
