"""Values of LwM2M (OMA TS 1.0.2, section 6.4; TS Core 1.1, section 7.4) in every content format. Pure and bounded.

TLV says nothing of types: resources of the registry have theirs in a table, those of vendors are read as whole numbers
when they have 1, 2, 4 or 8 bytes, else as text, else as hexadecimal.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct

from gateway.errors import ParseError
from protocols.codecs import senml
from protocols.codecs.terminal import clean_text
from protocols.codecs.tolerant_json import load

TEXT, OPAQUE, SENML_JSON, SENML_CBOR, TLV, JSON = 0, 42, 110, 112, 11542, 11543
FORMATS: Final[Mapping[int, int]] = MappingProxyType(
    {TEXT: TEXT, OPAQUE: OPAQUE, SENML_JSON: SENML_JSON, SENML_CBOR: SENML_CBOR, TLV: TLV, JSON: JSON,
     1541: TEXT, 1542: TLV, 1543: JSON, 50: JSON, 60: SENML_CBOR}
)  # fmt: skip
"""Content formats and what they are, with the numbers that old units still send."""

MAX_ITEMS: Final = 512
MAX_DEPTH: Final = 3

Path = tuple[int, ...]
Scalar = bool | int | float | str


class Item(Struct, gc=False):
    """One value: object, instance, resource and, of a multiple resource, its instance. ``time_s`` 0 is now."""

    path: Path
    value: Scalar
    time_s: float = 0.0


_FLOATS: Final = frozenset({5600, 5601, 5602, 5603, 5604, 5700, 5705, 5800, 5805, 5813, 5814, 5821, 6053})
_TEXTS: Final = frozenset({5514, 5513, 5701, 5750, 6051, 6052})
_BOOLEANS: Final = frozenset({5500, 5534, 5850})
_TYPES: Final[Mapping[tuple[int, int], str]] = MappingProxyType(
    {
        **{(3, resource): "text" for resource in (0, 1, 2, 3, 14, 15, 16, 17, 18, 19)},
        **{(4, resource): "text" for resource in (4, 5, 7)},
        **{(6, resource): "float" for resource in (0, 1, 2, 3, 6)},
        (6, 4): "opaque",
        **{(3336, resource): "text" for resource in (6051, 6052)},
        (3336, 6053): "text",
    }
)  # fmt: skip


def kind_of(path: Path) -> str:
    """``text``, ``float``, ``bool``, ``opaque``, ``int``, or "" for a resource of a vendor."""
    if len(path) < 3:
        return ""
    found = _TYPES.get((path[0], path[2]))
    if found is not None:
        return found
    resource = path[2]
    for kind, resources in (("float", _FLOATS), ("text", _TEXTS), ("bool", _BOOLEANS)):
        if resource in resources:
            return kind
    return "int" if path[0] < 10_241 else ""


def read_path(text: str) -> Path:
    """``/3347/0/5500`` as numbers. Raises ParseError."""
    parts = text.strip("/").split("/") if text.strip("/") else []
    if len(parts) > 4 or not all(part.isascii() and part.isdecimal() and len(part) <= 5 for part in parts):
        raise ParseError("not a path of LwM2M")
    path = tuple(int(part) for part in parts)
    if any(part > 65_535 for part in path):
        raise ParseError("not a path of LwM2M")
    return path


def read(content_format: int, base: Path, payload: bytes, now_us: int, faults: list[str]) -> list[Item]:
    """The values of a payload that came for ``base``. Raises ParseError when it is not of its format."""
    known = FORMATS.get(content_format)
    if known is None and len(base) >= 3:
        known = TEXT  # section 6.4: a single resource without a format is text
    if known == TLV:
        items = list(_limited(_tlv(payload, base)))
    elif known == TEXT:
        items = [Item(_whole(base), _from_text(base, payload))]
    elif known == OPAQUE:
        items = [Item(_whole(base), payload.hex())]
    elif known == JSON:
        items = list(_limited(_old_json(payload, base, faults)))
    elif known is not None:
        items = list(_limited(_senml(payload, now_us, faults)))
    else:
        raise ParseError(f"content format {content_format} is not one of LwM2M")
    return items


def _limited(items: Iterator[Item]) -> Iterator[Item]:
    for count, item in enumerate(items):
        if count >= MAX_ITEMS:
            raise ParseError(f"more than {MAX_ITEMS} values")
        yield item


def _whole(base: Path) -> Path:
    if len(base) < 3:
        raise ParseError("text and opaque values belong to one resource")
    return base


# ---- text ------------------------------------------------------------------------------------------------------------


def _from_text(path: Path, payload: bytes) -> Scalar:
    text = clean_text(payload.decode("utf-8", "replace"))
    kind = kind_of(path)
    if kind == "text":
        return text
    if kind == "bool" or (not kind and text in ("true", "false")):
        return text.strip() in ("1", "true")
    try:
        number = float(text) if kind == "float" or "." in text else int(text)
    except ValueError:
        return text
    return number if math.isfinite(number) and abs(number) < 2**63 else text


# ---- TLV -------------------------------------------------------------------------------------------------------------


def _tlv(data: bytes, base: Path, depth: int = 0) -> Iterator[Item]:
    at = 0
    while at < len(data):
        kind, number, value, at = _entry(data, at)
        if kind == 0:  # an object instance
            if depth or not base:
                raise ParseError("TLV: an object instance where none can be")
            yield from _tlv(value, (base[0], number), 1)
        elif kind == 2:  # a multiple resource: its instances inside
            for inner, instance, part, _ in _entries(value):
                if inner != 1:
                    raise ParseError("TLV: a multiple resource holds resource instances alone")
                path = (*_resource(base, number), instance)
                yield Item(path, from_bytes(path, part))
        elif kind == 1:  # an instance of the multiple resource that was asked for
            if len(base) < 3:
                raise ParseError("TLV: a resource instance outside of its resource")
            path = (*base[:3], number)
            yield Item(path, from_bytes(path, value))
        else:
            path = _resource(base, number)
            yield Item(path, from_bytes(path, value))


def _resource(base: Path, number: int) -> Path:
    if not base:
        raise ParseError("TLV: a resource without its object")
    return (base[0], base[1] if len(base) > 1 else 0, number)


def _entries(data: bytes) -> Iterator[tuple[int, int, bytes, int]]:
    at = 0
    while at < len(data):
        entry = _entry(data, at)
        at = entry[3]
        yield entry


def _entry(data: bytes, at: int) -> tuple[int, int, bytes, int]:
    """Kind, identifier and value of the entry that begins at ``at``, and where the next one does."""
    first = data[at]
    id_size = 2 if first & 0x20 else 1
    length_size = first >> 3 & 3
    begin = at + 1 + id_size + length_size
    if begin > len(data):
        raise ParseError(f"TLV: it ends within the head at byte {at}")
    number = int.from_bytes(data[at + 1 : at + 1 + id_size])
    length = int.from_bytes(data[at + 1 + id_size : begin]) if length_size else first & 7
    end = begin + length
    if end > len(data):
        raise ParseError(f"TLV: it ends within the value at byte {begin}")
    return first >> 6, number, data[begin:end], end


def from_bytes(path: Path, value: bytes) -> Scalar:  # noqa: PLR0911 - one for each type
    """A TLV value by the type of its resource."""
    kind = kind_of(path)
    if kind == "text":
        return clean_text(value.decode("utf-8", "replace"))
    if kind == "opaque":
        return value[:2048].hex()
    if kind == "float" and len(value) in (4, 8):
        number: float = struct.unpack(">f" if len(value) == 4 else ">d", value)[0]
        if len(value) == 4 and math.isfinite(number):
            number = float(f"{number:.7g}")  # 36.6 was meant, not 36.59999847
        return number if math.isfinite(number) else value.hex()
    if kind == "bool" and len(value) == 1:
        return value != b"\0"
    if len(value) in (1, 2, 4, 8):
        return int.from_bytes(value, signed=True)
    if not value:
        return ""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return value[:2048].hex()
    return clean_text(text) if text.isprintable() else value[:2048].hex()


def write_tlv(resources: Sequence[tuple[int, bytes]]) -> bytes:
    """Single resources as TLV."""
    out = bytearray()
    for number, value in resources:
        size = len(value)
        length_size = 0 if size < 8 else 1 if size < 256 else 2
        wide = number > 255
        out.append(0xC0 | (0x20 if wide else 0) | length_size << 3 | (size if not length_size else 0))
        out += number.to_bytes(2 if wide else 1)
        out += size.to_bytes(length_size) if length_size else b""
        out += value
    return bytes(out)


def to_bytes(value: Scalar) -> bytes:
    """A value as TLV carries it: whole numbers in the fewest bytes, floats in eight."""
    if isinstance(value, bool):
        return bytes((value,))
    if isinstance(value, int):
        size = next(size for size in (1, 2, 4, 8) if -(1 << (size * 8 - 1)) <= value < 1 << (size * 8 - 1))
        return value.to_bytes(size, signed=True)
    return struct.pack(">d", value) if isinstance(value, float) else value.encode()


# ---- JSON of 1.0, SenML ----------------------------------------------------------------------------------------------


def _old_json(payload: bytes, base: Path, faults: list[str]) -> Iterator[Item]:
    """LwM2M 1.0, section 6.4.4: ``{"bn": "/3/0/", "e": [{"n": "9", "v": 80}]}``; sv text, bv truth, ov a link."""
    value, found = load(payload)
    faults.extend(found)
    if not isinstance(value, dict) or not isinstance(value.get("e"), list):
        raise ParseError("not JSON of LwM2M: no list e")
    prefix = value.get("bn", "")
    if not isinstance(prefix, str) or not prefix:
        prefix = "/" + "/".join(str(part) for part in base) + "/"
    for index, entry in enumerate(value["e"]):
        if not isinstance(entry, dict):
            faults.append(f"e[{index}]: not an object")
            continue
        own = entry.get("n", "")
        scalar = next((entry[label] for label in ("v", "bv", "sv", "ov") if label in entry), None)
        try:
            path = read_path(_joined(prefix, own if isinstance(own, str | int) else ""))
        except ParseError as error:
            faults.append(f"e[{index}]: {error}")
            continue
        if len(path) < 3 or not _usable(scalar):
            faults.append(f"e[{index}]: no usable value")
            continue
        yield Item(path, typed(path, scalar))


def _joined(prefix: str, own: str | int) -> str:
    own = str(own)
    return f"{prefix.rstrip('/')}/{own.lstrip('/')}" if own else prefix


def _usable(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, bool | str) or (isinstance(value, int) and abs(value) < 2**63)


def _senml(payload: bytes, now_us: int, faults: list[str]) -> Iterator[Item]:
    for record in senml.resolve(senml.read_pack(payload, faults), now_us, faults):
        try:
            path = read_path(record.name)
        except ParseError as error:
            faults.append(f"{record.name[:40]}: {error}")
            continue
        value = record.value.hex() if isinstance(record.value, bytes) else record.value
        if len(path) < 3 or value is None:
            faults.append(f"{record.name[:40]}: no usable value")
            continue
        yield Item(path, typed(path, value), record.time_s)


def typed(path: Path, value: Any) -> Scalar:
    """A value of JSON as its resource's type: whole numbers without a fraction, truth also as 0 and 1."""
    kind = kind_of(path)
    if kind == "bool" and isinstance(value, int | float):
        return bool(value)
    if isinstance(value, float) and value.is_integer() and kind != "float":
        return int(value)
    if isinstance(value, str):
        return _from_text(path, value.encode("utf-8", "replace")) if kind in ("int", "float") else clean_text(value)
    scalar: Scalar = value
    return scalar
