"""An outbox on a real file, with channels that do as they are told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import apsw

from alerts import outbox_rows
from alerts.channel import Dispatch, Receipt
from alerts.outbox import Outbox
from gateway import audit
from gateway.clock import VirtualClock
from tests.alerts_support import FileStore, committed

Answer = Callable[[Dispatch], BaseException | None]


class ToldChannel:
    """Answers as told, and remembers what it was asked."""

    def __init__(self, answer: Answer = lambda dispatch: None) -> None:
        self.answer = answer
        self.seen: list[Dispatch] = []
        self.at_once: Counter[str] = Counter()
        self.most_at_once: defaultdict[str, int] = defaultdict(int)
        self.pause_s = 0.0
        self.closed = False

    def ready(self) -> bool:
        return True

    async def send(self, dispatch: Dispatch) -> Receipt:
        self.seen.append(dispatch)
        self.at_once[dispatch.order_key] += 1
        self.most_at_once[dispatch.order_key] = max(
            self.most_at_once[dispatch.order_key], self.at_once[dispatch.order_key]
        )
        await asyncio.sleep(self.pause_s)
        self.at_once[dispatch.order_key] -= 1
        error = self.answer(dispatch)
        if error is not None:
            raise error
        return Receipt(f"X-{dispatch.id}")

    async def close(self) -> None:
        self.closed = True


class Notes:
    """A handler and a technician that write down what they were told."""

    def __init__(self) -> None:
        self.delivered_ids: list[int] = []
        self.died_ids: list[int] = []
        self.told: list[tuple[str, str]] = []
        self.broken = False

    def delivered(self, connection: apsw.Connection, dispatch: Dispatch, receipt: Receipt, now_us: int) -> None:
        if self.broken:
            connection.execute("DELETE FROM outbox")
            raise ZeroDivisionError
        self.delivered_ids.append(dispatch.id)

    def died(self, connection: apsw.Connection, dispatch: Dispatch, reason: str, now_us: int) -> None:
        self.died_ids.append(dispatch.id)

    def __call__(self, connection: apsw.Connection, destination: str, reason: str, now_us: int) -> None:
        self.told.append((destination, reason))


class Bench:
    def __init__(self, folder: Path) -> None:
        self.store = FileStore(folder)
        self.clock = VirtualClock(datetime(2026, 11, 22, tzinfo=UTC))
        self.notes = Notes()
        self.count = 0

    def put(self, *, key: str = "person/P-1", priority: int = 1, destination: str = "a", alert_id: str = "A") -> int:
        self.count += 1
        return committed(
            self.store.connection,
            lambda c: outbox_rows.enqueue(
                c, lane="x", destination=destination, order_key=key, priority=priority,
                idempotency_key=f"k{self.count}", alert_id=alert_id, payload={"n": self.count},
                now_us=self.clock.now_us(),
            ),
        )  # fmt: skip

    def outbox(self, workers: int = 8, **channels: ToldChannel) -> Outbox:
        return Outbox(
            self.store, channels, self.clock, handlers={"x": self.notes}, technician=self.notes,
            rng=random.Random(3), workers=workers, poll_s=0.01,
        )  # fmt: skip

    def states(self) -> Counter[str]:
        return Counter(row["state"] for row in outbox_rows.list_outbox(self.store.connection, limit=10_000))

    def run(self, outbox: Outbox, until: Callable[[], bool], *, step_s: float = 0.0) -> None:
        """Let it work until then, the clock going on by ``step_s`` at each look."""

        async def main() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(outbox.run())
                async with asyncio.timeout(60):
                    while not until():
                        await asyncio.sleep(0.002)
                        if step_s:
                            self.clock.advance(step_s)
                outbox.close()

        asyncio.run(main())


def benches(tmp_path: Path) -> Iterator[Bench]:
    """For a fixture: one bench, whose audit is whole at the end."""
    made = Bench(tmp_path)
    yield made
    assert list(audit.verify(made.store.connection)) == []
    made.store.close()
