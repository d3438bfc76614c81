"""CSV: all or nothing, every bad row with its line, and what goes out comes in again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import pytest

from gateway import audit
from gateway.model import Actor
from gateway.registry import contacts, csvio, devices, persons
from gateway.registry.csvio import ImportRefusedError, ImportReport
from gateway.storage.database import FILE_NAME, open_database
from tests.factory import T0_US

ACTOR = Actor("operator", "test")
PROFILES = ("carebell.native",)
HEADER = "person_id,name,phone\n"


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = open_database(tmp_path / FILE_NAME)
    yield connection
    assert not connection.in_transaction
    assert list(audit.verify(connection)) == []
    connection.close()


def apply(db: apsw.Connection, table: str, data: str | bytes) -> ImportReport:
    raw = data.encode() if isinstance(data, str) else data
    plan = csvio.read_plan(table, raw, at_us=T0_US, known_profiles=PROFILES)
    db.execute("BEGIN IMMEDIATE")
    try:
        report = csvio.apply_plan(db, plan, at_us=T0_US, actor=ACTOR)
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
    return report


def refused(db: apsw.Connection, table: str, data: str | bytes) -> list[tuple[int, str]]:
    before = db.execute("SELECT count(*) FROM audit").fetchone()
    with pytest.raises(ImportRefusedError) as caught:
        apply(db, table, data)
    assert db.execute("SELECT count(*) FROM audit").fetchone() == before
    return [(problem.line, problem.column) for problem in caught.value.problems]


def test_every_bad_row_is_named_and_nothing_is_applied(db: apsw.Connection) -> None:
    data = (
        HEADER
        + "P-1,王秀英,13800000001\n"
        + "P-2,,13800000002\n"
        + '"P-3","two\nlines",13800000003\n'
        + "P 4,张三,12\n"
        + "\n"
        + "P-1,again,13800000001\n"
        + "P-5,李四\n"
        + "P-6,李四,13800000006,more\n"
    )
    assert refused(db, "persons", data) == [
        (3, "name"),
        (4, "name"),
        (6, "person_id"),
        (6, "phone"),
        (8, "person_id"),
        (9, ""),
        (10, ""),
    ]
    assert persons.list_persons(db) == []


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("", (0, "")),
        ("person_id,nmae,phone\n", (1, "nmae")),
        ("person_id,name,name\n", (1, "name")),
        ("name,phone\n", (1, "person_id")),
        ("person_id;name;phone\n", (1, "person_id;name;phone")),
        ("person_id,,name\n", (1, "")),
        (HEADER + 'P-1,"open', (2, "")),
        (HEADER + 'P-1,"a"b,\n', (2, "")),
        (HEADER + "P-1," + "x" * 200_000 + ",\n", (2, "")),
        ((HEADER + "P-1,a,\n").encode() + b"P-2,\xff\xff,\n", (3, "")),
        ("person_id,name\nP-1,a\x00b\n", (2, "name")),
        ("person_id,name,state\nP-1,a,dead\n", (2, "state")),
    ],
)
def test_what_is_wrong_is_told_with_its_place(db: apsw.Connection, data: str | bytes, told: tuple[int, str]) -> None:
    assert refused(db, "persons", data) == [told]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030"])
def test_files_of_windows_programs_are_read(db: apsw.Connection, encoding: str) -> None:
    data = "编号,姓名,电话,区县\r\nP-1,王秀英,138 0000 0001,和平区\r\n".encode(encoding)
    report = apply(db, "persons", data)
    assert report.encoding == ("gb18030" if encoding == "gb18030" else "utf-8")
    view = persons.show_person(db, "P-1")
    assert (view["name"], view["phone"], view["district"]) == ("王秀英", "+8613800000001", "和平区")


def test_a_second_import_updates_only_what_differs_in_the_columns_it_has(db: apsw.Connection) -> None:
    apply(db, "persons", "person_id,name,phone,address\nP-1,a,13800000001,x\nP-2,b,,y\n")
    report = apply(db, "persons", HEADER + "P-1,a,+8613800000001\nP-2,b,13800000002\nP-3,c,\n")
    assert (report.added, report.updated, report.unchanged) == (["P-3"], ["P-2"], ["P-1"])
    assert persons.show_person(db, "P-2")["address"] == "y"
    apply(db, "persons", HEADER + "P-1,a,\n")
    assert persons.show_person(db, "P-1")["phone"] is None  # a blank cell empties its field


def test_an_import_is_audited_in_few_rows_that_name_all(db: apsw.Connection) -> None:
    apply(db, "persons", HEADER + "".join(f"P-{n},王秀英,13800000001\n" for n in range(1200)))
    found = [msgspec.json.decode(body) for (body,) in db.execute("SELECT body FROM audit ORDER BY seq")]
    assert [len(row["after"]["rows"]) for row in found] == [500, 500, 200]
    assert {entry["subject"] for row in found for entry in row["after"]["rows"]} == {
        f"person/P-{n}" for n in range(1200)
    }
    assert "王秀英" not in str(found)
    assert "1380000" not in str(found)


def test_devices_are_checked_against_profiles_persons_and_each_other(db: apsw.Connection) -> None:
    apply(db, "persons", HEADER + "P-1,a,\n")
    head = "device_id,profile,person_id,serial\n"
    assert refused(db, "devices", head + "D-1,carebell.nativ,P-1,S\nD-2,carebell.native,P-1,S\n") == [(2, "profile")]
    bad = head + "D-1,carebell.native,P-9,S1\nD-2,carebell.native,P-1,S2\nD-3,carebell.native,,S2\n"
    assert refused(db, "devices", bad) == [(2, "person_id"), (4, "serial")]
    report = apply(db, "devices", head + "D-1,carebell.native,P-1,S1\nD-2,carebell.native,,\n")
    assert sorted(report.tokens) == ["D-1", "D-2"]
    again = apply(db, "devices", head + "D-1,carebell.native,P-1,S1\nD-2,carebell.native,P-1,S2\n")
    assert (again.tokens, again.updated, again.unchanged) == ({}, ["D-2"], ["D-1"])


def test_contacts_need_no_ids(db: apsw.Connection) -> None:
    apply(db, "persons", HEADER + "P-1,a,\n")
    data = "person_id,name,phone,relation\nP-1,王芳,13900000001,女儿\nP-1,王强,13900000002,儿子\n"
    assert apply(db, "contacts", data).added == ["P-1.1", "P-1.2"]
    report = apply(db, "contacts", data.replace("女儿", "外甥女"))
    assert (report.updated, report.unchanged) == (["P-1.1"], ["P-1.2"])
    assert [row["position"] for row in contacts.list_contacts(db, person_id="P-1")] == [1, 2]
    assert refused(db, "contacts", "person_id,name,phone\nP-9,a,13900000001\n") == [(2, "person_id")]


def export(db: apsw.Connection, table: str) -> str:
    views = {
        "persons": persons.list_persons(db),
        "devices": devices.list_devices(db),
        "contacts": contacts.list_contacts(db, state=""),
    }
    return "".join(csvio.export_csv(table, views[table]))


def test_what_is_exported_can_be_imported_elsewhere(db: apsw.Connection, tmp_path: Path) -> None:
    plan = '{"expectations":[{"type":"check_in","expectation_id":"e","by":"09:00"}]}'
    add = {"name": '=HYPERLINK("x")', "address": '\'-1,"quoted"', "conditions": ["copd", "糖尿病"], "care_plan": plan}
    with db:
        persons.add_person(db, "P-1", add | {"phone": "13800000001", "high_risk": True}, at_us=T0_US, actor=ACTOR)
        persons.add_person(db, "P-2", {"name": "李四", "state": "suspended"}, at_us=T0_US, actor=ACTOR)
        given = {"profile": "carebell.native", "person_id": "P-1", "imei": "861234567890123", "install_place": "+卧室"}
        devices.add_device(db, "D-1", given, known_profiles=PROFILES, at_us=T0_US, actor=ACTOR)
        given = {"profile": "carebell.native", "state": "retired", "warranty_until": "2027-01-31"}
        devices.add_device(db, "D-2", given, known_profiles=PROFILES, at_us=T0_US, actor=ACTOR)
        given = {"person_id": "P-1", "name": "王芳", "phone": "13900000001", "channels": "sms", "quiet_from": "22:00"}
        contacts.add_contact(db, "", given | {"quiet_to": "6:30"}, at_us=T0_US, actor=ACTOR)
    tables = {table: export(db, table) for table in ("persons", "devices", "contacts")}
    assert "\n'=HYPER" not in tables["persons"]
    assert "'=HYPER" in tables["persons"]
    other = open_database(tmp_path / "other.sqlite3")
    for table, text in tables.items():
        apply(other, table, text)
        assert export(other, table) == text
        assert apply(db, table, text).updated == []  # and at home it changes nothing
    other.close()
