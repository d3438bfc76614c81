"""What is listed for one person is found by an index, however many others there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from alerts import rows as alerts
from gateway.registry import contacts, devices, persons, places
from gateway.storage.database import FILE_NAME, open_database


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = open_database(tmp_path / FILE_NAME)
    yield connection
    connection.close()


def plan_of(connection: apsw.Connection, ask: Callable[[apsw.Connection], object]) -> list[str]:
    """The query plan of every SELECT that ``ask`` makes, a line for each step."""
    asked: list[tuple[str, Any]] = []

    def remember(_: apsw.Cursor, sql: str, bindings: Any) -> bool:
        asked.append((sql, bindings))
        return True

    connection.exec_trace = remember
    ask(connection)
    connection.exec_trace = None
    assert asked
    return [str(row[3]) for sql, bindings in asked for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}", bindings)]


@pytest.mark.parametrize(
    ("ask", "index"),
    [
        (lambda c: contacts.list_contacts(c, person_id="P-1", limit=9), "contact_by_person (person_id=?)"),
        (lambda c: contacts.list_contacts(c, after_id="P-1.1"), "sqlite_autoindex_contact_1 (id>?)"),
        (lambda c: places.list_places(c, person_id="P-1"), "place_by_person (person_id=?)"),
        (lambda c: places.list_places(c, person_id="P-1", after_id="P-1.home"), "place_by_person (person_id=?)"),
        (lambda c: devices.list_devices(c, person_id="P-1"), "binding_by_person (person_id=?)"),
        (lambda c: devices.list_devices(c, after_id="D-1"), "sqlite_autoindex_device_1 (id>?)"),
        (lambda c: persons.list_persons(c, district="南开区", state="active"), "person_by_district (district=?)"),
        (lambda c: persons.list_persons(c, after_id="P-1"), "sqlite_autoindex_person_1 (id>?)"),
        (lambda c: alerts.list_alerts(c, person_id="P-1"), "alert_by_person (person_id=?)"),
    ],
)
def test_a_listing_goes_by_its_index(db: apsw.Connection, ask: Callable[[apsw.Connection], object], index: str) -> None:
    plan = plan_of(db, ask)
    assert any(step.startswith("SEARCH") and index in step for step in plan), plan
    assert not any(step.startswith("SCAN") for step in plan), plan


def test_a_persons_contacts_come_from_the_index_in_their_order(db: apsw.Connection) -> None:
    plan = plan_of(db, lambda c: contacts.list_contacts(c, person_id="P-1"))
    assert not [step for step in plan if "ORDER BY" in step and "LAST TERM" not in step], plan
