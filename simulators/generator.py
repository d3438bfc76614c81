"""Load from a process of its own: benchmarks/load.c where there is a C compiler, else ``Load`` in this one."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from simulators.load import Load, Result

SOURCE: Final = Path(__file__).resolve().parents[1] / "benchmarks" / "load.c"
IN_C: Final = "C"
IN_PYTHON: Final = "Python (no C compiler here: it takes a core of its own)"


class Ran(Struct):
    """What a run came to; times in milliseconds from when a message was due."""

    sent: int
    acked: int
    elapsed_s: float
    telemetry: dict[str, float]
    sos: dict[str, float]
    press_due_s: dict[str, float]
    """Device to time.perf_counter() of its press."""
    generator: str
    late: dict[str, float] = {}
    """By how much the generator itself was late with presses; it is part of their times."""


class Generator:
    """Devices of a broker or gateway on this machine. ``credentials`` are (device id, token) of each connection."""

    def __init__(self, folder: Path, port: int, credentials: Sequence[tuple[str, str]]) -> None:
        self._port = port
        self._credentials = credentials
        self._tokens = folder / "tokens.csv"
        self._tokens.write_text("".join(f"{name},{token}\n" for name, token in credentials), encoding="utf-8")
        self._program = _compiled(folder)

    async def closed_loop(self, seconds: float, window: int) -> Ran:
        """As fast as acknowledgements come, so many messages under way on each connection."""
        if self._program is not None:
            return await self._run("closed", seconds, window)
        load = Load("127.0.0.1", self._port, self._credentials)
        await load.connect()
        return await _ended(load, await load.closed_loop(seconds, window))

    async def open_loop(self, seconds: float, rate_per_s: float, presses_per_s: float) -> Ran:
        """At a rate that does not care for acknowledgements; each press comes from a device that never pressed."""
        if self._program is not None:
            return await self._run("open", seconds, rate_per_s, presses_per_s)
        load = Load("127.0.0.1", self._port, self._credentials)
        await load.connect()
        return await _ended(load, await load.open_loop(seconds, rate_per_s, presses_per_s))

    async def _run(self, mode: str, seconds: float, *numbers: float) -> Ran:
        assert self._program is not None
        words = (mode, self._port, self._tokens, len(self._credentials), seconds, *numbers)
        process = await asyncio.create_subprocess_exec(
            self._program, *(str(word) for word in words), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        found: dict[str, Any] = msgspec.json.decode(output)
        return Ran(
            sent=found["sent"], acked=found["acked"], elapsed_s=found["elapsed_s"], telemetry=found["telemetry"],
            sos=found["sos"], press_due_s=dict(found.get("presses", ())), generator=IN_C, late=found["late"],
        )  # fmt: skip


async def _ended(load: Load, result: Result) -> Ran:
    await load.close()
    return Ran(
        sent=result.sent, acked=result.acked, elapsed_s=result.elapsed_s, telemetry=result.telemetry,
        sos=result.presses, press_due_s=load.press_due_s, generator=IN_PYTHON,
    )  # fmt: skip


def _compiled(folder: Path) -> Path | None:
    compiler = shutil.which("cc")
    if compiler is None or not SOURCE.is_file():
        return None
    program = folder / "load"
    subprocess.run([compiler, "-O2", "-std=c11", str(SOURCE), "-o", str(program)], check=True)  # noqa: S603
    return program
