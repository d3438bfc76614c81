"""Events of records and audit rows in their one order, and the same ids from wherever one resumes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from gateway import audit
from gateway.events import of_audit, of_record
from gateway.model import Actor, Position, Reading
from gateway.storage import feed as module
from gateway.storage import journal
from gateway.storage.database import FILE_NAME, migrations, open_database
from gateway.storage.feed import JournalFeed, events_after
from tests.factory import T0_US, record
from tests.mqtt_wire import FileStore

SITE = "default"
RULE = Actor("rule", "sos")


def add_records(connection: apsw.Connection, *signals: str) -> None:
    with connection:
        journal.insert(connection, [record(number, signal=signal) for number, signal in enumerate(signals)])


def add_audit(connection: apsw.Connection, *, alert_id: str | None = "A-1", subject: str = "alert/A-1") -> int:
    with connection:
        seq = audit.append(
            connection, at_us=T0_US, actor=RULE, action="raised", subject=subject, alert_id=alert_id, version=1,
            after={"person_id": "P-0001", "kind": "sos"},
        )  # fmt: skip
    return seq  # noqa: RET504 -- within the with mypy takes the transaction for one that swallows


def everything(connection: apsw.Connection, seq: int = 0, limit: int = 7) -> list[dict[str, Any]]:
    """Read on and on, as a reader does."""
    found: list[dict[str, Any]] = []
    while True:
        events, reached = events_after(connection, SITE, seq, limit)
        found += events
        if reached == seq:
            return found
        seq = reached


def ids(events: list[dict[str, Any]]) -> list[str]:
    return [event["id"] for event in events]


def test_records_and_transitions_are_one_order(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    add_records(connection, "sos", "")  # 1 (a heart rate and a press), 2
    add_audit(connection)  # 3
    add_records(connection, "fall")  # 4
    add_audit(connection)  # 5
    add_audit(connection)  # 6
    events = everything(connection)
    assert ids(events) == ["1-0", "1-1", "2-0", "3-0", "4-0", "4-1", "5-0", "6-0"]
    kinds = [event["type"].split(".")[2] for event in events]
    assert kinds == ["observation"] * 3 + ["alert"] + ["observation"] * 2 + ["alert"] * 2
    connection.close()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 4), st.sampled_from(["alert", "key"])), max_size=40),
    st.integers(0, 90),
    st.integers(1, 9),
)
def test_resuming_anywhere_gives_the_same_events_and_misses_none(
    story: list[int | str], resume: int, limit: int
) -> None:
    """Also across the bound of what is read at once (module.BATCHES rows), and over numbers without events."""
    connection = apsw.Connection(":memory:")
    for sql in migrations():
        connection.execute(sql)
    numbers_with_events: list[int] = []
    for step in story:
        if isinstance(step, int):
            seq = audit.next_seq(connection)
            add_records(connection, *["sos"] * step)
            numbers_with_events += range(seq, seq + step)
        elif step == "alert":
            numbers_with_events.append(add_audit(connection))
        else:
            add_audit(connection, alert_id=None, subject="key/1")  # no event of anybody's
    whole = everything(connection, 0, 10_000)
    numbers = [int(event_id.partition("-")[0]) for event_id in ids(whole)]
    assert list(dict.fromkeys(numbers)) == numbers_with_events
    assert numbers == sorted(numbers)
    assert len(set(ids(whole))) == len(whole)
    assert everything(connection, resume, limit) == [
        event for event in whole if int(event["id"].partition("-")[0]) > resume
    ]
    connection.close()


def test_no_number_is_torn_apart(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    add_records(connection, *["sos"] * 3)  # two events each
    events, reached = events_after(connection, SITE, 0, 3)
    assert (ids(events), reached) == (["1-0", "1-1", "2-0", "2-1"], 2)
    connection.close()


def test_an_audit_row_waits_for_the_records_before_it(tmp_path: Path) -> None:
    """More batches than are read at once, and a transition behind them: it must not overtake them."""
    connection = open_database(tmp_path / FILE_NAME)
    for _ in range(3 * module.BATCHES):
        add_records(connection, "")
    last = add_audit(connection)
    events, reached = events_after(connection, SITE, 0, 1000)
    assert reached == module.BATCHES
    assert len(events) == module.BATCHES
    assert ids(everything(connection))[-1] == f"{last}-0"
    assert len(everything(connection)) == 3 * module.BATCHES + 1
    connection.close()


def test_more_audit_rows_than_one_read_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NUMBERS", 1000)
    connection = open_database(tmp_path / FILE_NAME)
    with connection:
        for _ in range(5100):
            audit.append(connection, at_us=T0_US, actor=RULE, action="noted", subject="alert/A", alert_id="A")
    add_records(connection, "")
    numbers = [int(event_id.partition("-")[0]) for event_id in ids(everything(connection, limit=100_000))]
    assert numbers == list(range(1, 5102))
    connection.close()


def test_a_damaged_row_is_told_and_passed(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    for _ in range(3):
        add_records(connection, "")
    connection.execute("UPDATE batch SET body = zeroblob(length(body)) WHERE first_seq = 2")
    with capture_logs() as logs:
        assert ids(everything(connection, limit=1000)) == ["1-0", "3-0"]
    assert {line["event"] for line in logs} == {"batch_corrupt"}
    connection.close()


def test_what_an_event_says() -> None:
    reading = Reading(
        T0_US, {"heart_rate_bpm": 72.0, "x_mood": 3.0}, {"sos": True}, Position(39.1, 117.2, T0_US, 12.0), {"odd": 1}
    )
    item = record(1)
    item.reading = reading
    events = list(of_record("tj", 42, item))
    assert ids(events) == [f"42-{number}" for number in range(len(events))]
    by_kind = {event["data"]["kind"]: event for event in events if event["data"].get("metric") != "x_mood"}
    heart = by_kind["measurement"]
    assert heart["specversion"] == "1.0"
    assert heart["source"] == "/sites/tj/devices/D-0001"
    assert (heart["type"], heart["subject"]) == ("org.carebell.observation.v1", "person/P-0001")
    assert heart["time"] == "2026-11-18T11:06:40.000Z"
    data = heart["data"]
    assert (data["metric"], data["value"], data["unit"], data["loinc"]) == ("heart_rate_bpm", 72.0, "/min", "8867-4")
    assert (data["device_id"], data["person_id"], data["transport"]) == ("D-0001", "P-0001", "mqtt")
    assert by_kind["signal"]["data"]["signal"] == "sos"
    assert by_kind["position"]["data"]["latitude"] == 39.1
    json.dumps(events)
    item.reading = None
    assert list(of_record("tj", 42, item)) == []


def test_what_a_transition_says(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    add_audit(connection)
    add_audit(connection, alert_id=None, subject="device/D-7")
    add_audit(connection, alert_id=None, subject="person/P-7")
    bodies = [(seq, body) for seq, body in connection.execute("SELECT seq, body FROM audit ORDER BY seq")]
    alert, device, person = (list(of_audit(SITE, seq, body)) for seq, body in bodies)
    assert alert[0]["type"] == "org.carebell.alert.v1"
    assert alert[0]["source"] == "/sites/default/alerts/A-1"
    assert (alert[0]["data"]["action"], alert[0]["data"]["actor"]["id"]) == ("raised", "sos")
    assert device[0]["type"] == "org.carebell.device.v1"
    assert device[0]["source"] == "/sites/default/devices/D-7"
    assert person == []
    connection.close()


# ---- the feed of a running daemon ------------------------------------------------------------------------------------


def test_after_passes_over_numbers_without_events(tmp_path: Path) -> None:
    async def main() -> None:
        connection = open_database(tmp_path / FILE_NAME)
        with connection:
            for number in range(50):
                audit.append(connection, at_us=T0_US, actor=RULE, action="added", subject=f"key/{number}")
        add_records(connection, "sos")
        store = FileStore(tmp_path / FILE_NAME)
        feed = JournalFeed(store, SITE)
        assert ids(await feed.after(0, 5)) == ["51-0", "51-1"]
        assert await feed.after(51, 5) == []
        store.close()
        connection.close()

    asyncio.run(main())


def test_who_waits_is_woken_by_this_process_and_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_S", 0.01)

    async def main() -> None:
        store = FileStore(tmp_path / FILE_NAME)
        feed = JournalFeed(store, SITE)
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            waiting = [group.create_task(feed.wait(0)) for _ in range(3)]
            await asyncio.sleep(0.02)
            assert not any(task.done() for task in waiting)
            feed.committed(1)
            for task in waiting:
                await task
            await feed.wait(0)  # it is there already
            polling = group.create_task(feed.run())
            other = open_database(tmp_path / FILE_NAME)  # as the command line does
            add_records(other, "", "", "")
            await feed.wait(2)
            assert feed.last_seq() == 3
            feed.committed(2)
            assert feed.last_seq() == 3, "never backwards"
            other.close()
            polling.cancel()
        store.close()

    asyncio.run(main())
