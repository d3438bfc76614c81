"""Simulated terminals on the real protocols, each holding the whole conversation. Nothing here knows the gateway.

A protocol is a ``Script`` in a module of its own, named in ``simulators.terminals.registry``: what the terminal says,
and what it waits for. ``Terminal`` connects, logs in, sends, waits, answers commands, and sends again what was not
answered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Final, Protocol

from msgspec import Struct

REPLY_S: Final = 32.0
RESEND_FIRST_S: Final = 0.5
RESEND_LAST_S: Final = 4.0
REFUSED_S: Final = 0.5
RETRY_FIRST_S: Final = 0.2
RETRY_LAST_S: Final = 5.0
READ_BYTES: Final = 65_536


class Place(Struct, frozen=True):
    """WGS-84 degrees, metres a second, degrees."""

    latitude: float
    longitude: float
    speed_m_per_s: float = 0.0
    course_degrees: int = 0
    valid: bool = True


class Facts(Struct, frozen=True):
    """What a terminal knows at a moment. ``alarms`` are common names: sos, fall, removed, low_battery, ..."""

    at: datetime
    place: Place | None = None
    alarms: tuple[str, ...] = ()
    battery_percent: int = 80
    steps: int = 0
    heart_rate_bpm: int = 0


class Message(Struct, frozen=True):
    """Bytes to send, and how the answer begins that means "stored"; empty: the protocol never answers this.

    ``refused`` is how an answer begins that means "not by me": the message is sent again a little later.
    """

    payload: bytes
    expects: bytes = b""
    refused: bytes = b""


class Script(Protocol):
    """One terminal's side of a protocol. No sockets, no clock."""

    datagrams: bool
    """Whether it speaks UDP; else TCP."""

    def __init__(self, identity: str) -> None:
        """``identity``: the IMEI, or whatever the protocol knows terminals by."""
        ...

    def hello(self, now: datetime) -> Sequence[Message]:
        """What opens every connection: registration, login. Sent one after the other, each answered."""
        ...

    def heartbeat(self, facts: Facts) -> Message: ...

    def report(self, facts: Facts) -> Message:
        """A position with what else the protocol can say; an alarm message when there are alarms."""
        ...

    def frames(self, data: bytes) -> Sequence[bytes]:
        """Cut what the gateway sends; keeps the rest for the next call."""
        ...

    def command(self, frame: bytes) -> Message | None:
        """The answer to a frame that is a command; None for what is none."""
        ...


def by_size(buffer: bytes, head: int, size_of: Callable[[bytes], int]) -> tuple[list[bytes], bytes]:
    """The whole frames at the beginning and the rest; ``size_of`` knows a frame's size by its first ``head`` bytes."""
    found = []
    while len(buffer) >= head:
        size = size_of(buffer)
        if len(buffer) < size:
            break
        found.append(buffer[:size])
        buffer = buffer[size:]
    return found, buffer


class ClosedError(ConnectionError):
    """The connection ended before the answer. Handler: ``Terminal`` connects and sends again."""


class RefusedError(ConnectionError):
    """The gateway does not take this message, or not yet. Handler: ``Terminal`` sends it again after a pause."""


class Terminal:
    """One terminal on one gateway. ``run`` keeps it connected until cancelled; ``send`` returns once it is answered."""

    def __init__(self, script: Script, host: str, port: int, *, rng: random.Random | None = None) -> None:
        self.script = script
        self._host = host
        self._port = port
        self._rng = rng or random.Random()
        self._write: Callable[[bytes], None] | None = None
        self._close: Callable[[], None] = lambda: None
        self._connected = asyncio.Event()
        self._waiting: list[tuple[Message, asyncio.Future[None]]] = []
        self.connections = 0
        self.resent = self.refused = 0
        self.commands: list[bytes] = []
        self.last_error = ""

    async def run(self) -> None:
        """Connect, say hello, read; again after every end, with growing pauses."""
        pause_s = RETRY_FIRST_S
        while True:
            try:
                await (self._datagrams() if self.script.datagrams else self._stream())
                pause_s = RETRY_FIRST_S
            except (OSError, TimeoutError) as error:
                self.last_error = f"{type(error).__name__}: {error}"
            finally:
                self._gone()
            await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1.0))
            pause_s = min(RETRY_LAST_S, pause_s * 2)

    async def send(self, message: Message) -> float:
        """Seconds until it was answered, over as many connections as that took."""
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        first = True
        while True:
            await self._connected.wait()
            self.resent += not first
            first = False
            try:
                await self._exchange(message)
            except RefusedError:
                await asyncio.sleep(REFUSED_S)
            except (ClosedError, TimeoutError):
                pass  # again, on the next connection
            else:
                return loop.time() - begun_s

    async def break_off(self) -> None:
        """End the connection without a good-bye."""
        self._close()

    # ---- the conversation --------------------------------------------------------------------------------------------

    async def _exchange(self, message: Message) -> None:
        if self._write is None:
            raise ClosedError
        if not message.expects:
            self._write(message.payload)
            return
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = (message, answered)
        self._waiting.append(waiting)
        self._write(message.payload)
        try:
            async with asyncio.timeout(REPLY_S):
                if self.script.datagrams:
                    await self._repeated(message.payload, answered)
                await answered
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    async def _repeated(self, payload: bytes, answered: asyncio.Future[None]) -> None:
        """Send a datagram again and again until it is answered: RFC 3261, 17.1.2.2, timer E. Others do alike."""
        pause_s = RESEND_FIRST_S
        while not (await asyncio.wait([answered], timeout=pause_s))[0]:
            if self._write is not None:
                self._write(payload)
                self.resent += 1
            pause_s = min(RESEND_LAST_S, pause_s * 2)

    async def _hello(self) -> None:
        from simulators.payloads import utc_now  # noqa: PLC0415 - the clock of simulators, needed here alone

        for message in self.script.hello(utc_now()):
            await self._exchange(message)
        self.connections += 1
        self._connected.set()

    def _received(self, data: bytes) -> None:
        for frame in self.script.frames(data):
            answer = self.script.command(frame)
            if answer is not None:
                self.commands.append(frame)
                if self._write is not None:
                    self._write(answer.payload)
                continue
            for waiting in self._waiting:
                message, answered = waiting
                stored = frame.startswith(message.expects)
                if answered.done() or not (stored or (message.refused and frame.startswith(message.refused))):
                    continue
                self._waiting.remove(waiting)
                if stored:
                    answered.set_result(None)
                else:
                    self.refused += 1
                    answered.set_exception(RefusedError("the gateway does not take it"))
                break

    def _gone(self) -> None:
        self._write = None
        self._close = lambda: None
        self._connected.clear()
        waiting, self._waiting = self._waiting, []
        for _, answered in waiting:
            if not answered.done():
                answered.set_exception(ClosedError("the connection ended"))

    async def _stream(self) -> None:
        async with asyncio.timeout(REPLY_S):
            reader, writer = await asyncio.open_connection(self._host, self._port)
        self._write, self._close = writer.write, writer.close
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hello())
                while data := await reader.read(READ_BYTES):
                    self._received(data)
                self._gone()
                raise ClosedError("the gateway closed the connection")
        except* (OSError, TimeoutError) as errors:
            raise ClosedError(str(errors.exceptions[0])) from None
        finally:
            writer.close()

    async def _datagrams(self) -> None:
        ended = asyncio.Event()
        terminal = self

        class Endpoint(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                del addr
                terminal._received(data)

            def error_received(self, exc: Exception) -> None:
                terminal.last_error = str(exc)

            def connection_lost(self, exc: Exception | None) -> None:
                del exc
                ended.set()

        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Endpoint, remote_addr=(self._host, self._port)
        )
        self._write, self._close = transport.sendto, transport.close
        try:
            await self._hello()
            await ended.wait()
        finally:
            transport.close()
