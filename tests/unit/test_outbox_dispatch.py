"""The outbox: order, priority, back-off, breaker, crash and dead letters, with channels that do as they are told."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alerts import auditor, outbox_rows
from alerts.breaker import Breaker, BreakerState
from alerts.channel import Dispatch, InFlightError, ServerFailedError
from gateway.clock import US_PER_S
from gateway.errors import (
    ConflictError,
    DeliveryDeferredError,
    DeliveryRefusedError,
    DeliveryUnknownError,
    NotFoundError,
    StorageBrokenError,
    StorageError,
    UsageError,
)
from tests.alerts_support import OPERATOR, committed
from tests.outbox_bench import Bench, ToldChannel, benches


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    yield from benches(tmp_path)


def test_each_persons_order_is_kept_and_persons_do_not_wait_for_each_other(bench: Bench) -> None:
    channel = ToldChannel()
    channel.pause_s = 0.002
    for number in range(40):
        bench.put(key=f"person/P-{number % 4}")
    bench.run(bench.outbox(a=channel), lambda: bench.states()["done"] == 40)
    for person in range(4):
        ids = [each.id for each in channel.seen if each.order_key == f"person/P-{person}"]
        assert ids == sorted(ids)
        assert channel.most_at_once[f"person/P-{person}"] == 1
    assert channel.closed


def test_order_is_kept_over_a_retry(bench: Bench) -> None:
    failed: set[int] = set()

    def answer(dispatch: Dispatch) -> BaseException | None:
        if dispatch.id == 1 and not failed:
            failed.add(1)
            return DeliveryDeferredError("later")
        return None

    channel = ToldChannel(answer)
    for _ in range(3):
        bench.put()
    bench.run(bench.outbox(a=channel), lambda: bench.states()["done"] == 3, step_s=0.2)
    assert [each.id for each in channel.seen] == [1, 1, 2, 3]


def test_emergencies_go_first_and_do_not_wait_for_less(bench: Bench) -> None:
    channel = ToldChannel()
    ids = {priority: bench.put(key="person/P-1", priority=priority) for priority in (4, 3, 2, 1)}
    bench.run(bench.outbox(workers=1, a=channel), lambda: bench.states()["done"] == 4)
    assert [each.id for each in channel.seen] == [ids[1], ids[2], ids[3], ids[4]]


def test_one_that_always_fails_does_not_hold_the_next_emergency(bench: Bench) -> None:
    channel = ToldChannel(lambda dispatch: ServerFailedError("500") if dispatch.id == 1 else None)
    bench.put()
    bench.put()
    bench.run(bench.outbox(a=channel), lambda: bench.states()["done"] == 1, step_s=0.5)
    assert Counter(each.id for each in channel.seen)[1] >= outbox_rows.TRIES_THAT_HOLD_ORDER


def test_what_a_crash_left_is_uncertain_at_the_next_start(bench: Bench) -> None:
    channel = ToldChannel()
    bench.put()
    taken = committed(bench.store.connection, lambda c: outbox_rows.claim(c, "a", 5, bench.clock.now_us()))
    assert [each.uncertain for each in taken] == [False]
    bench.run(bench.outbox(a=channel), lambda: bench.states()["done"] == 1)
    assert [(each.uncertain, each.attempt) for each in channel.seen] == [(True, 2)]


def test_retry_after_is_honoured_and_bounded(bench: Bench) -> None:
    first = bench.clock.now_us()
    channel = ToldChannel(
        lambda dispatch: (
            DeliveryDeferredError("429", 86_400.0 if dispatch.id == 2 else 45.0) if dispatch.attempt == 1 else None
        )
    )
    bench.put(key="a")
    bench.put(key="b")
    bench.run(bench.outbox(a=channel), lambda: bench.states()["retry"] == 2)
    due = dict(bench.store.connection.execute("SELECT id, next_at_us FROM outbox"))
    assert due[1] - first == 45 * US_PER_S
    assert due[2] - first == 600 * US_PER_S


def test_backoff_has_full_jitter_within_its_bounds(bench: Bench) -> None:
    channel = ToldChannel(lambda dispatch: ServerFailedError("500"))
    for number in range(30):
        bench.put(key=f"p{number}")
    bench.run(bench.outbox(workers=30, a=channel), lambda: bench.states()["retry"] == 30)
    now_us = bench.clock.now_us()
    delays = [row[0] - now_us for row in list[Any](bench.store.connection.execute("SELECT next_at_us FROM outbox"))]
    assert all(0 <= delay <= US_PER_S for delay in delays)
    assert len(set(delays)) > 20


def test_a_lost_answer_is_asked_for_at_once(bench: Bench) -> None:
    channel = ToldChannel(lambda dispatch: DeliveryUnknownError("reset") if dispatch.attempt == 1 else None)
    bench.put()
    bench.run(bench.outbox(a=channel), lambda: bench.states()["done"] == 1)  # the clock stands still
    assert [each.uncertain for each in channel.seen] == [False, True]


def test_a_failing_destination_does_not_hold_another_and_comes_back(bench: Bench) -> None:
    up: list[bool] = []
    bad = ToldChannel(lambda dispatch: None if up else DeliveryDeferredError("down"))
    good = ToldChannel()
    for number in range(20):
        bench.put(key=f"p{number}", destination="bad")
        bench.put(key=f"p{number}", destination="good")
    outbox = bench.outbox(workers=4, bad=bad, good=good)
    bench.run(
        outbox, lambda: len(good.seen) == 20 and outbox.breakers()["bad"] == "open" and len(bad.seen) >= 5, step_s=0.0
    )
    assert [name for name, reason in bench.notes.told if reason] == ["bad"]
    asked = len(bad.seen)
    assert asked < 20
    up.append(True)
    outbox = bench.outbox(workers=4, bad=bad, good=good)
    bench.run(outbox, lambda: bench.states()["done"] == 40, step_s=0.5)


def test_an_open_breaker_probes_with_one_real_dispatch(bench: Bench) -> None:
    channel = ToldChannel(lambda dispatch: DeliveryDeferredError("down") if len(channel.seen) < 12 else None)
    channel.pause_s = 0.003
    for number in range(10):
        bench.put(key=f"p{number}")
    outbox = bench.outbox(workers=1, a=channel)
    bench.run(outbox, lambda: bench.states()["done"] == 10, step_s=0.3)
    assert [bool(reason) for _, reason in bench.notes.told] == [True, False]
    assert outbox.breakers() == {"a": "closed"}


def test_in_flight_blames_nobody(bench: Bench) -> None:
    channel = ToldChannel(lambda dispatch: InFlightError("409") if dispatch.attempt < 9 else None)
    bench.put()
    bench.run(bench.outbox(a=channel), lambda: bench.states()["done"] == 1, step_s=5.0)
    assert bench.notes.told == []


def test_refused_is_dead_and_a_person_decides(bench: Bench) -> None:
    refuse = [True, True]
    channel = ToldChannel(lambda dispatch: DeliveryRefusedError("400") if refuse and refuse.pop() else None)
    one, two = bench.put(key="a"), bench.put(key="b")
    connection = bench.store.connection
    bench.run(bench.outbox(a=channel), lambda: bench.states()["dead"] == 2)
    assert sorted(bench.notes.died_ids) == [one, two]

    def act(dispatch_id: int, action: str, reason: str) -> dict[str, Any]:
        return committed(
            connection,
            lambda c: outbox_rows.act(
                c, dispatch_id, action, actor=OPERATOR, reason=reason, now_us=bench.clock.now_us()
            ),
        )

    with pytest.raises(UsageError, match="say why"):
        act(one, "discard", " ")
    with pytest.raises(UsageError):
        act(one, "burn", "x")
    with pytest.raises(NotFoundError):
        act(999, "retry", "x")
    assert act(one, "discard", "test call")["state"] == "superseded"
    with pytest.raises(ConflictError):
        act(one, "retry", "x")
    assert act(two, "retry", "address corrected")["state"] == "retry"
    bench.run(bench.outbox(a=channel), lambda: bench.states() == {"superseded": 1, "done": 1})
    assert len({each.idempotency_key for each in channel.seen if each.id == two}) == 1
    told = [row[0] for row in list[Any](connection.execute("SELECT action FROM audit ORDER BY seq"))]
    assert told == ["outbox_discard", "outbox_retry"]


def test_a_bug_in_a_channel_or_handler_stops_nobody_else(bench: Bench) -> None:
    channel = ToldChannel(lambda dispatch: ZeroDivisionError() if dispatch.id == 1 and dispatch.attempt == 1 else None)
    bench.put(key="a")
    bench.put(key="b")
    bench.run(bench.outbox(a=channel), lambda: bench.states()["done"] == 2, step_s=0.2)
    bench.notes.broken = True
    bench.put(key="c")
    bench.run(bench.outbox(a=channel), lambda: bench.states()["dead"] == 1)
    assert bench.states() == {"done": 2, "dead": 1}  # what the handler did before it failed is undone


def test_outcomes_survive_a_store_that_fails_for_a_while(bench: Bench) -> None:
    channel = ToldChannel()
    bench.put()

    def answer(dispatch: Dispatch) -> BaseException | None:
        bench.store.fail_with = [StorageError("full")]
        return None

    channel.answer = answer
    bench.run(bench.outbox(a=channel), lambda: bench.states()["done"] == 1)
    assert len(channel.seen) == 1
    assert bench.notes.delivered_ids == [1]


def test_a_broken_disk_ends_the_outbox(bench: Bench) -> None:
    bench.store.fail_with = [StorageBrokenError("io")]
    with pytest.raises(StorageBrokenError):
        asyncio.run(bench.outbox(a=ToldChannel()).run())


def test_what_has_expired_is_dead_at_its_next_failure(bench: Bench) -> None:
    channel = ToldChannel(lambda dispatch: ServerFailedError("500"))
    bench.put()
    bench.run(bench.outbox(a=channel), lambda: bench.states()["retry"] == 1)
    with bench.store.connection:
        assert outbox_rows.withdraw(bench.store.connection, "A", bench.clock.now_us(), 1000) == []  # it may be there
    bench.run(bench.outbox(a=channel), lambda: bench.states()["dead"] == 1, step_s=0.5)


def test_delivered_rows_are_pruned_and_others_are_kept(bench: Bench) -> None:
    bench.put(key="a")
    bench.run(bench.outbox(a=ToldChannel()), lambda: bench.states()["done"] == 1)
    bench.put(key="b")
    bench.clock.advance(100)
    with bench.store.connection:
        assert auditor.prune(bench.store.connection, bench.clock.now_us(), 50 * US_PER_S) == 1
    assert bench.states() == {"pending": 1}


def test_a_retry_that_a_wrong_clock_set_far_away_is_due_at_the_next_start(bench: Bench) -> None:
    bench.put()
    bench.store.connection.execute("UPDATE outbox SET next_at_us = next_at_us + 86400000000")
    bench.run(bench.outbox(a=ToldChannel()), lambda: bench.states()["done"] == 1)


def test_another_process_may_put_something_in(bench: Bench) -> None:
    """No wake-up: the poll finds it."""
    outbox = bench.outbox(a=ToldChannel())
    looks = iter(range(10_000))

    def until() -> bool:
        if next(looks) == 20:
            bench.put()
        return bench.states()["done"] == 1

    bench.run(outbox, until)


def test_the_breaker_by_its_numbers() -> None:
    breaker = Breaker(random.Random(1))
    for _ in range(4):
        assert breaker.failed(0.0) is False
    assert breaker.allowance(0.0, 8, 3) == 8
    assert breaker.failed(0.0) is True
    assert breaker.allowance(0.0, 8, 0) == 0
    assert 0.5 <= breaker.wait_s(0.0) <= 1.0
    assert breaker.allowance(1.0, 8, 2) == 0  # half open, but others are still under way
    assert breaker.allowance(1.0, 8, 0) == 1
    assert breaker.failed(1.0) is False
    assert 1.0 <= breaker.wait_s(1.0) <= 2.0  # longer
    assert breaker.allowance(3.0, 8, 0) == 1
    assert breaker.succeeded() is True
    assert breaker.state is BreakerState.CLOSED
    for _ in range(9):
        breaker.failed(4.0)
        breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED
    mostly = [breaker.failed(5.0) or breaker.failed(5.0) or breaker.succeeded() for _ in range(7)]
    assert any(mostly)  # more than half of twenty, never five in a row
    patient = Breaker(random.Random(1))
    for _ in range(5):
        patient.failed(0.0, 90.0)
    assert patient.wait_s(0.0) == 90.0
