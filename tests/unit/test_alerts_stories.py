"""Alerts: the cases that people talk about, one by one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from alerts import order_requests, rows
from alerts.desk import Desk, act
from alerts.lifecycle import apply_effects
from alerts.orders import order_status
from alerts.policy import Policy
from gateway import audit
from gateway.clock import to_us
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Actor, Position, Severity
from tests.alerts_site import POLICY, START, Site
from tests.alerts_support import FAMILY, OPERATOR, OTHER, PLATFORM, cancelled, sos


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    assert list(audit.verify(made.connection)) == []
    made.store.close()


def test_the_list_has_the_members_of_the_contract(site: Site) -> None:
    alert = site.press()
    (shown,) = rows.list_alerts(site.connection, open_only=True)
    assert shown | {
        "id": alert.id, "version": 1, "kind": "sos", "severity": "P1", "condition": "active", "handling": "raised",
        "person_id": "P-0001", "device_id": "D-0001", "occurrences": 1, "raised_at": "2026-11-22T22:04:00.000Z",
    } == shown  # fmt: skip
    assert shown["order"] | {"order_id": None, "status": None, "state": "pending"} == shown["order"]


def test_ids_are_the_same_after_a_replay_and_in_order_of_time() -> None:
    first, again = rows.alert_id("default", sos(1)), rows.alert_id("default", sos(1))
    assert first == again
    assert uuid.UUID(first).version == 7
    assert uuid.UUID(first).variant == uuid.RFC_4122
    assert first != rows.alert_id("elsewhere", sos(1))
    times = [rows.alert_id("default", sos(1, at_us=at * 1000)) for at in (0, 1, 2, 10**12, 10**13)]
    assert times == sorted(times)


def test_pressed_again_is_one_alert_one_order_and_is_told_again(site: Site) -> None:
    alert = site.press(1)
    for number in range(2, 12):
        again = site.press(number)
        assert again.id == alert.id
    assert (again.occurrences, again.version) == (11, 11)
    assert site.actions(alert) == ["raise"] + ["press"] * 10
    assert site.connection.execute("SELECT count(*) FROM outbox").fetchone() == (1,)


def test_a_storm_of_presses_does_not_put_the_reminder_off(site: Site) -> None:
    alert = site.press(1)
    for number in range(2, 30):
        site.clock.advance(1)
        site.press(number)
    assert site.wait(2) == 1
    assert site.actions(alert)[-1] == "remind"


def test_reminders_grow_further_apart_and_never_end(site: Site) -> None:
    alert = site.press()
    told = [second for second in range(1, 3 * 3600) if site.wait(1)]
    pauses = [after - before for before, after in zip([0, *told], told, strict=False)]
    assert pauses[:6] == [30, 60, 120, 240, 480, 600]
    assert set(pauses[6:]) == {600}
    assert rows.get(site.connection, alert.id).version == 1  # nobody's version is out of date because of a reminder


def test_who_does_not_report_loses_the_alert(site: Site) -> None:
    alert = site.press()
    site.do(alert, "accept")
    assert site.wait(299) == 0
    site.do(alert, "progress", detail={"progress": "talking"})
    assert site.wait(299) == 0
    assert site.wait(2) == 1
    now = rows.get(site.connection, alert.id)
    assert (now.handling, now.owner) == ("raised", "")
    assert site.wait(30) == 1  # and everybody is told again


@pytest.mark.parametrize(("seconds", "same"), [(599, True), (600, False), (90_000, False)])
def test_a_press_after_the_end_reopens_or_follows(site: Site, seconds: int, same: bool) -> None:
    alert = site.press(1)
    site.do(alert, "resolve", outcome="false_press")
    site.wait(seconds)
    again = site.press(2)
    assert (again.id == alert.id) is same
    assert again.handling == "raised"
    if same:
        assert again.occurrences == 2
    else:
        assert again.previous_id == alert.id


def test_a_cancelled_call_is_a_note_and_no_end(site: Site) -> None:
    alert = site.press(1)
    site.effects(cancelled(2), cancelled(3))
    now = rows.get(site.connection, alert.id)
    assert (now.condition, now.handling, now.version) == ("cleared", "raised", 2)
    site.wait(3600)
    assert rows.get(site.connection, alert.id).handling == "raised"


def test_a_cancel_that_met_no_alert_does_not_meet_a_later_one_by_replay(site: Site) -> None:
    early = cancelled(1)
    site.effects(early)
    alert = site.press(2)
    assert site.effects(early).known == 1
    assert rows.get(site.connection, alert.id).condition == "active"


def test_an_advisory_that_went_by_itself_ends_by_itself(site: Site) -> None:
    alert = site.press(1, kind="heart_rate_high", severity=Severity.P3)
    assert rows.view(site.connection, alert)["order"] is None
    site.effects(cancelled(2, kind="heart_rate_high"))
    assert site.wait(599) == 0
    assert site.wait(2) == 1
    now = rows.get(site.connection, alert.id)
    assert (now.handling, now.outcome) == ("resolved", "cleared")
    assert site.wait(24 * 3600) == 1
    now = rows.get(site.connection, alert.id)
    assert now.handling == "closed"
    with pytest.raises(ConflictError):
        site.do(now, "note", note="too late")


def test_worse_raises_the_severity_and_asks_for_an_order(site: Site) -> None:
    alert = site.press(1, kind="heart_rate_high", severity=Severity.P3)
    worse = site.press(2, kind="heart_rate_high", severity=Severity.P2)
    assert (worse.id, worse.severity, worse.order_number) == (alert.id, Severity.P2, 1)
    better = site.press(3, kind="heart_rate_high", severity=Severity.P3)
    assert better.severity is Severity.P2
    with pytest.raises(UsageError, match="say why"):
        site.do(better, "lower")
    assert site.do(better, "lower", note="measured again").severity is Severity.P3


def test_an_unverified_press_is_an_alert_of_its_own(site: Site) -> None:
    true = site.press(1)
    doubted = site.press(2, verified=False, severity=Severity.P2)
    assert doubted.id != true.id
    assert doubted.verified is False
    with pytest.raises(UsageError):
        site.do(doubted, "resolve", Actor("system", "timer"), outcome="technical")


def test_nobody_known_and_nothing_known_is_an_alert_all_the_same(site: Site) -> None:
    for number, members in enumerate([{"person_id": ""}, {"person_id": "", "device_id": ""}], start=1):
        alert = site.press(number, **members)
        assert rows.view(site.connection, alert)["person_id"] is None
        assert alert.order_number == 1


def test_a_device_that_went_silent_leaves_its_alerts_unknown(site: Site) -> None:
    alert = site.press(1)
    site.press(2, kind="device_silent", severity=Severity.P4)
    assert rows.get(site.connection, alert.id).condition == "unknown"


def test_thousand_accept_at_once_and_one_has_it(site: Site) -> None:
    async def main() -> None:
        alert = site.press()
        desk = Desk(site.store, site.clock, POLICY, wake=lambda: None)
        won: list[str] = []
        lost: list[str] = []

        async def accept(name: str) -> None:
            try:
                await desk.act(alert.id, "accept", actor=Actor("operator", name, role="operator"), version=1)
                won.append(name)
            except ConflictError as error:
                lost.append(str(error))

        async with asyncio.TaskGroup() as group:
            for number in range(1000):
                group.create_task(accept(f"U-{number:04d}"))
        assert len(won) == 1
        assert len(lost) == 999
        assert all(f"owner {won[0]}," in text for text in lost)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("action", "actor", "members"),
    [
        ("accept", FAMILY, {}),
        ("resolve", FAMILY, {"outcome": "false_press"}),
        ("resolve", PLATFORM, {"outcome": "assistance"}),
        ("resolve", OPERATOR, {"outcome": "cleared"}),
        ("resolve", OPERATOR, {"outcome": ""}),
        ("note", OPERATOR, {"note": "  "}),
        ("note", OPERATOR, {"note": "x" * 2001}),
        ("note", OPERATOR, {"note": "\ud800"}),
        ("escalate", OPERATOR, {"detail": {"severity": "P9"}}),
        ("assign", OPERATOR, {}),
        ("press", OPERATOR, {}),
        ("explode", OPERATOR, {}),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(
    site: Site, action: str, actor: Actor, members: dict[str, Any]
) -> None:
    alert = site.press()
    with pytest.raises(UsageError):
        site.do(alert, action, actor, **members)
    assert rows.get(site.connection, alert.id) == alert
    assert site.actions(alert) == ["raise"]


def test_progress_of_an_unknown_kind_is_refused(site: Site) -> None:
    alert = site.do(site.press(), "accept")
    with pytest.raises(UsageError, match="known are"):
        site.do(alert, "progress", detail={"progress": "dancing"})
    with pytest.raises(UsageError, match="known are"), site.connection:
        act(site.connection, alert.id, "press", actor=OPERATOR, now_us=0, policy=POLICY)
    with pytest.raises(NotFoundError):
        rows.show_alert(site.connection, "nobody")


def test_the_audit_holds_no_place_and_no_vital_sign(site: Site) -> None:
    position = Position(39.1235, 117.2011, to_us(START), 12.0)
    effect = msgspec.structs.replace(
        sos(1, position=position), evidence={"signal": "sos", "values": {"heart_rate_bpm": 131.5}}
    )
    site.effects(effect)
    for (body,) in list[Any](site.connection.execute("SELECT body FROM audit")):
        assert "131.5" not in body
        assert "39.1235" not in body
    (alert,) = rows.list_alerts(site.connection)
    shown = rows.show_alert(site.connection, alert["id"])
    assert shown["position"]["latitude"] == 39.1235
    assert shown["evidence"]["values"] == {"heart_rate_bpm": 131.5}


def test_service_codes_are_eight_digits_with_a_luhn_digit_and_never_twice_at_once(site: Site) -> None:
    drawn = iter([1, 1, 1, 2])
    policy = Policy(draw=lambda below: next(drawn))
    with site.connection:
        apply_effects(site.connection, [sos(1), sos(2, person_id="P-2")], site.clock.now_us(), policy)
    codes = sorted(row[0] for row in list[Any](site.connection.execute("SELECT service_code FROM order_request")))
    assert codes == ["00000018", "00000026"]
    # ISO/IEC 7812-1: the well-known example number 7992739871 has the check digit 3
    assert order_requests.check_digit("7992739871") == "3"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"status": "gone"},
        {"status": "arrived"},
        {"status": "accepted", "at": "yesterday"},
        {"status": "accepted", "at": "2026-11-22T01:02:03"},
        {"status": "accepted", "at": 5},
        {"status": "accepted", "worker": 7},
        {"status": "accepted", "note": "x" * 2001},
        {"status": ["accepted"]},
    ],
)
def test_a_callback_that_is_none_is_refused(site: Site, body: dict[str, Any]) -> None:
    site.press()
    site.connection.execute("UPDATE order_request SET order_id = 'O-1'")
    with pytest.raises(UsageError), site.connection:
        order_status(site.connection, "O-1", body, PLATFORM, site.clock.now_us(), POLICY)


def test_a_late_status_does_not_turn_the_order_back(site: Site) -> None:
    alert = site.press()
    site.connection.execute("UPDATE order_request SET order_id = 'O-1', status = 'accepted'")
    for status in ("dispatched", "completed", "accepted", "followed_up"):
        with site.connection:
            order_status(site.connection, "O-1", {"status": status}, PLATFORM, site.clock.now_us(), POLICY)
    shown = rows.show_alert(site.connection, alert.id)
    assert shown["order"]["status"] == "followed_up"
    assert [each["status"] for each in shown["orders"][0]["history"]] == [
        "dispatched", "completed", "accepted", "followed_up",
    ]  # fmt: skip
    assert shown["handling"] == "raised"


def test_a_complaint_after_the_alert_was_closed_is_kept(site: Site) -> None:
    alert = site.press()
    site.connection.execute("UPDATE order_request SET order_id = 'O-1', status = 'completed'")
    site.do(alert, "resolve", outcome="assistance")
    site.wait(24 * 3600)
    closed = rows.get(site.connection, alert.id)
    with site.connection:
        order_status(site.connection, "O-1", {"status": "complained"}, PLATFORM, site.clock.now_us(), POLICY)
    assert rows.get(site.connection, alert.id) == closed
    assert rows.show_alert(site.connection, alert.id)["order"]["status"] == "complained"


def test_an_advisorys_finished_order_ends_it(site: Site) -> None:
    alert = site.press(1, kind="service_call", severity=Severity.P3)
    site.connection.execute("UPDATE order_request SET order_id = 'O-1', status = 'accepted'")
    with site.connection:
        order_status(site.connection, "O-1", {"status": "completed"}, PLATFORM, site.clock.now_us(), POLICY)
    assert rows.get(site.connection, alert.id).handling == "resolved"


def test_the_file_refuses_a_second_open_alert_of_a_kind(site: Site) -> None:
    alert = site.press()
    with pytest.raises(apsw.ConstraintError), site.connection:
        rows.insert(site.connection, msgspec.structs.replace(alert, id="another"))


def test_handing_over_is_one_step(site: Site) -> None:
    alert = site.do(site.press(), "accept")
    site.do(alert, "progress", detail={"progress": "talking"})
    now = site.do(alert, "assign", OTHER, detail={"owner": "U-7"})
    assert (now.owner, now.handling, now.progress) == ("U-7", "in_progress", "talking")
