"""From an effect to an order at the simulated platform, over real HTTP, through every fault."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from alerts import auditor, outbox_rows, rows
from alerts.desk import Desk
from alerts.lifecycle import apply_effects, transition
from alerts.outbox import Outbox
from alerts.policy import Policy
from alerts.service import AlertService
from gateway import audit
from gateway.clock import SystemClock
from gateway.errors import ConflictError, NotFoundError
from gateway.model import Effect
from simulators.platform import Fault, Loop, SimulatedPlatform
from tests.alerts_support import OPERATOR, PLATFORM, FileStore, order_outbox, sos

CLOCK = SystemClock()
POLICY = Policy()


def quiet(text: str) -> None:
    del text


def raise_all(store: FileStore, *effects: Effect) -> list[str]:
    with store.connection:
        applied = apply_effects(store.connection, effects, CLOCK.now_us(), POLICY)
    return applied.raised


def states(store: FileStore) -> Counter[str]:
    return Counter(row["state"] for row in outbox_rows.list_outbox(store.connection, limit=10_000))


async def until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running(outbox: Outbox) -> AsyncIterator[Outbox]:
    """The outbox at work; closed, not cancelled, at the end."""
    async with asyncio.TaskGroup() as group:
        group.create_task(outbox.run())
        try:
            yield outbox
        finally:
            outbox.close()


@pytest.fixture
def store(tmp_path: Path) -> Any:
    opened = FileStore(tmp_path)
    yield opened
    assert list(audit.verify(opened.connection)) == []
    opened.close()


def test_a_press_becomes_one_order_with_the_contracts_members(store: FileStore) -> None:
    async def main() -> None:
        async with SimulatedPlatform(say=quiet) as platform:
            (alert_id,) = raise_all(store, sos())
            async with running(order_outbox(store, CLOCK, platform.url)):
                await until(lambda: states(store)["done"] == 1)
            (order,) = platform.orders_for(alert_id)
            assert order.body["person"]["name"] == "王秀英"
            assert order.body["category"] == "emergency"
            shown = rows.show_alert(store.connection, alert_id)
            assert shown["order"]["order_id"] == order.order_id
            assert shown["order"]["state"] == "done"
            assert shown["handling"] == "raised"
            assert shown["orders"][0]["service_code"] == order.body["service_code"]

    asyncio.run(main())


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault not in (Fault.REFUSE, Fault.REDIRECT)])
def test_one_order_whatever_goes_wrong_once(store: FileStore, fault: Fault) -> None:
    async def main() -> None:
        async with SimulatedPlatform(say=quiet, slow_s=0.6) as platform:
            platform.fail(fault)
            (alert_id,) = raise_all(store, sos())
            async with running(order_outbox(store, CLOCK, platform.url, timeout_s=0.3)):
                await until(lambda: states(store)["done"] == 1)
            assert len(platform.orders_for(alert_id)) == 1
            (row,) = outbox_rows.list_outbox(store.connection)
            assert row["attempts"] >= 2

    asyncio.run(main())


@pytest.mark.parametrize("fault", [Fault.REFUSE, Fault.REDIRECT])
def test_a_refused_order_is_a_dead_letter_that_a_person_may_retry(store: FileStore, fault: Fault) -> None:
    async def main() -> None:
        async with SimulatedPlatform(say=quiet) as platform:
            platform.fail(fault)
            (alert_id,) = raise_all(store, sos())
            desk = Desk(store, CLOCK, POLICY, wake=lambda: None)
            async with running(order_outbox(store, CLOCK, platform.url)):
                await until(lambda: states(store)["dead"] == 1)
                assert platform.orders_for(alert_id) == []
                (dead,) = await desk.outbox(state="dead")
                kinds = {alert["kind"] for alert in await desk.alerts(open_only=True)}
                assert kinds == {"sos", "order_refused", "order_supervision"}
                await desk.outbox_act(dead["id"], "retry", actor=OPERATOR, reason="corrected")
                await until(lambda: states(store)["done"] == 1)
                with pytest.raises(ConflictError):
                    await desk.outbox_act(dead["id"], "discard", actor=OPERATOR, reason="late")
            assert len(platform.orders_for(alert_id)) == 1

    asyncio.run(main())


def test_an_outage_loses_nothing_and_doubles_nothing(store: FileStore) -> None:
    async def main() -> None:
        async with SimulatedPlatform(say=quiet, fault_rate=0.4, slow_s=1.5, retry_after_s=1) as platform:
            platform.faults = tuple(fault for fault in Fault if fault not in (Fault.REFUSE, Fault.REDIRECT))
            effects = [sos(number, person_id=f"P-{number % 30}", kind=f"sos{number}") for number in range(60)]
            alert_ids = raise_all(store, *effects)
            async with running(order_outbox(store, CLOCK, platform.url, timeout_s=1.0)):
                await asyncio.sleep(0.3)
                await platform.stop()
                await asyncio.sleep(0.3)
                await platform.start()
                await asyncio.sleep(1.0)
                platform.heal()
                async with asyncio.timeout(60):
                    while states(store)["done"] < len(alert_ids):
                        with store.connection:  # no need to wait for real pauses: make everything due
                            store.connection.execute("UPDATE outbox SET next_at_us = 0 WHERE state = 'retry'")
                        await asyncio.sleep(0.05)
            assert states(store) == {"done": len(alert_ids)}
            assert [len(platform.orders_for(alert_id)) for alert_id in alert_ids] == [1] * len(alert_ids)

    asyncio.run(main())


def test_retry_after_is_honoured(store: FileStore) -> None:
    async def main() -> None:
        async with SimulatedPlatform(say=quiet, retry_after_s=1) as platform:
            platform.fail(Fault.TOO_MANY)
            raise_all(store, sos())
            started = asyncio.get_running_loop().time()
            async with running(order_outbox(store, CLOCK, platform.url)):
                await until(lambda: states(store)["done"] == 1)
            assert platform.attempts[-1][0] - started >= 1.0

    asyncio.run(main())


def test_without_an_address_orders_wait_and_nothing_is_wrong(store: FileStore) -> None:
    async def main() -> None:
        (alert_id,) = raise_all(store, sos())
        async with running(order_outbox(store, CLOCK, "")) as outbox:
            await asyncio.sleep(0.15)
            assert outbox.breakers() == {"order_api": "unconfigured"}
        assert rows.show_alert(store.connection, alert_id)["order"]["state"] == "pending"
        async with SimulatedPlatform(say=quiet) as platform, running(order_outbox(store, CLOCK, platform.url)):
            await until(lambda: states(store)["done"] == 1)

    asyncio.run(main())


def test_a_crash_after_the_platform_took_the_order_asks_before_it_sends_again(store: FileStore) -> None:
    async def main() -> None:
        async with SimulatedPlatform(say=quiet) as platform:
            (alert_id,) = raise_all(store, sos())
            async with running(order_outbox(store, CLOCK, platform.url)):
                await until(lambda: states(store)["done"] == 1)
            with store.connection:  # as if the process had died before it wrote the answer down
                store.connection.execute("UPDATE outbox SET state = 'sending', done_at_us = NULL")
                store.connection.execute("UPDATE order_request SET order_id = NULL, status = ''")
            sent = len(platform.attempts)
            async with running(order_outbox(store, CLOCK, platform.url)):
                await until(lambda: states(store)["done"] == 1)
            assert len(platform.attempts) == sent
            assert len(platform.orders_for(alert_id)) == 1
            assert rows.show_alert(store.connection, alert_id)["order"]["order_id"] is not None

    asyncio.run(main())


def test_the_closed_loop_comes_back_onto_the_alert(store: FileStore) -> None:
    """The callbacks go to the desk as the API would bring them."""

    async def main() -> None:
        async with SimulatedPlatform(say=quiet) as platform:
            outbox = order_outbox(store, CLOCK, platform.url)
            desk = Desk(store, CLOCK, POLICY, wake=outbox.wake)
            (alert_id,) = raise_all(store, sos())
            async with running(outbox):
                await until(lambda: states(store)["done"] == 1)
                (order,) = platform.orders_for(alert_id)
                shown = await desk.act(alert_id, "accept", actor=OPERATOR, version=None)
                assert shown["owner"] == "U-1"
                with pytest.raises(NotFoundError):
                    await desk.order_status("O-nobody", {"status": "accepted"}, actor=PLATFORM)
                shown = await desk.order_status(order.order_id, {"status": "dispatched"}, actor=PLATFORM)
                assert (shown["handling"], shown["progress"]) == ("in_progress", "dispatched")
                with pytest.raises(ConflictError, match="not that of this order"):
                    await desk.order_status(
                        order.order_id, {"status": "arrived", "service_code": "00000000"}, actor=PLATFORM
                    )
                arrived = {"status": "arrived", "service_code": order.body["service_code"], "worker": "W-1"}
                shown = await desk.order_status(order.order_id, arrived, actor=PLATFORM)
                assert shown["progress"] == "on_scene"
                again = await desk.order_status(order.order_id, arrived, actor=PLATFORM)  # its answer was lost
                assert again["version"] == shown["version"]
                with pytest.raises(ConflictError, match="used before"):
                    await desk.order_status(order.order_id, arrived | {"worker": "W-2"}, actor=PLATFORM)
                shown = await desk.order_status(order.order_id, {"status": "completed"}, actor=PLATFORM)
                assert shown["handling"] == "in_progress"  # an emergency is ended by a person
                assert shown["order"]["status"] == "completed"
                shown = await desk.act(
                    alert_id, "resolve", actor=OPERATOR, version=shown["version"], outcome="assistance"
                )
                assert shown["handling"] == "resolved"
            actions = [each["action"] for each in (await desk.alert(alert_id))["transitions"]]
            assert actions.count("order_code_refused") == 2
            assert actions[-1] == "resolve"

    asyncio.run(main())


def test_a_callback_that_overtakes_its_order_waits_for_it(store: FileStore) -> None:
    async def main() -> None:
        raise_all(store, sos())
        desk = Desk(store, CLOCK, POLICY, wake=lambda: None)
        with store.connection:
            (dispatch,) = outbox_rows.claim(store.connection, "order_api", 1, CLOCK.now_us())

        async def answer() -> None:
            await asyncio.sleep(0.1)
            with store.connection:
                store.connection.execute("UPDATE order_request SET order_id = 'O-1', status = 'accepted'")
                outbox_rows.finish_done(store.connection, dispatch.id, CLOCK.now_us())

        async with asyncio.TaskGroup() as group:
            group.create_task(answer())
            shown = await desk.order_status("O-1", {"status": "dispatched"}, actor=PLATFORM)
            assert shown["order"]["status"] == "dispatched"

    asyncio.run(main())


def test_called_again_after_the_order_ended_there_is_a_second_one(store: FileStore) -> None:
    async def main() -> None:
        async with SimulatedPlatform(say=quiet) as platform:
            (alert_id,) = raise_all(store, sos(1))
            outbox = order_outbox(store, CLOCK, platform.url)
            desk = Desk(store, CLOCK, POLICY, wake=outbox.wake)
            async with running(outbox):
                await until(lambda: states(store)["done"] == 1)
                raise_all(store, sos(2))  # pressed again: the order is under way
                (first,) = platform.orders_for(alert_id)
                await desk.order_status(first.order_id, {"status": "cancelled"}, actor=PLATFORM)
                raise_all(store, sos(3))
                platform.fail(Fault.RESET_AFTER)  # the answer is lost: the first order must not be taken for it
                outbox.wake()
                await until(lambda: states(store)["done"] == 2)
            orders = platform.orders_for(alert_id)
            assert len(orders) == 2
            assert len({order.key for order in orders}) == 2
            shown = rows.show_alert(store.connection, alert_id)
            assert shown["occurrences"] == 3
            assert shown["order"]["order_id"] == orders[1].order_id

    asyncio.run(main())


def test_what_was_resolved_before_it_was_sent_is_withdrawn(store: FileStore) -> None:
    (alert_id,) = raise_all(store, sos(1))
    with store.connection:
        transition(
            store.connection, alert_id, "resolve", expected_version=1, actor=OPERATOR, now_us=CLOCK.now_us(),
            policy=POLICY, outcome="false_press",
        )  # fmt: skip
    assert states(store) == {"superseded": 1}
    raise_all(store, sos(2))  # within ten minutes: the same alert, and now an order
    assert rows.show_alert(store.connection, alert_id)["order"]["state"] == "pending"
    assert states(store) == {"superseded": 1, "pending": 1}


def test_the_platform_calls_the_gateway_back_and_retries(store: FileStore) -> None:
    """The simulated platform's loop against a gateway that is down at first."""

    async def main() -> None:
        told: list[tuple[str, str]] = []
        down = [True, True]

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            body = await reader.readexactly(length)
            status = b"503 Busy" if down and down.pop() else b"200 OK"
            if status == b"200 OK":
                told.append((head.split()[1].decode(), body.decode()))
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()
            writer.close()
            await writer.wait_closed()

        gateway = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = gateway.sockets[0].getsockname()[1]
        async with gateway:
            loop = Loop(0.01, 0.01, 0.01, 0.01, 0.01)
            async with SimulatedPlatform(
                say=quiet, gateway_url=f"http://127.0.0.1:{port}", gateway_token="t", loop=loop
            ) as platform:
                raise_all(store, sos())
                async with running(order_outbox(store, CLOCK, platform.url)):
                    await until(lambda: len(told) == 5)
                (order,) = platform.orders.values()
                assert all(path == f"/api/v1/orders/{order.order_id}/status" for path, _ in told)
                assert order.body["service_code"] in told[2][1]

    asyncio.run(main())


def test_the_service_writes_effects_and_the_press_reaches_the_platform(store: FileStore) -> None:
    async def main() -> None:
        marks: list[int] = []
        async with SimulatedPlatform(say=quiet) as platform:
            outbox = order_outbox(store, CLOCK, platform.url)
            service = AlertService(
                store, CLOCK, POLICY, outbox=outbox, bookmark=lambda connection, seq: marks.append(seq)
            )
            async with asyncio.TaskGroup() as group:
                group.create_task(outbox.run())
                task = group.create_task(service.run())
                for number in range(1, 301):
                    service.submit([sos(number, person_id=f"P-{number}")], number)
                service.submit([sos(5, person_id="P-5")], 301)  # judged twice: known
                await service.drained()
                assert service.waiting == 0
                assert marks[-1] == 301
                await until(lambda: states(store)["done"] == 300)
                task.cancel()
                outbox.close()
            assert len(platform.orders) == 300
            assert auditor.without_next_step(store.connection) == []

    asyncio.run(main())
