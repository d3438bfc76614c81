"""A client's side of MQTT, written apart from the endpoint's codec, and stand-ins for what the endpoint is given."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import apsw
import msgspec

from gateway.clock import Clock, SystemClock
from gateway.errors import StorageError
from gateway.model import DeviceBinding, Frame, Verdict
from protocols.transports.mqtt_endpoint.limits import Limits
from protocols.transports.mqtt_endpoint.server import MqttEndpoint
from tests.quick_file import quick_database

T = TypeVar("T")

TOKEN = b"a token of 256 bits"


def bounds(**changes: Any) -> Limits:
    """Limits with short waits."""
    return msgspec.structs.replace(Limits(sweep_s=0.05, drain_s=0.3), **changes)


class FakeIngest:
    """Takes frames; the test says when and how they are committed, unless ``verdict`` says it for all."""

    def __init__(self, verdict: Verdict | None = Verdict.ACCEPTED) -> None:
        self.verdict = verdict
        self.frames: list[Frame] = []
        self.offers = 0
        self.open: asyncio.Future[Verdict] | None = None

    def offer(self, frames: Sequence[Frame]) -> asyncio.Future[Verdict]:
        self.frames += frames
        self.offers += 1
        if self.open is None:
            self.open = asyncio.get_running_loop().create_future()
            if self.verdict is not None:
                asyncio.get_running_loop().call_soon(self.commit, self.verdict)
        return self.open

    def commit(self, verdict: Verdict = Verdict.ACCEPTED) -> None:
        future, self.open = self.open, None
        if future is not None and not future.done():
            future.set_result(verdict)

    async def deliver(self, frames: Sequence[Frame]) -> Verdict:
        self.frames += frames
        return self.verdict or Verdict.ACCEPTED


class FakeRegistry:
    """Directory and Credentials: every device whose token is TOKEN, as long as it is not in ``gone``."""

    def __init__(self, codec: str = "native") -> None:
        self.codec = codec
        self.gone: set[str] = set()
        self.broken = False
        self.delay_s = 0.0
        self.gate: asyncio.Event | None = None  # when there is one, a check waits for it

    def device(self, device_id: str) -> DeviceBinding | None:
        return None if device_id in self.gone else DeviceBinding(device_id, "carebell.native", self.codec)

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return None

    async def authenticate(self, device_id: str, token: bytes) -> DeviceBinding | None:
        await asyncio.sleep(self.delay_s)
        if self.gate is not None:
            await self.gate.wait()
        if self.broken:
            raise StorageError("the registry cannot be read")
        return self.device(device_id) if token == TOKEN else None

    async def by_certificate(self, common_name: str) -> DeviceBinding | None:
        return self.device(common_name)


class FileStore:
    """ports.Store on a real journal file, without a writer thread of its own."""

    def __init__(self, path: Path) -> None:
        self._connection = quick_database(path)
        self.broken = False

    async def write(self, fn: Callable[[apsw.Connection], T]) -> T:
        await asyncio.sleep(0)
        if self.broken:
            raise StorageError("nothing can be written")
        with self._connection:
            result = fn(self._connection)
        return result  # noqa: RET504 -- within the with mypy takes the transaction for one that swallows

    async def read(self, fn: Callable[[apsw.Connection], T]) -> T:
        await asyncio.sleep(0)
        return fn(self._connection)

    glance = read

    def close(self) -> None:
        self._connection.close()


class World:
    """A running endpoint and what it was given."""

    def __init__(
        self, path: Path, *, limits: Limits, clock: Clock | None = None, codec: str = "native", **kwargs: Any
    ) -> None:
        self.ingest = FakeIngest()
        self.registry = FakeRegistry(codec)
        self.store = FileStore(path / "journal.sqlite3")
        self.clock = clock or SystemClock()
        self.endpoint = MqttEndpoint(
            listen="127.0.0.1:0",
            ingest=self.ingest,
            credentials=self.registry,
            directory=self.registry,
            store=self.store,
            clock=self.clock,
            limits=limits,
            **kwargs,
        )

    @property
    def port(self) -> int:
        return int(self.endpoint.address.rpartition(":")[2])

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what must come true."""
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.01)

    async def nobody_left(self) -> None:
        await self.until(lambda: self.endpoint.counters()["connections"] == 0)

    async def connect(self, **kwargs: Any) -> Client:
        client = await Client.open(self.port)
        await client.connect(**kwargs)
        return client


@asynccontextmanager
async def running(path: Path, limits: Limits | None = None, **kwargs: Any) -> AsyncIterator[World]:
    world = World(path, limits=limits or bounds(), **kwargs)
    try:
        await world.endpoint.start()
        async with asyncio.TaskGroup() as group:
            task = group.create_task(world.endpoint.run())
            try:
                yield world
            finally:
                task.cancel()
    finally:
        world.store.close()


def play(story: Coroutine[Any, Any, None]) -> None:
    """Run a test's story and close the clients that it opened."""

    async def main() -> None:
        try:
            await story
        finally:
            for client in Client.opened:
                await client.close()
            Client.opened.clear()

    asyncio.run(main())


# ---- what a client writes --------------------------------------------------------------------------------------------


def varint(value: int) -> bytes:
    out = b""
    while True:
        value, low = divmod(value, 128)
        out += bytes([low | (0x80 if value else 0)])
        if not value:
            return out


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(raw)) + raw


def packet(first: int, body: bytes) -> bytes:
    return bytes([first]) + varint(len(body)) + body


def connect_packet(
    device_id: str | None = "D-1",
    *,
    token: bytes | None = TOKEN,
    client_id: str = "c",
    version: int = 4,
    clean: bool = True,
    keep_alive: int = 60,
    properties: bytes = b"",
    will: tuple[str, bytes] | None = None,
    will_flags: int = 0,
    will_properties: bytes = b"",
) -> bytes:
    flags = clean << 1 | will_flags
    flags |= 0x80 if device_id is not None else 0
    flags |= 0x40 if token is not None else 0
    flags |= 0x04 if will is not None else 0
    body = text("MQTT") + bytes([version, flags]) + struct.pack(">H", keep_alive)
    if version == 5:
        body += varint(len(properties)) + properties
    body += text(client_id)
    if will is not None:
        if version == 5:
            body += varint(len(will_properties)) + will_properties
        body += text(will[0]) + text(will[1])
    if device_id is not None:
        body += text(device_id)
    if token is not None:
        body += text(token)
    return packet(0x10, body)


def publish_packet(
    topic: str,
    payload: bytes,
    *,
    qos: int = 1,
    packet_id: int = 1,
    dup: bool = False,
    retain: bool = False,
    version: int = 4,
    properties: bytes = b"",
) -> bytes:
    body = text(topic)
    if qos:
        body += struct.pack(">H", packet_id)
    if version == 5:
        body += varint(len(properties)) + properties
    return packet(0x30 | dup << 3 | qos << 1 | retain, body + payload)


def subscribe_packet(
    *filters: str, packet_id: int = 10, options: int = 1, version: int = 4, properties: bytes = b""
) -> bytes:
    body = struct.pack(">H", packet_id)
    if version == 5:
        body += varint(len(properties)) + properties
    return packet(0x82, body + b"".join(text(one) + bytes([options]) for one in filters))


DISCONNECT = b"\xe0\x00"
PINGREQ = b"\xc0\x00"


def puback(packet_id: int) -> bytes:
    return struct.pack(">BBH", 0x40, 2, packet_id)


# ---- what it reads ---------------------------------------------------------------------------------------------------


class Client:
    """A raw connection. ``receive`` returns (first byte, body) of one packet, None at the end of the stream."""

    opened: ClassVar[list[Client]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(self)
        self.reader = reader
        self.writer = writer
        self.connack = b""

    @classmethod
    async def open(cls, port: int, **kwargs: Any) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port, **kwargs))

    async def connect(self, **kwargs: Any) -> None:
        self.send(connect_packet(**kwargs))
        answer = await self.receive()
        assert answer is not None
        assert answer[0] == 0x20
        self.connack = answer[1]

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def receive(self, timeout_s: float = 60) -> tuple[int, bytes] | None:
        async with asyncio.timeout(timeout_s):
            try:
                first = (await self.reader.readexactly(1))[0]
                length = shift = 0
                while True:
                    byte = (await self.reader.readexactly(1))[0]
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                return first, await self.reader.readexactly(length)
            except (asyncio.IncompleteReadError, ConnectionError):
                return None

    async def silent(self, seconds: float = 0.15) -> bool:
        """Whether nothing comes for a while."""
        try:
            await self.receive(seconds)
        except TimeoutError:
            return True
        return False

    async def ended(self) -> bool:
        """Whether the server closes without another word."""
        return await self.receive() is None

    async def roundtrip(self) -> None:
        self.send(PINGREQ)
        assert await self.receive() == (0xD0, b"")

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()
