"""The lines of ``[[serial]]`` in the daemon: built, run, announced, counted."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Final, get_args

from gateway.clock import Clock
from gateway.config_house import SerialSection
from gateway.errors import ConfigError
from gateway.ports import Codec, Directory, Ingest
from gateway.supervise import keep_running
from protocols.codecs.call_host import CallHostCodec
from protocols.codecs.modbus import MOST, Block, Table
from protocols.registry import CODECS
from protocols.transports.modbus_rtu import ModbusPoller
from protocols.transports.serial_line import Line, SerialTransport
from protocols.transports.serial_port import SerialPort

MODBUS: Final = "modbus"


class SerialLines:
    """Every line. A ``HealthPart``. Raises ConfigError."""

    name: Final = "serial"

    def __init__(
        self, sections: Sequence[SerialSection], *, ingest: Ingest, directory: Directory, clock: Clock
    ) -> None:
        check(sections)
        self.lines: list[SerialTransport] = []
        for section in sections:
            line = Line(
                port=section.port,
                device=section.device,
                baudrate=section.baudrate,
                bits=section.bits,
                parity=section.parity,
                stop_bits=section.stop_bits,
            )
            codec = _codec(section)
            if section.codec == MODBUS:
                self.lines.append(
                    ModbusPoller(
                        line,
                        codec,
                        ingest=ingest,
                        directory=directory,
                        clock=clock,
                        blocks=blocks(section),
                        poll_s=section.poll_ms / 1000,
                        every_s=section.every_s,
                    )
                )
                continue
            framed = hasattr(codec, "framer") or section.delimiter or section.length or section.silence_ms
            self.lines.append(
                SerialPort(
                    line,
                    codec,
                    ingest=ingest,
                    directory=directory,
                    clock=clock,
                    delimiter=(section.delimiter if framed else "\n").encode(),
                    length=section.length,
                    silence_s=section.silence_ms / 1000,
                    reply=section.reply.encode("latin-1"),
                    every_s=section.every_s,
                )
            )

    async def run(self) -> None:
        """Until cancelled; each line by itself."""
        async with asyncio.TaskGroup() as group:
            for line in self.lines:
                group.create_task(keep_running(line.name, line.run))

    def announce(self, say: Callable[[str], None]) -> None:
        for line in self.lines:
            say(f"serial   {line.name.removeprefix('serial ')}")

    def state(self) -> tuple[bool, str]:
        gone = [f"{line.name.removeprefix('serial ')}: {line.state()[1]}" for line in self.lines if not line.state()[0]]
        return not gone, "; ".join(gone) or (f"{len(self.lines)} lines open" if self.lines else "off")

    def counters(self) -> Mapping[str, int]:
        """Totals over all lines."""
        total: dict[str, int] = {}
        for line in self.lines:
            for name, count in line.counts.items():
                total[name] = total.get(name, 0) + count
        return total


def check(sections: Sequence[SerialSection]) -> None:
    """Raises ConfigError for lines that cannot be served."""
    for number, section in enumerate(sections, 1):
        where = f"serial[{number}]"
        if section.codec not in CODECS:
            raise ConfigError(f"{where}.codec: there is no codec {section.codec!r}; known: {', '.join(sorted(CODECS))}")
        if sum(map(bool, (section.delimiter, section.length, section.silence_ms))) > 1:
            raise ConfigError(f"{where}: delimiter, length and silence_ms exclude each other; keep one")
        if section.codec == MODBUS and not section.read:
            raise ConfigError(f'{where}.read: is missing; write what to poll, for example ["1 coil 0 16"]')
        needs = {"serialx", *({"pynmeagps"} if section.codec == "nmea" else ())}
        if any(importlib.util.find_spec(module) is None for module in needs):
            raise ConfigError(f"{where}: its libraries are not installed; pip install 'carebell[serial]'")
        blocks(section)


def blocks(section: SerialSection) -> list[Block]:
    """What to poll: ``unit table first count``. Raises ConfigError."""
    found: list[Block] = []
    for text in section.read:
        words = text.split()
        numbers = [int(word) for word in (*words[:1], *words[2:]) if word.isascii() and word.isdecimal()]
        if len(words) != 4 or len(numbers) != 3 or words[1] not in get_args(Table):
            raise ConfigError(f'serial.read: {text!r}: write unit, table, first and count, for example "1 coil 0 16"')
        unit, first, count = numbers
        table: Table = words[1]  # type: ignore[assignment]  # one of them: it was looked at above
        if not (1 <= unit <= 247 and 0 <= first <= 65_535 and 1 <= count <= MOST[table]):
            raise ConfigError(f"serial.read: {text!r}: unit 1 to 247, first 0 to 65535, count 1 to {MOST[table]}")
        found.append(Block(unit, table, first, count))
    return found


def _codec(section: SerialSection) -> Codec:
    if section.codec == CallHostCodec.name:
        return CallHostCodec(point=section.point, encoding=section.encoding)
    return CODECS[section.codec]
