"""A device's fault from its report to the end: one maintenance order, due in 48 h, reminders, recovery, closed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from alerts import order_cases, order_requests, promises, rows
from alerts.policy import HOUR_US, MINUTE_US
from gateway.care import CarePlan, DeviceCare
from gateway.clock import US_PER_S
from tests.order_world import Desk, opened
from tests.rules_world import World, record

DEVICE = DeviceCare(device_id="D-1", person_id="P-1", heartbeat_s=600)


class Site:
    """The rules and the order desk on one clock: what the rules find is what the alerts are made of."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.rules = World([CarePlan(person_id="P-1")], [DEVICE], start="2026-11-22T09:00:00+08:00")
        assert self.rules.now_us == desk.now_us

    def hears(self, **signals: bool) -> None:
        """A report of the device; without signals a sign of life."""
        effects = self.rules.put(record(self.rules.now_us, device="D-1", person="P-1", signals=signals))
        if effects:
            self.desk.effects(*effects)

    def passes(self, us: int, *, alive: bool = True) -> None:
        """Time, in steps of the heartbeat; the device says that it lives unless it does not."""
        end_us = self.desk.now_us + us
        while self.desk.now_us < end_us:
            step_us = min(DEVICE.heartbeat_s * US_PER_S, end_us - self.desk.now_us)
            effects = self.rules.wait(step_us / US_PER_S)
            self.desk.wait(step_us)
            if effects:
                self.desk.effects(*effects)
            if alive:
                self.hears()

    def cases(self, kind: str) -> list[dict[str, Any]]:
        return rows.list_alerts(self.desk.connection, open_only=False, kind=kind)

    def orders(self) -> list[dict[str, Any]]:
        return [each for each in order_cases.list_cases(self.desk.connection) if each["category"] == "maintenance"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    for desk in opened(tmp_path):
        yield Site(desk)


def fault(site: Site) -> None:
    site.hears(device_fault=True)


def battery(site: Site) -> None:
    site.hears(low_battery=True)


def silence(site: Site) -> None:
    site.passes(31 * MINUTE_US, alive=False)


@pytest.mark.parametrize(
    ("kind", "begins", "ends", "alive", "waits_us"),
    [
        ("device_fault", fault, {"device_fault": False}, True, 0),
        ("low_battery", battery, {"battery_normal": True}, True, 4 * HOUR_US),
        ("device_silent", silence, {}, False, HOUR_US),
    ],
    ids=["fault", "battery", "silence"],
)
def test_one_ticket_from_the_report_to_the_repair(
    site: Site, kind: str, begins: Callable[[Site], None], ends: dict[str, bool], alive: bool, waits_us: int
) -> None:
    desk = site.desk
    site.hears()
    begins(site)
    (case,) = site.cases(kind)
    alert, reported_us = desk.get(case["id"]), desk.now_us
    if waits_us:
        assert desk.send() == [], "what mostly goes by itself waits for its order"
        site.passes(waits_us + MINUTE_US, alive=alive)
    (order_id,) = desk.send()
    (order,) = site.orders()
    assert order["alert_id"] == alert.id
    promise = promises.get(desk.connection, alert.id)
    assert promise is not None
    assert abs(promise.due_at_us - reported_us - 48 * HOUR_US) <= 31 * MINUTE_US
    assert promise.due_at_us == alert.raised_at_us + 48 * HOUR_US
    # It is told again and again: still one alert and one order.
    for _ in range(3):
        site.passes(2 * HOUR_US, alive=alive)
        if alive:
            begins(site)
    site.passes(alert.raised_at_us + 41 * HOUR_US - desk.now_us, alive=alive)
    assert desk.send() == []
    assert [each["id"] for each in site.cases(kind)] == [alert.id]
    assert len(site.orders()) == 1
    assert desk.actions(alert).count("order_reminded") == 2  # at 24 and 40 hours
    # The device recovers: the case ends by itself, once the platform confirms the visit.
    site.hears(**ends)
    assert desk.get(alert.id).condition == "cleared"
    site.passes(HOUR_US)
    assert desk.get(alert.id).handling == "raised", "somebody is still on the way"
    asked = order_requests.by_order_id(desk.connection, order_id)
    desk.platform(order_id, "arrived", service_code=asked.service_code)
    desk.platform(order_id, "completed")
    site.passes(21 * MINUTE_US)
    assert desk.get(alert.id).handling == "resolved"
    site.passes(24 * HOUR_US)
    assert desk.get(alert.id).handling == "closed"
    assert desk.supervisions() == [], "what was repaired in time is not supervised"
    # The next fault is a new case.
    begins(site)
    assert len(site.cases(kind)) == 2


def test_a_fault_that_goes_by_itself_costs_nobody_a_visit(site: Site) -> None:
    site.hears()
    battery(site)
    site.passes(3 * HOUR_US)
    site.hears(battery_normal=True)
    site.passes(30 * HOUR_US)
    (case,) = site.cases("low_battery")
    assert site.desk.get(case["id"]).handling == "closed"
    assert site.desk.send() == []
