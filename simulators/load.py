"""A load generator for measurements: many MQTT 3.1.1 devices in one process, packets made by hand, every ack timed.

Not a model of people: for that there are the fleet and the scenarios. Loopback only.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Sequence
from typing import Final, cast

from msgspec import Struct

from simulators.latency import Latencies

TICK_S: Final = 0.001
CONNECT_AT_ONCE: Final = 200
_TAILS: Final = tuple(
    b'"measurements":{"heart_rate_bpm":%d,"spo2_percent":%d,"systolic_mmhg":%d,"diastolic_mmhg":%d,'
    b'"body_temperature_celsius":36.%d,"battery_percent":%d},'
    b'"position":{"latitude":39.0841%02d,"longitude":117.2009%02d,"accuracy_m":8,"source":"gnss"}}'
    % (60 + n % 30, 95 + n % 5, 110 + n % 25, 65 + n % 20, 1 + n % 8, 50 + n % 50, n, 99 - n)
    for n in range(64)
)
_PRESS: Final = b'"signals":["sos"]}'


class Result(Struct):
    """What a run came to."""

    sent: int
    acked: int
    elapsed_s: float
    telemetry: dict[str, float]
    presses: dict[str, float]

    @property
    def rate_per_s(self) -> float:
        return self.acked / self.elapsed_s if self.elapsed_s else 0.0


class _Device(asyncio.Protocol):
    """One connection."""

    __slots__ = (
        "_buffer", "_due", "_form", "_head", "_load", "_name", "_pressed", "_token", "connected", "in_flight",
        "packet_id", "seq", "transport",
    )  # fmt: skip

    def __init__(self, load: Load, name: str, token: str, connected: asyncio.Future[None]) -> None:
        self._load = load
        self._name = name
        self._token = token
        topic = f"carebell/{name}/up".encode()
        self._head = struct.pack("!H", len(topic)) + topic
        self._form = b"\x32%b" + self._head + b'%c%c{"seq":%d,"at":"%b",%b'
        self._due: dict[int, float] = {}  # by packet id, of what is not acknowledged yet
        self._pressed: set[int] = set()
        self._buffer = b""
        self.connected = connected
        self.in_flight = 0
        self.packet_id = 0
        self.seq = load.first_seq

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        texts = (self._name.encode(), self._name.encode(), self._token.encode())
        body = b"\x00\x04MQTT\x04\xc2\x00\x00" + b"".join(struct.pack("!H", len(text)) + text for text in texts)
        self.transport.write(b"\x10" + _length(len(body)) + body)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.connected.done():
            self.connected.set_exception(exc or ConnectionError("closed before CONNACK"))
        self._load.lost += 1

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        start = 0
        if not self.connected.done():
            if data[:4] != b"\x20\x02\x00\x00":
                self.connected.set_exception(ConnectionError(f"{self._name} was refused: {data[:4]!r}"))
                return
            self.connected.set_result(None)
            start = 4
        end = start + (len(data) - start) // 4 * 4
        self._buffer = data[end:]
        now_s = time.perf_counter()
        load, due, pressed = self._load, self._due, self._pressed
        measured = load.telemetry.add
        count = 0
        for at in range(start, end, 4):
            packet_id = data[at + 2] << 8 | data[at + 3]
            latency_s = now_s - due.pop(packet_id)
            if pressed and packet_id in pressed:
                pressed.discard(packet_id)
                load.presses.add(latency_s)
            else:
                measured(latency_s)
            count += 1
        self.in_flight -= count
        load.acked += count
        if count and load.window and not load.stopping:
            self.send(count, now_s)

    def send(self, count: int, due_s: float, *, press: bool = False) -> None:
        """Publish this many messages in one write."""
        at, form, due, seq, packet_id = self._load.at, self._form, self._due, self.seq, self.packet_id
        fixed = len(self._head) + 2 + len(b'{"seq":,"at":"",') + len(at)
        packets = []
        for _ in range(count):
            seq += 1
            packet_id = packet_id % 65_535 + 1
            tail = _PRESS if press else _TAILS[seq & 63]
            length = _length(fixed + len(b"%d" % seq) + len(tail))
            packets.append(form % (length, packet_id >> 8, packet_id & 0xFF, seq, at, tail))
            due[packet_id] = due_s
            if press:
                self._pressed.add(packet_id)
        self.seq, self.packet_id = seq, packet_id
        self.transport.write(b"".join(packets))
        self.in_flight += count
        self._load.sent += count


class Load:
    """A set of connected devices. ``credentials`` are (device id, token); device i presses at most when it is told."""

    def __init__(self, host: str, port: int, credentials: Sequence[tuple[str, str]], *, first_seq: int = 0) -> None:
        if host != "127.0.0.1":
            raise ValueError("the load generator sends to 127.0.0.1 only")
        self._host = host
        self._port = port
        self._credentials = credentials
        self.first_seq = first_seq
        self.devices: list[_Device] = []
        self.window = 0
        self.stopping = False
        self.sent = self.acked = self.lost = 0
        self.at = b""
        self.telemetry, self.presses = Latencies(), Latencies()
        self.press_due_s: dict[str, float] = {}

    async def connect(self) -> None:
        """Connect every device. Raises ConnectionError when one is refused."""
        loop = asyncio.get_running_loop()
        for start in range(0, len(self._credentials), CONNECT_AT_ONCE):
            waiting = []
            for name, token in self._credentials[start : start + CONNECT_AT_ONCE]:
                connected: asyncio.Future[None] = loop.create_future()
                device = _Device(self, name, token, connected)
                await loop.create_connection(lambda device=device: device, self._host, self._port)  # type: ignore[misc]
                self.devices.append(device)
                waiting.append(connected)
            for connected in waiting:
                await connected

    async def closed_loop(self, seconds: float, window: int) -> Result:
        """As fast as the acknowledgements come: every device keeps ``window`` messages under way."""
        self.window = window
        started_s = time.perf_counter()
        self._stamp()
        for device in self.devices:
            device.send(window, started_s)
        while time.perf_counter() - started_s < seconds:
            await asyncio.sleep(0.005)
            self._stamp()
        self.stopping = True
        return await self._result(started_s)

    async def open_loop(self, seconds: float, rate_per_s: float, presses_per_s: float = 0.0) -> Result:
        """At a rate that does not care for acknowledgements; each press comes from a device that never pressed.

        Where all devices speak within a second they do so before anybody presses: a device's first message costs more.
        """
        started_s = time.perf_counter()
        first_s = 1.0 if rate_per_s >= len(self.devices) else 0.0
        pressers = iter(self.devices)
        sent = pressed = turn = 0
        while (elapsed_s := time.perf_counter() - started_s) < seconds:
            self._stamp()
            due = int(elapsed_s * rate_per_s) - sent
            due_s = time.perf_counter()
            for _ in range(due):
                self.devices[turn].send(1, started_s + sent / rate_per_s)
                turn = (turn + 1) % len(self.devices)
                sent += 1
            while pressed < (elapsed_s - first_s) * presses_per_s and (device := next(pressers, None)) is not None:
                self.press_due_s[device._name] = due_s  # noqa: SLF001 - of one module
                device.send(1, due_s, press=True)
                pressed += 1
            await asyncio.sleep(TICK_S)
        return await self._result(started_s)

    async def close(self) -> None:
        for device in self.devices:
            device.transport.close()
        await asyncio.sleep(0)

    async def _result(self, started_s: float) -> Result:
        deadline_s = time.perf_counter() + 20
        while self.acked < self.sent and time.perf_counter() < deadline_s:
            await asyncio.sleep(0.002)
        elapsed_s = time.perf_counter() - started_s
        return Result(self.sent, self.acked, elapsed_s, self.telemetry.summary(), self.presses.summary())

    def _stamp(self) -> None:
        now = time.time()
        self.at = (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now * 1000) % 1000:03d}Z").encode()


def _length(number: int) -> bytes:
    """A Remaining Length of at most two bytes."""
    return bytes((number,)) if number < 128 else bytes((number & 0x7F | 0x80, number >> 7))
