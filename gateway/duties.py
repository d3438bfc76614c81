"""What committed records ask of somebody besides the rules: done in their order, and not forgotten.

The rules' bookmark does not pass a record whose duty is open (``gateway.judge.Judge.follow``): what an end interrupts
is found again at the next start. Whatever is done therefore has to bear being done twice.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

import structlog

from gateway.errors import StorageBrokenError, StorageError

PAUSE_S: Final = 1.0
T = TypeVar("T")
log = structlog.get_logger("duties")


class Duties(Generic[T]):
    """``add`` on the loop, or before it runs; ``run`` calls ``do`` for one after the other.

    What waits needs no bound of its own: it is of records that were committed to the same file that ``do`` writes.
    """

    def __init__(self, name: str, do: Callable[[T], Awaitable[None]]) -> None:
        """``do`` may raise StorageError: then it is called again for the same, a second later."""
        self._name = name
        self._do = do
        self._waiting: deque[T] = deque()
        self._woken = asyncio.Event()

    def add(self, duty: T) -> None:
        self._waiting.append(duty)
        self._woken.set()

    def is_open(self) -> bool:
        """Whether something is still to be done."""
        return bool(self._waiting)

    async def run(self) -> None:
        """Until cancelled. Raises StorageBrokenError."""
        while True:
            self._woken.clear()
            while self._waiting:
                await self._do_next()
            await self._woken.wait()

    async def _do_next(self) -> None:
        try:
            await self._do(self._waiting[0])
        except StorageBrokenError:
            raise
        except StorageError as error:
            log.warning("duty_waits", name=self._name, error=str(error))
            await asyncio.sleep(PAUSE_S)
            return
        except Exception:
            self._waiting.popleft()  # a fault of ours would be one each time
            raise
        self._waiting.popleft()
