"""Care: schedules, opt-outs, words, what goes before what. The stories are in tests/drills/stories/care_*.drill."""

from __future__ import annotations

import asyncio
import json
import random
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from alerts import attempts, care_rows, care_words, outbox_rows, rows
from alerts.care_messages import CareChannel, SignsOfLife, build_care
from alerts.care_rows import Schedule
from alerts.channel import Dispatch, InFlightError
from alerts.lifecycle import apply_effects
from alerts.people import hash_of
from alerts.policy import Policy
from alerts.policy_schema import Quota
from gateway import audit
from gateway.cli.main import build
from gateway.clock import US_PER_S, from_us
from gateway.errors import ConflictError, DeliveryRefusedError, NotFoundError, UsageError
from gateway.model import Clear, Committed, Effect
from tests.alerts_support import OPERATOR, FileStore, committed, sos
from tests.drills.language import run_story
from tests.drills.world import Carrier, World
from tests.factory import T0_US, record

ZONE = ZoneInfo("Asia/Shanghai")


def schedule(name: str = "c-1", **members: Any) -> Schedule:
    values: dict[str, Any] = {
        "id": name, "person_id": "P-0001", "contact_id": "", "kind": "check", "medium": "voice", "at": "09:00",
        "days": "1234567", "words": "", "since": "05:00", "wait_minutes": 15, "tries": 2, "next_at_us": 0, **members,
    }  # fmt: skip
    return Schedule(**values)


@pytest.fixture
def store(tmp_path: Path) -> Any:
    made = FileStore(tmp_path)
    yield made
    assert list(audit.verify(made.connection)) == []
    made.close()


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"at": "21:00"}, "nobody is disturbed"), ({"at": "06:59"}, "nobody is disturbed"), ({"at": "9:00"}, "at:"),
        ({"days": "08"}, "days"), ({"kind": "song"}, "kind"), ({"medium": "fax"}, "medium"),
        ({"words": "x" * 301}, "words"), ({"contact_id": "C-1"}, "asks the person"), ({"since": "10:00"}, "since"),
        ({"wait_minutes": 4}, "wait"), ({"tries": 0}, "tries"), ({"name": "a b"}, "id"),
    ],
)  # fmt: skip
def test_a_schedule_that_cannot_be_is_refused(store: FileStore, members: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        care_rows.add(store.connection, schedule(**members), "Asia/Shanghai", actor=OPERATOR, now_us=T0_US)
    assert care_rows.list_schedules(store.connection) == []


def test_a_schedule_is_added_listed_and_removed_and_audited(store: FileStore) -> None:
    c = store.connection
    shown = committed(c, lambda c: care_rows.add(c, schedule(), "Asia/Shanghai", actor=OPERATOR, now_us=T0_US))
    assert (shown["at"], shown["wait_minutes"], "words" in shown) == ("09:00", 15, False)
    with pytest.raises(ConflictError):
        care_rows.add(c, schedule(), "Asia/Shanghai", actor=OPERATOR, now_us=T0_US)
    committed(c, lambda c: care_rows.remove(c, "c-1", actor=OPERATOR, now_us=T0_US))
    assert care_rows.list_schedules(c) == []
    with pytest.raises(NotFoundError):
        care_rows.remove(c, "c-1", actor=OPERATOR, now_us=T0_US)
    actions = [each for (each,) in c.execute("SELECT body ->> 'action' FROM audit ORDER BY seq")]
    assert actions == ["care_added", "care_removed"]


@given(
    after=st.datetimes(datetime(2026, 1, 1), datetime(2030, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - bounds
    hour=st.integers(7, 20), minute=st.integers(0, 59), days=st.sets(st.integers(1, 7), min_size=1),
    zone=st.sampled_from(["Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe"]),
)  # fmt: skip
def test_the_next_time_is_the_first_that_fits(
    after: datetime, hour: int, minute: int, days: set[int], zone: str
) -> None:
    after_us = int(after.timestamp()) * US_PER_S
    at, wanted = f"{hour:02d}:{minute:02d}", "".join(map(str, sorted(days)))
    found = care_rows.next_time(at, wanted, ZoneInfo(zone), after_us)
    local = from_us(found).astimezone(ZoneInfo(zone))
    assert found > after_us
    assert local.strftime("%H:%M") == at  # no zone changes its clock by day
    assert local.isoweekday() in days
    first = from_us(after_us).astimezone(ZoneInfo(zone)).date()
    earlier = [date.fromordinal(day) for day in range(first.toordinal(), local.date().toordinal())]
    assert not any(
        day.isoweekday() in days and care_rows.wall_us(day, at, ZoneInfo(zone)) > after_us for day in earlier
    )


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("1", "well"), (" 好的。", "well"), ("OK!", "well"), ("2", "help"), ("救命！", "help"), ("T", "stop"),
        ("退订", "stop"), ("STOP", "stop"), ("12", ""), ("", ""), ("不好", ""), ("not ok", ""),
    ],
)  # fmt: skip
def test_replies(said: str, meaning: str) -> None:
    assert care_words.meaning_of(said) == meaning


def test_words_in_both_languages() -> None:
    chinese = care_words.words("check", "", language="zh", name="王奶奶", medium="sms")
    assert (
        chinese.text
        == "【安心铃】王奶奶，您好。我们来问候您。您今天好吗？一切都好请回复1，需要帮助请回复2。不再接收请回复T。"
    )
    english = care_words.words("message", "Your soup is ready.", language="en", name="Ms Li", medium="voice")
    assert english.speech == "Hello Ms Li. This is carebell. Your soup is ready."
    assert "回复" not in care_words.words("check", "", language="zh", name="", medium="voice").speech


def test_without_a_provider_a_check_is_for_an_operator_and_nothing_piles_up(tmp_path: Path) -> None:
    story = """
    at 08:00:00 care check by voice at 09:00
    at 08:00:00 care message by sms at 09:05
    until 09:29:59 no order
    at 09:31:00 person says ok
    """
    run_story(World(tmp_path, providers=False), story)
    world = World(tmp_path, providers=False)
    states = {each["schedule_id"]: each for each in care_rows.list_occasions(world.store.connection)}
    assert states["message-0905"]["state"] == "failed"
    assert (states["check-0900"]["state"], states["check-0900"]["reached"]) == ("unanswered", 0)
    assert world.alert().kind == "check_in_missed"
    assert world.store.connection.execute("SELECT count(*) FROM outbox WHERE lane = 'care'").fetchone() == (0,)
    world.store.close()


def test_a_person_whose_service_has_ended_is_left_alone(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.people.place = {"state": "ceased"}
    run_story(world, "at 08:00:00 care check by voice at 09:00\nuntil 12:00:00 nobody is told\nexpect no alert")


def test_alarms_go_first_and_have_the_quotas(tmp_path: Path) -> None:
    """Behind an alarm of its medium a caring call waits, and what care said takes nothing from an alarm's quota."""
    world = World(tmp_path)
    run_story(world, "at 08:00:00 care check by voice at 09:00\nexpect 09:00:00 call person")
    world = World(tmp_path, start=datetime(2026, 11, 22, 9, 1, tzinfo=ZONE))
    c, now_us = world.store.connection, world.clock.now_us()
    once = (Quota(medium="voice", per_hour=1),)
    number = hash_of("+8613800000001")
    assert attempts.wait_us(c, number, "voice", "first", once, now_us) == 0
    assert attempts.wait_us(c, number, "voice", "first", once, now_us, with_care=True) > 0
    assert not attempts.called_within(c, number, "voice", now_us - 3600 * US_PER_S, now_us)

    with c:
        apply_effects(c, [sos(1, person_id="P-0002", at_us=now_us)], now_us, world.escalation.policy)
        for priority in (5, 1):
            outbox_rows.enqueue(
                c, lane="x", destination="same", order_key=str(priority), priority=priority,
                idempotency_key=f"k-{priority}", alert_id="", payload={}, now_us=now_us,
            )  # fmt: skip
        outbox_rows.enqueue(
            c, lane="notify", destination="notify_voice", order_key="k", priority=1, idempotency_key="k", alert_id="",
            payload={}, now_us=now_us,
        )  # fmt: skip
        assert [each.priority for each in outbox_rows.claim(c, "same", 10, now_us)] == [1, 5]
    channel = world.care.channels["care_voice"]
    assert isinstance(channel, CareChannel)
    asked = c.execute("SELECT payload FROM outbox WHERE lane = 'care'").fetchone()
    assert asked is not None
    dispatch = Dispatch(
        id=1, lane="care", destination="care_voice", order_key="k", priority=5, idempotency_key="k-care", alert_id="",
        payload={
            "occasion_id": 1, "contact_id": "person:P-0001", "medium": "voice", "ladder": "care", "loop": 1, "step": 9,
        },
        attempt=1, uncertain=False, created_at_us=now_us, expires_at_us=None,
    )  # fmt: skip
    with pytest.raises(InFlightError, match="alarms go first"):
        asyncio.run(channel.send(dispatch))
    late = Dispatch(
        **{name: getattr(dispatch, name) for name in dispatch.__struct_fields__} | {"expires_at_us": now_us}
    )
    with pytest.raises(DeliveryRefusedError, match="too late"):
        asyncio.run(channel.send(late))
    world.store.close()


def test_the_modem_is_kept_for_alarms(tmp_path: Path) -> None:
    world = World(tmp_path)

    modem = Carrier("modem", ("sms", "voice"), world)
    built = build_care(
        policy=world.escalation.policy, providers=[modem], source=world.people, store=world.store, clock=world.clock,
        rng=random.Random(1),
    )  # fmt: skip
    assert not any(channel.ready() for channel in built.channels.values())
    world.store.close()


class NoRules:
    """An engine that finds nothing."""

    def observe(self, committed: Committed) -> list[Effect]:
        return []

    def tick(self, now_us: int) -> list[Effect]:
        return []

    def next_wake_us(self) -> int | None:
        return None

    def dirty(self) -> list[tuple[str, str, bytes | None]]:
        return []

    def restore(self, rows: Any) -> None:
        return


def test_signs_of_life_are_effects_and_a_replay_gives_the_same(store: FileStore) -> None:
    engine = SignsOfLife(NoRules())
    signs = [record(1, signal="im_ok"), record(2), record(3, signal="sos"), record(4, signal="check_in")]
    found = engine.observe(Committed(10, signs))
    assert [(each.effect_id, each.rule_id) for each in found] == [
        (f"r{seq}:{care_rows.SIGN_RULE}", care_rows.SIGN_RULE) for seq in (10, 13)
    ]
    assert engine.observe(Committed(10, signs)) == found
    for doubtful in ({"verified": False}, {"person_id": ""}):
        strange = record(1, signal="im_ok")
        for name, value in doubtful.items():
            setattr(strange, name, value)
        assert engine.observe(Committed(1, [strange])) == []
    person = found[0].person_id
    for _ in range(2):
        committed(store.connection, lambda c: apply_effects(c, found, T0_US, Policy()))
    assert care_rows.last_sign_us(store.connection, person) == max(
        each.at_us for each in found if isinstance(each, Clear)
    )
    assert rows.list_alerts(store.connection) == []


def test_a_wrong_number_is_not_called_again(tmp_path: Path) -> None:
    story = """
    at 08:00:00 care message by voice at 09:00
    expect 09:00:00 call person
    at 09:00:30 person presses 9 and it is opted_out
    until 12:00:00+1 no call
    """
    run_story(World(tmp_path), story)
    world = World(tmp_path)
    opted = care_rows.list_opt_outs(world.store.connection)
    assert [(each["person_id"], each["medium"]) for each in opted] == [("P-0001", None)]
    assert len(rows.list_alerts(world.store.connection, kind="contact_wrong_number")) == 1
    world.store.close()


def test_opting_out_and_in(store: FileStore) -> None:
    c = store.connection
    with pytest.raises(UsageError):
        care_rows.opt_out(c, "P-1", "", "fax", actor=OPERATOR, now_us=T0_US)
    with pytest.raises(NotFoundError):
        care_rows.opt_in(c, "P-1", "", actor=OPERATOR, now_us=T0_US)
    for _ in range(2):
        committed(c, lambda c: care_rows.opt_out(c, "P-1", "", "sms", actor=OPERATOR, now_us=T0_US))
    assert care_rows.has_opted_out(c, "P-1", "", "sms")
    assert not care_rows.has_opted_out(c, "P-1", "", "voice")
    assert not care_rows.has_opted_out(c, "P-1", "C-1", "sms")
    committed(c, lambda c: care_rows.opt_in(c, "P-1", "", actor=OPERATOR, now_us=T0_US))
    assert care_rows.list_opt_outs(c) == []
    assert c.execute("SELECT count(*) FROM audit").fetchone() == (2,)


def test_old_occasions_are_removed_and_what_is_asked_now_is_not(store: FileStore) -> None:
    c = store.connection
    committed(c, lambda c: care_rows.add(c, schedule(), "Asia/Shanghai", actor=OPERATOR, now_us=T0_US))
    with c:
        first = care_rows.begin(c, schedule(), "2026-11-20", T0_US)
        assert first is not None
        assert care_rows.begin(c, schedule(), "2026-11-21", T0_US) is not None
        assert care_rows.begin(c, schedule(), "2026-11-21", T0_US) is None
        care_rows.end(c, first.id, "answered", "key 1", T0_US)
        assert care_rows.prune(c, T0_US) == 0
        assert care_rows.prune(c, T0_US + 1) == 1
    assert [each["state"] for each in care_rows.list_occasions(c)] == ["asking"]


def test_the_commands(tmp_path: Path) -> None:
    runner = CliRunner()

    def run(*arguments: str, code: int = 0) -> str:
        result = runner.invoke(build(arguments[0]), [*arguments, "--data-dir", str(tmp_path)])
        assert result.exit_code == code, (arguments, result.stdout, result.stderr, result.exception)
        return result.stdout

    run("care", "add", "P-1", "--check", "--at", "09:00", code=1)
    run("persons", "add", "--id", "P-1", "--name", "王秀英", "--phone", "+8613800000001")
    run("contacts", "add", "--id", "C-1", "--person", "P-1", "--name", "女儿", "--phone", "+8613900000001")
    shown = json.loads(run("care", "add", "P-1", "--check", "--at", "09:00", "--json"))
    assert (shown["id"], shown["medium"], shown["tries"]) == ("P-1-check-0900", "voice", 2)
    run("care", "add", "P-1", "--check", "--at", "09:00", code=1)
    run("care", "add", "P-1", "--check", "--at", "23:00", code=2)
    run("care", "add", "P-1", "--contact", "C-1", "--by", "sms", "--at", "18:00", "--words", "好")
    run("care", "add", "P-1", "--contact", "C-9", "--by", "sms", "--at", "18:00", code=1)
    assert run("care", "list", "--person", "P-1").count("\n") == 2
    changed = json.loads(run("care", "change", "P-1-check-0900", "--at", "08:30", "--tries", "3", "--json"))
    assert (changed["at"], changed["tries"], changed["wait_minutes"]) == ("08:30", 3, 15)
    run("care", "change", "P-1-check-0900", "--at", "22:00", code=2)
    run("care", "change", "P-9-check", "--at", "08:00", code=1)
    run("care", "answer", "P-1", "well")
    run("care", "answer", "P-1", "maybe", code=2)
    run("care", "answer", "P-9", "well", code=1)
    assert run("alerts", "list") == ""
    run("care", "answer", "P-1", "help")
    assert "sos" in run("alerts", "list", "--open", "--person", "P-1")
    run("care", "remove", "P-1-check-0900")
    assert run("care", "list").count("\n") == 1
    run("care", "optout", "P-1", "--by", "sms")
    assert "sms" in run("care", "optouts", "--person", "P-1")
    run("care", "optin", "P-1")
    run("care", "optin", "P-1", code=1)
    assert run("care", "log") == ""
    root: Any = typer.main.get_command(build("care"))
    for name, command in root.commands["care"].commands.items():
        assert f"Example: carebell care {name}" in (command.help or ""), name
