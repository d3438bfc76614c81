"""Serial lines over pseudo-terminals: pieces, noise, silence, a pulled cable, a Modbus unit.

kill -9 of the daemon: ``tests/chaos/test_kill_house.py``; what a person tries: ``test_simulate_serial.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import sys
import tty
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import SystemClock
from gateway.model import DeviceBinding, Verdict
from protocols.codecs.call_host import CallHostCodec
from protocols.codecs.modbus import Block, ModbusCodec
from protocols.codecs.nmea import NmeaCodec
from protocols.transports.modbus_rtu import ModbusPoller
from protocols.transports.serial_line import Line, SerialTransport
from protocols.transports.serial_port import SerialPort
from tests.live.nmea_lines import sentence
from tests.live.test_dc09 import Disk

pytestmark = pytest.mark.live

if importlib.util.find_spec("serialx") is None:
    pytest.skip("needs serialx: pip install 'carebell[serial]'", allow_module_level=True)


class Points:
    """``ports.Directory``: one room of the host."""

    def device(self, device_id: str) -> DeviceBinding | None:
        return None

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return DeviceBinding("R-101", "generic.call_host", "callhost") if key == "H-1/101" else None


class Cable:
    """A pseudo-terminal under a path that stays, as udev keeps it; ``pull`` unplugs the far end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.far = -1
        self.plug()

    def plug(self) -> None:
        self.far, near = os.openpty()
        tty.setraw(near)
        os.set_blocking(self.far, False)
        self.path.symlink_to(os.ttyname(near))
        self._near = near

    def pull(self) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self.far)
        os.close(self._near)
        self.far = -1

    def write(self, data: bytes) -> None:
        os.write(self.far, data)

    def read(self) -> bytes:
        try:
            return os.read(self.far, 4096)
        except BlockingIOError:
            return b""


@pytest.fixture
def cable(tmp_path: Path) -> Iterator[Cable]:
    made = Cable(tmp_path / "usb-call-host")
    yield made
    if made.far >= 0:
        made.pull()


Story = Callable[[Any, Disk], Awaitable[None]]


def play(make: Callable[..., SerialTransport], story: Story) -> Disk:
    disk = Disk()

    async def main() -> None:
        transport = make(ingest=disk, directory=Points(), clock=SystemClock(), again_s=0.02)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(transport.run())
            await until(lambda: transport.state()[0])
            await story(transport, disk)
            running.cancel()

    asyncio.run(main())
    return disk


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


async def heard(cable: Cable, wanted: bytes) -> None:
    """Wait until exactly this was written on the line."""
    came = b""
    while len(came) < len(wanted):
        came += cable.read()
        await asyncio.sleep(0.002)
    assert came == wanted


def host(cable: Cable, codec: Any = None, **rest: Any) -> Callable[..., SerialTransport]:
    line = Line(port=str(cable.path), device="H-1", baudrate=9600)
    return lambda **common: SerialPort(line, codec or CallHostCodec(point="word_2"), **rest, **common)


def texts(disk: Disk) -> list[tuple[str, str]]:
    return [
        (frame.device_key, report.fields["text"])
        for frame in disk.kept
        for report in frame.reports or ()
        if report.fields
    ]


def test_lines_in_pieces_noise_and_an_answer_behind_the_disk(cable: Cable) -> None:
    async def story(transport: Any, disk: Disk) -> None:
        for piece in (b"CALL 1", b"01\r", b"\nSOS 10", b"3\r\n", b"\xff\x00--\r\n", b"CANCEL 101\r\n"):
            cable.write(piece)
            await asyncio.sleep(0.01)
        await until(lambda: len(disk.kept) == 4)
        await heard(cable, b"\x06" * 4)
        disk.verdict = Verdict.RETRY
        cable.write(b"SOS 101\r\n")
        await until(lambda: transport.counts["retried"])
        assert cable.read() == b"", "nothing is answered that is not on disk"
        disk.verdict = Verdict.ACCEPTED
        await until(lambda: len(disk.kept) == 5)
        await heard(cable, b"\x06")

    disk = play(host(cable, reply=b"\x06"), story)
    assert texts(disk) == [("R-101", "CALL 101"), ("H-1", "SOS 103"), ("R-101", "CANCEL 101"), ("R-101", "SOS 101")]


@pytest.mark.parametrize(
    ("options", "stream"), [({"length": 7}, [b"SOS 101SOS ", b"101"]), ({"silence_s": 2.5}, [b"SOS 1", b"01"])]
)
def test_framed_by_length_and_by_silence(cable: Cable, options: Any, stream: list[bytes]) -> None:
    wanted = 2 if "length" in options else 1

    async def story(transport: Any, disk: Disk) -> None:
        for piece in stream:
            cable.write(piece)
            await asyncio.sleep(0.01)
        await until(lambda: len(disk.kept) == wanted)

    assert texts(play(host(cable, **options), story)) == [("R-101", "SOS 101")] * wanted


def test_endless_rubbish_is_bounded_and_the_line_goes_on(cable: Cable) -> None:
    async def story(transport: Any, disk: Disk) -> None:
        for _ in range(4):
            cable.write(b"x" * 1000)
            await asyncio.sleep(0.01)
        await until(lambda: transport.counts["rubbish"])
        cable.write(b"\nSOS 101\n")
        await until(lambda: ("R-101", "SOS 101") in texts(disk))

    play(host(cable), story)


def test_a_thousand_presses_while_the_cable_is_pulled_out(cable: Cable) -> None:
    """The host repeats what was not answered, as hosts do; every press is on disk at the end."""

    async def story(transport: Any, disk: Disk) -> None:
        number, answered, heard = 0, 0, b""
        while answered < 1000:
            block = min(50, 1000 - answered)
            cable.write(b"".join(b"SOS 101 n%d\n" % (answered + place) for place in range(block)))
            number += 1
            if number % 4 == 0:
                cable.pull()
                await until(lambda: not transport.state()[0])
                cable.plug()
                await until(lambda: transport.state()[0])
                continue
            heard = b""
            while len(heard) < block:
                await asyncio.sleep(0.002)
                heard += cable.read()
            answered += block

    disk = play(host(cable, reply=b"\x06"), story)
    assert {text for _, text in texts(disk)} == {f"SOS 101 n{number}" for number in range(1000)}


def test_nmea_keeps_the_newest_place(cable: Cable) -> None:
    async def story(transport: Any, disk: Disk) -> None:
        for second in range(20):
            cable.write(sentence(f"GPRMC,0102{second:02d}.00,A,3907.4100,N,11712.0660,E,0.0,0.0,221126,,,A"))
            cable.write(sentence("GPGSV,1,1,00"))
        cable.write(sentence("GPGGA,010203.00,3907.4100,N,11712.0660,E,1,08,1.0,12.5,M,0.0,M,,"))
        await until(lambda: len(disk.kept) == 2)

    disk = play(host(cable, NmeaCodec(), every_s=60.0), story)
    assert [frame.payload[:6] for frame in disk.kept] == [b"$GPRMC", b"$GPGGA"]


UNIT = """
import asyncio, sys
from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice
async def main():
    bits = [SimData(0, count=32, values=False, datatype=DataType.BITS)]
    words = [SimData(0, values=[215, 500], datatype=DataType.REGISTERS)]
    device = SimDevice(1, (bits, bits, words, words))
    server = ModbusSerialServer(device, framer=FramerType.RTU, port=sys.argv[1], baudrate=115200)
    serving = asyncio.get_running_loop().create_task(server.serve_forever())
    await asyncio.sleep(0.3)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        place, value = line.split()
        await server.async_setValues(1, 5, int(place), [value == "1"])
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def unit(port: str) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-c", UNIT, port, stdin=PIPE, stdout=PIPE
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def bridge(left: int, right: int) -> None:
    """What is written on one pseudo-terminal is read on the other."""
    while True:
        for here, there in ((left, right), (right, left)):
            with contextlib.suppress(BlockingIOError):
                os.write(there, os.read(here, 4096))
        await asyncio.sleep(0.001)


def test_a_modbus_unit_of_other_authors(cable: Cable, tmp_path: Path) -> None:
    if importlib.util.find_spec("pymodbus") is None:
        pytest.skip("needs pymodbus: pip install 'pymodbus[serial]'")
    far = Cable(tmp_path / "panel")
    line = Line(port=str(cable.path), device="H-1", baudrate=115_200)
    blocks = [Block(1, "coil", 0, 16), Block(1, "holding", 0, 2), Block(9, "coil", 0, 1)]

    async def story(transport: Any, disk: Disk) -> None:
        def seen(field: str, value: int) -> bool:
            return any((report.fields or {}).get(field) == value for f in disk.kept for report in f.reports or ())

        async with asyncio.TaskGroup() as group:
            wire = group.create_task(bridge(cable.far, far.far))
            async with unit(str(far.path)) as process:
                assert process.stdin is not None
                await until(lambda: seen("holding_0", 215) and seen("coil_8", 0))
                quiet, polls = len(disk.kept), transport.counts["polls"]
                await until(lambda: transport.counts["polls"] >= polls + 6)
                assert len(disk.kept) == quiet, "what has not changed is not kept again"
                process.stdin.write(b"8 1\n")
                await until(lambda: seen("coil_8", 1))
                assert transport.counts["unanswered"] > 0, "unit 9 is not there, and holds nobody up"
            wire.cancel()

    play(
        lambda **common: ModbusPoller(
            line, ModbusCodec(), blocks=blocks, poll_s=0.02, every_s=60.0, answer_s=0.3, **common
        ),
        story,
    )
    far.pull()
