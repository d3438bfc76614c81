"""The call log: what is in it, what it answers, how long it is kept, and what holds it."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from alerts import answers, attempts, call_legs
from alerts.attempts import Parties
from alerts.notice import Told
from alerts.people import hash_of
from alerts.policy import Policy
from gateway import audit
from gateway.clock import US_PER_S, iso
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Actor
from gateway.storage import call_retention, calls
from gateway.storage.call_retention import DAY_US, Retention
from gateway.storage.calls import Question
from gateway.storage.database import migrations, open_database
from tests.call_log import ACTOR, CALLER, NUMBER, add_alert, begin, tell
from tests.factory import T0_US

S = US_PER_S


@pytest.fixture
def file(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = open_database(tmp_path / "journal.sqlite3")
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def only(connection: apsw.Connection, **question: Any) -> dict[str, Any]:
    (view,) = calls.search(connection, Question(**question))
    return view


# ---- what is in it ---------------------------------------------------------------------------------------------------


def test_a_call_from_beginning_to_end(file: apsw.Connection) -> None:
    alert_id = add_alert(file)
    number = begin(file, "a1", alert_id)
    attempts.sent(file, "a1", "twilio", "CA1", T0_US + S)
    for seconds, state in enumerate(("queued", "ringing", "answered"), 2):
        assert tell(file, "a1", state, T0_US + seconds * S)
    assert tell(file, "a1", "answered", T0_US + 20 * S, digits="1")
    assert tell(file, "a1", "answered", T0_US + 30 * S, duration_s=26)
    detail = {"recording_uri": "https://r.example/RE1", "recording_s": "25"}
    assert tell(file, "a1", "answered", T0_US + 40 * S, recording="RE1", detail=detail)
    assert not tell(file, "a1", "answered", T0_US + 50 * S, recording="RE1", detail=detail)
    view = only(file)
    assert (view["id"], view["caller"], view["callee"], view["direction"]) == (number, CALLER, NUMBER, "outbound")
    assert (view["state"], view["digits"], view["answer"], view["role"]) == ("answered", "1", "accepted", "contact")
    times = {name: view[f"{name}_at"] for name in ("created", "started", "sent", "rang", "answered", "ended")}
    expected = {"created": 0, "started": 0, "sent": 1, "rang": 3, "answered": 4, "ended": 30}
    assert times == {name: iso(T0_US + seconds * S) for name, seconds in expected.items()}
    assert view["duration_s"] == 26
    (recording,) = view["recordings"]
    assert recording == {
        "serial": 1, "reference": "RE1", "uri": "https://r.example/RE1", "sha256": "", "duration_s": 25,
        "recorded_at": iso(T0_US + 40 * S),
    }  # fmt: skip
    assert [each["state"] for each in calls.show(file, number)["told"]][:2] == ["queued", "ringing"]


def test_another_try_keeps_when_it_was_decided(file: apsw.Connection) -> None:
    alert_id = add_alert(file)
    begin(file, "a1", alert_id)
    attempts.failed(file, "a1", "twilio", "deferred", "out of order", T0_US + S)
    begin(file, "a1", alert_id, at_us=T0_US + 9 * S)
    view = only(file)
    assert (view["created_at"], view["started_at"], view["tries"]) == (iso(T0_US), iso(T0_US + 9 * S), 2)


def test_legs_of_a_conference_are_calls_and_their_callbacks_find_them(file: apsw.Connection) -> None:
    alert_id = add_alert(file)
    parties = Parties(caller=CALLER, callee="120", person_id="P-0001", role="ems120")
    leg: dict[str, Any] = {"attempt_id": "leg-1", "provider": "twilio", "alert_id": alert_id, "parties": parties}
    assert call_legs.begin_leg(file, **leg, now_us=T0_US)
    assert not call_legs.begin_leg(file, **leg, now_us=T0_US + 5)
    assert call_legs.begin_conference(file, provider="twilio", alert_id=alert_id, person_id="P-0001", now_us=T0_US)
    inbound = Parties(caller=NUMBER, callee=CALLER, person_id="P-0001", role="person")
    call_legs.begin_leg(
        file, attempt_id="in-1", provider="twilio", alert_id=alert_id, parties=inbound, now_us=T0_US,
        direction="inbound", provider_id="CA9",
    )  # fmt: skip
    for attempt_id, members in (
        ("leg-1", {"state": "failed"}),
        (alert_id, {"state": "answered", "recording": "RE7", "detail": {"event": "conference-end"}}),
    ):
        told = Told(attempt_id=attempt_id, provider="twilio", provider_id="X", at_us=T0_US + S, **members)
        assert answers.take_told(file, told, T0_US + S, Policy()) == "noted"
    views = {view["attempt_id"]: view for view in calls.search(file, Question(alert_id=alert_id))}
    assert views["leg-1"]["state"] == "failed"
    assert views["leg-1"]["role"] == "ems120"
    assert views[alert_id]["recordings"][0]["reference"] == "RE7"
    assert views[alert_id]["ended_at"] == iso(T0_US + S)
    assert [view["attempt_id"] for view in calls.search(file, Question(number=NUMBER))] == ["in-1"]
    assert attempts.called_within(file, hash_of(NUMBER), "voice", T0_US - 1, T0_US + 1) is False


def test_an_older_file_gets_its_call_log(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite3"
    old = apsw.Connection(str(path))
    for sql in migrations()[:5]:
        old.execute(sql)
    old.execute(
        "INSERT INTO attempt (attempt_id, provider, alert_id, contact_id, medium, ladder, loop, step, address_hash,"
        " provider_id, state, reason, tries, started_at_us, digits, recording)"
        " VALUES ('a1', 'twilio', 'A', 'staff:duty', 'voice', 'operator', 1, 0, 'h', 'CA', 'answered', '', 1, 77, '1',"
        " 'RE')"
    )
    old.execute("INSERT INTO attempt_told VALUES ('a1', 'twilio', 'CA', 'answered', '', -1, 'RE', 78)")
    old.pragma("user_version", 5)
    old.close()
    connection = open_database(path)
    view = only(connection)
    assert (view["created_at"], view["role"], view["person_id"], view["caller"]) == (iso(77), "staff", "", "")
    assert [each["reference"] for each in view["recordings"]] == ["RE"]
    connection.close()


# ---- what it answers -------------------------------------------------------------------------------------------------


def test_questions_narrow(file: apsw.Connection) -> None:
    first, second = add_alert(file), add_alert(file, "P-0002", 2)
    begin(file, "a1", first)
    begin(file, "a2", second, person_id="P-0002", at_us=T0_US + S, medium="sms", contact_id="P-0002.1")
    begin(file, "a3", first, at_us=T0_US + 2 * S, to="+8613900000002", contact_id="staff:duty")
    ids = {view["attempt_id"]: view["id"] for view in calls.search(file, Question())}

    def found(**question: Any) -> list[str]:
        return [view["attempt_id"] for view in calls.search(file, Question(**question))]

    assert found() == ["a3", "a2", "a1"]
    assert found(person_id="P-0001") == ["a3", "a1"]
    assert found(alert_id=second) == ["a2"]
    assert found(contact_id="staff:duty") == ["a3"]
    assert found(number=NUMBER) == ["a2", "a1"]
    assert found(number=NUMBER, medium="voice") == ["a1"]
    assert found(state="answered") == []
    assert found(from_us=T0_US + S, to_us=T0_US + 2 * S) == ["a2"]
    assert found(before=ids["a3"]) == ["a2", "a1"]
    assert len(calls.search(file, Question(), limit=2)) == 2
    assert Question(number=NUMBER, from_us=0).asked() == ["number", "from_us"]
    with pytest.raises(NotFoundError):
        calls.show(file, 999)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("+8613812340138", "+86138****0138"),
        ("+862212349", "+8****2349"),
        ("120", "120"),
        ("12349", "****49"),
        ("wang@example.com", "w***@example.com"),
        ("sip:8001@pbx.example", "sip:8***@pbx.example"),
        ("city", "city"),
        ("P-0001.1", "P-0001.1"),
        ("", ""),
    ],
)
def test_masks(address: str, shown: str) -> None:
    assert calls.mask(address) == shown


@given(st.from_regex(r"\+?[0-9]{5,15}", fullmatch=True))
def test_a_masked_number_never_shows_more_than_its_ends(number: str) -> None:
    shown = calls.mask(number)
    assert "****" in shown
    digits = re.sub(r"[^0-9]", "", number)
    hidden = len(digits) - len(re.sub(r"[^0-9]", "", shown))
    assert hidden >= min(4, len(digits) - 2)


def test_what_is_masked(file: apsw.Connection) -> None:
    number = begin(file, "a1", add_alert(file))
    tell(file, "a1", "answered", T0_US, recording="RE1", detail={"recording_uri": "https://r.example/RE1"})
    for view in (*calls.search(file, Question(), masked=True), calls.show(file, number, masked=True)):
        text = str(view)
        assert NUMBER not in text
        assert "r.example" not in text
        assert view["callee"] == "+86139****0001"


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.lists(st.tuples(TEXT, TEXT, TEXT), max_size=5))
def test_no_cell_of_the_csv_is_a_formula_and_nothing_is_lost(texts: list[tuple[str, str, str]]) -> None:
    views = [
        dict.fromkeys(calls.CSV_COLUMNS, "")
        | {"reason": reason, "callee": callee, "provider_id": other, "recordings": []}
        for reason, callee, other in texts
    ]
    text = "".join(calls.to_csv(views))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert len(rows) == len(texts)
    for row, (reason, callee, other) in zip(rows, texts, strict=True):
        for cell, said in ((row["reason"], reason), (row["callee"], callee), (row["provider_id"], other)):
            assert cell.removeprefix("'") == said.removeprefix("'") or cell == f"'{said}"
            assert not cell.startswith(("=", "-", "@", "\t", "\r", "\n", "＝", "＠"))
            assert not cell.startswith("+") or re.fullmatch(r"\+[0-9]{1,15}", cell)


def test_the_csv_names_recordings_by_serial(file: apsw.Connection) -> None:
    begin(file, "a1", add_alert(file), contact_id="=cmd|' /C calc'!A0")
    for name in ("RE1", "RE2"):
        tell(file, "a1", "answered", T0_US, recording=name)
    (row,) = csv.DictReader(io.StringIO("".join(calls.to_csv(calls.search(file, Question()))), newline=""))
    assert row["recording_serials"] == "1 2"
    assert row["recording_references"] == "RE1 RE2"
    assert row["callee"] == NUMBER
    assert row["contact_id"].startswith("'=")


# ---- how long --------------------------------------------------------------------------------------------------------


def age(connection: apsw.Connection, days: float, retention: Retention | None = None) -> call_retention.Deleted:
    """Housekeeping after so many days in which the clock was right."""
    now_us = T0_US + round(days * DAY_US)
    call_retention.prune(connection, retention or Retention(), T0_US, 0)
    return call_retention.prune(connection, retention or Retention(), now_us, now_us - T0_US)


def test_recordings_go_after_92_days_and_calls_after_1096(file: apsw.Connection) -> None:
    begin(file, "a1", add_alert(file))
    tell(file, "a1", "answered", T0_US, recording="RE1")
    assert age(file, 91.9) == call_retention.Deleted(0, 0, more=False)
    assert age(file, 92.1) == call_retention.Deleted(0, 1, more=False)
    view = only(file)
    assert view["recordings"] == []
    assert file.execute("SELECT count(*) FROM attempt_told WHERE recording <> ''").fetchone() == (0,)
    assert file.execute("SELECT recording FROM attempt").fetchone() == ("",)
    assert age(file, 1095.9).calls == 0
    assert age(file, 1096.1).calls == 1
    assert calls.search(file, Question()) == []
    assert file.execute("SELECT count(*) FROM attempt_told").fetchone() == (0,)
    deleted = file.execute("SELECT action, body FROM audit WHERE subject = 'calls' ORDER BY seq").fetchall()
    assert [row[0] for row in deleted] == ["recordings_deleted", "calls_deleted"]
    assert NUMBER not in str(deleted)
    assert list(audit.verify(file)) == []


def test_a_serial_number_is_not_given_twice(file: apsw.Connection) -> None:
    alert_id = add_alert(file)
    begin(file, "a1", alert_id)
    tell(file, "a1", "answered", T0_US, recording="RE1")
    age(file, 100)
    tell(file, "a1", "answered", T0_US + 101 * DAY_US, recording="RE2")
    assert [each["serial"] for each in only(file)["recordings"]] == [2]


def test_the_least_can_only_be_raised(file: apsw.Connection) -> None:
    for members in ({"recording_days": 91}, {"call_days": 1095}):
        with pytest.raises(UsageError, match="or longer"):
            Retention(**members)
    begin(file, "a1", add_alert(file))
    tell(file, "a1", "answered", T0_US, recording="RE1")
    longer = Retention(recording_days=2000, call_days=1500)
    assert age(file, 1501, longer) == call_retention.Deleted(0, 0, more=False)  # a call outlives its recordings
    assert age(file, 2001, longer) == call_retention.Deleted(1, 1, more=False)


def test_a_clock_set_to_a_wrong_year_deletes_nothing(file: apsw.Connection) -> None:
    begin(file, "a1", add_alert(file))
    tell(file, "a1", "answered", T0_US, recording="RE1")
    call_retention.prune(file, Retention(), T0_US, 0)
    for _ in range(20):  # it is wrong all day long, and the process is started again and again
        assert call_retention.prune(file, Retention(), T0_US + 2000 * DAY_US, DAY_US).recordings == 0
    call_retention.prune(file, Retention(), T0_US + DAY_US, DAY_US)  # it is right again
    assert age(file, 91).recordings == 0


def test_many_go_in_parts(file: apsw.Connection) -> None:
    alert_id = add_alert(file)
    for number in range(5):
        begin(file, f"a{number}", alert_id, at_us=T0_US + number)
    call_retention.prune(file, Retention(), T0_US, 0)
    later = T0_US + 1097 * DAY_US
    left = []
    for _ in range(4):
        deleted = call_retention.prune(file, Retention(), later, later - T0_US, limit=2)
        left.append((deleted.calls, deleted.more))
    assert left == [(2, True), (2, True), (1, False), (0, False)]


# ---- holds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["call", "alert", "person"])
def test_a_hold_keeps_calls_and_recordings_until_it_is_released(file: apsw.Connection, kind: str) -> None:
    alert_id, other = add_alert(file), add_alert(file, "P-0002", 2)
    number = begin(file, "a1", alert_id)
    begin(file, "a2", other, person_id="P-0002")
    for name in ("a1", "a2"):
        tell(file, name, "answered", T0_US, recording="RE1")
    subject = {"call": f"call/{number}", "alert": f"alert/{alert_id}", "person": "person/P-0001"}[kind]
    placed = call_retention.hold(file, subject, reason="complaint  2026-118", actor=ACTOR, now_us=T0_US)
    assert (placed["reason"], placed["placed_by"]) == ("complaint 2026-118", "operator/U-9")
    assert age(file, 100).recordings == 1
    assert age(file, 2000).calls == 1
    assert only(file)["held"] is True
    with pytest.raises(ConflictError):
        call_retention.hold(file, subject, reason="again", actor=ACTOR, now_us=T0_US)
    call_retention.release(file, placed["hold"], reason="closed", actor=ACTOR, now_us=T0_US + DAY_US)
    with pytest.raises(ConflictError):
        call_retention.release(file, placed["hold"], reason="closed", actor=ACTOR, now_us=T0_US)
    assert call_retention.holds(file) == []
    assert call_retention.holds(file, released=True)[0]["release_reason"] == "closed"
    assert age(file, 2000) == call_retention.Deleted(1, 1, more=False)
    actions = [row[0] for row in file.execute("SELECT action FROM audit WHERE subject = ? ORDER BY seq", (subject,))]
    assert actions[-2:] == ["hold_placed", "hold_released"]


def test_what_cannot_be_held(file: apsw.Connection) -> None:
    for subject, error in (
        ("call/1", NotFoundError), ("alert/none", NotFoundError), ("person/P-9", NotFoundError),
        ("device/D-1", UsageError), ("call/x", UsageError), ("", UsageError),
    ):  # fmt: skip
        with pytest.raises(error):
            call_retention.hold(file, subject, reason="why", actor=ACTOR, now_us=T0_US)
    with pytest.raises(UsageError, match="say why"):
        call_retention.hold(file, "call/1", reason=" \n", actor=ACTOR, now_us=T0_US)
    with pytest.raises(NotFoundError):
        call_retention.release(file, 1, reason="why", actor=Actor("operator", "x"), now_us=T0_US)


class Keeping(RuleBasedStateMachine):
    """Days pass, clocks jump, holds come and go: what is young or held is there, always."""

    def __init__(self) -> None:
        super().__init__()
        self.file = apsw.Connection(":memory:")
        for sql in migrations():
            self.file.execute(sql)
        self.file.execute("BEGIN")
        self.true_us = T0_US
        self.wall_off_us = 0
        self.pruned_at_us: int | None = None
        self.made: dict[int, int] = {}
        self.held: dict[int, int] = {}

    @initialize()
    def somebody(self) -> None:
        self.alert_id = add_alert(self.file)
        call_retention.prune(self.file, Retention(), T0_US, 0)

    @rule()
    def call(self) -> None:
        number = begin(self.file, f"a{len(self.made)}", self.alert_id, at_us=self.true_us)
        self.made[number] = self.true_us

    @rule(days=st.floats(0.5, 900))
    def days_pass(self, days: float) -> None:
        self.true_us += round(days * DAY_US)
        now_us = self.true_us + self.wall_off_us
        last = self.pruned_at_us if self.pruned_at_us is not None else T0_US
        call_retention.prune(self.file, Retention(), now_us, self.true_us - last)
        self.pruned_at_us = self.true_us

    @rule(days=st.sampled_from((-4000, -1, 0, 90, 4000)))
    def the_clock_is_set(self, days: int) -> None:
        self.wall_off_us = days * DAY_US

    @rule(data=st.data())
    def hold(self, data: st.DataObject) -> None:
        there = [view["id"] for view in calls.search(self.file, Question()) if view["id"] not in self.held]
        if there:
            number = data.draw(st.sampled_from(there))
            view = call_retention.hold(self.file, f"call/{number}", reason="r", actor=ACTOR, now_us=self.true_us)
            self.held[number] = view["hold"]

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.held:
            number = data.draw(st.sampled_from(sorted(self.held)))
            call_retention.release(
                self.file, self.held.pop(number), reason="r", actor=ACTOR, now_us=self.true_us
            )  # fmt: skip

    @invariant()
    def young_and_held_calls_are_there(self) -> None:
        there = {view["id"] for view in calls.search(self.file, Question(), limit=10_000)}
        young = {number for number, at_us in self.made.items() if self.true_us - at_us < 1096 * DAY_US}
        assert young | set(self.held) <= there

    def teardown(self) -> None:
        assert list(audit.verify(self.file)) == []
        self.file.close()


Keeping.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestKeeping = Keeping.TestCase


def test_housekeeping_forgets_and_waits(tmp_path: Path) -> None:
    from tests.unit.test_housekeeping import Life

    async def main() -> None:
        life = Life(tmp_path)
        try:
            await life.writer.write(lambda c: begin(c, "a1", add_alert(c)))
            await life.housekeeping.forget_calls()
            await life.writer.write(
                lambda c: c.execute("UPDATE attempt SET started_at_us = 1, created_at_us = 1").fetchall()
            )
            await life.housekeeping.forget_calls()  # too soon
            assert await life.writer.read(lambda c: len(calls.search(c, Question()))) == 1
            life.clock.advance(601)
            await life.housekeeping.forget_calls()
            assert await life.writer.read(lambda c: len(calls.search(c, Question()))) == 0
        finally:
            await life.writer.close()

    asyncio.run(main())
