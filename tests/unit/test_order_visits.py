"""Staff at the door: a service code begins a visit once, is told to the platform's order, and ends with a check-out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alerts import order_cases, order_requests, promises, rows, visits
from alerts.order_desk import OrderDesk
from alerts.policy import MINUTE_US, Policy
from alerts.refusals import Refused
from alerts.rows import Alert
from gateway.clock import SystemClock
from gateway.errors import UsageError
from gateway.events import ORDER, of_audit
from gateway.model import Actor, Committed, Frame
from gateway.visits import Visits
from protocols.codecs.native import NativeCodec
from tests.alerts_support import committed
from tests.factory import T0_US, record
from tests.order_world import POLICY, Desk, opened

TERMINAL = Actor("device", "D-0009", channel="terminal")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from opened(tmp_path)


def code_of(desk: Desk, alert: Alert) -> str:
    order = order_requests.get(desk.connection, alert.id, desk.get(alert.id).order_number)
    assert order is not None
    return order.service_code


def scan(desk: Desk, code: str, direction: str = "in", staff: str = "S-1", device: str = "D-0009") -> Any:
    told = visits.read_scan(
        {"service_code": code, "staff_id": staff, "direction": direction, "method": "nfc"}, device, desk.now_us
    )
    return committed(desk.connection, lambda c: visits.take(c, told, TERMINAL, desk.now_us, POLICY))


def events(desk: Desk, action: str) -> list[dict[str, Any]]:
    found: list[Any] = desk.connection.execute(
        "SELECT seq, body FROM audit WHERE body ->> 'action' = ? ORDER BY seq", (action,)
    ).fetchall()
    return [event for seq, body in found for event in of_audit("default", seq, body)]


def test_a_scan_begins_the_service_and_another_one_ends_it(desk: Desk) -> None:
    alert = desk.report()
    (order_id,) = desk.send()
    desk.do(alert, "accept")
    code = code_of(desk, alert)
    desk.wait(3 * MINUTE_US)
    visit = scan(desk, code)
    assert (visit["staff_id"], visit["in_device_id"], visit["in_method"], visit["out_at"]) == (
        "S-1", "D-0009", "nfc", None,
    )  # fmt: skip
    assert (desk.get(alert.id).handling, desk.get(alert.id).progress) == ("in_progress", "on_scene")
    made = promises.get(desk.connection, alert.id)
    assert made is not None
    assert made.kept_at_us == desk.now_us
    (event,) = events(desk, "service_checkin")
    assert event["type"] == ORDER
    told = event["data"]["evidence"]
    assert (told["service_code"], told["device_id"], told["staff_id"], told["order_id"]) == (
        code, "D-0009", "S-1", order_id,
    )  # fmt: skip
    desk.wait(4 * MINUTE_US)
    assert desk.get(alert.id).handling == "in_progress", "who is there has told of progress"
    assert scan(desk, code, "out")["out_at"] is not None
    assert len(events(desk, "service_checkout")) == 1
    (shown,) = order_cases.show(desk.connection, alert.id)["visits"]
    assert shown["out_method"] == "nfc"
    assert desk.get(alert.id).handling == "in_progress", "an emergency is ended by a person"


def test_unknown_and_used_codes_are_refused_and_audited(desk: Desk) -> None:
    alert = desk.report()
    desk.send()
    code = code_of(desk, alert)
    assert scan(desk, "00000000") == Refused(visits.UNKNOWN_CODE)
    assert scan(desk, code, "out") == Refused("nobody has checked in with this service code")
    scan(desk, code)
    again = scan(desk, code)
    assert again["staff_id"] == "S-1", "the same scan, told again"
    assert scan(desk, code, staff="S-2") == Refused("the service code was used before")
    assert scan(desk, code, device="D-0010") == Refused("the service code was used before")
    assert scan(desk, code, "out", staff="S-2") == Refused("somebody else has checked in with this service code")
    desk.wait(6 * MINUTE_US)
    assert scan(desk, code) == Refused("the service code was used before")
    scan(desk, code, "out")
    desk.wait(6 * MINUTE_US)
    assert scan(desk, code, "out") == Refused("the service code was used before")
    refused = desk.connection.execute("SELECT count(*) FROM audit WHERE body ->> 'action' = 'order_code_refused'")
    assert refused.fetchone() == (7,)
    assert len(events(desk, "service_checkin")) == 1


def test_the_platform_tells_the_arrival_of_a_scan_once_more_and_once(desk: Desk) -> None:
    alert = desk.report()
    (order_id,) = desk.send()
    code = code_of(desk, alert)
    scan(desk, code)
    arrived = desk.platform(order_id, "arrived", service_code=code, at="2026-11-22T01:20:00Z")
    assert isinstance(arrived, Alert)
    replayed = desk.platform(order_id, "arrived", service_code=code, at="2026-11-22T01:40:00Z", worker="x")
    assert replayed == Refused("the service code was used before")


def test_a_code_that_the_platform_has_taken_is_no_longer_taken_at_the_door(desk: Desk) -> None:
    alert = desk.report()
    (order_id,) = desk.send()
    code = code_of(desk, alert)
    desk.platform(order_id, "arrived", service_code=code)
    assert scan(desk, code) == Refused("the service code was used before")


def test_the_code_of_an_order_that_has_ended_is_refused(desk: Desk) -> None:
    alert = desk.report()
    desk.send()
    old = code_of(desk, alert)
    desk.act(alert.id, "redispatch", note="nobody came")
    assert scan(desk, old) == Refused("the order of this service code has ended")
    assert scan(desk, code_of(desk, alert))["number"] == 2


def test_a_visit_at_an_alert_that_is_over_is_kept(desk: Desk) -> None:
    alert = desk.report()
    desk.send()
    code = code_of(desk, alert)
    scan(desk, code)
    desk.do(alert, "resolve", outcome="assistance")
    desk.wait(25 * 60 * MINUTE_US)
    assert rows.get(desk.connection, alert.id).handling == "closed"
    assert scan(desk, code, "out")["out_at"] is not None


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"service_code": "1"}, {"staff_id": "S"}, {"service_code": 7, "staff_id": "S"},
        {"service_code": "1" * 65, "staff_id": "S"}, {"service_code": "1", "staff_id": "S", "direction": "up"},
        {"service_code": "1", "staff_id": "S", "method": "fax"}, {"service_code": "1", "staff_id": "S", "at": "noon"},
        {"service_code": "1", "staff_id": "S", "method": ["nfc"]}, {"service_code": "1", "staff_id": "S", "at": 7},
    ],
)  # fmt: skip
def test_what_is_no_scan(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        visits.read_scan(wrong, "", T0_US)


def test_a_terminal_tells_it_in_the_native_protocol(desk: Desk) -> None:
    """The codec keeps it, the listener hands it on; what cannot be believed harms nobody."""
    alert = desk.report()
    desk.send()

    def heard(member: Any, **changes: Any) -> Committed:
        payload = json.dumps({"seq": 1, "service_checkin": member}).encode()
        (report,) = NativeCodec().parse(Frame("mqtt", "native", "s", payload, T0_US, device_key="D-0009"))
        one = record(1)
        one.device_id, one.reading = "D-0009", report.reading
        for name, value in changes.items():
            setattr(one, name, value)
        return Committed(1, [one])

    good = {"service_code": code_of(desk, alert), "staff_id": "S-1", "method": "ic_card"}

    async def main() -> Visits:
        orders = OrderDesk(desk.store, SystemClock(), Policy(), wake=lambda: None)
        listener = Visits(orders)
        for told in (heard(good, verified=False), heard(good | {"service_code": "1"}), heard("x"), heard(good)):
            listener(told)
        async with asyncio.TaskGroup() as group:
            task = group.create_task(listener.run())
            async with asyncio.timeout(30):
                while listener.taken + listener.refused < 2:
                    await asyncio.sleep(0.01)
            task.cancel()
        return listener

    listener = asyncio.run(main())
    assert (listener.taken, listener.refused) == (1, 1)
    (visit,) = order_cases.show(desk.connection, alert.id)["visits"]
    assert (visit["in_device_id"], visit["in_method"]) == ("D-0009", "ic_card")
