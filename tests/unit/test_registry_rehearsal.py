"""An import that is rehearsed leaves what an import in one go leaves, and nothing when the registry moved on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest

from gateway import audit
from gateway.model import Actor
from gateway.registry import csvio, persons
from gateway.registry.rehearsal import perform, rehearse
from gateway.registry.unknown import Sighting, note_unknown
from gateway.storage.database import FILE_NAME, open_database
from tests.factory import T0_US

ACTOR = Actor("operator", "test")
FILES = [
    ("persons", "person_id,name,phone\n" + "".join(f"P-{n},王{n},1380000{n:04}\n" for n in range(20))),
    ("devices", "device_id,profile,person_id,serial\n" + "".join(f"D-{n},x.y,P-{n},SN{n}\n" for n in range(20))),
    ("contacts", "person_id,name,phone\n" + "".join(f"P-{n % 7},李{n},1390000{n:04}\n" for n in range(20))),
    (
        "places",
        "place_id,person_id,kind,latitude,longitude,radius_m,consent\nP-1.home,P-1,home,39.1,117.2,150.5,true\n",
    ),
    ("persons", "person_id,name,phone,state\nP-1,王,13800000001,ceased\nP-2,王2,13800000002,active\n"),
    ("devices", "device_id,profile,person_id,serial\nD-3,x.y,P-4,SN99\nD-4,x.y,,SN3\n"),
    ("contacts", "contact_id,person_id,name,phone,state\nP-0.1,P-0,李,13900000000,removed\n"),
]
TABLES = ("person", "contact", "place", "device", "device_key", "binding", "unknown_device", "meta")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


def plan_of(table: str, text: str) -> csvio.Plan:
    return csvio.read_plan(table, text.encode(), at_us=T0_US, known_profiles=("x.y",))


def contents(db: apsw.Connection) -> dict[str, list[tuple[Any, ...]]]:
    rows = {table: db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES}
    rows["credential"] = db.execute("SELECT device_id, created_at_us, revoked_at_us FROM credential").fetchall()
    rows["audit"] = db.execute("SELECT seq, body, hash FROM audit ORDER BY seq").fetchall()
    return rows


def seen(db: apsw.Connection, key: str) -> None:
    note_unknown(db, {key: Sighting("mqtt", "native", T0_US, T0_US, 1, 1, 1)})


def test_it_leaves_what_an_import_in_one_go_leaves(path: Path, tmp_path: Path) -> None:
    rehearsed, direct = open_database(path), open_database(tmp_path / "direct.sqlite3")
    for db in (rehearsed, direct):
        seen(db, "sn5")
    for table, text in FILES:
        plan = plan_of(table, text)
        with direct:
            report = csvio.apply_plan(direct, plan, at_us=T0_US, actor=ACTOR)
        rehearsal = rehearse(path, plan, at_us=T0_US, actor=ACTOR)
        with rehearsed:
            assert perform(rehearsed, rehearsal)
        assert (rehearsal.report.added, rehearsal.report.updated) == (report.added, report.updated)
        assert contents(rehearsed) == contents(direct)
    assert direct.execute("SELECT claimed_by FROM unknown_device").fetchall() == [("D-5",)]
    assert list(audit.verify(rehearsed)) == []
    assert rehearsed.execute("PRAGMA foreign_key_check").fetchall() == []


def test_nothing_is_written_when_the_registry_changed_meanwhile(path: Path) -> None:
    db = open_database(path)
    rehearsal = rehearse(path, plan_of(*FILES[0]), at_us=T0_US, actor=ACTOR)
    with db:
        persons.add_person(db, "P-99", {"name": "刘"}, at_us=T0_US, actor=ACTOR)
    before = contents(db)
    with db:
        assert not perform(db, rehearsal)
    assert contents(db) == before
    with db:
        assert perform(db, rehearse(path, plan_of(*FILES[0]), at_us=T0_US, actor=ACTOR))
    assert len(contents(db)["person"]) == 21


def test_an_unknown_device_that_was_forgotten_meanwhile_is_no_obstacle(path: Path) -> None:
    db = open_database(path)
    seen(db, "d-1")
    rehearsal = rehearse(path, plan_of("devices", "device_id,profile,serial\nD-1,x.y,D-1\n"), at_us=T0_US, actor=ACTOR)
    db.execute("DELETE FROM unknown_device")
    with db:
        assert perform(db, rehearsal)
    assert contents(db)["device"] != []


def test_rehearsing_takes_no_lock(path: Path) -> None:
    db, other = open_database(path), open_database(path)
    other.execute("BEGIN IMMEDIATE")
    rehearse(path, plan_of(*FILES[0]), at_us=T0_US, actor=ACTOR)
    other.execute("ROLLBACK")
    assert contents(db)["person"] == []
    with pytest.raises(csvio.ImportRefusedError):
        rehearse(path, plan_of(*FILES[1]), at_us=T0_US, actor=ACTOR)
