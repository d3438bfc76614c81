"""Modbus RTU (Modbus over Serial Line 1.02): a request of ours with its response becomes fields for a profile.

A frame is both, one behind the other, as they went over the line: a response alone does not say which registers it
tells of. Fields are ``coil_7``, ``discrete_7``, ``holding_40``, ``input_40`` by their addresses from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from msgspec import Struct

from gateway.errors import ParseError
from gateway.model import Frame, Report

REQUEST_BYTES: Final = 8
Table = Literal["coil", "discrete", "holding", "input"]
FUNCTIONS: Final[dict[str, int]] = {"coil": 1, "discrete": 2, "holding": 3, "input": 4}
_TABLES: Final = {number: name for name, number in FUNCTIONS.items()}
MOST: Final = {"coil": 256, "discrete": 256, "holding": 100, "input": 100}


class Block(Struct, frozen=True):
    """Neighbours in one table of one unit (1 to 247)."""

    unit: int
    table: Table
    first: int
    count: int

    def request(self) -> bytes:
        head = bytes((self.unit, FUNCTIONS[self.table])) + self.first.to_bytes(2) + self.count.to_bytes(2)
        return head + crc(head)

    def answer_bytes(self) -> int:
        """How long the response is, in bytes."""
        return 5 + (self.count * 2 if self.table in ("holding", "input") else -(-self.count // 8))


class ModbusCodec:
    """``ports.Codec``. Its reports belong to ``<line's key>/<unit>``."""

    name = "modbus"
    default_port = 0
    text = False
    datagrams = False

    def __init__(self, *, lenient: bool = False) -> None:
        del lenient  # a frame with a wrong CRC never leaves the line

    def parse(self, frame: Frame) -> Sequence[Report]:
        """One report with fields. Raises ParseError for what is no request with its response."""
        request, answer = frame.payload[:REQUEST_BYTES], frame.payload[REQUEST_BYTES:]
        if len(request) < REQUEST_BYTES or request[-2:] != crc(request[:-2]) or request[1] not in _TABLES:
            raise ParseError("not a request for coils, inputs or registers")
        table, first, count = _TABLES[request[1]], int.from_bytes(request[2:4]), int.from_bytes(request[4:6])
        data = body(answer, request)
        fields: dict[str, Any] = {}
        if table in ("coil", "discrete"):
            for place in range(min(count, len(data) * 8)):
                fields[f"{table}_{first + place}"] = data[place // 8] >> place % 8 & 1
        else:
            for place in range(min(count, len(data) // 2)):
                fields[f"{table}_{first + place}"] = int.from_bytes(data[place * 2 : place * 2 + 2])
        if not fields:
            raise ParseError("a response without a value")
        key = f"{frame.device_key}/{request[0]}" if frame.device_key else str(request[0])
        return [Report(key, fields=fields)]


def body(answer: bytes, request: bytes) -> bytes:
    """The values in a response. Raises ParseError: another unit, an exception of the unit, a wrong CRC or length."""
    if len(answer) < 5 or answer[-2:] != crc(answer[:-2]):
        raise ParseError("a wrong CRC")
    if answer[:2] == bytes((request[0], request[1] | 0x80)):
        raise ParseError(f"the unit refuses: exception {answer[2]}")
    if answer[:2] != request[:2] or answer[2] != len(answer) - 5:
        raise ParseError("not the response to this request")
    return answer[3:-2]


def crc(data: bytes) -> bytes:
    """CRC-16/MODBUS (polynomial 0x8005 reflected, initial 0xFFFF), low byte first."""
    value = 0xFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value.to_bytes(2, "little")
