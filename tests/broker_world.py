"""A real Mosquitto, a proxy that cuts and swallows, and a link whose commits a test can hold."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import aiomqtt
import pytest

from gateway.clock import SystemClock
from gateway.errors import TransportError
from gateway.model import DeviceBinding, Frame, Verdict
from protocols.transports.mqtt_broker.link import BrokerLink, BrokerOptions
from tests.daemon import free_port

BUTTON = "zigbee2mqtt/0x00158d0001a2b3c4"


def presses(first: int, count: int, topic: str = BUTTON) -> list[tuple[str, str]]:
    return [(topic, json.dumps({"action": "emergency", "n": number})) for number in range(first, first + count)]


def numbers(payloads: list[bytes]) -> list[int]:
    return [json.loads(payload[payload.index(b"{") :])["n"] for payload in payloads]


class Mosquitto:
    """The broker, on one port and one folder, as often as it is started."""

    def __init__(self, folder: Path, *, persistence: bool = True, extra: str = "") -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.skip("needs mosquitto: apt-get install mosquitto")
        self.port = free_port()
        self._program = program
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "mosquitto.conf"
        kept = f"persistence true\npersistence_location {folder}/\nautosave_interval 1800\n" if persistence else ""
        self._config.write_text(
            f"user root\nlistener {self.port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n{kept}{extra}",
            encoding="utf-8",
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            [self._program, "-c", str(self._config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until_s = time.monotonic() + 60
        while time.monotonic() < until_s:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 0.5):
                return
            time.sleep(0.01)
        raise AssertionError("mosquitto does not listen")

    def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()


class FaultProxy:
    """Stands between a client and the broker. ``cut`` ends what is connected; ``hole`` swallows, in silence.

    ``shut`` lets nobody in for a while.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self.hole = False
        self.shut = False
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in self._tasks:
            task.cancel()

    def cut(self, *, reset: bool = False) -> None:
        """``reset``: with a reset in place of an end (RFC 9293, 3.5.2)."""
        writers, self._writers = self._writers, []
        for writer in writers:
            if reset:
                at_once = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        if self.shut:
            writer.transport.abort()
            return
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers += [writer, back]
        with contextlib.suppress(OSError, asyncio.CancelledError):
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, back))
                group.create_task(self._pump(there, writer))

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                while self.hole:
                    await asyncio.sleep(0.01)
                    if writer.is_closing():
                        return
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


class SlowIngest:
    """``ports.Ingest`` with a disk of its own: ``kept`` is what is on it; so many offers fail as ``refuse`` says."""

    def __init__(self) -> None:
        self.kept: list[Frame] = []
        self.offered: list[Frame] = []
        self.refuse = 0
        self.hold = False
        self._rng = random.Random(5)

    def offer(self, frames: Sequence[Frame]) -> asyncio.Future[Verdict]:
        loop = asyncio.get_running_loop()
        verdict: asyncio.Future[Verdict] = loop.create_future()
        taken, refused = list(frames), self.refuse > 0
        self.offered += taken
        self.refuse -= refused

        def commit() -> None:
            if self.hold:
                loop.call_later(0.02, commit)
            elif refused:
                verdict.set_result(Verdict.RETRY)
            else:
                self.kept += taken
                verdict.set_result(Verdict.ACCEPTED)

        loop.call_later(self._rng.uniform(0.0, 0.004), commit)
        return verdict

    async def deliver(self, frames: Sequence[Frame]) -> Verdict:
        return await self.offer(frames)

    def payloads(self) -> list[bytes]:
        return [frame.payload for frame in self.kept]


class DictMemory:
    """``link.Memory`` that outlives links."""

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}

    async def load(self) -> dict[str, Any]:
        return self.value

    async def save(self, value: Mapping[str, Any]) -> None:
        self.value = dict(value)


class Book:
    """``ports.Directory`` of a few keys."""

    def __init__(self, keys: Mapping[str, str] | None = None) -> None:
        self.keys = dict(keys or {})

    def device(self, device_id: str) -> DeviceBinding | None:
        return DeviceBinding(device_id, "", "") if device_id in self.keys.values() else None

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return self.device(self.keys[key]) if key in self.keys else None


class World:
    """One link on one broker (or proxy), kept running as the daemon keeps it, with pauses of a test's length."""

    def __init__(self, port: int, **options: Any) -> None:
        self.ingest = SlowIngest()
        self.memory = DictMemory()
        self.book = Book()
        self.lost: list[str] = []
        self.failures: list[str] = []
        self.options = BrokerOptions("127.0.0.1", port, "carebell-test", **options)
        self.link = self.make()

    def make(self) -> BrokerLink:
        """Another link with the same memory, as after a restart of the gateway."""
        self.link = BrokerLink(
            self.options,
            ingest=self.ingest,
            directory=self.book,
            clock=SystemClock(),
            memory=self.memory,
            session_lost=self.lost.append,
        )
        return self.link

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[BrokerLink]:
        async with asyncio.TaskGroup() as group:
            task = group.create_task(self._keep())
            await self.until(lambda: self.link.connected)
            try:
                yield self.link
            finally:
                task.cancel()

    async def _keep(self) -> None:
        while True:
            try:
                await self.link.run()
            except TransportError as error:
                self.failures.append(str(error))
            await asyncio.sleep(0.05)

    async def until(self, condition: Any, seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)


async def publish(port: int, messages: Sequence[tuple[str, str]], *, retain: bool = False, qos: int = 1) -> None:
    """As some other program on the broker, in order, ten under way at a time."""
    async with aiomqtt.Client("127.0.0.1", port, timeout=60) as client:
        for first in range(0, len(messages), 10):
            async with asyncio.TaskGroup() as group:
                for topic, payload in messages[first : first + 10]:
                    group.create_task(client.publish(topic, payload, qos=qos, retain=retain))
