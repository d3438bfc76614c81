"""Duties: in order, again while the file cannot be written, and open until they are done."""

from __future__ import annotations

import asyncio

import pytest

from gateway import duties as module
from gateway.duties import Duties
from gateway.errors import StorageBrokenError, StorageError


class Worker:
    def __init__(self) -> None:
        self.done: list[int] = []
        self.errors: list[Exception] = []

    async def do(self, duty: int) -> None:
        await asyncio.sleep(0)
        if self.errors:
            raise self.errors.pop(0)
        self.done.append(duty)


async def until_done(duties: Duties[int]) -> None:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        running = group.create_task(duties.run())
        while duties.is_open():
            await asyncio.sleep(0)
        running.cancel()


def test_what_the_file_refuses_is_tried_again_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.0)

    async def main() -> None:
        worker = Worker()
        duties = Duties("test", worker.do)
        assert not duties.is_open()
        for number in range(3):
            duties.add(number)
        worker.errors = [StorageError("full"), StorageError("full")]
        await until_done(duties)
        assert worker.done == [0, 1, 2]

    asyncio.run(main())


def test_a_fault_is_not_tried_again_and_an_end_leaves_it_open() -> None:
    async def main() -> None:
        worker = Worker()
        duties = Duties("test", worker.do)
        duties.add(0)
        duties.add(1)
        worker.errors = [KeyError("ours")]
        with pytest.raises(KeyError):
            await duties.run()
        assert duties.is_open()
        worker.errors = [StorageBrokenError("disk")]
        with pytest.raises(StorageBrokenError):
            await duties.run()
        async with asyncio.TaskGroup() as group:
            running = group.create_task(duties.run())
            await asyncio.sleep(0)
            running.cancel()  # in its middle
        assert duties.is_open()
        await until_done(duties)
        assert worker.done == [1]

    asyncio.run(main())
