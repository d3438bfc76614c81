"""The short lists of the pages say what the registry's own lists say."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.console import sheets
from gateway.registry.devices import add_device, list_devices
from gateway.registry.persons import add_person, list_persons
from gateway.storage.database import FILE_NAME, open_database
from gateway.storage.many import fetch
from tests.daemon import ACTOR

AT_US = 1_795_000_000_000_000


@pytest.mark.parametrize(
    ("search", "district", "after_id"),
    [("", "", ""), ("", "河西区", ""), ("P-1", "", ""), ("", "", "P-3"), ("%", "", ""), ("王", "河西区", "P-2")],
)
def test_persons_and_devices(tmp_path: Path, search: str, district: str, after_id: str) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    with connection:
        for number in range(12):
            person = {
                "name": ("王秀英\"'\\", "李\u2028强", "赵国庆")[number % 3], "phone": f"+8613800{number:06d}",
                "district": ("河西区", None)[number % 2],
            }  # fmt: skip
            add_person(connection, f"P-{number}", person, at_us=AT_US, actor=ACTOR)
            device = {"profile": "carebell.native"} | ({"person_id": f"P-{number}"} if number % 4 else {})
            add_device(
                connection, f"P-{number}", device, known_profiles=["carebell.native"], at_us=AT_US, actor=ACTOR
            )  # fmt: skip
    for limit in (3, 100):
        shown = sheets.persons(connection, search=search, district=district, after_id=after_id, limit=limit)
        whole = list_persons(connection, search=search, district=district, after_id=after_id, limit=limit)
        assert shown == [{name: row[name] for name in sheets.PERSON} for row in whole]
        shown = sheets.devices(connection, search=search, after_id=after_id, limit=limit)
        everything = list_devices(connection, search=search, after_id=after_id, limit=limit)
        assert shown == [{name: row[name] for name in sheets.DEVICE} for row in everything]
    connection.close()


def test_rows_in_one_step_are_the_rows(tmp_path: Path) -> None:
    connection = open_database(tmp_path / FILE_NAME)
    rest = "FROM (SELECT 1 AS a, 'x\"\u2028' AS b, NULL AS c, 1.5 AS d UNION ALL SELECT ?, 'y', 'z', 2) ORDER BY a DESC"
    assert fetch(connection, ("a", "b", "c", "d"), rest, (2**62,)) == [
        [2**62, "y", "z", 2],
        [1, 'x"\u2028', None, 1.5],
    ]
    assert fetch(connection, ("1",), "WHERE 0") == []
    connection.close()
