"""CoAP messages (RFC 7252) as simulated devices write and read them. Shares nothing with the gateway's own."""

from __future__ import annotations

import struct
from typing import Final

from msgspec import Struct

CON, NON, ACK, RST = 0, 1, 2, 3
GET, POST, PUT, DELETE = 1, 2, 3, 4
CREATED, DELETED, CHANGED, CONTENT = 0x41, 0x42, 0x44, 0x45
CONTINUE, NOT_FOUND, UNAVAILABLE = 0x5F, 0x84, 0xA3

OBSERVE, LOCATION_PATH, URI_PATH, CONTENT_FORMAT, MAX_AGE, URI_QUERY, ACCEPT, BLOCK1 = 6, 8, 11, 12, 14, 15, 17, 27

Options = tuple[tuple[int, bytes], ...]


class Message(Struct):
    kind: int
    code: int
    mid: int
    token: bytes = b""
    options: Options = ()
    payload: bytes = b""

    def option(self, number: int) -> bytes | None:
        return next((value for key, value in self.options if key == number), None)

    def path(self) -> str:
        return "/" + "/".join(value.decode() for key, value in self.options if key == URI_PATH)


def number(value: int) -> bytes:
    """An option's unsigned number in the fewest bytes; none for 0."""
    return value.to_bytes((value.bit_length() + 7) // 8)


def path(text: str) -> Options:
    return tuple((URI_PATH, part.encode()) for part in text.split("/") if part)


def query(**members: str) -> Options:
    return tuple((URI_QUERY, f"{name}={value}".encode()) for name, value in members.items())


def _nibble(value: int) -> tuple[int, bytes]:
    if value < 13:
        return value, b""
    if value < 269:
        return 13, bytes((value - 13,))
    return 14, (value - 269).to_bytes(2)


def encode(message: Message) -> bytes:
    out = bytearray(struct.pack("!BBH", 0x40 | message.kind << 4 | len(message.token), message.code, message.mid))
    out += message.token
    before = 0
    for key, value in sorted(message.options, key=lambda option: option[0]):
        delta, more_delta = _nibble(key - before)
        length, more_length = _nibble(len(value))
        out.append(delta << 4 | length)
        out += more_delta + more_length + value
        before = key
    if message.payload:
        out += b"\xff" + message.payload
    return bytes(out)


def decode(data: bytes) -> Message:
    """Raises ValueError or IndexError for what is no message."""
    first, code, mid = struct.unpack_from("!BBH", data)
    if first >> 6 != 1:
        raise ValueError("not CoAP")
    at = 4 + (first & 0x0F)
    options: list[tuple[int, bytes]] = []
    key = 0
    while at < len(data) and data[at] != 0xFF:
        delta, length = data[at] >> 4, data[at] & 0x0F
        at += 1
        delta, at = _extended(data, delta, at)
        length, at = _extended(data, length, at)
        key += delta
        options.append((key, data[at : at + length]))
        at += length
    return Message(first >> 4 & 3, code, mid, data[4 : 4 + (first & 0x0F)], tuple(options), data[at + 1 :])


def _extended(data: bytes, nibble: int, at: int) -> tuple[int, int]:
    if nibble == 13:
        return data[at] + 13, at + 1
    if nibble == 14:
        return int.from_bytes(data[at : at + 2]) + 269, at + 2
    return nibble, at


EMPTY: Final = 0
