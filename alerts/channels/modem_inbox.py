"""Messages and calls that reach the modem: put together, named, and handed on as they will be remembered."""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from alerts.channels import modem_pdu
from alerts.channels.modem_pdu import Deliver, PduError, StatusReport
from gateway.clock import US_PER_S

PARTS_WAIT_S: Final = 600
MAX_WAITING: Final = 200
RING_GAP_S: Final = 12.0
_LISTED: Final = re.compile(r"\+CMGL: *(\d{1,5}) *,")
_CALLER: Final = re.compile(r'\+CLIP: *"([0-9*#+]{0,40})" *(?:, *(\d{1,3}))?')


class IncomingSms(Struct, frozen=True, kw_only=True):
    """A message that came to the modem. Personal data.

    ``key`` is the same when the message is read again after a crash. ``sent_us`` is the service centre's time.
    ``complete`` is False when parts of it did not come within ten minutes. ``raw``: the PDUs (hexadecimal) where
    there is no text: 8-bit data or octets that are no message, which ``fault`` then names.
    """

    key: str
    sender: str
    text: str
    sent_us: int | None
    received_us: int
    complete: bool = True
    raw: tuple[str, ...] = ()
    fault: str = ""


class IncomingCall(Struct, frozen=True, kw_only=True):
    """Somebody rings. ``number`` is "" when it is withheld."""

    number: str
    at_us: int


class Stored(Struct, frozen=True):
    """A message as it lies in the modem's memory."""

    index: int
    pdu: str


class Found(Struct, frozen=True):
    """What stored messages amount to, with the places to delete once it has been kept."""

    message: IncomingSms | StatusReport
    indexes: tuple[int, ...]


class Inbox:
    """Turns stored messages into whole ones. Remembers since when it waits for missing parts."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, int] = OrderedDict()

    def sort(self, stored: Sequence[Stored], now_us: int) -> list[Found]:
        """What can be handed on now; parts whose others are still on their way stay where they are."""
        found: list[Found] = []
        long: dict[str, dict[int, tuple[Stored, Deliver]]] = {}
        for entry in stored:
            try:
                message = modem_pdu.decode(entry.pdu)
            except PduError as error:
                found.append(Found(_unreadable(entry.pdu, str(error), now_us), (entry.index,)))
                continue
            if isinstance(message, StatusReport):
                found.append(Found(message, (entry.index,)))
            elif message.part is None or message.part.total == 1:
                found.append(Found(_whole([(entry, message)], now_us, complete=True), (entry.index,)))
            else:
                part = message.part
                name = f"{message.sender}/{part.reference}/{part.total}"
                parts = long.setdefault(name, {})
                if part.number in parts:  # the same part twice, or a reference used again: neither is thrown away
                    found.append(Found(_whole([(entry, message)], now_us, complete=False), (entry.index,)))
                else:
                    parts[part.number] = (entry, message)
        found += self._long(long, now_us)
        return found

    def _long(self, long: dict[str, dict[int, tuple[Stored, Deliver]]], now_us: int) -> list[Found]:
        found: list[Found] = []
        waiting: OrderedDict[str, int] = OrderedDict()
        for name, parts in long.items():
            ordered = [parts[number] for number in sorted(parts)]
            first_part = ordered[0][1].part
            complete = first_part is not None and len(parts) == first_part.total
            since_us = self._waiting.get(name, now_us)
            if complete or now_us - since_us >= PARTS_WAIT_S * US_PER_S or len(waiting) >= MAX_WAITING:
                indexes = tuple(entry.index for entry, _ in ordered)
                found.append(Found(_whole(ordered, now_us, complete=complete), indexes))
            else:
                waiting[name] = since_us
        self._waiting = waiting
        return found


class Doorbell:
    """One call for one caller, however often it rings. A number may come with the second ring, or never."""

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._told = False
        self._rings = 0

    def hears(self, line: str, now_s: float, now_us: int) -> IncomingCall | None:
        """A line that the modem said on its own; the call when it is to be told now."""
        if line == "NO CARRIER":
            self._last_s = None
            return None
        if self._last_s is None or now_s - self._last_s > RING_GAP_S:
            self._told, self._rings = False, 0
        self._last_s = now_s
        caller = _CALLER.match(line)
        if line == "RING" or line.startswith("+CRING:"):
            self._rings += 1
        elif caller is None:
            return None
        if self._told or (caller is None and self._rings < 2):
            return None
        self._told = True
        return IncomingCall(number=_number(caller), at_us=now_us)


def listed(lines: Sequence[str]) -> list[Stored]:
    """The answer to AT+CMGL=4."""
    stored: list[Stored] = []
    index: int | None = None
    for line in lines:
        head = _LISTED.match(line)
        if head:
            index = int(head[1])
        elif index is not None:
            stored.append(Stored(index, line))
            index = None
    return stored


def _number(caller: re.Match[str] | None) -> str:
    if caller is None:
        return ""
    number, kind = caller[1], caller[2]
    return f"+{number}" if kind == "145" and number and not number.startswith("+") else number


def _whole(parts: Sequence[tuple[Stored, Deliver]], now_us: int, *, complete: bool) -> IncomingSms:
    first = parts[0][1]
    binary = any(message.data for _, message in parts)
    key = "".join(modem_pdu.key_of(entry.pdu) for entry, _ in parts)
    return IncomingSms(
        key=key if len(parts) == 1 else hashlib.sha256(key.encode()).hexdigest()[:32],
        sender=first.sender,
        text="".join(message.text for _, message in parts),
        sent_us=first.sent_us,
        received_us=now_us,
        complete=complete,
        raw=tuple(entry.pdu for entry, _ in parts) if binary else (),
        fault="8-bit data" if binary else "",
    )


def _unreadable(pdu: str, fault: str, now_us: int) -> IncomingSms:
    return IncomingSms(
        key=modem_pdu.key_of(pdu),
        sender="",
        text="",
        sent_us=None,
        received_us=now_us,
        raw=(pdu[: 2 * modem_pdu.MAX_PDU_OCTETS],),
        fault=fault,
    )
