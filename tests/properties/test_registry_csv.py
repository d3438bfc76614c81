"""Any bytes as a CSV file: they are applied as a whole, or refused with lines, and the registry stays sound."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import audit, security
from gateway.errors import UsageError
from gateway.model import Actor
from gateway.registry import contacts, csvio, devices, persons
from gateway.registry.changes import registry_version
from gateway.registry.directory import Snapshot, load_snapshot
from gateway.registry.fields import Spec, clean, normalize_key
from gateway.storage.database import FILE_NAME, open_database
from tests.factory import T0_US

ACTOR = Actor("operator", "test")
PROFILES = ("p", "q")


@pytest.fixture(scope="module")
def db() -> Iterator[apsw.Connection]:
    with tempfile.TemporaryDirectory() as folder:
        connection = open_database(Path(folder) / FILE_NAME)
        yield connection
        connection.close()


cell = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["P-1", "P-2", "D-1", "p", "13800000001", "zh", "active", "1941", "", '"', "=1", "'=1", "x,y"]),
)
header = st.lists(
    st.sampled_from([*persons.SPEC.names, *devices.SPEC.names, "person_id", "name", "oops", ""]), max_size=6
)
files = st.one_of(
    st.binary(max_size=300),
    st.builds(lambda head, rest: (",".join(head) + "\n").encode() + rest, header, st.binary(max_size=200)),
    st.builds(
        lambda head, rows: "\n".join([",".join(["person_id", "name", *head]), *map(",".join, rows)]).encode(),
        st.lists(st.sampled_from(persons.SPEC.names[1:]), unique=True, max_size=4),
        st.lists(st.lists(cell, min_size=2, max_size=6), max_size=5),
    ),
)


@settings(max_examples=300, deadline=None)
@given(table=st.sampled_from(["persons", "devices", "contacts"]), data=files)
def test_any_file_is_applied_whole_or_refused_with_lines(db: apsw.Connection, table: str, data: bytes) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        rows = db.execute(f"SELECT count(*) FROM {table.removesuffix('s')}").fetchone()
        applied = False
        try:
            plan = csvio.read_plan(table, data, at_us=T0_US, known_profiles=PROFILES)
            report = csvio.apply_plan(db, plan, at_us=T0_US, actor=ACTOR)
        except csvio.ImportRefusedError as error:
            problems = error.problems
            lines = data.count(b"\n") + data.count(b"\r") + 1
        else:
            problems, lines, applied = [], 0, True
            assert len(report.added) + len(report.updated) + len(report.unchanged) == len(plan.rows)
            after = db.execute(f"SELECT count(*) FROM {table.removesuffix('s')}").fetchone()
            assert rows is not None
            assert after == (rows[0] + len(report.added),)
            assert list(audit.verify(db)) == []
        assert all(0 <= problem.line <= lines + 1 and problem.text for problem in problems)
        assert problems or applied
    finally:
        db.execute("ROLLBACK")


operation = st.one_of(
    st.tuples(st.just("person"), st.sampled_from("AB"), st.sampled_from(persons.STATES)),
    st.tuples(st.just("device"), st.sampled_from("DEF"), st.sampled_from(["", "A", "B", "C"])),
    st.tuples(st.just("key"), st.sampled_from("DEF"), st.sampled_from(["", "k1", "K1", "k2", "D"])),
    st.tuples(st.sampled_from(["suspend", "resume", "retire"]), st.sampled_from("DEF"), st.just("")),
    st.tuples(st.just("replace"), st.sampled_from("DEF"), st.sampled_from("DEF")),
)


def perform(db: apsw.Connection, step: int, what: str, who: str, value: str) -> None:
    at_us = T0_US + step
    known = {"known_profiles": PROFILES}
    if what == "person":
        if db.execute("SELECT 1 FROM person WHERE id = ?", (who,)).fetchone() is None:
            persons.add_person(db, who, {"name": "n", "state": value}, at_us=at_us, actor=ACTOR)
        else:
            persons.update_person(db, who, {"state": value}, at_us=at_us, actor=ACTOR)
    elif what in ("device", "key"):
        given_values = {"person_id" if what == "device" else "serial": value}
        if db.execute("SELECT 1 FROM device WHERE id = ?", (who,)).fetchone() is None:
            devices.add_device(
                db, who, {"profile": "p"} | given_values, known_profiles=PROFILES, at_us=at_us, actor=ACTOR
            )
        else:
            devices.update_device(db, who, given_values, known_profiles=PROFILES, at_us=at_us, actor=ACTOR)
    elif what == "replace":
        devices.replace_device(db, who, value, {}, known_profiles=known["known_profiles"], at_us=at_us, actor=ACTOR)
    else:
        devices.set_state(db, who, what, at_us=at_us, actor=ACTOR)


@settings(max_examples=60, deadline=None)
@given(operations=st.lists(operation, max_size=15))
def test_after_any_changes_the_registry_is_sound(db: apsw.Connection, operations: list[tuple[str, str, str]]) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        snapshot = load_snapshot(db, {"p": "c"}.get, Snapshot())
        for step, (what, who, value) in enumerate(operations):
            before = registry_version(db)
            db.execute("SAVEPOINT step")
            try:
                perform(db, step, what, who, value)
            except UsageError:
                db.execute("ROLLBACK TO step")
                assert registry_version(db) == before
            db.execute("RELEASE step")
            snapshot = load_snapshot(db, {"p": "c"}.get, snapshot)
        assert snapshot == load_snapshot(db, {"p": "c"}.get, Snapshot())  # bit by bit is the same as all at once
        assert list(audit.verify(db)) == []
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
        for device in snapshot.devices.values():
            if device.person_id:
                assert snapshot.people[device.person_id].state != "ceased"
                assert device.state != "retired"
            if device.state == "retired":
                assert device.device_id not in snapshot.digests
        overlapping = db.execute(
            "SELECT 1 FROM binding a JOIN binding b ON a.device_id = b.device_id AND a.id < b.id"
            " WHERE a.to_us IS NULL OR a.to_us > b.from_us"
        ).fetchall()
        assert overlapping == []
    finally:
        db.execute("ROLLBACK")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=300, deadline=None)
@given(
    spec=st.sampled_from([persons.SPEC, devices.SPEC, contacts.SPEC]),
    data=st.data(),
    partial=st.booleans(),
)
def test_any_json_values_are_cleaned_or_refused(spec: Spec, data: st.DataObject, partial: bool) -> None:
    values = data.draw(st.dictionaries(st.sampled_from([*spec.names, "zz"]), json_values, max_size=5))
    try:
        row = clean(spec, values, partial=partial)
    except UsageError as error:
        told = str(error)
    else:
        told = "clean"
        again = clean(spec, {name: spec.field(name).kind.show(value) for name, value in row.items()}, partial=partial)
        assert again == row  # what is stored, shown and entered again is the same
    assert told


@given(token=st.binary(max_size=80), others=st.lists(st.binary(max_size=40), max_size=3))
def test_a_token_is_one_of_its_own_digests_only(token: bytes, others: list[bytes]) -> None:
    digests = [security.digest_of(other) for other in others]
    assert security.is_one_of(token, digests) == (token in others)
    assert security.is_one_of(token, [*digests, security.digest_of(token)])


@given(text=st.text(max_size=80))
def test_only_api_keys_split_as_api_keys(text: str) -> None:
    assert security.split_api_key(text) is None
    key_id, key = security.new_api_key()
    parts = security.split_api_key(key)
    assert parts is not None
    assert parts[0] == key_id
    assert f"carebell_{parts[0]}_{parts[1]}" == key


@given(phone=st.from_regex(r"\+86[0-9]{11}", fullmatch=True), name=st.text(min_size=1, max_size=5))
def test_masks_show_a_hint_only(phone: str, name: str) -> None:
    assert security.mask_phone(phone) == phone[3:6] + "****" + phone[-4:]
    assert security.mask_name(name).count("*") >= min(len(name) - 1, 3)
    assert security.mask_phone("+86120") == "****20"
    assert security.mask_phone(None) == ""


@given(pairs=st.lists(st.binary(min_size=1, max_size=1), min_size=6, max_size=8))
def test_an_address_has_one_spelling(pairs: list[bytes]) -> None:
    plain = b"".join(pairs).hex()
    for separator in (":", "-"):
        assert normalize_key(separator.join(pair.hex().upper() for pair in pairs)) == plain
