"""SIP messages as far as alarms need them (RFC 3261): cut, read within bounds, answered. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct, field

from gateway.errors import ParseError
from protocols.framing import Framer

MAX_MESSAGE_BYTES: Final = 16_384
MAX_HEADERS: Final = 100
MAX_VIAS: Final = 20
ALLOWED: Final = "MESSAGE, OPTIONS, REGISTER"

_END: Final = b"\r\n\r\n"
_LENGTH: Final = re.compile(rb"\r\n(?:Content-Length|l)[ \t]*:[ \t]*(\d{1,9})[ \t]*\r\n", re.IGNORECASE)
_REQUEST: Final = re.compile(r"([A-Z]{3,20}) (\S{1,512}) SIP/2\.0")
_STATUS: Final = re.compile(r"SIP/2\.0 ([1-6]\d\d)(?: .*)?")
_URI: Final = re.compile(r"<([^<>\s]{1,512})>|^\s*([^<>\s;,]{1,512})")
_USER: Final = re.compile(r"(?:sips?|tel):\+?([^@;>\s]{1,64})", re.IGNORECASE)
_HOST: Final = re.compile(r"sips?:(?:[^@;>\s]*@)?([^;>\s]{1,255})", re.IGNORECASE)
_SHORT: Final[Mapping[str, str]] = {
    "v": "via", "f": "from", "t": "to", "i": "call-id", "m": "contact", "c": "content-type", "l": "content-length",
}  # fmt: skip
_REASONS: Final[Mapping[int, str]] = {
    200: "OK", 400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed", 415: "Unsupported Media Type",
    503: "Service Unavailable",
}  # fmt: skip


class SipMessage(Struct, frozen=True):
    """``method`` is "" for a response, whose ``status`` then is not 0. Header names are in lower case, values without
    line breaks; of repeated headers all values are kept.
    """

    method: str
    uri: str
    status: int
    headers: Mapping[str, list[str]]
    body: bytes = b""

    def first(self, name: str) -> str:
        return next(iter(self.headers.get(name, ())), "")

    @property
    def kind(self) -> str:
        """The type of the body, without parameters, in lower case."""
        return self.first("content-type").partition(";")[0].strip().lower()

    @property
    def sender(self) -> str:
        """The user of From, without a leading plus; "" when it has none."""
        found = _USER.search(self.first("from"))
        return found[1] if found else ""


class Reply(Struct, frozen=True):
    status: int
    kind: str = ""
    body: str = ""
    extra: tuple[tuple[str, str], ...] = field(default=())


def framer() -> Framer:
    return Framer(_cut, limit=MAX_MESSAGE_BYTES)


def _cut(buffer: bytes, at: int, seen: int) -> tuple[int, int]:
    del seen
    begin = at
    while buffer[begin : begin + 1] in (b"\r", b"\n"):  # keep-alives between messages
        begin += 1
    head = buffer.find(_END, begin)
    if head < 0:
        return begin, begin
    length = _LENGTH.search(buffer, begin, head + 2)
    size = head + 4 - begin + (int(length[1]) if length else 0)
    if size > MAX_MESSAGE_BYTES:
        return begin, begin + MAX_MESSAGE_BYTES + 1  # above the bound, whether it has all come or not
    return (begin, begin + size) if begin + size <= len(buffer) else (begin, begin)


def split(stream: bytes) -> list[bytes]:
    """Whole messages that stand one behind the other."""
    return framer().feed(stream)


def read(payload: bytes) -> SipMessage:
    """Raises ParseError: no SIP message, too many headers, a mandatory one missing."""
    head, separator, body = payload.lstrip(b"\r\n").partition(_END)
    if not separator:
        raise ParseError("not a SIP message: its headers do not end")
    lines = re.sub(r"\r\n[ \t]+", " ", head.decode("utf-8", "replace")).split("\r\n")
    if len(lines) > MAX_HEADERS:
        raise ParseError(f"more than {MAX_HEADERS} headers")
    headers: dict[str, list[str]] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        key = name.strip().lower()
        if not colon or not key:
            raise ParseError("a header without a name")
        headers.setdefault(_SHORT.get(key, key), []).append(value.strip())
    missing = [name for name in ("via", "from", "to", "call-id", "cseq") if not headers.get(name)]
    if missing or len(headers["via"]) > MAX_VIAS:
        raise ParseError(f"headers are missing: {', '.join(missing)}" if missing else f"more than {MAX_VIAS} Via")
    length = headers.get("content-length", [""])[0]
    if length.isdecimal() and length.isascii():
        body = body[: int(length[:9])]
    request, status = _REQUEST.fullmatch(lines[0]), _STATUS.fullmatch(lines[0])
    if request:
        return SipMessage(request[1], request[2], 0, headers, body)
    if status:
        return SipMessage("", "", int(status[1]), headers, body)
    raise ParseError("neither a request nor a response of SIP/2.0")


def respond(request: SipMessage, source: str, reply: Reply) -> bytes:
    """The response. ``source`` (``host:port``) goes into the top Via, as RFC 3581 wants it."""
    to = request.first("to")
    if "tag=" not in to.lower():
        to += f";tag={_name(request, 'tag')}"
    vias = list(request.headers["via"])
    vias[0] = _received(vias[0], source)
    lines = [f"SIP/2.0 {reply.status} {_REASONS.get(reply.status, 'Answer')}"]
    lines += [f"Via: {via}" for via in vias]
    lines += [
        f"From: {request.first('from')}", f"To: {to}", f"Call-ID: {request.first('call-id')}",
        f"CSeq: {request.first('cseq')}",
    ]  # fmt: skip
    lines += [f"{name}: {value}" for name, value in reply.extra]
    return _written(lines, reply.kind, reply.body)


def message_back(request: SipMessage, kind: str, body: str) -> bytes:
    """A MESSAGE of ours to the sender of ``request``, over the way that it came."""
    contact = _URI.search(request.first("contact")) or _URI.search(request.first("from"))
    uri = (contact[1] or contact[2]) if contact else request.uri
    host = _HOST.match(request.uri)
    via = "TCP" if "/TCP" in request.first("via").upper() else "UDP"
    name = _name(request, "back")
    lines = [
        f"MESSAGE {uri} SIP/2.0",
        f"Via: SIP/2.0/{via} {host[1] if host else 'carebell.invalid'};branch=z9hG4bK{name};rport",
        "Max-Forwards: 70",
        f"From: {_untagged(request.first('to'))};tag={name}",
        f"To: {_untagged(request.first('from'))}",
        f"Call-ID: {name}",
        "CSeq: 1 MESSAGE",
    ]
    return _written(lines, kind, body)


def call_id(payload: bytes, *, request: bool) -> str:
    """The Call-ID of a request, or else of a final response; "" for anything else."""
    if payload.startswith(b"SIP/2.0 ") is request:
        return ""
    try:
        message = read(payload)
    except ParseError:
        return ""
    return message.first("call-id") if request or message.status >= 200 else ""


def courtesy(payload: bytes, source: str) -> bytes | None:
    """What is said at once to what is no MESSAGE: a response or an ACK gets nothing (empty), OPTIONS and REGISTER 200,
    any other method 405. None: it is a MESSAGE, or cannot be read.
    """
    try:
        message = read(payload)
    except ParseError:
        return None
    if message.method == "MESSAGE":
        return None
    if not message.method or message.method == "ACK":
        return b""
    extra: tuple[tuple[str, str], ...] = (("Allow", ALLOWED), ("Accept", "application/scaip+xml"))
    if message.method not in ("OPTIONS", "REGISTER"):
        return respond(message, source, Reply(405, extra=extra))
    if message.method == "REGISTER":
        extra += tuple(("Contact", contact) for contact in message.headers.get("contact", ())[:1])
        extra += (("Expires", message.first("expires")),) if message.first("expires").isdecimal() else ()
    return respond(message, source, Reply(200, extra=extra))


def _written(lines: list[str], kind: str, body: str) -> bytes:
    data = body.encode()
    if kind:
        lines.append(f"Content-Type: {kind}")
    lines.append(f"Content-Length: {len(data)}")
    head = "\r\n".join(re.sub(r"[\r\n\0]", " ", line) for line in lines)
    return head.encode() + _END + data


def _received(via: str, source: str) -> str:
    host, _, port = source.rpartition(":")
    if not host:
        return via
    via = re.sub(r";rport(?:=\d*)?(?=;|$|,)", f";rport={port}", via, count=1, flags=re.IGNORECASE)
    return via if "received=" in via.lower() else f"{via};received={host.removeprefix('[').removesuffix(']')}"


def _untagged(address: str) -> str:
    return re.sub(r";\s*tag=[^;]*", "", address, flags=re.IGNORECASE)


def _name(request: SipMessage, purpose: str) -> str:
    text = f"{purpose}/{request.first('call-id')}/{request.first('cseq')}/{request.first('from')}"
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]
