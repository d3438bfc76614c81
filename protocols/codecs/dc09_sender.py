"""SIA DC-09, the sender's side: an event for an alarm receiving center, and what its answer means. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

from msgspec import Struct

from gateway.errors import ParseError
from protocols.codecs import dc09_frame as wire

KINDS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "sos": ("101", "QA"),
        "fall": ("101", "QA"),
        "no_answer": ("102", "NA"),
        "smoke": ("111", "FA"),
        "gas": ("151", "GA"),
        "carbon_monoxide": ("162", "GA"),
        "heat": ("114", "KA"),
        "water_leak": ("154", "WA"),
        "tamper": ("144", "TA"),
        "no_motion": ("641", "NA"),
        "device_silent": ("354", "YC"),
        "low_battery": ("302", "YT"),
        "power_lost": ("301", "AT"),
        "device_fault": ("300", "YX"),
    }
)
"""Contact ID and SIA code of each kind of alert; every other kind is a medical alarm: 100, MA."""


class Route(Struct, frozen=True, kw_only=True):
    """What an alarm receiving center calls us. ``form`` is the format of the data."""

    account: str
    line: str = "0"
    receiver: str = ""
    form: Literal["ADM-CID", "SIA-DCS"] = "ADM-CID"
    key: bytes = b""

    def event(self, number: int, kind: str, reference: str, at_us: int) -> bytes:
        """The event of an alert. ``number`` is 1 to 9999 and the same for every try; ``reference`` is told as text."""
        contact_id, sia = KINDS.get(kind, ("100", "MA"))
        data = f"1{contact_id} 01 001" if self.form == "ADM-CID" else f"Nri1/{sia}001"
        text = "".join(character for character in reference if character.isalnum() or character in "-_. ")[:64]
        return _frame(self, self.form, number, f"#{self.account}|{data}][I{text}]", at_us)

    def link_test(self, at_us: int) -> bytes:
        return _frame(self, "NULL", 0, "]", at_us)

    def answer(self, payload: bytes, number: int) -> Answer:
        """What a receiver's frame says of the message with this number. An ACK of another message is ``other``."""
        try:
            message = wire.take_apart(payload)
        except ParseError:
            return Answer("other")
        if message.id == "NAK":
            clock_us = wire.stamp_us((message.content or "").rpartition("_")[2])
            return Answer("nak", max(0, clock_us or 0))
        if message.seq != f"{number:04d}":
            return Answer("other")
        return Answer("ack" if message.id == "ACK" else "duh" if message.id == "DUH" else "other")


class Answer(Struct, frozen=True):
    """``clock_us``: with a NAK, the receiver's time (0: it gave none)."""

    kind: Literal["ack", "nak", "duh", "other"]
    clock_us: int = 0


def _frame(route: Route, name: str, number: int, content: str, at_us: int) -> bytes:
    seq = f"{number:04d}"
    where = wire.route(route.receiver, route.line, route.account)
    content += wire.stamp(at_us)
    if not route.key:
        return wire.build(name, seq, where, content)
    hidden = wire.encrypt(route.key, content, f"{at_us}/{seq}/{name}".encode())
    return wire.build(name, seq, where, hidden, encrypted=True)
