"""SCAIP (SS 91100) receiver: alarms of social alarm units in SIP MESSAGEs with a small XML document.

Codes arrive with and without leading zeros, the root element and the type of the content differ between makers: both
are read leniently and written as the standard has them. Everything is read by defusedxml, which refuses document types
and entities.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal
from xml.sax.saxutils import escape

from msgspec import Struct

from gateway.clock import US_PER_S
from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs import sip_message as sip
from protocols.codecs.terminal import Draft, clean_text, decimal, degrees_minutes
from protocols.framing import Framer

KIND: Final = "application/scaip+xml"
KINDS: Final = frozenset({KIND, "application/xml", "text/xml"})
MAX_TAGS: Final = 64
OK, INVALID_FORMAT, WRONG_CONTENT, NOT_TREATED, TAG_MISSING = 0, 2, 3, 5, 7
TEXTS: Final = {
    OK: "", INVALID_FORMAT: "invalid format", WRONG_CONTENT: "wrong data content", NOT_TREATED: "not treated",
    TAG_MISSING: "mandatory tag missing",
}  # fmt: skip
_CODES: Final = Path(__file__).with_name("scaip_codes.csv")
_REF: Final = re.compile(rb"<ref>([^<]{1,64})</ref>")
_CALLABLE: Final = re.compile(r"(sips?|tel|gsm):(.+)", re.IGNORECASE)
_KEPT: Final = ("ver", "sco", "cha", "hbo", "did", "dte", "stt", "pri", "lva", "lte", "ico", "ite", "ame")


class Dialect(Struct, frozen=True, kw_only=True):
    """How a unit wants to be answered. ``inline``: in the body of the 200 OK, else in a MESSAGE of its own.

    ``root`` is the element and ``kind`` the content type of the answer.
    """

    reply: Literal["separate", "inline"] = "separate"
    root: Literal["mrs", "scaip"] = "mrs"
    kind: Literal["application/scaip+xml", "application/xml"] = "application/scaip+xml"


STANDARD: Final = Dialect()


class ScaipCodec:
    """``ports.TerminalCodec``. The controller id (``cid``) is what the registry knows a unit by (its serial number).

    ``dialect_of`` tells how a unit is answered. ``transfer_to`` is a URI that units are asked to call after an alarm
    (``cre`` 62, ``tnu``); without it they are told that there is no voice.
    """

    name = "scaip"
    default_port = 5060
    text = True
    datagrams = True

    def __init__(
        self,
        *,
        lenient: bool = False,
        dialect_of: Callable[[str], Dialect | None] = lambda _cid: None,
        default: Dialect = STANDARD,
        transfer_to: str = "",
    ) -> None:
        del lenient  # there is no checksum
        self._dialect_of = dialect_of
        self._default = default
        self._transfer_to = transfer_to

    def framer(self) -> Framer:
        return sip.framer()

    def small_talk(self, payload: bytes, source: str) -> bytes | None:
        """What SIP wants answered and nobody needs to keep."""
        return sip.courtesy(payload, source)

    def split_reply(self, reply: bytes) -> Sequence[bytes]:
        """An answer that is a response and a request goes out as two datagrams."""
        return sip.split(reply)

    def asks(self, part: bytes) -> str:
        """A MESSAGE of ours is known by its Call-ID."""
        return sip.call_id(part, request=True)

    def settles(self, payload: bytes) -> str:
        """So is the response to it."""
        return sip.call_id(payload, request=False)

    def declined(self, reply: bytes) -> bytes:
        """503 in place of this reply: the unit turns to its next receiver."""
        first = next(iter(sip.split(reply)), b"")
        try:
            answered = sip.read(first)
        except ParseError:
            return b""
        if answered.status != 200:
            return first
        found = _REF.search(reply)
        body = _answer(found[1].decode("utf-8", "replace") if found else "0", NOT_TREATED, STANDARD, "")
        return sip.respond(answered, "", sip.Reply(503, KIND, body, extra=(("Retry-After", "5"),)))

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report. Raises ParseError for what is no SIP MESSAGE."""
        message = sip.read(frame.payload)
        if message.method != "MESSAGE":
            raise ParseError(f"not a MESSAGE: {message.method or message.status}")
        draft = Draft(frame, message.sender[:64] or "unknown")
        if message.kind not in KINDS:
            draft.fault("content", f"of the type {message.kind[:60] or 'none'}")
            draft.reply = sip.respond(message, frame.source, sip.Reply(415, extra=(("Accept", KIND),)))
            return [draft.report()]
        tags = _tags(message.body, draft)
        dialect = self._dialect_of(draft.device_key) or self._default
        if tags is None:
            _reply(draft, message, frame, (_ref_of(message.body), INVALID_FORMAT, dialect, ""))
            return [draft.report()]
        if "ref" in tags and "snu" in tags and "mty" not in tags and "stc" not in tags:
            draft.reply = sip.respond(message, frame.source, sip.Reply(200))  # its answer to something of ours
            return [draft.report()]
        if tags.get("cid"):
            draft.device_key = tags["cid"].lstrip("+")[:64]
            dialect = self._dialect_of(draft.device_key) or self._default
        missing = [name for name in ("ref", "cid", "dty") if not tags.get(name)]
        if missing:
            draft.fault("document", f"missing: {', '.join(missing)}")
        alarm = _understand(tags, draft)
        status = TAG_MISSING if missing else OK
        transfer = self._transfer_to if alarm and tags.get("cha", "0").strip("0") == "" else ""
        _reply(draft, message, frame, (tags.get("ref", "0"), status, dialect, transfer))
        return [draft.report()]


def _reply(draft: Draft, message: sip.SipMessage, frame: Frame, answer: tuple[str, int, Dialect, str]) -> None:
    dialect = answer[2]
    body = _answer(*answer)
    if dialect.reply == "inline":
        draft.reply = sip.respond(message, frame.source, sip.Reply(200, dialect.kind, body))
    else:
        empty = sip.respond(message, frame.source, sip.Reply(200))
        draft.reply = empty + sip.message_back(message, dialect.kind, body)


def _answer(ref: str, status: int, dialect: Dialect, transfer_to: str) -> str:
    """The response document."""
    tags = [("ref", ref[:64]), ("snu", str(status))]
    if TEXTS.get(status):
        tags.append(("ste", TEXTS[status]))
    if status == OK:
        tags.append(("mre", "1" if transfer_to else "0"))
    if transfer_to:
        tags += [("cre", "62"), ("tnu", transfer_to)]
    inner = "".join(f"<{name}>{escape(clean_text(text))}</{name}>" for name, text in tags)
    return f"<{dialect.root}>{inner}</{dialect.root}>"


# ---- reading ---------------------------------------------------------------------------------------------------------


def _tags(body: bytes, draft: Draft) -> dict[str, str] | None:
    """The document's elements by name, the first of each; callers' addresses (``crd``) all, by lines. None: no XML."""
    from defusedxml.ElementTree import fromstring  # noqa: PLC0415 - XML only where it is spoken

    try:
        root = fromstring(body, forbid_dtd=True)
    except (SyntaxError, ValueError, LookupError, RecursionError) as error:  # what is no XML, or refused XML
        draft.fault("document", f"{type(error).__name__}: {str(error)[:100]}")
        return None
    tags: dict[str, str] = {}
    for count, element in enumerate(root.iter()):
        if count > MAX_TAGS:
            draft.fault("document", f"more than {MAX_TAGS} elements")
            break
        name = str(element.tag).rpartition("}")[2].lower()
        text = clean_text((element.text or "").strip())[:512]
        if name == "crd" and name in tags:
            tags[name] += f"\n{text}"
        elif element is not root:
            tags.setdefault(name, text)
    return tags


def _ref_of(body: bytes) -> str:
    found = _REF.search(body)
    return found[1].decode("utf-8", "replace") if found else "0"


@cache
def codes(group: str) -> Mapping[int, tuple[str, str]]:
    """The table of ``dty``, ``stc`` or ``lco``: signal (leading minus: ended; ``device``: the device's) and meaning."""
    with _CODES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return MappingProxyType({int(row["code"]): (row["signal"], row["meaning"]) for row in rows if row["set"] == group})


def _code(tags: Mapping[str, str], name: str, default: int, draft: Draft) -> int:
    text = tags.get(name, "").strip()
    if not text:
        return default
    if text.isascii() and text.isdecimal() and len(text) <= 6:
        return int(text)
    draft.fault(name, f"{text[:20]!r} is no code")
    return -1


def _understand(tags: Mapping[str, str], draft: Draft) -> bool:
    """Into the draft; whether it is an alarm (a voice call may follow)."""
    kind = tags.get("mty", "").upper() or "ME"
    device, status = _code(tags, "dty", 1, draft), _code(tags, "stc", 10, draft)
    location = _code(tags, "lco", 0, draft)
    digest = hashlib.sha256(repr((kind, device, tags.get("did"), status, location)).encode()).hexdigest()[:8]
    if tags.get("ref"):  # a heartbeat is one of its minute: units may give all of theirs the same reference
        minute = f"/{draft.received_at_us // (60 * US_PER_S)}" if kind == "PI" else ""
        draft.dedup_key = f"{tags['ref'][:64]}/{digest}{minute}"
    draft.keep("message", kind)
    draft.keep(
        "device", {"code": device, "meaning": codes("dty").get(device, ("", ""))[1], "component": tags.get("dco", "")}
    )
    draft.keep("status", {"code": status, "meaning": codes("stc").get(status, ("", ""))[1]})
    if location > 0:
        draft.keep("location", {"code": location, "meaning": codes("lco").get(location, ("", ""))[1]})
    draft.keep("fields", {name: tags[name] for name in _KEPT if tags.get(name)} or None)
    _place(tags, draft)
    if kind == "PI":
        draft.keep("link_test", True)
        return False
    _call_back(tags, draft)
    if kind == "IN":
        return False
    if kind not in ("ME", "RE"):
        draft.fault("mty", f"{kind[:10]!r} is no type of message: taken as an alarm")
    signals = _signals(device, status, location, draft)
    if kind == "RE" and not signals:
        signals = [codes("dty").get(device, ("sos", ""))[0]]
    for signal in signals:
        active = not signal.startswith("-") and kind != "RE"
        draft.signal(signal.removeprefix("-"), active=active)
    return kind != "RE" and any(not signal.startswith("-") and signal not in _SILENT for signal in signals)


def _signals(device: int, status: int, location: int, draft: Draft) -> list[str]:
    """What an alarm of this device with this status says. What has no meaning is an alarm all the same."""
    of_device = codes("dty").get(device)
    if of_device is None:
        draft.fault("dty", f"no meaning is known for {device}: taken as a call for help")
        of_device = ("sos", "")
    of_status = codes("stc").get(status)
    if of_status is None:
        draft.fault("stc", f"no meaning is known for {status}: somebody has to look at it")
        of_status = ("service_call", "")
    found = [of_device[0] if of_status[0] == "device" else of_status[0]]
    where = codes("lco").get(location, ("", ""))[0]
    return [signal for signal in (*found, where if of_status[0] == "device" else "") if signal]


_SILENT: Final = frozenset({"test", "low_battery", "battery_normal", "power_lost", "power_restored", "device_fault"})


def _call_back(tags: Mapping[str, str], draft: Draft) -> None:
    """``cha`` 1: the unit waits to be called, at its address for calls."""
    addresses = [address for address in tags.get("crd", "").split("\n") if address]
    numbers = [found[0] for address in addresses[:8] if (found := _CALLABLE.fullmatch(address))]
    if tags.get("cha", "").strip().lstrip("0") == "1" and numbers:
        draft.keep("call_back", numbers[0])
    elif numbers:
        draft.keep("calls_from", numbers[0])


def _place(tags: Mapping[str, str], draft: Draft) -> None:
    latitude: float | None = None
    longitude: float | None = None
    if tags.get("geo"):
        first, _, second = tags["geo"].partition(",")
        latitude, longitude = decimal(first), decimal(second)
    elif tags.get("gga"):
        fields = tags["gga"].split(",") + [""] * 7
        if fields[6] not in ("", "0"):
            latitude, longitude = degrees_minutes(fields[2], fields[3]), degrees_minutes(fields[4], fields[5])
    else:
        return
    if latitude is None or longitude is None:
        draft.fault("lge", "not a place")
    else:
        draft.place(round(latitude, 7), round(longitude, 7))
