"""What the transaction that fills the outbox takes out of it itself, beside the pump and other transactions."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from alerts import outbox_rows
from alerts.channel import Dispatch, Receipt
from alerts.outbox import Outbox, Taking
from gateway.errors import (
    StorageError,
)
from tests.alerts_support import FileStore, committed
from tests.outbox_bench import Bench, ToldChannel, benches


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def taking(bench: Bench, outbox: Outbox, write: Callable[[Taking], None], until: Callable[[], bool]) -> None:
    """Run the outbox, and ``write`` beside it once it runs."""

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(outbox.run())
            await asyncio.sleep(0.05)
            with contextlib.suppress(StorageError), outbox.taking(100) as took:
                await asyncio.sleep(0.05)  # the pump looks meanwhile, and finds no place
                write(took)
            async with asyncio.timeout(60):
                while not until():
                    await asyncio.sleep(0.002)
            outbox.close()

    asyncio.run(main())


def test_what_a_transaction_puts_in_it_takes_out_itself(bench: Bench) -> None:
    channel = ToldChannel()
    states: list[Counter[str]] = []

    def write(took: Taking) -> None:
        def fill(connection: apsw.Connection) -> None:
            outbox_rows.enqueue(
                connection, lane="x", destination="a", order_key="person/P-1", priority=1, idempotency_key="k",
                alert_id="A", payload={}, now_us=bench.clock.now_us(),
            )  # fmt: skip
            took.take(connection, bench.clock.now_us())

        committed(bench.store.connection, fill)
        states.append(bench.states())

    taking(bench, bench.outbox(a=channel), write, lambda: bench.states()["done"] == 1)
    assert states == [Counter(sending=1)]
    assert [(each.attempt, each.uncertain) for each in channel.seen] == [(1, False)]
    assert bench.notes.delivered_ids == [1]


@pytest.mark.parametrize("workers", [1, 8])
def test_places_that_were_kept_for_nothing_are_free_again(bench: Bench, workers: int) -> None:
    channel = ToldChannel()

    def write(took: Taking) -> None:
        del took  # the transaction put nothing in; somebody else did
        for number in range(3):
            bench.put(key=f"person/P-{number}")

    taking(bench, bench.outbox(workers, a=channel), write, lambda: bench.states()["done"] == 3)
    assert len(channel.seen) == 3


def test_what_a_failed_transaction_took_goes_out_once_and_later(bench: Bench) -> None:
    channel = ToldChannel()

    def write(took: Taking) -> None:
        bench.put()
        with contextlib.suppress(ZeroDivisionError), bench.store.connection:
            took.take(bench.store.connection, bench.clock.now_us())
            raise ZeroDivisionError
        assert bench.states() == Counter(pending=1)
        raise StorageError("held")

    taking(bench, bench.outbox(a=channel), write, lambda: bench.states()["done"] == 1)
    assert [each.attempt for each in channel.seen] == [1]


class SlowStore(FileStore):
    """As beside a busy loop: others run while it works."""

    async def write(self, fn: Callable[[apsw.Connection], Any]) -> Any:
        await asyncio.sleep(0.003)
        return await super().write(fn)

    async def read(self, fn: Callable[[apsw.Connection], Any]) -> Any:
        await asyncio.sleep(0.003)
        return await super().read(fn)


class CountingChannel(ToldChannel):
    """Knows how many it was asked for at once."""

    running = most = 0

    async def send(self, dispatch: Dispatch) -> Receipt:
        self.running += 1
        self.most = max(self.most, self.running)
        receipt = await super().send(dispatch)
        self.running -= 1
        return receipt


@pytest.mark.parametrize("most", [1, 100])
def test_what_a_transaction_fills_beside_another_that_keeps_every_place_is_not_left_lying(
    bench: Bench, most: int
) -> None:
    """Timers fire in one transaction while a press is written in another: the press must not wait for the poll."""
    channel = ToldChannel()
    outbox = Outbox(
        bench.store, {"a": channel}, bench.clock, handlers={"x": bench.notes}, technician=bench.notes,
        rng=random.Random(3), workers=2, poll_s=3600.0,
    )  # fmt: skip

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(outbox.run())
            async with asyncio.timeout(60):
                await asyncio.sleep(0.05)  # its first look finds nothing
                now_us = bench.clock.now_us()
                with outbox.taking(100) as timers:
                    with outbox.taking(most) as press:
                        bench.put()
                        press.take(bench.store.connection, now_us)
                    timers.take(bench.store.connection, now_us - 1)
                while bench.states()["done"] < 1:
                    await asyncio.sleep(0.002)
            outbox.close()

    asyncio.run(main())


def test_the_pump_and_transactions_together_keep_to_the_places(bench: Bench, tmp_path: Path) -> None:
    bench.store.close()
    bench.store = SlowStore(tmp_path)
    channel = CountingChannel()
    channel.pause_s = 0.01

    async def main() -> None:
        outbox = bench.outbox(2, a=channel)
        async with asyncio.TaskGroup() as group:
            group.create_task(outbox.run())
            async with asyncio.timeout(60):
                for number in range(60):
                    bench.put(key=f"person/P-{number}")
                    outbox.wake()
                    with outbox.taking(100) as took:
                        await bench.store.write(lambda c, took=took: took.take(c, bench.clock.now_us()))  # type: ignore[misc]
                while bench.states()["done"] < 60:
                    await asyncio.sleep(0.002)
            outbox.close()

    asyncio.run(main())
    assert channel.most == 2
