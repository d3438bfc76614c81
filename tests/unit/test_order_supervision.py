"""Orders that somebody looks after: what was promised by when, reminders, and supervision (督办)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from alerts import order_cases, order_requests, promises
from alerts.dossier import load
from alerts.due import fire_due
from alerts.policy import HOUR_US, MINUTE_US
from gateway.clock import US_PER_S
from gateway.model import Severity
from tests.alerts_support import FileStore, committed
from tests.order_world import POLICY, Desk, opened


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from opened(tmp_path)


@pytest.mark.parametrize(
    ("kind", "severity", "category", "minutes"),
    [
        ("sos", Severity.P1, "emergency", 30),
        ("heart_rate_high", Severity.P2, "emergency", 30),
        ("service_call", Severity.P2, "service", 24 * 60),
        ("consultation", Severity.P3, "consultation", 48 * 60),
        ("device_fault", Severity.P4, "maintenance", 48 * 60),
    ],
)
def test_each_category_has_its_promise(desk: Desk, kind: str, severity: Severity, category: str, minutes: int) -> None:
    alert = desk.report(kind, severity)
    case = order_cases.show(desk.connection, alert.id)
    assert (case["category"], case["order"]["category"]) == (category, category)
    made = promises.get(desk.connection, alert.id)
    assert made is not None
    assert made.due_at_us - desk.now_us == minutes * MINUTE_US


def test_a_repair_is_reminded_of_at_24_and_40_hours_and_supervised_at_48(desk: Desk) -> None:
    alert = desk.report("device_fault", Severity.P4)
    desk.send()
    told: list[tuple[int, str]] = []
    for hour in range(1, 100):
        desk.wait(HOUR_US)
        told += [(hour, action) for action in desk.actions(alert)[len(told) + 2 :]]
    assert told == [(24, "order_reminded"), (40, "order_reminded"), (48, "order_supervise_requested")]
    (case,) = desk.supervisions()
    assert (case.severity, case.person_id, case.evidence["reason"]) == (Severity.P3, "", "overdue")
    assert case.subject == f"alert/{alert.id}"
    assert load(desk.connection, case.id).timers.find("remind_calmly") is not None
    assert desk.actions(case).count("remind") == (99 - 48) // 4
    shown = order_cases.list_cases(desk.connection, overdue=True)
    assert [each["alert_id"] for each in shown] == [alert.id]
    assert shown[0]["supervised"] == ["overdue"]


def test_somebody_on_site_within_48_hours_keeps_the_promise(desk: Desk) -> None:
    alert = desk.report("device_fault", Severity.P4)
    (order_id,) = desk.send()
    desk.wait(47 * HOUR_US)
    order = order_requests.by_order_id(desk.connection, order_id)
    desk.platform(order_id, "arrived", service_code=order.service_code)
    desk.wait(50 * HOUR_US)
    assert desk.supervisions() == []
    assert order_cases.show(desk.connection, alert.id)["kept_at"] is not None


def test_a_late_arrival_clears_the_supervision_and_a_person_ends_it(desk: Desk) -> None:
    alert = desk.report()
    (order_id,) = desk.send()
    desk.wait(31 * MINUTE_US)
    (case,) = desk.supervisions()
    assert (case.severity, case.evidence["reason"], case.evidence["order_id"]) == (Severity.P2, "overdue", order_id)
    order = order_requests.by_order_id(desk.connection, order_id)
    desk.platform(order_id, "arrived", service_code=order.service_code)
    assert desk.get(case.id).condition == "cleared"
    desk.wait(24 * HOUR_US)
    assert desk.get(case.id).handling == "raised"  # a P2 is ended by a person
    assert desk.get(alert.id).handling == "raised"
    ended = desk.do(case, "resolve", outcome="technical")
    assert ended.handling == "resolved"


def test_an_order_that_is_not_accepted_in_time_is_supervised(desk: Desk) -> None:
    desk.report()
    desk.send(status="")
    desk.wait(3 * MINUTE_US + 1)
    (case,) = desk.supervisions()
    assert case.evidence["reason"] == "not_accepted"
    desk.wait(20 * MINUTE_US)
    assert len(desk.supervisions()) == 1, "asked once"


def test_a_site_without_a_platform_is_not_told_of_orders_that_nobody_takes(desk: Desk) -> None:
    alert = desk.report()
    desk.wait(29 * MINUTE_US)
    assert desk.supervisions() == []
    assert load(desk.connection, alert.id).timers.find("order_accept") is not None


def test_a_resolved_alert_is_waited_for_no_more_and_a_reopened_one_is(desk: Desk) -> None:
    alert = desk.report()
    desk.send()
    desk.do(alert, "resolve", outcome="false_press")
    assert load(desk.connection, alert.id).timers.find("order_due") is None
    desk.do(alert, "reopen", note="it was real")
    desk.wait(31 * MINUTE_US)
    assert [case.evidence["reason"] for case in desk.supervisions()] == ["overdue"]


def test_an_order_that_the_platform_cancels_is_supervised_while_its_alert_is_open(desk: Desk) -> None:
    desk.report()
    (order_id,) = desk.send()
    desk.platform(order_id, "cancelled", note="nobody free")
    (case,) = desk.supervisions()
    assert case.evidence["reason"] == "cancelled"


def test_the_third_incident_of_a_kind_in_a_day_is_looked_into(desk: Desk) -> None:
    for number in range(3):
        alert = desk.report()
        for order_id in desk.send():
            desk.platform(order_id, "completed")
        if number < 2:
            desk.do(alert, "resolve", outcome="false_press")
        desk.wait(15 * MINUTE_US)
    (case,) = desk.supervisions()
    assert (case.evidence["reason"], case.evidence["alert_id"]) == ("repeated", alert.id)


@pytest.mark.parametrize("jump_us", [HOUR_US, 90 * 24 * HOUR_US])
def test_promises_survive_a_clock_that_jumps_on_and_fire_once(desk: Desk, jump_us: int) -> None:
    alert = desk.report("device_fault", Severity.P4)
    desk.send()
    desk.clock.advance(47.5 * 3600 + jump_us / US_PER_S)
    for _ in range(5):
        committed(desk.connection, lambda c: fire_due(c, desk.now_us, POLICY))
    assert desk.actions(alert).count("order_supervise_requested") == 1
    assert desk.actions(alert).count("order_reminded") == 1  # those that came too late are one


def test_promises_survive_a_restart(desk: Desk, tmp_path: Path) -> None:
    alert = desk.report("device_fault", Severity.P4)
    desk.send()
    desk.wait(30 * HOUR_US)
    desk.store.close()
    desk.store = FileStore(tmp_path)
    desk.connection = desk.store.connection
    desk.wait(20 * HOUR_US)
    assert desk.actions(alert).count("order_reminded") == 2
    assert desk.actions(alert).count("order_supervise_requested") == 1
