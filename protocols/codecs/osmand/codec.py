"""OsmAnd, the protocol of telephones and of whoever can send an HTTP request: parameters in a query, or JSON.

A frame is one HTTP/1 request (RFC 9112), at most 64 KiB. The answer that means "stored" is 200; a request without an
identity is answered 400. There is no credential: whoever knows the id can send.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from msgspec import DecodeError
from msgspec.json import Decoder

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.osmand.members import read_json, read_parameters
from protocols.codecs.terminal import Draft, clean_text, conversation
from protocols.framing import Framer

MAX_FRAME_BYTES: Final = 65_536
MAX_HEAD_BYTES: Final = 16_384
MAX_PARAMETERS: Final = 128
MAX_LOCATIONS: Final = 500
_METHODS: Final = (b"GET ", b"POST ", b"PUT ", b"HEAD ", b"OPTIONS ")
_decode: Final = Decoder().decode


def _response(status: str) -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()


OK: Final = _response("200 OK")
BAD: Final = _response("400 Bad Request")


class OsmandCodec:
    """``ports.TerminalCodec``. A text that is no request is taken as a query or as JSON: lines of a file."""

    name = "osmand"
    default_port = 5055
    text = True
    datagrams = False
    refusal = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
    stranger_reply = _response("404 Not Found")
    idle_s = 60.0

    def __init__(self, *, lenient: bool = False) -> None:
        del lenient  # it has no checksum

    def framer(self) -> Framer:
        return Framer(_cut, limit=MAX_FRAME_BYTES)

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report for each location. Raises ParseError for what is neither a request nor parameters nor JSON."""
        payload = frame.payload
        if len(payload) > MAX_FRAME_BYTES:
            raise ParseError(f"more than {MAX_FRAME_BYTES} bytes")
        request = payload.startswith(_METHODS)
        query, body = _split(payload) if request else ("", payload.strip())
        if not request and not body.startswith((b"{", b"[")):
            query, body = _query_of(body.decode("utf-8", "replace")), b""
        if body.startswith((b"{", b"[")):
            reports = self._from_json(frame, body)
        else:
            form = query if not body else f"{query}&{body.decode('utf-8', 'replace')}"
            reports = [self._from_parameters(frame, form)]
        known = any(report.device_key for report in reports)
        reports[-1].reply = OK if known else BAD
        return reports

    def _from_parameters(self, frame: Frame, form: str) -> Report:
        try:
            pairs = parse_qsl(form, keep_blank_values=True, max_num_fields=MAX_PARAMETERS, errors="replace")
        except ValueError as error:
            raise ParseError(f"parameters: {error}") from error
        if "=" not in form:
            raise ParseError("neither parameters nor JSON")
        draft = Draft(frame)
        draft.device_key = next(
            (clean_text(value) for name, value in pairs if name in ("id", "deviceid") and value), ""
        )
        read_parameters(draft, pairs)
        return _finished(draft, frame, form.encode("utf-8", "replace"))

    def _from_json(self, frame: Frame, body: bytes) -> list[Report]:
        try:
            value = _decode(body)
        except (DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ParseError(f"not JSON: {error}") from error
        messages = value if isinstance(value, list) else [value]
        reports: list[Report] = []
        for message in messages[:MAX_LOCATIONS]:
            if not isinstance(message, dict):
                reports.append(conversation(frame))
                reports[-1].faults = ["neither an object nor an array of objects"]
                continue
            locations = message.get("location")
            some = locations[:MAX_LOCATIONS] if isinstance(locations, list) else [locations]
            reports.extend(_located(frame, message, location) for location in some)
        if not reports:
            raise ParseError("an array without objects")
        return reports[:MAX_LOCATIONS]


def _located(frame: Frame, message: dict[str, Any], location: Any) -> Report:
    draft = Draft(frame)
    identity = message.get("device_id", message.get("id"))
    draft.device_key = clean_text(str(identity)) if isinstance(identity, str | int) else ""
    if isinstance(location, dict):
        read_json(draft, location)
        return _finished(draft, frame, repr(location).encode("utf-8", "replace"))
    draft.fault("location", "not an object")
    return _finished(draft, frame, b"")


def _finished(draft: Draft, frame: Frame, content: bytes) -> Report:
    if not draft.device_key:
        draft.fault("id", "missing: nobody knows whose this is")
        draft.device_key = frame.device_key
    elif draft.at_us and not draft.empty():
        draft.dedup_key = hashlib.sha256(content).hexdigest()[:24]
    return draft.report()


# ---- HTTP ------------------------------------------------------------------------------------------------------------


def _cut(buffer: bytes, at: int, seen: int) -> tuple[int, int]:
    """A request: its head, and as many bytes of body as the head says. Empty lines before it are rubbish."""
    del seen  # the head may have ended long ago, while its body still comes
    begin = at
    while buffer[begin : begin + 1] in (b"\r", b"\n"):
        begin += 1
    end = buffer.find(b"\r\n\r\n", begin)
    if end < 0:
        return begin, begin
    length = _content_length(buffer[begin : min(end, begin + MAX_HEAD_BYTES)])
    stop = end + 4 + length
    return (begin, begin) if stop > len(buffer) and length <= MAX_FRAME_BYTES else (begin, stop)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        digits = value.strip()
        if name.strip().lower() == b"content-length" and digits.isdigit() and len(digits) < 10:
            return int(digits)
    return 0


def _split(payload: bytes) -> tuple[str, bytes]:
    """The query of a request, and its body."""
    head, _, body = payload.partition(b"\r\n\r\n")
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) < 2:
        raise ParseError("a request without a target")
    target = parts[1].decode("latin-1")
    return _query_of(target), body.strip()


def _query_of(text: str) -> str:
    """The query of a target, of a URL, or the text itself when it is one."""
    if "?" in text:
        try:
            return urlsplit(text).query
        except ValueError as error:
            raise ParseError(f"target: {error}") from error
    return "" if text.startswith("/") else text
