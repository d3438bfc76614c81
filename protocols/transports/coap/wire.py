"""The few CoAP messages (RFC 7252) that the hot path reads and writes itself: a whole ``POST /up`` and its answers.

Everything else (blocks, observation, OSCORE, requests to devices) is aiocoap's.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

CON: Final = 0
NON: Final = 1
ACK: Final = 2

CHANGED: Final = 0x44  # 2.04
BAD_REQUEST: Final = 0x80
UNAUTHORIZED: Final = 0x81  # 4.01
UNSUPPORTED_FORMAT: Final = 0x8F  # 4.15
UNAVAILABLE: Final = 0xA3  # 5.03

RETRY_AFTER_S: Final = 5
SENML_FORMATS: Final = frozenset({110, 112})
PLAIN_FORMATS: Final = frozenset({-1, 0, 42, 50, 60})  # read by the codec of the device's profile

_POST: Final = 0x02
_URI_HOST, _URI_PORT, _URI_PATH, _CONTENT_FORMAT, _URI_QUERY, _SIZE1 = 3, 7, 11, 12, 15, 60
_MAX_AGE: Final = bytes((0xD1, 0x01, RETRY_AFTER_S))  # option 14 with one byte, as the only option


class Post(Struct, gc=False):
    """A ``POST /up`` that came in one piece. ``content_format`` is -1 when it names none."""

    confirmable: bool
    mid: int
    token: bytes
    device: str
    secret: str
    content_format: int
    payload: bytes


def read_post(data: bytes) -> Post | None:  # noqa: C901, PLR0911, PLR0912 - one pass, for every datagram
    """The request, or None for everything that is not a well-formed ``POST /up`` with nothing special about it."""
    if len(data) < 8 or data[1] != _POST or data[0] & 0xE0 != 0x40:
        return None
    at = 4 + (data[0] & 0x0F)
    if at > 12:
        return None
    token = data[4:at]
    number = 0
    content_format = -1
    device = secret = ""
    path = b""
    end = len(data)
    while at < end:
        first = data[at]
        at += 1
        if first == 0xFF:
            break
        delta, length = first >> 4, first & 0x0F
        if delta >= 13:  # of all options of an ordinary POST only Size1 is so far away
            if delta != 13 or at >= end:
                return None
            delta = data[at] + 13
            at += 1
        if length >= 13:
            if length != 13 or at >= end:
                return None
            length = data[at] + 13
            at += 1
        number += delta
        value = data[at : at + length]
        at += length
        if at > end:
            return None
        if number == _URI_QUERY:
            if value[:2] == b"d=":
                device = value[2:].decode("utf-8", "replace")
            elif value[:2] == b"t=":
                secret = value[2:].decode("utf-8", "replace")
        elif number == _URI_PATH:
            path += b"/" + value
        elif number == _CONTENT_FORMAT:
            content_format = int.from_bytes(value)
        elif number not in (_URI_HOST, _URI_PORT, _SIZE1):
            return None
    if path != b"/up":
        return None
    return Post(data[0] & 0x30 == 0, data[2] << 8 | data[3], token, device, secret, content_format, data[at:])


def answer(post: Post, code: int, mid: int = 0) -> bytes:
    """The piggybacked answer to a confirmable request, else a NON with ``mid``. 5.03 carries Max-Age."""
    kind, number = (ACK, post.mid) if post.confirmable else (NON, mid)
    head = bytes((0x40 | kind << 4 | len(post.token), code, number >> 8, number & 0xFF))
    return head + post.token + (_MAX_AGE if code == UNAVAILABLE else b"")


def empty_ack(mid: int) -> bytes:
    return bytes((0x60, 0, mid >> 8, mid & 0xFF))
