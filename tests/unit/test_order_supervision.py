"""Orders that somebody looks after: promises, supervision, second dispatches, complaints; faults of each device."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw
import pytest

from alerts import auditor, completeness, order_cases, order_requests, outbox_rows, promises, rows, supervision, timers
from alerts.channel import Receipt
from alerts.due import fire_due
from alerts.lifecycle import apply_effects, transition
from alerts.orders import OrderHandler, Refused, order_status
from alerts.policy import HOUR_US, MINUTE_US, Policy
from alerts.rows import Alert
from gateway import audit
from gateway.clock import US_PER_S, VirtualClock
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Clear, Effect, Severity
from gateway.storage.database import FILE_NAME, migrations, open_database
from tests.alerts_support import FAMILY, OPERATOR, PLATFORM, FileStore, committed, sos

POLICY = Policy()
START = datetime(2026, 11, 22, 1, 0, tzinfo=UTC)


class Desk:
    """A file, a virtual clock, the platform's end of the outbox, and short words for what happens."""

    def __init__(self, folder: Path) -> None:
        self.store = FileStore(folder)
        self.connection = self.store.connection
        self.connection.pragma("synchronous", "off")  # what is tested here is not the disk
        self.clock = VirtualClock(START)
        self.number = 0

    @property
    def now_us(self) -> int:
        return self.clock.now_us()

    def effects(self, *effects: Effect) -> list[str]:
        applied = committed(self.connection, lambda c: apply_effects(c, effects, self.now_us, POLICY))
        return applied.raised or applied.changed

    def report(self, kind: str = "sos", severity: Severity = Severity.P1, **members: Any) -> Alert:
        self.number += 1
        effect = sos(self.number, kind=kind, severity=severity, at_us=self.now_us, **members)
        return self.get(self.effects(effect)[0])

    def clear(self, kind: str, device_id: str = "D-0001", person_id: str = "P-0001") -> None:
        self.number += 1
        self.effects(
            Clear(
                effect_id=f"r{self.number}:clear", kind=kind, person_id=person_id, device_id=device_id, seq=self.number,
                at_us=self.now_us, rule_id="signal",
            )
        )  # fmt: skip

    def get(self, alert_id: str) -> Alert:
        return rows.get(self.connection, alert_id)

    def wait(self, us: int) -> None:
        """Let time pass, from one timer to the next."""
        until_us = self.now_us + us
        while True:
            (due,) = self.connection.execute("SELECT min(due_at_us) FROM timer").fetchone() or (None,)
            if due is None or due > until_us:
                break
            self.clock.advance(max(0, due - self.now_us) / US_PER_S)
            committed(self.connection, lambda c: fire_due(c, self.now_us, POLICY))
        self.clock.advance((until_us - self.now_us) / US_PER_S)

    def send(self, status: str = "accepted", *, dead: str = "") -> list[str]:
        """Everything that waits is taken by the platform, or refused."""
        ids = []
        with self.connection:
            for dispatch in outbox_rows.claim(self.connection, "order_api", 100, self.now_us):
                if dead:
                    outbox_rows.finish_dead(self.connection, dispatch.id, dead, self.now_us)
                    OrderHandler(POLICY).died(self.connection, dispatch, dead, self.now_us)
                    continue
                ids.append(f"O-{dispatch.id}")
                outbox_rows.finish_done(self.connection, dispatch.id, self.now_us)
                receipt = Receipt(ids[-1], {"status": status})
                OrderHandler(POLICY).delivered(self.connection, dispatch, receipt, self.now_us)
        return ids

    def platform(self, order_id: str, status: str, **members: Any) -> Alert | Refused:
        body = {"status": status, **members}
        return committed(self.connection, lambda c: order_status(c, order_id, body, PLATFORM, self.now_us, POLICY))

    def act(self, reference: str, action: str, **members: Any) -> dict[str, Any]:
        members = {"actor": OPERATOR, **members}
        return committed(
            self.connection,
            lambda c: order_cases.act(c, reference, action, now_us=self.now_us, policy=POLICY, **members),
        )

    def do(self, alert: Alert, action: str, **members: Any) -> Alert:
        return committed(
            self.connection,
            lambda c: transition(
                c, alert.id, action, expected_version=None, actor=OPERATOR, now_us=self.now_us, policy=POLICY, **members
            ),
        )

    def supervisions(self) -> list[Alert]:
        shown = rows.list_alerts(self.connection, open_only=True, kind="order_supervision")
        return [self.get(each["id"]) for each in shown]

    def actions(self, alert: Alert) -> list[str]:
        return [each["action"] for each in rows.show_alert(self.connection, alert.id)["transitions"]]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    assert list(audit.verify(made.connection)) == []
    assert auditor.without_next_step(made.connection) == []
    made.store.close()


# ---- promises --------------------------------------------------------------------------------------------------------


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
    assert timers.find(desk.connection, case.id, "remind_calmly") is not None
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
    assert timers.find(desk.connection, alert.id, "order_accept") is not None


def test_a_resolved_alert_is_waited_for_no_more_and_a_reopened_one_is(desk: Desk) -> None:
    alert = desk.report()
    desk.send()
    desk.do(alert, "resolve", outcome="false_press")
    assert timers.find(desk.connection, alert.id, "order_due") is None
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


# ---- completeness ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("category", "order", "missing", "held"),
    [
        ("emergency", {}, 5, ()),
        ("emergency", {"person": {"id": "P", "name": "N", "phone": "1", "address": "A"}, "position": {"x": 1}}, 0, ()),
        ("service", {"person": None}, 4, ("person.id", "person.phone or person.address")),
        ("service", {"person": {"id": "P", "name": "N", "phone": "1", "address": ""}}, 1, ()),
        ("consultation", {"person": {"id": "P", "name": "N", "phone": ""}}, 1, ("person.phone",)),
        ("maintenance", {"device": None}, 4, ("device.id",)),
        ("maintenance", {"device": {"id": "D", "model": ""}}, 3, ()),
    ],
)
def test_what_is_missing_is_named_and_only_what_is_needed_holds_an_order(
    category: str, order: dict[str, Any], missing: int, held: tuple[str, ...]
) -> None:
    found = completeness.check(category, order)
    assert (len(found.missing), found.held) == (missing, held)
    assert found.view()["complete"] == (missing == 0)


@pytest.mark.parametrize(
    ("kind", "category", "intent"),
    [
        ("sos", "emergency", "emergency"), ("geofence_exit", "emergency", "emergency"),
        ("heart_rate_high", "emergency", "health_alarm"), ("blood_glucose_low", "emergency", "health_alarm"),
        ("service_call", "service", "life_help"), ("consultation", "consultation", "consultation"),
        ("tamper", "maintenance", "maintenance"),
    ],
)  # fmt: skip
def test_intents(kind: str, category: str, intent: str) -> None:
    assert completeness.intent_of(kind, category) == intent


def test_an_incomplete_order_waits_for_what_is_missing_and_is_tried_again(desk: Desk) -> None:
    alert = desk.report("service_call", Severity.P2)
    desk.send(dead=f"{completeness.INCOMPLETE}person.id")
    (case,) = desk.supervisions()
    assert case.evidence["reason"] == "incomplete"
    assert rows.list_alerts(desk.connection, kind="order_refused") == []
    desk.wait(59 * MINUTE_US)
    assert desk.send() == []
    desk.wait(2 * MINUTE_US)
    assert len(desk.send()) == 1
    assert order_cases.show(desk.connection, alert.id)["supervised"] == []
    assert desk.get(case.id).condition == "cleared"


# ---- second dispatch -------------------------------------------------------------------------------------------------


def test_a_second_dispatch_is_a_new_request_of_the_same_incident(desk: Desk) -> None:
    alert = desk.report()
    (first_id,) = desk.send()
    first = order_requests.by_order_id(desk.connection, first_id)
    case = desk.act(alert.id, "redispatch", note="the worker did not come")
    assert case["order"]["number"] == 2
    (second_id,) = desk.send()
    second = order_requests.by_order_id(desk.connection, second_id)
    assert (first.alert_id, second.alert_id) == (alert.id, alert.id)
    assert first.idempotency_key != second.idempotency_key
    assert first.service_code != second.service_code
    # the code of the first is not that of the second, and the first's statuses no longer move the alert
    assert isinstance(desk.platform(second_id, "arrived", service_code=first.service_code), Refused)
    before = desk.get(alert.id)
    desk.platform(first_id, "completed")
    assert desk.get(alert.id).version == before.version
    desk.platform(second_id, "arrived", service_code=second.service_code)
    assert isinstance(desk.platform(second_id, "arrived", service_code=second.service_code, note="again"), Refused)
    assert "redispatch" in desk.actions(alert)
    records = order_cases.show(desk.connection, second_id)["records"]
    assert [(each["kind"], each["note"], each["actor"]) for each in records] == [
        ("redispatch", "the worker did not come", "U-1")
    ]


def test_a_resolved_alert_is_opened_by_a_second_dispatch(desk: Desk) -> None:
    alert = desk.report()
    (order_id,) = desk.send()
    desk.platform(order_id, "completed")
    desk.do(alert, "resolve", outcome="assistance")
    case = desk.act(order_id, "redispatch", note="it was not solved")
    assert (case["handling"], case["order"]["number"]) == ("raised", 2)
    assert len(desk.send()) == 1


def test_what_cannot_be_dispatched_again(desk: Desk) -> None:
    alert = desk.report()
    with pytest.raises(ConflictError, match="not sent yet"):
        desk.act(alert.id, "redispatch", note="quick")
    desk.send()
    with pytest.raises(UsageError, match="say why"):
        desk.act(alert.id, "redispatch")
    with pytest.raises(UsageError, match="may not"):
        desk.act(alert.id, "redispatch", note="x", actor=FAMILY)
    with pytest.raises(ConflictError, match="version"):
        desk.act(alert.id, "redispatch", note="x", version=1)
    with pytest.raises(UsageError, match="has no order"):
        desk.act(desk.report("heart_rate_high", Severity.P3).id, "redispatch", note="x")
    with pytest.raises(NotFoundError):
        desk.act("nothing", "redispatch", note="x")
    desk.do(alert, "resolve", outcome="assistance")
    desk.wait(25 * HOUR_US)
    with pytest.raises(ConflictError, match="closed"):
        desk.act(alert.id, "redispatch", note="x")


# ---- complaints and follow-up ----------------------------------------------------------------------------------------


def test_a_complaint_is_recorded_supervised_and_answered_by_a_follow_up(desk: Desk) -> None:
    alert = desk.report("service_call", Severity.P2)
    (order_id,) = desk.send()
    desk.platform(order_id, "completed")
    desk.platform(order_id, "complained", note="came two hours late")
    (case,) = desk.supervisions()
    assert case.evidence["reason"] == "complaint"
    complaint = order_cases.show(desk.connection, alert.id)["records"][0]
    # Sunday, 22 November: the fifth working day after it is Friday
    assert (complaint["kind"], complaint["due_at"][:10]) == ("complaint", "2026-11-27")
    shown = desk.act(alert.id, "follow_up", satisfied=True, note="apologised")
    assert [each["ended_at"] is not None for each in shown["records"]] == [True, True, False]
    assert shown["records"][2]["reason"] == "satisfied"
    assert desk.get(case.id).condition == "cleared"
    assert desk.actions(alert)[-1] == "order_followed_up"


def test_a_complaint_after_the_alert_was_closed_is_supervised_too(desk: Desk) -> None:
    alert = desk.report()
    (order_id,) = desk.send()
    desk.do(alert, "resolve", outcome="assistance")
    desk.wait(25 * HOUR_US)
    desk.platform(order_id, "complained", note="rude")
    assert desk.get(alert.id).handling == "closed"
    (case,) = desk.supervisions()
    assert case.evidence["alert_id"] == alert.id


def test_who_is_not_satisfied_is_supervised(desk: Desk) -> None:
    alert = desk.report("service_call", Severity.P2)
    desk.act(alert.id, "follow_up", satisfied=False, note="not clean")
    assert [case.evidence["reason"] for case in desk.supervisions()] == ["unsatisfied"]
    desk.act(alert.id, "supervise", note="please look")
    with pytest.raises(ConflictError, match="already"):
        desk.act(alert.id, "supervise", note="please look")


def test_a_case_that_somebody_asks_for(desk: Desk) -> None:
    ask: dict[str, Any] = {"actor": OPERATOR, "now_us": desk.now_us, "policy": POLICY}
    case = committed(
        desk.connection,
        lambda c: order_cases.request(c, "consultation", person_id="P-0001", text="which pills?", **ask),
    )
    assert (case["category"], case["severity"]) == ("consultation", "P3")
    assert desk.get(case["alert_id"]).evidence["text"] == "which pills?"
    for intent, members in (
        ("tea", {"person_id": "P-1", "text": "x"}), ("life_help", {"text": "x"}), ("maintenance", {"text": "x"}),
        ("life_help", {"person_id": "P-1", "text": " "}), ("life_help", {"person_id": "P-1", "text": "x" * 2001}),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            order_cases.request(desk.connection, intent, **{**ask, **members})
    assert supervision.REASONS[0] == "not_accepted"


# ---- faults belong to devices ----------------------------------------------------------------------------------------


def test_two_devices_of_a_person_have_two_tickets(desk: Desk) -> None:
    first = desk.report("device_fault", Severity.P4, device_id="D-0001")
    second = desk.report("device_fault", Severity.P4, device_id="D-0002")
    assert desk.report("device_fault", Severity.P4, device_id="D-0001").id == first.id
    assert first.id != second.id
    assert {first.person_id, second.person_id} == {"P-0001"}
    assert len(desk.send()) == 2
    desk.clear("device_fault", "D-0002")
    assert (desk.get(first.id).condition, desk.get(second.id).condition) == ("active", "cleared")


def test_emergencies_of_two_devices_are_one_alert(desk: Desk) -> None:
    assert desk.report("sos", device_id="D-0001").id == desk.report("sos", device_id="D-0002").id
    assert desk.report("smoke", device_id="D-0001").id == desk.report("smoke", device_id="D-0003").id


def test_a_low_battery_is_ordered_when_it_lasts_and_its_promise_counts_from_the_report(desk: Desk) -> None:
    reported_us = desk.now_us
    alert = desk.report("low_battery", Severity.P4)
    assert desk.send() == []
    desk.wait(2 * HOUR_US)
    desk.report("low_battery", Severity.P4)
    desk.wait(2 * HOUR_US)
    assert len(desk.send()) == 1
    made = promises.get(desk.connection, alert.id)
    assert made is not None
    assert made.due_at_us == reported_us + 48 * HOUR_US


def test_a_battery_that_was_charged_needs_nobody(desk: Desk) -> None:
    alert = desk.report("low_battery", Severity.P4)
    desk.wait(HOUR_US)
    desk.clear("low_battery")
    desk.wait(60 * HOUR_US)
    assert desk.send() == []
    assert desk.get(alert.id).outcome == "cleared"
    assert desk.supervisions() == []


def test_a_recovered_device_is_confirmed_by_who_was_there(desk: Desk) -> None:
    alert = desk.report("device_fault", Severity.P4)
    (order_id,) = desk.send()
    desk.clear("device_fault")
    desk.wait(2 * HOUR_US)
    assert desk.get(alert.id).handling == "raised"
    desk.platform(order_id, "completed")
    assert desk.get(alert.id).handling == "resolved"


def test_an_older_file_gets_the_key_of_the_device(tmp_path: Path) -> None:
    raw = apsw.Connection(str(tmp_path / FILE_NAME))
    for sql in migrations()[:5]:
        raw.execute(sql)
    raw.pragma("user_version", 5)
    columns = [name for name in Alert.__struct_fields__ if name not in ("id", "subject", "kind", "device_id")]
    values = {"severity": 4, "condition": "active", "handling": "raised", "person_id": "P-0001", "evidence": "{}"}
    for number, (subject, kind, device) in enumerate(
        [
            ("person/P-0001", "device_fault", "D-1"), ("device/D-2", "tamper", "D-2"),
            ("person/P-0001", "tamper", "D-2"), ("person/P-0001", "sos", "D-1"), ("site/default", "tamper", ""),
        ]
    ):  # fmt: skip
        row = [
            values.get(name, None if name in ("resolved_at_us", "position", "previous_id") else 0) for name in columns
        ]
        row = [
            "" if value == 0 and name in ("progress", "owner", "outcome", "rule_id", "rule_version") else value
            for name, value in zip(columns, row, strict=True)
        ]
        raw.execute(
            f"INSERT INTO alert (id, subject, kind, device_id, {', '.join(columns)})"
            f" VALUES (?, ?, ?, ?, {', '.join('?' * len(columns))})",
            [f"a-{number}", subject, kind, device, *row],
        )
    raw.close()
    connection = open_database(tmp_path / FILE_NAME)
    found: list[Any] = connection.execute("SELECT subject FROM alert ORDER BY id").fetchall()
    assert [subject for (subject,) in found] == [
        "device/D-1", "device/D-2", "person/P-0001", "person/P-0001", "site/default",
    ]  # fmt: skip
    connection.close()
