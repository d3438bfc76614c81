"""What stands at the other end of a serial line, simulated on a pseudo-terminal: a nurse-call host, a satellite
receiver, a Modbus panel. They know no gateway; whoever opens ``Port.link`` hears them.
"""

from __future__ import annotations

import asyncio
import os
import select
import tty
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Protocol, Self

from msgspec import Struct

from simulators.payloads import utc_now
from simulators.terminals.dc09 import checksum

TICK_S: Final = 0.005
SETTLE_S: Final = 0.2  # between the other side's open and its settings
REPEAT_S: Final = 2.0
READ_BYTES: Final = 4096
ACK: Final = b"\x06"


class LinePlan(Struct, frozen=True):
    """``sos_every``: each so many-th call is an emergency, 0 for none. ``open_s``: how long to wait for a reader."""

    rate_per_s: float
    duration_s: float = 10.0
    sos_every: int = 0
    open_s: float = 60.0
    drain_s: float = 30.0


class Port:
    """A pseudo-terminal at ``link`` until the end of the block, as a USB adapter is at its path under /dev/serial."""

    def __init__(self, link: Path) -> None:
        self.link = link
        self.readers = 0
        """How often it was opened, as far as ``read`` has seen."""
        self._far = -1
        self._was_open = False

    def __enter__(self) -> Self:
        self._far, near = os.openpty()
        tty.setraw(near)
        os.set_blocking(self._far, False)
        self.link.parent.mkdir(parents=True, exist_ok=True)
        if self.link.is_symlink():
            self.link.unlink()  # of a run that was killed
        self.link.symlink_to(os.ttyname(near))
        os.close(near)
        return self

    def __exit__(self, *exc: object) -> None:
        self.link.unlink(missing_ok=True)
        os.close(self._far)

    def opened(self) -> bool:
        """Whether somebody has it open just now."""
        poll = select.poll()
        poll.register(self._far, select.POLLIN)
        return not any(events & select.POLLHUP for _, events in poll.poll(0))

    def write(self, data: bytes) -> None:
        """What nobody reads is lost once the terminal's buffer is full, as on a wire."""
        try:
            os.write(self._far, data)
        except OSError:  # full, or closed on the other side
            return

    def read(self) -> bytes:
        """What has come; empty for nothing. To be called often: it also looks whether the other side is another."""
        try:
            data = os.read(self._far, READ_BYTES)
        except OSError:  # nothing there, or closed on the other side
            data = b""
        is_open = self.opened()
        self.readers += is_open and not self._was_open
        self._was_open = is_open
        return data


class Unit(Protocol):
    """Somebody at the end of a line, with so many call points."""

    profile: str
    section: Mapping[str, Any]
    """What ``[[serial]]`` needs beside port and device."""

    rooms: bool
    """Whether each call point is a device of its own."""

    def __init__(self, port: Port, points: int) -> None: ...

    def heard(self, data: bytes) -> None: ...

    async def call(self, number: int, at: datetime, *, emergency: bool) -> None:
        """The ``number``-th call. Returns once the gateway has it, as far as the line can tell."""
        ...


class CallHost:
    """Writes a line for each call, and again until it is answered with ACK.

    An ACK says not which line it is for: the n-th of a reader is for the n-th line that this reader was told. If a line
    went lost, one more has to be answered.
    """

    profile = "generic.call_host"
    section: Mapping[str, Any] = MappingProxyType({"codec": "callhost", "point": "word_2", "reply": ACK.decode()})
    rooms = True

    def __init__(self, port: Port, points: int) -> None:
        self._port = port
        self._points = points
        self._reader = self._told = self._answers = 0
        self._turn = asyncio.Lock()

    def heard(self, data: bytes) -> None:
        self._answers += data.count(ACK)

    async def call(self, number: int, at: datetime, *, emergency: bool) -> None:
        word = "SOS" if emergency else "CALL"
        line = f"{word} {room(number % self._points)} n{number} {at:%H:%M:%S}\r\n".encode("ascii")
        async with self._turn:
            while not await self._answered(line):
                pass

    async def _answered(self, line: bytes) -> bool:
        """Say it to the present reader until that has answered; False when there is another reader now."""
        if self._reader != self._port.readers:
            self._reader, self._told, self._answers = self._port.readers, 0, 0
        wanted = self._told + 1
        loop = asyncio.get_running_loop()
        while self._answers < wanted:
            self._port.write(line)
            self._told += 1
            until_s = loop.time() + REPEAT_S
            while self._answers < wanted and loop.time() < until_s:
                await asyncio.sleep(TICK_S)
                if self._reader != self._port.readers:
                    return False
        return True


class Receiver:
    """NMEA 0183: where it is, on a small circle. Nothing answers it, and it knows no emergencies."""

    profile = "generic.nmea_receiver"
    section: Mapping[str, Any] = MappingProxyType({"codec": "nmea", "every_s": 1.0})
    rooms = False

    def __init__(self, port: Port, points: int) -> None:
        del points
        self._port = port

    def heard(self, data: bytes) -> None:
        """Nobody speaks to it."""

    async def call(self, number: int, at: datetime, *, emergency: bool) -> None:
        del emergency
        minutes = 7.41 + (number % 60) / 10_000
        self._port.write(
            sentence(f"GPRMC,{at:%H%M%S}.00,A,39{minutes:07.4f},N,11712.0660,E,1.0,90.0,{at:%d%m%y},,,A")
            + sentence(f"GPGGA,{at:%H%M%S}.00,39{minutes:07.4f},N,11712.0660,E,1,08,1.0,12.5,M,0.0,M,,")
        )


class Panel:
    """A Modbus RTU unit: coils 0 to 7 are call points, coil 8 the emergency cord; two holding registers.

    A call is a coil that stays 1 until a master has read it so, and then 0 until that was read, too.
    """

    profile = "generic.modbus_call_panel"
    section: Mapping[str, Any] = MappingProxyType(
        {"codec": "modbus", "read": ["1 coil 0 16", "1 holding 0 2"], "poll_ms": 100, "every_s": 60.0}
    )
    rooms = False
    address = 1

    def __init__(self, port: Port, points: int) -> None:
        self._port = port
        self._points = min(8, points)
        self._coils = [0] * 16
        self._registers = [215, 500]  # tenths of a degree, tenths of a percent
        self._rest = b""
        self._reads = 0
        self._turn = asyncio.Lock()

    def heard(self, data: bytes) -> None:
        """Answer every request that is whole. What is none is thrown away, byte by byte."""
        self._rest += data
        while len(self._rest) >= 8:
            request = self._rest[:8]
            if modbus_crc(request[:6]) != request[6:]:
                self._rest = self._rest[1:]
                continue
            self._rest = self._rest[8:]
            if request[0] == self.address:
                self._answer(request)

    def _answer(self, request: bytes) -> None:
        function, first, count = request[1], int.from_bytes(request[2:4]), int.from_bytes(request[4:6])
        if function == 1 and first + count <= len(self._coils):
            bits = sum(value << place for place, value in enumerate(self._coils[first : first + count]))
            values = bits.to_bytes(-(-count // 8), "little")
            self._reads += 1
        elif function == 3 and first + count <= len(self._registers):
            values = b"".join(value.to_bytes(2) for value in self._registers[first : first + count])
        else:
            refusal = bytes((self.address, function | 0x80, 2))
            self._port.write(refusal + modbus_crc(refusal))
            return
        answer = bytes((self.address, function, len(values))) + values
        self._port.write(answer + modbus_crc(answer))

    async def call(self, number: int, at: datetime, *, emergency: bool) -> None:
        del at
        coil = 8 if emergency else number % self._points
        async with self._turn:
            for value in (1, 0):
                self._coils[coil] = value
                seen = self._reads + 2  # an answer on its way may still have told the old value, or been lost
                while self._reads < seen:
                    await asyncio.sleep(TICK_S)


UNITS: Final[Mapping[str, type[Unit]]] = MappingProxyType({"callhost": CallHost, "nmea": Receiver, "modbus": Panel})


def room(number: int) -> str:
    """The name of a call point of the host, counted from 0: 101 to 108, 201 to 208, ..."""
    return f"{number // 8 + 1}{number % 8 + 1:02d}"


def sentence(text: str) -> bytes:
    """With dollar, checksum and end of line."""
    total = 0
    for byte in text.encode("ascii"):
        total ^= byte
    return f"${text}*{total:02X}\r\n".encode("ascii")


def modbus_crc(data: bytes) -> bytes:
    """CRC-16/MODBUS: the polynomial of DC-09's CRC, begun with 0xFFFF."""
    crc = 0xFFFF
    for byte in data:
        crc = crc >> 8 ^ checksum(bytes(((crc ^ byte) & 0xFF,)))
    return crc.to_bytes(2, "little")


async def play(
    port: Port, unit: Unit, plan: LinePlan, stop: asyncio.Event, opened: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Wait for a reader, call, wait for what is unanswered. Raises ConnectionError when nobody opens the port."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + plan.open_s
    while not port.opened():
        if loop.time() > until_s or stop.is_set():
            raise ConnectionError("nobody has opened it")
        await asyncio.sleep(TICK_S)
    opened()
    await asyncio.sleep(SETTLE_S)
    counts = dict.fromkeys(("sent", "answered", "presses", "presses_answered"), 0)

    async def listen() -> None:
        while True:
            if data := port.read():
                unit.heard(data)
            await asyncio.sleep(TICK_S)

    async def call(number: int) -> None:
        emergency = plan.sos_every > 0 and (number + 1) % plan.sos_every == 0
        counts["presses"] += emergency
        await unit.call(number, utc_now(), emergency=emergency)
        counts["answered"] += 1
        counts["presses_answered"] += emergency

    async with asyncio.TaskGroup() as group:
        ear = group.create_task(listen())
        calls: set[asyncio.Task[None]] = set()
        begun_s = loop.time()
        while not stop.is_set():
            elapsed_s = loop.time() - begun_s
            is_over = elapsed_s >= plan.duration_s  # what was due by then is sent, however late we look
            due = plan.duration_s * plan.rate_per_s if is_over else elapsed_s * plan.rate_per_s + 1
            while counts["sent"] < due:
                calls.add(group.create_task(call(counts["sent"])))
                counts["sent"] += 1
            if is_over:
                break
            await asyncio.sleep(TICK_S)
        if calls:
            await asyncio.wait(calls, timeout=plan.drain_s)
        for task in (*calls, ear):
            task.cancel()
    return {**counts, "unanswered": counts["sent"] - counts["answered"], "seconds": round(loop.time() - begun_s, 3)}
