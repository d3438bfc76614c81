"""The benchmarks of the README: what the whole gateway does on this machine, measured from outside.

The daemon runs as a child process on embedded defaults; generator, daemon and PostgreSQL share the machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec

from gateway.model import Actor
from gateway.registry.devices import add_device
from gateway.registry.persons import add_person
from gateway.storage import journal
from gateway.storage.database import FILE_NAME, open_database
from simulators.generator import Generator
from simulators.latency import Latencies
from simulators.load import Load

ACTOR: Final = Actor("system", "bench")
DRAIN_LIMIT_S: Final = 120.0
CONNECTIONS: Final = 100
WINDOW: Final = 50


class Bench:
    """One daemon in a folder of its own, with this many devices registered."""

    def __init__(self, folder: Path, devices: int) -> None:
        self.data_dir = folder / "var"
        self.data_dir.mkdir(parents=True)
        self.mqtt_port, self.http_port = _free_port(), _free_port()
        self.orders = OrderSink()
        self.credentials = self._register(devices)
        self._process: subprocess.Popen[str] | None = None

    def _register(self, devices: int) -> list[tuple[str, str]]:
        connection = open_database(self.data_dir / FILE_NAME)
        now_us = time.time_ns() // 1000
        found = []
        with connection:
            for number in range(devices):
                person = {"name": f"压测{number}", "phone": f"+861390{number:07d}"}
                add_person(connection, f"P-{number:05d}", person, at_us=now_us, actor=ACTOR)
                values = {"profile": "carebell.native", "person_id": f"P-{number:05d}"}
                _, token = add_device(
                    connection, f"D-{number:05d}", values, known_profiles=["carebell.native"], at_us=now_us, actor=ACTOR
                )
                found.append((f"D-{number:05d}", token))
        connection.close()
        return found

    def environment(self) -> dict[str, str]:
        """What the daemon's configuration is, besides the defaults. Called when the sinks serve."""
        return {
            "CAREBELL_MQTT__LISTEN": f"127.0.0.1:{self.mqtt_port}",
            "CAREBELL_MQTT__MAX_UNAUTHENTICATED_PER_ADDRESS": "100000",
            "CAREBELL_HTTP__LISTEN": f"127.0.0.1:{self.http_port}",
            "CAREBELL_ORDER_API__BASE_URL": self.orders.url,
        }

    async def start_sinks(self) -> None:
        await self.orders.start()

    async def stop_sinks(self) -> None:
        await self.orders.stop()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Bench]:
        """The daemon is ready, history included, until the block ends."""
        await self.start_sinks()
        with (self.data_dir.parent / "daemon.log").open("w") as log:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - our own program, before anything is measured
                [sys.executable, "-m", "gateway.cli", "run", "--data-dir", str(self.data_dir)],
                stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **self.environment()},
            )  # fmt: skip
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip() == "carebell ready":
                break
        else:
            raise RuntimeError(f"the daemon did not start; see {log.name}")
        await self.history_behind(0)
        try:
            yield self
        finally:
            self._process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(self._process.wait)
            self._process.stdout.close()
            await self.stop_sinks()

    def load(self, devices: int, *, first: int = 0) -> Load:
        return Load("127.0.0.1", self.mqtt_port, self.credentials[first : first + devices])

    def generator(self, devices: int) -> Generator:
        return Generator(self.data_dir.parent, self.mqtt_port, self.credentials[:devices])

    def stat(self) -> dict[str, Any]:
        connection = open_database(self.data_dir / FILE_NAME, read_only=True)
        try:
            return journal.stat(connection)
        finally:
            connection.close()

    async def history_behind(self, at_most: int) -> float:
        """Wait until history has at most so many numbers to go; the seconds that took."""
        started_s = time.perf_counter()
        while time.perf_counter() - started_s < DRAIN_LIMIT_S:
            stat = self.stat()
            if stat["readers"].get("history", -1) >= stat["last_seq"] - at_most:
                return time.perf_counter() - started_s
            await asyncio.sleep(0.2)
        raise RuntimeError("history does not catch up")

    def resident_megabytes(self) -> dict[str, float]:
        """Resident memory of the daemon, of its history worker, and of PostgreSQL."""
        assert self._process is not None
        names = {str(self._process.pid): "gateway"}
        for line in subprocess.run(
            ["/bin/ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
        ).stdout.splitlines():
            pid, parent, arguments = line.split(None, 2)
            if parent == str(self._process.pid):
                names[pid] = "history" if "history.worker" in arguments else "postgresql"
        return {name: _resident_megabytes(pid) for pid, name in names.items()}

    def cpu_seconds(self) -> float:
        """Processor time of the daemon's own process so far."""
        assert self._process is not None
        fields = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class OrderSink(asyncio.Protocol):
    """The smallest platform: takes every order at once, and notes when the order of which device came."""

    def __init__(self, sink: OrderSink | None = None) -> None:
        self._sink = sink or self
        self._buffer = b""
        self.arrived_s: dict[str, float] = {}
        self.url = ""
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: OrderSink(self), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    def take(self, head: bytes, body: bytes) -> bytes:
        """Note a request; the answer's body."""
        if head.startswith(b"POST"):
            order = msgspec.json.decode(body)
            self.arrived_s.setdefault(order["device"]["id"], time.perf_counter())
        return b'{"order_id":"B-%d","status":"accepted"}' % len(self.arrived_s)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while True:
            head, found, rest = self._buffer.partition(b"\r\n\r\n")
            length = next((int(x[15:]) for x in head.lower().split(b"\r\n") if x.startswith(b"content-length:")), 0)
            if not found or len(rest) < length:
                return
            body, self._buffer = rest[:length], rest[length:]
            answer = self._sink.take(head, body)
            self._transport.write(
                b"HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (len(answer), answer)
            )


def order_latency(press_due_s: Mapping[str, float], sink: OrderSink) -> dict[str, float]:
    """From the moment a press was due to its order at the platform."""
    latencies = Latencies()
    for device_id, due_s in press_due_s.items():
        if device_id in sink.arrived_s:
            latencies.add(sink.arrived_s[device_id] - due_s)
    return latencies.summary() | {"missing": len(press_due_s) - latencies.count}


# ---- the figures -----------------------------------------------------------------------------------------------------


async def sustained(bench: Bench, seconds: float) -> dict[str, Any]:
    """MQTT QoS 1, closed loop: durable, judged, and in history."""
    cpu_s = bench.cpu_seconds()
    ran = await bench.generator(CONNECTIONS).closed_loop(seconds, WINDOW)
    cpu_s = bench.cpu_seconds() - cpu_s
    behind = bench.stat()
    drained_s = await bench.history_behind(0)
    return {
        "messages_per_s": round(ran.acked / ran.elapsed_s),
        "acked": ran.acked,
        "unacked": ran.sent - ran.acked,
        "seconds": round(ran.elapsed_s, 1),
        "telemetry_ack": ran.telemetry,
        "generator": ran.generator,
        "gateway_cpu_us_per_message": round(cpu_s / max(1, ran.acked) * 1e6, 1),
        "history_behind_at_end": behind["last_seq"] - behind["readers"].get("history", 0),
        "history_complete_after_s": round(drained_s, 1),
        "journal_bytes_per_message": round(behind["bytes"] / max(1, behind["records"])),
    }


async def steady(bench: Bench, seconds: float, rate: float, presses: float) -> dict[str, Any]:
    """Open loop at a rate, with presses in it: acknowledgements, orders, backlog."""
    generator = bench.generator(1000)
    cpu_s = bench.cpu_seconds()
    behind: list[int] = []

    async def watch() -> None:
        while True:
            await asyncio.sleep(max(1.0, seconds / 10))
            stat = await asyncio.to_thread(bench.stat)
            behind.append(stat["last_seq"] - stat["readers"].get("history", 0))

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch())
        ran = await generator.open_loop(seconds, rate, presses)
        watching.cancel()
    cpu_s = bench.cpu_seconds() - cpu_s
    await asyncio.sleep(1.0)
    drained_s = await bench.history_behind(0)
    return {
        "rate_per_s": rate,
        "sent": ran.sent,
        "unacked": ran.sent - ran.acked,
        "telemetry_ack": ran.telemetry,
        "sos_ack": ran.sos,
        "sos_order": order_latency(ran.press_due_s, bench.orders),
        "generator": ran.generator,
        "generator_late": ran.late,
        "gateway_cpu_us_per_message": round(cpu_s / max(1, ran.acked) * 1e6, 1),
        "history_behind_over_time": behind,
        "history_complete_after_s": round(drained_s, 1),
    }


async def idle(bench: Bench, connections: int) -> dict[str, Any]:
    """Authenticated connections that say nothing."""
    before = bench.resident_megabytes()
    load = bench.load(connections)
    started_s = time.perf_counter()
    await load.connect()
    connect_s = time.perf_counter() - started_s
    await asyncio.sleep(1.0)
    after = bench.resident_megabytes()
    lost = load.lost
    await load.close()
    return {
        "connections": len(load.devices),
        "lost": lost,
        "connect_seconds": round(connect_s, 1),
        "resident_megabytes_before": before,
        "resident_megabytes": after,
    }


async def storm(bench: Bench, presses: int, seconds: float) -> dict[str, Any]:
    """Many people press within a minute, each of them for the first time."""
    ran = await bench.generator(presses).open_loop(seconds, 1.0, presses / seconds)
    started_s = time.perf_counter()
    while len(bench.orders.arrived_s) < len(ran.press_due_s) and time.perf_counter() - started_s < DRAIN_LIMIT_S:
        await asyncio.sleep(0.1)
    return {
        "presses": len(ran.press_due_s),
        "sos_ack": ran.sos,
        "sos_order": order_latency(ran.press_due_s, bench.orders),
        "generator": ran.generator,
        "generator_late": ran.late,
    }


class Figure(NamedTuple):
    """How many devices it needs, how it is measured, and with what around the daemon."""

    devices: int
    measure: Callable[[Any], Coroutine[Any, Any, dict[str, Any]]]
    bench: type[Bench] = Bench


def figures(scale: float) -> dict[str, Figure]:
    """Every figure by name. ``scale`` 1 is the full length."""
    from simulators import bench_broker as broker  # noqa: PLC0415 - it builds on this module
    from simulators import bench_consoles as desks  # noqa: PLC0415
    from simulators import bench_reach as reach  # noqa: PLC0415

    minute_s = 60 * scale
    idlers, pressers = max(100, int(10_000 * scale)), max(50, int(5_000 * scale))
    return {
        "sustained": Figure(100, lambda bench: sustained(bench, minute_s)),
        "open_20000": Figure(1000, lambda bench: steady(bench, minute_s, 20_000, 10)),
        "sos_among_5000": Figure(1000, lambda bench: steady(bench, minute_s, 5_000, 10)),
        "idle_10000": Figure(idlers, lambda bench: idle(bench, idlers)),
        "storm_5000": Figure(pressers, lambda bench: storm(bench, pressers, minute_s)),
        "call_among_5000": Figure(1000, lambda bench: reach.first_call(bench, minute_s, 5_000, 10), reach.CallingBench),
        "broker": Figure(100, lambda bench: broker.through_broker(bench, 20 * scale), broker.BrokerBench),
        "consoles_1000": Figure(
            1000, lambda bench: desks.consoles(bench, 40 * scale, 10 * scale, 5_000, 10), desks.ConsoleBench
        ),
        "alerts_5000": Figure(pressers, lambda bench: reach.many_open(bench, pressers), reach.LadderBench),
    }


async def measure(name: str, scale: float, folder: Path) -> dict[str, Any]:
    """Measure one figure in a fresh folder."""
    figure = figures(scale)[name]
    bench = figure.bench(folder / name, figure.devices)
    async with bench.running():
        found = await figure.measure(bench)
    return {"figure": name, "scale": scale, **found, "machine": machine()}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return {
        "processors": os.cpu_count(),
        "model": model,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _resident_megabytes(pid: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return round(int(line.split()[1]) / 1024, 1)
    return 0.0
