"""BTHome v2 (bthome.io, format version 2): advertisements of buttons and sensors, plain and encrypted.

A frame is the address of the sender, 6 bytes as people write it, and behind it the service data of UUID 0xFCD2:

    54 48 E6 8F 80 A5  40 02 C4 09 03 BF 13

What is encrypted needs ``Frame.context["bindkey"]`` (16 bytes); the sender is proved then. Whether a counter was used
before, only the transport can know: it remembers.

An object that this codec does not know does not end the advertisement: where the rest can be read in just one way, it
is read, and where there are several ways, a press or an alarm that one of them shows is told.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import ParseError
from gateway.model import Frame, Report
from protocols.codecs.bthome_objects import ALARMING, BUTTON_EVENTS, DIMMER_EVENTS, OBJECTS, Thing

ADDRESS_BYTES: Final = 6
MAX_BYTES: Final = 512  # extended advertisements carry at most 254 at a time
UUID: Final = b"\xd2\xfc"
MIC_BYTES: Final = 4
COUNTER_BYTES: Final = 4
KEY_BYTES: Final = 16
LONGEST_UNKNOWN: Final = 5
UNKNOWN_IN_ONE: Final = 3  # unknown objects that are tried to be got over

Pairs = list[tuple[int, bytes]]


class BthomeCodec:
    """``ports.Codec``."""

    name = "bthome"

    def parse(self, frame: Frame) -> Sequence[Report]:
        """Exactly one report. Raises ParseError."""
        if not ADDRESS_BYTES < len(frame.payload) <= MAX_BYTES:
            raise ParseError(f"{len(frame.payload)} bytes are no address with service data")
        address, data = frame.payload[:ADDRESS_BYTES], frame.payload[ADDRESS_BYTES:]
        version = data[0] >> 5
        if version != 2:
            raise ParseError(f"BTHome version {version} is not known")
        report = Report(frame.device_key or address.hex())
        body = data[1:]
        if data[0] & 1:
            body = opened(address, data, (frame.context or {}).get("bindkey"))
            report.proof = True
            report.dedup_key = f"counter:{counter_of(data)}"
        pairs, faults = objects(body)
        report.fields = _fields(pairs, faults)
        report.faults = faults or None
        return [report]


def encrypted(data: bytes) -> bool:
    """Whether this service data is encrypted."""
    return bool(data) and bool(data[0] & 1)


def counter_of(data: bytes) -> int:
    """The counter of encrypted service data. Raises ParseError when it is too short to have one."""
    if len(data) < 1 + COUNTER_BYTES + MIC_BYTES:
        raise ParseError("too short to be encrypted")
    return int.from_bytes(data[-COUNTER_BYTES - MIC_BYTES : -MIC_BYTES], "little")


def opened(address: bytes, data: bytes, key: object) -> bytes:
    """The objects of encrypted service data: AES-CCM, nonce = address, UUID, first byte, counter. Raises ParseError."""
    counter_of(data)
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise ParseError("encrypted, and there is no bind key for this device")
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - only who has bind keys needs the library
    from cryptography.hazmat.primitives.ciphers.aead import AESCCM  # noqa: PLC0415

    counter, mic = data[-COUNTER_BYTES - MIC_BYTES : -MIC_BYTES], data[-MIC_BYTES:]
    nonce = address + UUID + data[:1] + counter
    sealed = data[1 : -COUNTER_BYTES - MIC_BYTES] + mic
    if len(sealed) == MIC_BYTES:
        raise ParseError("encrypted, and empty")
    try:
        return AESCCM(key, tag_length=MIC_BYTES).decrypt(nonce, sealed, None)
    except InvalidTag as error:
        raise ParseError("encrypted with another key than the bind key of this device") from error


# ---- objects ---------------------------------------------------------------------------------------------------------


def objects(body: bytes) -> tuple[Pairs, list[str]]:
    """The objects in their order, and what could not be read, in words."""
    pairs, at = _known_run(body, 0)
    if at == len(body):
        return pairs, []
    number = body[at]
    thing = OBJECTS.get(number)
    what = f"object {number:#04x} is cut off" if thing is not None else f"object {number:#04x} is not known"
    rest = [] if thing is not None else _behind(body, at, number)
    if not rest:
        return pairs, [f"{what}; {len(body) - at} bytes are left unread: {body[at:][:64].hex()}"]
    return pairs + rest, [f"{what}; what is behind it is read as far as it makes sense: {body[at:][:64].hex()}"]


def _known_run(body: bytes, at: int) -> tuple[Pairs, int]:
    """Objects from ``at`` on until the end, or until one that is not known or not whole."""
    pairs: Pairs = []
    while at < len(body):
        size = _size(body, at)
        if size < 0:
            break
        pairs.append((body[at], body[at + 1 : at + 1 + size]))
        at += 1 + size
    return pairs, at


def _size(body: bytes, at: int) -> int:
    """How many bytes follow the object's number; -1 when that is not known, or not there."""
    thing = OBJECTS.get(body[at])
    if thing is None:
        return -1
    size = thing.size
    if not size:
        if at + 1 >= len(body):
            return -1
        length = body[at + 1]
        size = 2 + (length & 0x1F) if thing.kind == "command" else 1 + length
    return size if at + 1 + size <= len(body) else -1


def _behind(body: bytes, at: int, number: int) -> Pairs:
    """What is behind an object of unknown length: numbers rise in an advertisement, and the last object ends it.

    Of the ways to read the rest, the one with an alarm counts; without one only a way that has no rival.
    """
    ways = [way for way in _ways(body, at, number, UNKNOWN_IN_ONE) if way]
    alarming = [way for way in ways if any(_alarms(pair) for pair in way)]
    if alarming:
        return alarming[0]
    return ways[0] if len(ways) == 1 else []


def _ways(body: bytes, at: int, number: int, depth: int) -> list[Pairs]:
    found: list[Pairs] = []
    for start in range(at + 2, min(len(body), at + 2 + LONGEST_UNKNOWN)):
        pairs, end = _known_run(body, start)
        if not _rises(number, pairs):
            continue
        if end == len(body):
            found.append(pairs)
            continue
        if depth > 1 and body[end] not in OBJECTS and body[end] >= (pairs[-1][0] if pairs else number):
            found.extend(pairs + way for way in _ways(body, end, body[end], depth - 1))
        if any(_alarms(pair) for pair in pairs):
            found.append(pairs)
    return found


def _rises(number: int, pairs: Pairs) -> bool:
    for following, _ in pairs:
        if following < number:
            return False
        number = following
    return True


def _alarms(pair: tuple[int, bytes]) -> bool:
    thing = OBJECTS[pair[0]]
    if thing.kind == "button":
        return pair[1][0] in BUTTON_EVENTS and pair[1][0] != 0
    return thing.name in ALARMING and thing.kind == "flag" and pair[1] == b"\x01"


# ---- meaning ---------------------------------------------------------------------------------------------------------


def _fields(pairs: Pairs, faults: list[str]) -> dict[str, Any]:
    """Fields by name. The n-th button is ``button_<n>``; a second value of another kind has ``_2`` behind its name."""
    fields: dict[str, Any] = {}
    buttons = 0
    for number, raw in pairs:
        thing = OBJECTS[number]
        name, value = thing.name, _value(thing, raw)
        if thing.kind == "button":
            buttons += 1
            name = f"button_{buttons}"
            if raw[0] not in BUTTON_EVENTS:
                faults.append(f"{name}: event {raw[0]:#04x} is not known; it is taken for a press")
        elif name in fields:
            name = next(f"{thing.name}_{count}" for count in range(2, 600) if f"{thing.name}_{count}" not in fields)
        fields[name] = value
    return fields


def _value(thing: Thing, raw: bytes) -> Any:
    if thing.kind == "number":
        number = int.from_bytes(raw, "little", signed=thing.signed)
        return number if thing.divisor == 1 else round(number / thing.divisor, 6)
    return _VALUES[thing.kind](raw)


_VALUES: Final[Mapping[str, Callable[[bytes], Any]]] = MappingProxyType(
    {
        "flag": lambda raw: bool(raw[0]),
        "button": lambda raw: BUTTON_EVENTS.get(raw[0], "press"),
        "dimmer": lambda raw: {"event": DIMMER_EVENTS.get(raw[0], f"{raw[0]:#04x}"), "steps": raw[1]},
        "version": lambda raw: ".".join(str(part) for part in reversed(raw)),
        "text": lambda raw: raw[1:].decode("utf-8", "replace"),
        "raw": lambda raw: raw[1:].hex(),
        "command": lambda raw: raw[1:].hex(),
    }
)
