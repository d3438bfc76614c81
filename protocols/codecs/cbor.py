"""A reader of the part of CBOR (RFC 8949) that device messages are made of. Pure, total and bounded.

Integers, byte and text strings, arrays, maps, false, true, null, undefined and floats of 16, 32 and 64 bits, of a
definite or an indefinite length. Tags are passed over: what they wrap is read. Nothing is computed from a tag.
"""

from __future__ import annotations

import struct
from typing import Any, Final

from gateway.errors import ParseError

MAX_DEPTH: Final = 16
MAX_ITEMS: Final = 20_000

_FLOATS: Final = {25: (2, ">e"), 26: (4, ">f"), 27: (8, ">d")}
_SIMPLE: Final = {20: False, 21: True, 22: None, 23: None}
_BREAK: Final = object()


def read(data: bytes) -> Any:
    """The one item that the bytes are. Maps keep only integer and text keys; bytes behind the item are an error.

    Raises ParseError for anything else, for more than MAX_ITEMS items and for nests deeper than MAX_DEPTH.
    """
    reader = _Reader(data)
    value = reader.item(0)
    if value is _BREAK:
        raise ParseError("not CBOR: a break outside of everything")
    if reader.at != len(data):
        raise ParseError(f"not CBOR: {len(data) - reader.at} bytes behind the item")
    return value


class _Reader:
    __slots__ = ("at", "data", "items")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0
        self.items = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            raise ParseError(f"not CBOR: it ends within an item at byte {self.at}")
        taken = self.data[self.at : end]
        self.at = end
        return taken

    def item(self, depth: int) -> Any:
        self.items += 1
        if self.items > MAX_ITEMS:
            raise ParseError(f"not used: more than {MAX_ITEMS} CBOR items")
        if depth > MAX_DEPTH:
            raise ParseError(f"not used: CBOR nested deeper than {MAX_DEPTH}")
        major, low = self.head()
        if major == 7:
            return self.simple(low)
        if low == 31:
            return self.indefinite(major, depth)
        number = self.argument(low)
        if major < 2:
            return number if major == 0 else -1 - number
        if major < 4:
            text = self.take(number)
            return text if major == 2 else text.decode("utf-8", "replace")
        if number > len(self.data):
            raise ParseError("not CBOR: more elements than bytes")
        return [self.inner(depth) for _ in range(number)] if major == 4 else self.pairs(number, depth)

    def head(self) -> tuple[int, int]:
        """The major type and the low bits of the next item that is no tag."""
        while True:
            first = self.take(1)[0]
            major, low = first >> 5, first & 0x1F
            if major != 6:
                return major, low
            self.argument(low)

    def argument(self, low: int) -> int:
        if low < 24:
            return low
        if low > 27:
            raise ParseError(f"not CBOR: a reserved length at byte {self.at}")
        return int.from_bytes(self.take(1 << (low - 24)))

    def inner(self, depth: int) -> Any:
        value = self.item(depth + 1)
        if value is _BREAK:
            raise ParseError(f"not CBOR: a break where an item must be, at byte {self.at}")
        return value

    def pairs(self, count: int, depth: int) -> dict[int | str, Any]:
        found: dict[int | str, Any] = {}
        for _ in range(count):
            key, value = self.inner(depth), self.inner(depth)
            if isinstance(key, int | str) and not isinstance(key, bool):
                found[key] = value
        return found

    def simple(self, low: int) -> Any:
        if low == 31:
            return _BREAK
        if low in _FLOATS:
            size, layout = _FLOATS[low]
            return struct.unpack(layout, self.take(size))[0]
        if low == 24:
            self.take(1)
            return None
        return _SIMPLE.get(low)

    def indefinite(self, major: int, depth: int) -> Any:
        parts: list[Any] = []
        if major not in (2, 3, 4, 5):
            raise ParseError(f"not CBOR: a reserved length at byte {self.at}")
        while (part := self.item(depth + 1)) is not _BREAK:
            parts.append(part)
        if major == 4:
            return parts
        if major == 5:
            if len(parts) % 2:
                raise ParseError("not CBOR: a map ends behind a key")
            keyed = zip(parts[::2], parts[1::2], strict=True)
            return {key: value for key, value in keyed if isinstance(key, int | str) and not isinstance(key, bool)}
        expected = bytes if major == 2 else str
        if not all(isinstance(part, expected) for part in parts):
            raise ParseError("not CBOR: a string of parts of another type")
        return expected().join(parts)
