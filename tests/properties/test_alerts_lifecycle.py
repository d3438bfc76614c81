"""The life of alerts against a simple model, on a real file and a virtual clock."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from alerts import auditor, ladders, order_requests, outbox_rows, rows
from alerts.channel import Receipt
from alerts.dossier import load
from alerts.due import fire_due
from alerts.lifecycle import apply_effects, transition
from alerts.orders import OrderHandler, order_status
from alerts.people import Reach
from alerts.policy import Policy
from alerts.policy_files import load_policies
from alerts.states import OUTCOMES, PROGRESS, TABLE
from gateway import audit
from gateway.clock import VirtualClock
from gateway.errors import ConflictError, UsageError
from gateway.model import Actor, Severity
from gateway.storage.database import FILE_NAME
from tests.alerts_support import FAMILY, OPERATOR, OTHER, PLATFORM, SYSTEM, cancelled, sos
from tests.drills.world import People
from tests.quick_file import quick_database

PEOPLE = ("P-0001", "P-0002")
KINDS = {"sos": Severity.P1, "fall": Severity.P1, "heart_rate_high": Severity.P3}
ACTORS = (OPERATOR, OTHER, FAMILY, PLATFORM, SYSTEM, Actor("device", "D-0001"), Actor("rule", "r"))
OPEN = ("raised", "accepted", "in_progress")
UNVERSIONED = (
    "remind", "restore", "ladder_step", "accept_late", "order_supervise_requested", "order_reminded",
)  # fmt: skip


@dataclass
class Model:
    """What an alert should be, by the simplest reasoning that the table allows."""

    person_id: str
    kind: str
    severity: int
    handling: str = "raised"
    condition: str = "active"
    owner: str = ""
    occurrences: int = 1
    version: int = 1
    resolved_s: float = 0.0
    versions: list[int] = field(default_factory=list)


class Lives(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.connection = quick_database(Path(self.folder.name) / FILE_NAME)
        self.clock = VirtualClock(datetime(2026, 11, 22, tzinfo=UTC))
        self.policy = Policy()
        self.model: dict[str, Model] = {}
        self.number = 0
        self.applied: list[Any] = []

    def teardown(self) -> None:
        assert list(audit.verify(self.connection)) == []
        self.connection.close()
        self.folder.cleanup()

    def now_s(self) -> float:
        return self.clock.monotonic_s()

    def latest(self, person_id: str, kind: str) -> tuple[str, Model] | None:
        found = [(i, m) for i, m in self.model.items() if (m.person_id, m.kind) == (person_id, kind)]
        return found[-1] if found else None

    # ---- devices and rules -------------------------------------------------------------------------------------------

    @rule(person_id=st.sampled_from(PEOPLE), kind=st.sampled_from(sorted(KINDS)), worse=st.booleans())
    def press(self, person_id: str, kind: str, worse: bool) -> None:
        self.number += 1
        severity = Severity.P2 if worse and kind == "heart_rate_high" else KINDS[kind]
        effect = sos(self.number, person_id=person_id, kind=kind, severity=severity, at_us=self.clock.now_us())
        self.applied.append(effect)
        with self.connection:
            applied = apply_effects(self.connection, [effect], self.clock.now_us(), self.policy)
        last = self.latest(person_id, kind)
        belongs = last is not None and (
            last[1].handling in OPEN
            or (last[1].handling == "resolved" and self.now_s() - last[1].resolved_s < self.policy.reopen_us / 1e6)
        )
        if not belongs:
            (alert_id,) = applied.raised
            assert alert_id not in self.model
            self.model[alert_id] = Model(person_id, kind, int(severity))
            assert rows.get(self.connection, alert_id).previous_id == (last[0] if last else None)
            return
        assert last is not None
        assert applied.raised == []
        model = last[1]
        if model.handling == "resolved":
            model.handling, model.owner = "raised", ""
        model.condition, model.occurrences, model.version = "active", model.occurrences + 1, model.version + 1
        if severity < model.severity:
            model.severity, model.version = int(severity), model.version + 1

    @precondition(lambda self: self.applied)
    @rule(data=st.data())
    def replay(self, data: st.DataObject) -> None:
        """What was applied once does nothing, in whatever order it comes again."""
        effects = data.draw(st.lists(st.sampled_from(self.applied), max_size=4))
        with self.connection:
            applied = apply_effects(self.connection, effects, self.clock.now_us(), self.policy)
        assert (applied.known, applied.raised, applied.changed) == (len(effects), [], [])

    @rule(person_id=st.sampled_from(PEOPLE), kind=st.sampled_from(sorted(KINDS)))
    def cancel(self, person_id: str, kind: str) -> None:
        self.number += 1
        effect = cancelled(self.number, kind=kind, person_id=person_id, at_us=self.clock.now_us())
        self.applied.append(effect)
        with self.connection:
            apply_effects(self.connection, [effect], self.clock.now_us(), self.policy)
        last = self.latest(person_id, kind)
        if last is not None and last[1].handling in OPEN and last[1].condition != "cleared":
            last[1].condition, last[1].version = "cleared", last[1].version + 1

    # ---- people, allowed or not --------------------------------------------------------------------------------------

    @precondition(lambda self: self.model)
    @rule(data=st.data(), action=st.sampled_from(["accept", "release", "resolve", "progress", "reopen"]))
    def work(self, data: st.DataObject, action: str) -> None:
        """Somebody who may, and who looked first, on the newest alerts."""
        self.act_on(data, sorted(self.model)[-2:], action, OPERATOR, stale=False)

    @precondition(lambda self: self.model)
    @rule(
        data=st.data(),
        action=st.sampled_from(["accept", "progress", "release", "resolve", "note", "reopen", "escalate", "assign"]),
        actor=st.sampled_from(ACTORS),
        stale=st.booleans(),
    )
    def act(self, data: st.DataObject, action: str, actor: Actor, stale: bool) -> None:
        self.act_on(data, sorted(self.model), action, actor, stale=stale)

    def act_on(self, data: st.DataObject, alert_ids: list[str], action: str, actor: Actor, *, stale: bool) -> None:
        alert_id = data.draw(st.sampled_from(alert_ids))
        model = self.model[alert_id]
        outcome = data.draw(st.sampled_from(sorted(OUTCOMES - {"cleared"})))
        detail = {"progress": data.draw(st.sampled_from(sorted(PROGRESS))), "owner": "U-9"}
        try:
            with self.connection:
                transition(
                    self.connection, alert_id, action, expected_version=model.version - stale, actor=actor,
                    now_us=self.clock.now_us(), policy=self.policy, outcome=outcome, note="because", detail=detail,
                )  # fmt: skip
        except ConflictError as error:
            newer = self.latest(model.person_id, model.kind)
            if action == "reopen" and model.handling == "resolved" and not stale:
                assert newer is not None
                assert newer[0] != alert_id
                assert newer[1].handling in OPEN
                assert newer[0] in str(error)  # noqa: PT017 - whether it is refused at all depends on the model
                return
            assert stale or model.handling not in {each.value for each in TABLE[action].sources}
            assert model.owner in str(error)  # noqa: PT017 - as above
            return
        except UsageError:
            assert not _may(actor, action, model)
            return
        assert not stale
        assert _may(actor, action, model)
        self._follow(model, action, actor)

    def _follow(self, model: Model, action: str, actor: Actor) -> None:
        model.version += 1
        if action == "accept":
            model.handling, model.owner = "accepted", actor.id
        elif action == "progress":
            model.handling = "in_progress"
        elif action == "assign":
            model.handling = "in_progress" if model.handling == "in_progress" else "accepted"
            model.owner = "U-9"
        elif action in ("release", "reopen"):
            model.handling, model.owner = "raised", ""
        elif action == "resolve":
            model.handling, model.resolved_s = "resolved", self.now_s()
        elif action == "escalate":
            model.severity = max(1, model.severity - 1)

    # ---- time and the platform ---------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([1, 31, 301, 601, 3601, 90_000]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)
        before = {alert_id: rows.get(self.connection, alert_id) for alert_id in self.model}
        for _ in range(50):
            with self.connection:
                fired = fire_due(self.connection, self.clock.now_us(), self.policy)
            if fired == 0:
                break
        assert self.connection.execute(
            "SELECT count(*) FROM timer WHERE due_at_us <= ?", (self.clock.now_us(),)
        ).fetchone() == (0,)
        for alert_id, model in self.model.items():
            now = rows.get(self.connection, alert_id)
            was = before[alert_id]
            if now.handling != was.handling:
                steps = (was.handling.value, now.handling.value)
                harmless = model.severity >= 3 and model.kind == "heart_rate_high" and model.condition == "cleared"
                assert steps in {("accepted", "raised"), ("in_progress", "raised"), ("resolved", "closed")} or (
                    harmless and steps[1] == "resolved"
                ), steps
            model.version = now.version
            model.handling = now.handling.value
            model.owner = now.owner
            if now.resolved_at_us is not None:
                model.resolved_s = now.resolved_at_us / 1e6

    @rule(work=st.sampled_from(["done", "dead", "again"]))
    def deliver(self, work: str) -> None:
        handler = OrderHandler(self.policy)
        now_us = self.clock.now_us()
        with self.connection:
            for dispatch in outbox_rows.claim(self.connection, "order_api", 3, now_us):
                if work == "done":
                    outbox_rows.finish_done(self.connection, dispatch.id, now_us)
                    receipt = Receipt(f"O-{dispatch.id}", {"status": "accepted"})
                    handler.delivered(self.connection, dispatch, receipt, now_us)
                elif work == "dead":
                    outbox_rows.finish_dead(self.connection, dispatch.id, "no", now_us)
                    handler.died(self.connection, dispatch, "no", now_us)
                else:
                    outbox_rows.finish_retry(self.connection, dispatch.id, now_us, "later", uncertain=True)
        self._reread()

    @rule(status=st.sampled_from(["dispatched", "completed", "cancelled"]), data=st.data())
    def platform(self, status: str, data: st.DataObject) -> None:
        orders: list[Any] = self.connection.execute(
            "SELECT order_id FROM order_request WHERE order_id <> ''"
        ).fetchall()
        if not orders:
            return
        (order_id,) = data.draw(st.sampled_from(orders))
        with self.connection:
            order_status(self.connection, order_id, {"status": status}, PLATFORM, self.clock.now_us(), self.policy)
        self._reread()

    def _reread(self) -> None:
        """What orders change is not in the model; that they never end an emergency is."""
        for alert_id, model in self.model.items():
            alert = rows.get(self.connection, alert_id)
            assert alert.version >= model.version
            if model.kind != "heart_rate_high" and model.handling in OPEN:
                assert alert.handling.value in OPEN
            if alert.handling.value == "resolved" and model.handling in OPEN:
                model.resolved_s = self.now_s()
            model.version, model.handling = alert.version, alert.handling.value

    # ---- always ------------------------------------------------------------------------------------------------------

    @invariant()
    def file_and_model_agree(self) -> None:
        for alert_id, model in self.model.items():
            alert = rows.get(self.connection, alert_id)
            seen = (alert.handling.value, alert.condition.value, alert.owner, alert.occurrences, int(alert.severity))
            assert seen == (model.handling, model.condition, model.owner, model.occurrences, model.severity)
            assert alert.version == model.version

    @invariant()
    def one_open_alert_of_a_kind(self) -> None:
        seen = [(m.person_id, m.kind) for m in self.model.values() if m.handling in OPEN]
        assert len(seen) == len(set(seen))

    @invariant()
    def versions_rise_by_one_and_the_audit_tells_each(self) -> None:
        for alert_id in self.model:
            bodies: list[Any] = self.connection.execute(
                "SELECT body FROM audit WHERE alert_id = ? ORDER BY seq", (alert_id,)
            ).fetchall()
            told = [msgspec.json.decode(body) for (body,) in bodies]
            versions = [row["version"] for row in told if row["action"] not in UNVERSIONED]
            assert versions == list(range(1, len(versions) + 1))
            shown = rows.view(self.connection, rows.get(self.connection, alert_id))
            last = told[-1]["after"]
            for name in ("handling", "condition", "severity", "occurrences", "owner", "version"):
                assert last[name] == shown[name]
            machine_end = [row for row in told if row["action"] == "resolve" and row["actor"]["type"] != "operator"]
            if self.model[alert_id].kind != "heart_rate_high":
                assert machine_end == []

    @invariant()
    def every_open_emergency_has_a_next_step(self) -> None:
        assert auditor.without_next_step(self.connection, with_ladders=self.policy.reach is not None) == []

    @invariant()
    def each_order_has_its_own_key_and_only_one_is_under_way(self) -> None:
        many = self.connection.execute(
            "SELECT alert_id FROM order_request WHERE finished = 0 GROUP BY alert_id HAVING count(*) > 1"
        ).fetchall()
        assert many == []

    @invariant()
    def a_dossier_says_what_the_tables_say(self) -> None:
        for alert_id in self.model:
            found = load(self.connection, alert_id)
            assert found.alert == rows.get(self.connection, alert_id)
            assert bytes(found.view(self.connection)) == audit.canonical(rows.view(self.connection, found.alert))
            under_way = order_requests.under_way(self.connection, found.alert)
            order = found.order_under_way()
            assert (order and order.idempotency_key) == (under_way and under_way.idempotency_key)


def _may(actor: Actor, action: str, model: Model) -> bool:
    """Who may do what, said again in other words."""
    if actor is FAMILY:
        return action == "note"
    if actor is PLATFORM:
        if action in ("accept", "progress", "release", "note", "reopen", "escalate"):
            return True
        return action == "resolve" and model.severity >= 3 and model.kind == "heart_rate_high"
    if actor.type in ("device", "rule"):
        harmless = model.severity >= 3 and model.kind == "heart_rate_high"
        return action == "reopen" or (action == "resolve" and actor.type == "rule" and harmless)
    if actor is SYSTEM:
        harmless = model.severity >= 3 and model.kind == "heart_rate_high"
        return action in ("progress", "release", "note", "reopen") or (action == "resolve" and harmless)
    return True


Lives.TestCase.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLives = Lives.TestCase


class LivesWithLadders(Lives):
    """The same model holds beside ladders that climb: they never change handling, owner, severity or version."""

    def __init__(self) -> None:
        super().__init__()
        reach = Reach(
            book=load_policies(),
            source=People(3),
            providers=lambda medium: ("carrier",) if medium in ("voice", "sms") else (),
        )
        self.policy = msgspec.structs.replace(self.policy, reach=reach)

    @invariant()
    def ladders_run_while_nobody_has_it(self) -> None:
        for alert_id in self.model:
            alert = rows.get(self.connection, alert_id)
            states = {rung.state for rung in ladders.rungs(self.connection, alert_id).values()}
            if alert.handling.value == "raised" and alert.severity == 1:
                assert states == {"running"}
            elif alert.handling.value in ("accepted", "in_progress"):
                assert "running" not in states
            elif alert.handling.value in ("resolved", "closed"):
                assert states == {"stopped"}

    @invariant()
    def no_message_has_two_dispatches(self) -> None:
        many = self.connection.execute(
            "SELECT 1 FROM outbox WHERE lane = 'notify' GROUP BY alert_id, payload HAVING count(*) > 1"
        ).fetchall()
        assert many == []


LivesWithLadders.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestLivesWithLadders = LivesWithLadders.TestCase
