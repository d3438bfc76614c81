"""Faults belong to devices: one ticket of each device and kind, ordered when it lasts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from alerts import promises
from alerts.policy import HOUR_US
from alerts.rows import Alert
from gateway.model import Severity
from gateway.storage.database import FILE_NAME, migrations, open_database
from tests.order_world import Desk, opened


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    yield from opened(tmp_path)


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
