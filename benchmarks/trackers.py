"""What terminals cost: decoding, durable reports through the whole gateway, and idle connections.

    .venv/bin/python benchmarks/trackers.py decode
    .venv/bin/python benchmarks/trackers.py reports [SECONDS]
    .venv/bin/python benchmarks/trackers.py idle [CONNECTIONS]

``reports`` and ``idle`` start a daemon in a temporary folder with GT06 terminals that are registered, each frame of
its own (nothing is a resend), and count what was answered, that is, committed. The generator is this process.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import cast

import uvloop

from gateway.model import Actor, Frame
from gateway.registry.devices import add_device
from gateway.storage.database import FILE_NAME, open_database
from protocols.bits import crc16_x25
from protocols.registry import TERMINALS
from tests.daemon import Daemon, free_port
from tests.vectors import own

NOW_US = 1_795_309_323_000_000
WINDOW = 60
TERMINALS_LOADED = 100
GPS = bytes.fromhex("c9") + (70422300).to_bytes(4, "big") + (210961980).to_bytes(4, "big") + bytes.fromhex("121405")
CELL = bytes.fromhex("01cc00287d001f72")


def imei(number: int) -> str:
    return f"0010{number:011d}"


def frame(kind: int, data: bytes, serial: int) -> bytes:
    body = bytes([len(data) + 5, kind]) + data + serial.to_bytes(2, "big")
    return b"xx" + body + crc16_x25(body).to_bytes(2, "big") + b"\r\n"


def login(number: int) -> bytes:
    return frame(1, bytes.fromhex(imei(number).rjust(16, "0")) + b"\x00\x01", 1)


# ---- decoding --------------------------------------------------------------------------------------------------------


def decode() -> dict[str, float]:
    """Frames a second of each codec alone: the rate over its own vectors that can be read, each as often."""
    found = {}
    for name, codec in sorted(TERMINALS.items()):
        frames = [
            Frame("bench", name, "bench", vector.payload, NOW_US, vector.device_key or "860000000000017")
            for vector in own.vectors(name)
            if not vector.fault and not vector.lenient
        ]
        if not frames:
            continue
        best = 0.0
        rounds = max(1, 20_000 // len(frames))
        for _ in range(5):
            begun = time.perf_counter()
            for _ in range(rounds):
                for one in frames:
                    codec.parse(one)
            best = max(best, rounds * len(frames) / (time.perf_counter() - begun))
        found[name] = round(best)
    position = Frame("bench", "gt06", "bench", reports_of(1, 1)[0], NOW_US, "860000000000017")
    codec, best = TERMINALS["gt06"], 0.0
    for _ in range(5):
        begun = time.perf_counter()
        for _ in range(20_000):
            codec.parse(position)
        best = max(best, 20_000 / (time.perf_counter() - begun))
    found["gt06, position and cell"] = round(best)
    return found


# ---- reports through the gateway -------------------------------------------------------------------------------------


def reports_of(number: int, count: int) -> list[bytes]:
    at = time.gmtime()
    clock = bytes([at.tm_year % 100, at.tm_mon, at.tm_mday, at.tm_hour, at.tm_min, at.tm_sec])
    return [frame(0x12, clock + GPS + CELL, (number + serial) & 0xFFFF) for serial in range(2, 2 + count)]


class Load(asyncio.Protocol):
    """One terminal: a window of frames that are not answered yet."""

    def __init__(self, number: int, frames: list[bytes]) -> None:
        self._login = login(number)
        self._frames = frames
        self._next = 0
        self._bytes = -10  # the login's answer
        self._transport: asyncio.Transport | None = None

    @property
    def answered(self) -> int:
        return max(0, self._bytes // 10)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._login)
        self._send(WINDOW)

    def data_received(self, data: bytes) -> None:
        before = self._bytes // 10
        self._bytes += len(data)
        self._send(self._bytes // 10 - before)

    def _send(self, count: int) -> None:
        batch = self._frames[self._next : self._next + count]
        self._next += len(batch)
        if batch and self._transport is not None:
            self._transport.write(b"".join(batch))


async def load(port: int, seconds: float) -> dict[str, float]:
    each = int(40_000 * seconds / TERMINALS_LOADED)
    frames = {number: reports_of(number, each) for number in range(TERMINALS_LOADED)}
    loop = asyncio.get_running_loop()
    begun = time.perf_counter()
    terminals = []
    for number in range(TERMINALS_LOADED):
        _, protocol = await loop.create_connection(
            lambda number=number: Load(number, frames[number]), "127.0.0.1", port
        )  # type: ignore[misc]  # the default binds the number
        terminals.append(protocol)
    await asyncio.sleep(seconds)
    answered = sum(terminal.answered for terminal in terminals)
    return {"answered": answered, "per_s": round(answered / (time.perf_counter() - begun))}


# ---- idle connections ------------------------------------------------------------------------------------------------


class Idle(asyncio.Protocol):
    """Logs in and says nothing more."""

    def __init__(self, number: int) -> None:
        self._login = login(number)
        self.answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast("asyncio.Transport", transport).write(self._login)

    def data_received(self, data: bytes) -> None:
        del data
        self.answered = True


async def idle(port: int, count: int) -> int:
    loop = asyncio.get_running_loop()
    terminals = []
    for number in range(count):
        _, protocol = await loop.create_connection(lambda number=number: Idle(number), "127.0.0.1", port)  # type: ignore[misc]
        terminals.append(protocol)
    for _ in range(100):
        if all(terminal.answered for terminal in terminals):
            break
        await asyncio.sleep(0.1)
    await asyncio.sleep(2)
    return sum(terminal.answered for terminal in terminals)


def memory_mb(pid: int) -> float:
    """Proportional set size: what the process adds to the machine."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0


# ---- the daemon ------------------------------------------------------------------------------------------------------


def daemon(folder: Path, terminals: int, port: int) -> Daemon:
    data_dir = folder / "var"
    data_dir.mkdir()
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        for number in range(terminals):
            add_device(
                connection, f"T-{number:05d}", {"profile": "trackers.gt06", "imei": imei(number)},
                known_profiles=["trackers.gt06"], at_us=NOW_US, actor=Actor("system", "bench"),
            )  # fmt: skip
    connection.close()
    return Daemon(
        data_dir, CAREBELL_TRACKERS__GT06=f"127.0.0.1:{port}", CAREBELL_TRACKERS__MAX_UNKNOWN_PER_ADDRESS="100000"
    )


def main() -> None:
    figure = sys.argv[1] if len(sys.argv) > 1 else ""
    if figure == "decode":
        print(json.dumps(decode(), indent=1))
        return
    if figure not in ("reports", "idle"):
        raise SystemExit(__doc__)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    amount = int(sys.argv[2]) if len(sys.argv) > 2 else {"reports": 20, "idle": 20_000}[figure]
    with tempfile.TemporaryDirectory(prefix="carebell-trackers-") as folder:
        port = free_port()
        with daemon(Path(folder), TERMINALS_LOADED if figure == "reports" else amount, port) as running:
            assert running.process is not None
            before = memory_mb(running.process.pid)
            if figure == "reports":
                print(json.dumps(uvloop.run(load(port, float(amount)))))
            else:
                answered = uvloop.run(idle_and_measure(port, amount, running.process.pid, before))
                print(json.dumps(answered))


async def idle_and_measure(port: int, count: int, pid: int, before: float) -> dict[str, float]:
    answered = await idle(port, count)
    after = memory_mb(pid)
    return {"connections": count, "answered": answered, "mb": after, "mb_before": before}


if __name__ == "__main__":
    main()
