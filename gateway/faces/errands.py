"""What the process of pages asks of the gateway: lines of JSON on a stream socket, answers in any order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
import structlog
from msgspec import Struct

from gateway.errors import CarebellError, ConflictError, NotFoundError, StorageError, UsageError

ANSWER_S: Final = 10.0
LONGEST_LINE: Final = 4_194_304
AT_ONCE: Final = 64
"""Errands under way; the other process sends fewer."""
_RAISED: Final = {each.__name__: each for each in (ConflictError, NotFoundError, UsageError, StorageError)}
log = structlog.get_logger("faces")

Errand = Callable[..., Awaitable[Any]]


class Asked(Struct, tag="asked"):
    """An errand by name."""

    id: int
    name: str
    values: dict[str, Any]


class Status(Struct, tag="status"):
    """How the process of pages is, about once a second; numbers by name."""

    counts: dict[str, int]


class Answered(Struct, tag="answered"):
    """What came of an errand; ``error`` is the class of what it raised."""

    id: int
    value: Any = None
    error: str = ""
    text: str = ""


class Told(Struct, tag="told"):
    """Where the history is asked; None while there is no server."""

    dsn: str | None


class Asker:
    """The end of the process of pages. Follow it with ``run``."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_dsn: Callable[[str | None], None]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_dsn = on_dsn
        self._open: dict[int, asyncio.Future[Any]] = {}
        self._last_id = 0

    async def ask(self, name: str, **values: Any) -> Any:
        """Raises what the errand raised, StorageError when the gateway does not answer."""
        self._last_id += 1
        number = self._last_id
        answered = self._open[number] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._send(Asked(number, name, values))
                return await answered
        except (TimeoutError, ConnectionError):
            raise StorageError("the gateway does not answer") from None
        finally:
            del self._open[number]

    async def report(self, counts: dict[str, int]) -> None:
        await self._send(Status(counts))

    async def run(self) -> None:
        """Until the gateway closes."""
        while line := await self._reader.readline():
            match msgspec.json.decode(line, type=Answered | Told):
                case Told(dsn):
                    self._on_dsn(dsn)
                case Answered(number, value, error, text):
                    waiting = self._open.get(number)
                    if waiting is None or waiting.done():
                        continue
                    if error:
                        waiting.set_exception(_RAISED.get(error, StorageError)(text))
                    else:
                        waiting.set_result(value)

    async def _send(self, message: Asked | Status) -> None:
        self._writer.write(msgspec.json.encode(message) + b"\n")
        await self._writer.drain()


class Answerer:
    """The gateway's end: runs ``errands`` by name. ``on_status`` gets the numbers that the process tells."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        errands: Mapping[str, Errand],
        on_status: Callable[[dict[str, int]], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._errands = errands
        self._on_status = on_status
        self._places = asyncio.Semaphore(AT_ONCE)

    def tell(self, dsn: str | None) -> None:
        self._write(Told(dsn))

    async def run(self) -> None:
        """Until the other process closes; what is under way then ends first."""
        async with asyncio.TaskGroup() as group:
            while line := await self._reader.readline():
                match msgspec.json.decode(line, type=Asked | Status):
                    case Status(counts):
                        self._on_status(counts)
                    case Asked() as asked:
                        await self._places.acquire()
                        group.create_task(self._do(asked))

    async def _do(self, asked: Asked) -> None:
        try:
            answer = Answered(asked.id, await self._errands[asked.name](**asked.values))
        except CarebellError as error:
            known = next((base.__name__ for base in type(error).__mro__ if base.__name__ in _RAISED), "StorageError")
            answer = Answered(asked.id, error=known, text=str(error))
        except Exception as error:  # noqa: BLE001 - the fault of one errand is not the end of the pages
            log.error("errand_failed", name=asked.name, error=type(error).__name__)
            answer = Answered(asked.id, error="StorageError", text="a fault in carebell; it is logged")
        finally:
            self._places.release()
        self._write(answer)

    def _write(self, message: Answered | Told) -> None:
        if not self._writer.is_closing():
            self._writer.write(msgspec.json.encode(message) + b"\n")
