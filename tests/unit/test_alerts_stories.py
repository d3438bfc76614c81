"""Alerts: the cases that people talk about, one by one."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from alerts import auditor, order_requests, rows, timers
from alerts.desk import Desk, act
from alerts.due import fire_due
from alerts.lifecycle import Applied, apply_effects, transition
from alerts.orders import order_status
from alerts.policy import Policy
from alerts.rows import Alert
from alerts.service import AlertService
from gateway import audit
from gateway.clock import US_PER_S, VirtualClock, to_us
from gateway.errors import ConflictError, NotFoundError, StorageBrokenError, StorageError, UsageError
from gateway.model import Actor, Effect, Position, Severity
from tests.alerts_support import (
    FAMILY,
    OPERATOR,
    OTHER,
    PLATFORM,
    UNSUPERVISED,
    FileStore,
    NowhereToGo,
    cancelled,
    committed,
    sos,
)

POLICY = UNSUPERVISED
START = datetime(2026, 11, 22, 22, 4, tzinfo=UTC)


class Site:
    """A file, a virtual clock, and short words for what happens."""

    def __init__(self, folder: Path) -> None:
        self.store = FileStore(folder)
        self.connection = self.store.connection
        self.clock = VirtualClock(START)

    def effects(self, *effects: Effect) -> Applied:
        return committed(self.connection, lambda c: apply_effects(c, effects, self.clock.now_us(), POLICY))

    def press(self, number: int = 1, **members: Any) -> Alert:
        applied = self.effects(sos(number, at_us=self.clock.now_us(), **members))
        return rows.get(self.connection, (applied.raised or applied.changed)[0])

    def do(self, alert: Alert, action: str, actor: Actor = OPERATOR, **members: Any) -> Alert:
        return committed(
            self.connection,
            lambda c: transition(
                c, alert.id, action, expected_version=None, actor=actor, now_us=self.clock.now_us(), policy=POLICY,
                **members,
            ),
        )  # fmt: skip

    def wait(self, seconds: float) -> int:
        self.clock.advance(seconds)
        return committed(self.connection, lambda c: fire_due(c, self.clock.now_us(), POLICY))

    def actions(self, alert: Alert) -> list[str]:
        return [each["action"] for each in rows.show_alert(self.connection, alert.id)["transitions"]]


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


@pytest.mark.parametrize("handling", ["raised", "accepted"])
def test_the_auditor_finds_an_emergency_without_a_next_step_and_acts(site: Site, handling: str) -> None:
    alert = site.press()
    if handling == "accepted":
        site.do(alert, "accept")
    assert auditor.without_next_step(site.connection) == []
    site.connection.execute("DELETE FROM timer")
    assert [each.id for each in auditor.without_next_step(site.connection)] == [alert.id]
    with site.connection:
        assert auditor.restore(site.connection, site.clock.now_us(), POLICY) == [alert.id]
    assert timers.has_any(site.connection, alert.id)
    assert site.actions(alert)[-1] == "restore"


def test_waiting_for_an_order_is_no_next_step(tmp_path: Path) -> None:
    """An emergency of which only the platform's promise is timed would be heard of by nobody: the auditor acts."""
    site = Site(tmp_path)
    now_us = site.clock.now_us()
    (alert_id,) = committed(site.connection, lambda c: apply_effects(c, [sos(1)], now_us, Policy())).raised
    site.connection.execute("DELETE FROM timer WHERE kind = 'remind'")
    kinds = [kind for (kind,) in site.connection.execute("SELECT kind FROM timer ORDER BY kind")]
    assert kinds == ["order_accept", "order_due"]
    assert [each.id for each in auditor.without_next_step(site.connection)] == [alert_id]

    async def main() -> None:
        service = AlertService(site.store, site.clock, Policy(), outbox=NowhereToGo())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            while auditor.without_next_step(site.connection):
                await asyncio.sleep(0.01)
            task.cancel()

    asyncio.run(main())
    assert timers.find(site.connection, alert_id, "remind") is not None
    site.store.close()


def test_a_store_that_cannot_write_at_the_start_does_not_end_the_service(site: Site) -> None:
    async def main() -> None:
        site.store.fail_with = [StorageError("the disk is full")]
        service = AlertService(site.store, site.clock, POLICY, outbox=NowhereToGo())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            await asyncio.sleep(0.01)
            service.submit([sos(1)])
            async with asyncio.timeout(60):
                await service.drained()
            task.cancel()

    asyncio.run(main())
    assert len(rows.list_alerts(site.connection)) == 1


def test_a_transaction_that_fails_leaves_nothing(site: Site) -> None:
    def dies(connection: apsw.Connection) -> None:
        apply_effects(connection, [sos(1)], site.clock.now_us(), POLICY)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        committed(site.connection, dies)
    for table in ("alert", "occurrence", "timer", "outbox", "order_request", "audit"):
        assert site.connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_effects_survive_a_store_that_fails_for_a_while(site: Site) -> None:
    async def main() -> None:
        service = AlertService(site.store, site.clock, POLICY, outbox=NowhereToGo())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            await asyncio.sleep(0.01)
            site.store.fail_with = [StorageError("full"), StorageError("full")]
            service.submit([sos(1)])
            await service.drained()
            task.cancel()
        assert len(rows.list_alerts(site.connection)) == 1

    asyncio.run(main())


def test_a_broken_disk_ends_the_service(site: Site) -> None:
    async def main() -> None:
        service = AlertService(site.store, site.clock, POLICY, outbox=NowhereToGo())
        site.store.fail_with = [StorageBrokenError("io")]
        await service.run()

    with pytest.raises(StorageBrokenError):
        asyncio.run(main())


class JumpyClock(VirtualClock):
    """A wall clock that can be set while the monotonic one goes on."""

    offset_us = 0

    def now_us(self) -> int:
        return super().now_us() + self.offset_us


@pytest.mark.parametrize("jump_s", [-3600, 3600, 90 * 86_400])
def test_reminders_survive_a_wall_clock_that_jumps(site: Site, jump_s: int) -> None:
    clock = JumpyClock(START)

    async def main() -> None:
        service = AlertService(site.store, clock, POLICY, outbox=NowhereToGo())
        async with asyncio.TaskGroup() as group:
            task = group.create_task(service.run())
            service.submit([sos(1, at_us=clock.now_us())])
            await service.drained()
            clock.offset_us = jump_s * US_PER_S
            await asyncio.sleep(0.3)
            clock.advance(31)
            async with asyncio.timeout(60):
                while not reminded():
                    await asyncio.sleep(0.02)
            await asyncio.sleep(0.6)
            task.cancel()

    def reminded() -> int:
        (shown,) = rows.list_alerts(site.connection)
        return [each["action"] for each in rows.show_alert(site.connection, shown["id"])["transitions"]].count("remind")

    asyncio.run(main())
    assert reminded() == 1
    jumps: list[Any] = site.connection.execute("SELECT count(*) FROM audit WHERE action = 'clock_jumped'").fetchall()
    assert jumps[0][0] >= 1


def test_a_timer_that_a_wrong_clock_set_is_pulled_in(site: Site) -> None:
    alert = site.press()
    far = to_us(START + timedelta(days=365))
    site.connection.execute("UPDATE timer SET due_at_us = ?", (far,))
    assert timers.pull_in(site.connection, site.clock.now_us(), POLICY.longest_us) == 1
    assert site.wait(600) == 1
    assert site.actions(alert)[-1] == "remind"


def test_the_file_refuses_a_second_open_alert_of_a_kind(site: Site) -> None:
    alert = site.press()
    with pytest.raises(apsw.ConstraintError), site.connection:
        rows.insert(site.connection, msgspec.structs.replace(alert, id="another"))


def test_handing_over_is_one_step(site: Site) -> None:
    alert = site.do(site.press(), "accept")
    site.do(alert, "progress", detail={"progress": "talking"})
    now = site.do(alert, "assign", OTHER, detail={"owner": "U-7"})
    assert (now.owner, now.handling, now.progress) == ("U-7", "in_progress", "talking")
