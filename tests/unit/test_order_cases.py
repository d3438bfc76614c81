"""Cases of orders: complete enough to be sent, dispatched again, complained of, followed up, asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alerts import completeness, order_cases, order_requests, rows, supervision
from alerts.channels.order_api import TITLES
from alerts.policy import HOUR_US, MINUTE_US
from alerts.refusals import Refused
from alerts.wording import own_wording
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Severity
from tests.alerts_support import FAMILY, OPERATOR, committed
from tests.order_world import POLICY, Desk, opened


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from opened(tmp_path)


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


def test_every_kind_of_which_messages_have_a_word_has_a_title() -> None:
    """All but what is the site's own trouble, and never an order."""
    site = {"health", "other", "supervision", "order_supervision", "order_refused", "order_api_unavailable",
            "nobody_can_be_called", "broker_session_lost", "contact_wrong_number"}  # fmt: skip
    words = {message for context, message in own_wording().messages["zh"] if context == "kind name"}
    assert words - site - TITLES.keys() == set()
    assert all(chinese and not chinese.isascii() for chinese, _ in TITLES.values())


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
