"""Readiness, loop lag and host load."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import apsw
import pytest

from gateway.clock import SystemClock, VirtualClock
from gateway.errors import StorageBrokenError
from gateway.health import Health, HostLoad, LoopLag
from gateway.storage.database import FILE_NAME, open_database

T = TypeVar("T")
START = datetime(2026, 11, 22, tzinfo=UTC)


class OneFile:
    def __init__(self, folder: Path) -> None:
        self.connection = open_database(folder / FILE_NAME)
        self.writes = 0
        self.error: Exception | None = None
        self.stuck = False

    async def write(self, fn: Callable[[apsw.Connection], T]) -> T:
        if self.error is not None:
            raise self.error
        if self.stuck:
            await asyncio.Event().wait()
        self.writes += 1
        return fn(self.connection)

    async def read(self, fn: Callable[[apsw.Connection], T]) -> T:
        return fn(self.connection)


class Part:
    def __init__(self, name: str) -> None:
        self.name = name
        self.ok = True

    def state(self) -> tuple[bool, str]:
        return self.ok, "up" if self.ok else "down"


def test_ready_means_a_commit_not_older_than_two_seconds(tmp_path: Path) -> None:
    async def main() -> None:
        clock, store = VirtualClock(START), OneFile(tmp_path)
        health = Health(store=store, clock=clock)
        for _ in range(3):
            assert (await health.report())[0]
        assert store.writes == 1
        clock.advance(2.1)
        store.error = StorageBrokenError("disk I/O error")
        ready, report = await health.report()
        assert not ready
        assert report["parts"] == [{"name": "journal", "ok": False, "text": "disk I/O error", "required": True}]
        store.error = None
        assert (await health.report())[0]
        assert store.connection.execute("SELECT value FROM meta WHERE key = 'probe'").fetchone() == (clock.now_us(),)
        clock.advance(10)
        health.committed()
        assert (await health.report())[0]
        assert store.writes == 2
        store.connection.close()

    asyncio.run(main())


def test_a_writer_that_hangs_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.health.PROBE_TIMEOUT_S", 0.05)

    async def main() -> None:
        store = OneFile(tmp_path)
        store.stuck = True
        health = Health(store=store, clock=SystemClock())
        assert "no commit" in await health.probe()
        store.connection.close()

    asyncio.run(main())


def test_only_required_parts_decide(tmp_path: Path) -> None:
    async def main() -> None:
        store = OneFile(tmp_path)
        health = Health(store=store, clock=SystemClock())
        history, rules = Part("history"), Part("rules")
        health.add(history)
        health.add(rules, required=True)
        history.ok = False
        ready, states = await health.parts()
        assert ready
        assert [(state.name, state.ok) for state in states] == [("journal", True), ("history", False), ("rules", True)]
        rules.ok = False
        assert not (await health.parts())[0]
        store.connection.close()

    asyncio.run(main())


def test_loop_lag_sees_a_held_loop() -> None:
    async def main() -> None:
        lag = LoopLag(SystemClock(), limit_s=0.1)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(lag.run())
            await asyncio.sleep(0.2)
            while not lag.state()[0]:  # a busy machine holds it by itself
                await asyncio.sleep(0.1)
            asyncio.get_running_loop().call_soon(__import__("time").sleep, 0.3)
            await asyncio.sleep(0.12)
            while lag.histogram.quantile(1.0) < 0.2:
                await asyncio.sleep(0.01)
            task.cancel()

    asyncio.run(main())


def test_host_load_is_not_ok_after_ten_minutes_above_the_limit() -> None:
    clock, load = VirtualClock(START), [0.5]
    part = HostLoad(clock, lambda: load[0])
    part.sample()
    assert part.state()[0]
    load[0] = 0.9
    part.sample()
    clock.advance(599)
    part.sample()
    assert part.state()[0]
    clock.advance(1)
    part.sample()
    assert not part.state()[0]
    assert "90%" in part.state()[1]
    load[0] = 0.69
    part.sample()
    assert part.state()[0]
    load[0] = 0.71
    part.sample()
    assert part.state()[0]
