"""Persons, devices, contacts, places, keys: what may be kept, and what follows a change."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest

from gateway import audit, security
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Actor, Committed
from gateway.registry import changes, contacts, credentials, devices, keys, people, persons, places, unknown
from gateway.registry.fields import FieldsError
from gateway.storage.database import FILE_NAME, open_database
from tests.factory import T0_US, record

ACTOR = Actor("operator", "test")
PROFILES = ("carebell.native", "generic.gps-pendant")
HOUR_US = 3_600_000_000


@pytest.fixture
def db(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = open_database(tmp_path / FILE_NAME)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    assert list(audit.verify(connection)) == []
    assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    connection.execute("COMMIT")
    connection.close()


def add_person(db: apsw.Connection, person_id: str = "P-0001", **values: Any) -> dict[str, Any]:
    return persons.add_person(db, person_id, {"name": "王秀英"} | values, at_us=T0_US, actor=ACTOR)


def add_device(db: apsw.Connection, device_id: str = "D-0001", **values: Any) -> tuple[dict[str, Any], str]:
    given = {"profile": "carebell.native"} | values
    return devices.add_device(db, device_id, given, known_profiles=PROFILES, at_us=T0_US, actor=ACTOR)


def change_device(db: apsw.Connection, device_id: str, at_us: int = T0_US + HOUR_US, **values: Any) -> dict[str, Any]:
    return devices.update_device(db, device_id, values, known_profiles=PROFILES, at_us=at_us, actor=ACTOR)


def valid_tokens(db: apsw.Connection, device_id: str) -> int:
    sql = "SELECT count(*) FROM credential WHERE device_id = ? AND revoked_at_us IS NULL"
    row = db.execute(sql, (device_id,)).fetchone()
    assert row is not None
    return int(row[0])


# ---- fields ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("13800000001", "+8613800000001"),
        ("+86 138 0000 0001", "+8613800000001"),
        ("0086 138-0000-0001", "+8613800000001"),
        ("022-12345678", "+862212345678"),
        ("＋８６１３８０００００００１", "+8613800000001"),
        ("+44 20 7946 0018", "+442079460018"),
        ("+1 415 555 0100", "+14155550100"),
        (13800000001, "+8613800000001"),
    ],
)
def test_phone_numbers_are_kept_in_e164(db: apsw.Connection, given: Any, kept: str) -> None:
    assert add_person(db, phone=given)["phone"] == kept


@pytest.mark.parametrize(
    "given",
    [
        "abc",
        "12",
        "+86",
        "120",
        "1380000000112345",
        "13812345;ext=5",
        "138000000001",
        "+86138000000001",
        "a" * 100,
        True,
        1.5,
    ],
)
def test_what_is_no_phone_number_is_refused(db: apsw.Connection, given: Any) -> None:
    with pytest.raises(FieldsError, match="phone"):
        add_person(db, phone=given)


@pytest.mark.parametrize("person_id", ["", "P/1", "P+1", "P#1", "P 1", "王", "a" * 65, "P\n1", "P\u00001"])
def test_ids_that_would_break_topics_and_urls_are_refused(db: apsw.Connection, person_id: str) -> None:
    with pytest.raises(FieldsError, match="person_id"):
        add_person(db, person_id)


def test_all_problems_are_told_at_once_and_nothing_is_kept(db: apsw.Connection) -> None:
    with pytest.raises(FieldsError) as caught:
        persons.add_person(
            db,
            "P 1",
            {
                "nmae": "x",
                "phone": "abc",
                "birth_year": "2090",
                "language": "fr",
                "timezone": "Mars/Base",
                "state": "dead",
            },
            at_us=T0_US,
            actor=ACTOR,
        )
    assert {problem.field for problem in caught.value.problems} >= {"person_id", "nmae", "name", "phone", "timezone"}
    assert "did you mean 'name'" in str(caught.value)
    assert changes.registry_version(db) == 0
    assert db.execute("SELECT count(*) FROM audit").fetchone() == (0,)


@pytest.mark.parametrize("year", [1889, "2101", "1941.5", "ninety", 2027])
def test_birth_years_that_cannot_be_are_refused(db: apsw.Connection, year: Any) -> None:
    with pytest.raises(FieldsError, match="birth_year"):
        add_person(db, birth_year=year)


def test_a_care_plan_that_the_rules_could_not_use_is_refused(db: apsw.Connection) -> None:
    add_person(db)
    for plan, told in (
        ('{"overides": []}', "overides"),
        ({"expectations": [{"type": "check_in", "expectation_id": "e", "by": "25:00"}]}, "by"),
        ({"expectations": [{"type": "check_in", "expectation_id": "e", "by": "09:00", "start": "10:00"}]}, "later"),
        ("[1]", "object"),
        ("{", "JSON"),
        ('{"a":' + '"' + "x" * 70_000 + '"}', "bytes"),
    ):
        with pytest.raises(FieldsError, match=told):
            persons.update_person(db, "P-0001", {"care_plan": plan}, at_us=T0_US, actor=ACTOR)


# ---- versions and audit ----------------------------------------------------------------------------------------------


def test_each_change_counts_up_and_is_audited_without_personal_data(db: apsw.Connection) -> None:
    add_person(db, phone="13800000001", address="天津市和平区1号", district="和平区")
    update = {"phone": "13900000002", "district": "河西区", "note": "独居"}
    view = persons.update_person(db, "P-0001", update, at_us=T0_US + 1, actor=ACTOR, reason="moved")
    assert (view["version"], changes.registry_version(db)) == (2, 2)
    rows = [msgspec.json.decode(body) for (body,) in db.execute("SELECT body FROM audit ORDER BY seq")]
    assert [row["action"] for row in rows] == ["person.add", "person.update"]
    assert rows[1]["before"] == {"district": "和平区"}
    assert rows[1]["after"] == {"district": "河西区", "fields": ["district", "note", "phone"]}
    assert rows[1]["reason"] == "moved"
    text = str(rows)
    for personal in ("王秀英", "138000", "139000", "1号", "独居"):
        assert personal not in text


def test_no_difference_is_no_new_version(db: apsw.Connection) -> None:
    add_person(db, phone="13800000001")
    view = persons.update_person(db, "P-0001", {"phone": "+86 13800000001"}, at_us=T0_US + 1, actor=ACTOR)
    assert view["version"] == 1


def test_a_lost_race_is_told(db: apsw.Connection) -> None:
    add_person(db)
    persons.update_person(db, "P-0001", {"note": "a"}, at_us=T0_US, actor=ACTOR, version=1)
    with pytest.raises(ConflictError, match="version 2, not 1"):
        persons.update_person(db, "P-0001", {"note": "b"}, at_us=T0_US, actor=ACTOR, version=1)


def test_what_does_not_exist_is_told(db: apsw.Connection) -> None:
    with pytest.raises(NotFoundError):
        persons.show_person(db, "P-9")
    with pytest.raises(NotFoundError):
        add_device(db, person_id="P-9")
    with pytest.raises(NotFoundError):
        credentials.issue_token(db, "D-9", at_us=T0_US, actor=ACTOR)
    with pytest.raises(NotFoundError):
        contacts.add_contact(db, "", {"person_id": "P-9", "name": "a", "phone": "13800000001"}, at_us=1, actor=ACTOR)


def test_consents_are_kept_when_they_are_revoked(db: apsw.Connection) -> None:
    add_person(db)
    persons.give_consent(db, "P-0001", "location", "v1", at_us=T0_US, actor=ACTOR)
    persons.give_consent(db, "P-0001", "location", "v2", at_us=T0_US + 1, actor=ACTOR)
    found = persons.revoke_consent(db, "P-0001", "location", at_us=T0_US + 2, actor=ACTOR)
    assert [(entry["text_version"], entry["revoked_at"] is not None) for entry in found] == [("v1", True), ("v2", True)]
    with pytest.raises(ConflictError):
        persons.revoke_consent(db, "P-0001", "location", at_us=T0_US + 3, actor=ACTOR)


# ---- devices ---------------------------------------------------------------------------------------------------------


def test_a_device_needs_a_known_profile(db: apsw.Connection) -> None:
    with pytest.raises(FieldsError, match=r"did you mean 'carebell\.native'"):
        add_device(db, profile="carebell.nativ")


def test_an_identity_is_of_one_device_however_it_is_written(db: apsw.Connection) -> None:
    add_device(db, "D-1", mac="AA:BB:CC:DD:EE:FF", serial="861234567890123", imei="861234567890123")
    for clash in ({"other_key": "aabbccddeeff"}, {"mac": "aa-bb-cc-dd-ee-ff"}, {"imei": "861234567890123"}):
        with pytest.raises(ConflictError, match="'D-1'"), db:
            add_device(db, "D-2", **clash)
    with pytest.raises(ConflictError, match="'D-1'"), db:
        add_device(db, "D-2", serial="D-1")
    with pytest.raises(ConflictError, match="'D-1'"), db:
        add_device(db, "aabbccddeeff")
    change_device(db, "D-1", mac="")
    add_device(db, "D-2", mac="AABBCCDDEEFF")
    assert devices.keys_of(db, "D-2") == {"mac": "aabbccddeeff"}


def test_bindings_are_kept_in_time(db: apsw.Connection) -> None:
    add_person(db, "P-1")
    add_person(db, "P-2")
    add_device(db, person_id="P-1")
    change_device(db, "D-0001", T0_US + HOUR_US, person_id="P-2")
    view = change_device(db, "D-0001", T0_US + 2 * HOUR_US, person_id="")
    assert [binding["person_id"] for binding in view["bindings"]] == ["P-1", "P-2"]
    assert all(binding["to"] is not None for binding in view["bindings"])
    at = [devices.person_at(db, "D-0001", T0_US + offset * HOUR_US // 2) for offset in (-1, 0, 1, 2, 3, 4)]
    assert at == [None, "P-1", "P-1", "P-2", "P-2", None]


def test_a_retired_device_has_no_person_and_no_token(db: apsw.Connection) -> None:
    add_person(db)
    add_device(db, person_id="P-0001")
    view = devices.set_state(db, "D-0001", "retire", at_us=T0_US + 1, actor=ACTOR, reason="broken")
    assert (view["state"], view["person_id"], valid_tokens(db, "D-0001")) == ("retired", None, 0)
    with pytest.raises(ConflictError):
        credentials.issue_token(db, "D-0001", at_us=T0_US, actor=ACTOR)
    with pytest.raises(ConflictError):
        change_device(db, "D-0001", person_id="P-0001")
    with pytest.raises(ConflictError):
        devices.set_state(db, "D-0001", "suspend", at_us=T0_US, actor=ACTOR)
    devices.set_state(db, "D-0001", "resume", at_us=T0_US, actor=ACTOR)
    assert valid_tokens(db, "D-0001") == 0
    credentials.issue_token(db, "D-0001", at_us=T0_US, actor=ACTOR)


def test_a_replacement_takes_over_the_person_and_the_place(db: apsw.Connection) -> None:
    add_person(db)
    add_device(db, person_id="P-0001", install_place="卧室", serial="S-1")
    view, token = devices.replace_device(
        db, "D-0001", "D-0002", {"serial": "S-2"}, known_profiles=PROFILES, at_us=T0_US + 1, actor=ACTOR
    )
    assert (view["person_id"], view["install_place"], view["profile"]) == ("P-0001", "卧室", "carebell.native")
    assert security.is_one_of(token, [bytes(row[0]) for row in db.execute("SELECT digest FROM credential")])
    old = devices.show_device(db, "D-0001")
    assert (old["state"], old["replaced_by"], old["person_id"]) == ("retired", "D-0002", None)
    assert valid_tokens(db, "D-0001") == 0
    with pytest.raises(ConflictError):
        devices.replace_device(db, "D-0001", "D-3", {}, known_profiles=PROFILES, at_us=T0_US, actor=ACTOR)


def test_a_new_token_ends_the_old_ones_at_once_or_after_a_grace(db: apsw.Connection) -> None:
    add_device(db)
    credentials.issue_token(db, "D-0001", at_us=T0_US, actor=ACTOR, grace_s=60)
    ends = [row[0] for row in db.execute("SELECT expires_at_us FROM credential ORDER BY expires_at_us IS NULL")]
    assert ends == [T0_US + 60_000_000, None]
    credentials.issue_token(db, "D-0001", at_us=T0_US + 1, actor=ACTOR, grace_s=3600)
    ends = [row[0] for row in db.execute("SELECT expires_at_us FROM credential ORDER BY coalesce(expires_at_us, 9e18)")]
    assert ends == [T0_US + 60_000_000, T0_US + 1 + HOUR_US, None]  # a grace lengthens nothing
    credentials.issue_token(db, "D-0001", at_us=T0_US + 2, actor=ACTOR)
    assert valid_tokens(db, "D-0001") == 1


def test_when_a_service_ends_its_devices_retire(db: apsw.Connection) -> None:
    add_person(db)
    add_device(db, "D-1", person_id="P-0001")
    add_device(db, "D-2", person_id="P-0001")
    persons.update_person(db, "P-0001", {"state": "suspended"}, at_us=T0_US + 1, actor=ACTOR)
    assert devices.show_device(db, "D-1")["state"] == "active"  # until it is verified, everything alarms
    persons.update_person(db, "P-0001", {"state": "ceased"}, at_us=T0_US + 2, actor=ACTOR, reason="verified")
    for device_id in ("D-1", "D-2"):
        view = devices.show_device(db, device_id)
        assert (view["state"], view["person_id"], valid_tokens(db, device_id)) == ("retired", None, 0)
        assert view["dispose_requested_at"] is not None
    with pytest.raises(ConflictError, match="has ended"):
        add_device(db, "D-3", person_id="P-0001")


def test_devices_are_found_by_what_is_known_of_them(db: apsw.Connection) -> None:
    add_person(db)
    add_device(db, "D-1", person_id="P-0001", imei="861234567890123")
    add_device(db, "D-2", model="Bell 2", profile="generic.gps-pendant")
    add_device(db, "D-3", state="retired")

    def ids(**wanted: Any) -> list[str]:
        return [row["device_id"] for row in devices.list_devices(db, **wanted)]

    assert ids() == ["D-1", "D-2", "D-3"]
    assert ids(unassigned=True) == ["D-2"]  # the reconciliation of devices whose person is not known
    assert ids(person_id="P-0001") == ids(search="8612345") == ["D-1"]
    assert ids(search="Bell") == ids(profile="generic.gps-pendant") == ["D-2"]
    assert ids(state="retired") == ids(after_id="D-2") == ["D-3"]
    assert ids(limit=2) == ["D-1", "D-2"]


# ---- contacts, places, keys ------------------------------------------------------------------------------------------


def test_contacts_get_ids_and_positions(db: apsw.Connection) -> None:
    add_person(db)
    for phone in ("13800000001", "13800000002"):
        contacts.add_contact(db, "", {"person_id": "P-0001", "name": "王芳", "phone": phone}, at_us=T0_US, actor=ACTOR)
    found = contacts.list_contacts(db, person_id="P-0001")
    assert [(row["contact_id"], row["position"], row["channels"]) for row in found] == [
        ("P-0001.1", 1, ["voice", "sms"]),
        ("P-0001.2", 2, ["voice", "sms"]),
    ]
    contacts.update_contact(db, "P-0001.1", {"state": "removed"}, at_us=T0_US, actor=ACTOR)
    assert [row["contact_id"] for row in contacts.list_contacts(db, person_id="P-0001")] == ["P-0001.2"]
    assert persons.show_person(db, "P-0001")["contacts"] == ["P-0001.2"]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"channels": ["pigeon"]}, "pigeon"),
        ({"quiet_from": "22:00"}, "quiet"),
        ({"quiet_from": "24:00", "quiet_to": "06:00"}, "quiet_from"),
        ({"channels": "email"}, "email"),
        ({"severities": "P1;P5"}, "P5"),
        ({"position": 0}, "position"),
    ],
)
def test_contacts_that_could_not_be_told_are_refused(db: apsw.Connection, values: dict[str, Any], told: str) -> None:
    add_person(db)
    given = {"person_id": "P-0001", "name": "王芳", "phone": "13800000001"} | values
    with pytest.raises(FieldsError, match=told):
        contacts.add_contact(db, "", given, at_us=T0_US, actor=ACTOR)


def test_places_become_fences_of_the_plan(db: apsw.Connection) -> None:
    add_person(db, conditions=["copd", "糖尿病"], high_risk=True)
    home = {"person_id": "P-0001", "kind": "home", "geometry": {"type": "Point", "coordinates": [117.2, 39.1]}}
    with pytest.raises(FieldsError, match="radius_m"):
        places.add_place(db, "home", home, at_us=T0_US, actor=ACTOR)
    places.add_place(db, "home", home | {"radius_m": 200, "settings": {"consent": True}}, at_us=T0_US, actor=ACTOR)
    row = next(changes.rows(db, "SELECT * FROM person"))
    plan = people.plan_of(db, row)
    assert (plan.person_id, plan.high_risk, plan.conditions, plan.version) == ("P-0001", True, ("copd",), 2)
    assert [(fence.fence_id, fence.consent) for fence in plan.fences] == [("home", True)]
    open_ring = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 1]]]}
    with pytest.raises(FieldsError, match="ring"):
        places.update_place(db, "home", {"geometry": open_ring}, at_us=T0_US, actor=ACTOR)
    places.update_place(db, "home", {"state": "removed"}, at_us=T0_US, actor=ACTOR)
    assert people.plan_of(db, row).fences == ()


def test_api_keys_are_shown_once_and_end(db: apsw.Connection) -> None:
    assert not keys.has_admin_key(db, T0_US)
    view, key = keys.issue_api_key(db, {"role": "admin", "label": "first"}, at_us=T0_US, actor=ACTOR, valid_days=1)
    assert key.startswith(f"carebell_{view['key_id']}_")
    assert key not in str(db.execute("SELECT * FROM api_key").fetchall())
    assert keys.has_admin_key(db, T0_US)
    assert not keys.has_admin_key(db, T0_US + 25 * HOUR_US)
    keys.revoke_api_key(db, view["key_id"], at_us=T0_US, actor=ACTOR)
    assert not keys.has_admin_key(db, T0_US)
    with pytest.raises(ConflictError):
        keys.revoke_api_key(db, view["key_id"], at_us=T0_US, actor=ACTOR)
    with pytest.raises(UsageError):
        keys.issue_api_key(db, {"role": "family", "label": "daughter"}, at_us=T0_US, actor=ACTOR)


# ---- unknown devices -------------------------------------------------------------------------------------------------


def test_an_unknown_device_is_noticed_and_claimed(db: apsw.Connection) -> None:
    seen = {
        "861234567890123": unknown.Sighting("tcp", "gt06", T0_US, T0_US + 5, 2, 7, 9),
        "D-0001": unknown.Sighting("mqtt", "native", T0_US, T0_US + 4, 1, 8, 8),
    }
    unknown.note_unknown(db, seen)
    unknown.note_unknown(db, {"861234567890123": unknown.Sighting("tcp", "gt06", T0_US + 9, T0_US + 9, 1, 12, 12)})
    found = unknown.list_unknown(db)
    assert [(row["device_key"], row["frames"], row["first_seq"], row["last_seq"]) for row in found] == [
        ("861234567890123", 3, 7, 12),
        ("D-0001", 1, 8, 8),
    ]
    options: dict[str, Any] = {"known_profiles": PROFILES, "at_us": T0_US, "actor": ACTOR}
    view, token = unknown.claim(
        db, "861234567890123", "D-7", {"profile": "generic.gps-pendant"}, kind="imei", **options
    )
    assert (view["claimed_by"], devices.keys_of(db, "D-7"), bool(token)) == ("D-7", {"imei": "861234567890123"}, True)
    with pytest.raises(ConflictError, match="D-7"):
        unknown.claim(db, "861234567890123", "D-8", {}, **options)
    with pytest.raises(NotFoundError):
        unknown.claim(db, "nobody", "D-8", {}, **options)
    add_device(db, "D-0001")  # entering it in the ordinary way claims it too
    assert unknown.list_unknown(db) == []
    assert len(unknown.list_unknown(db, include_claimed=True)) == 2


def test_the_list_of_unknown_devices_is_bounded(db: apsw.Connection) -> None:
    many = {f"K{n}": unknown.Sighting("udp", "h02", n, n, 1, n, n) for n in range(unknown.MAX_KEPT + 50)}
    unknown.note_unknown(db, many)
    newest = unknown.list_unknown(db, limit=20_000)
    assert (len(newest), newest[0]["device_key"], newest[-1]["device_key"]) == (10_000, "K10049", "K50")


def test_the_collector_of_unknown_devices_is_bounded() -> None:
    collector = unknown.UnknownDevices()
    for number in range(unknown.MAX_PENDING + 10):
        entry = record(number, device_id="")
        entry.device_key = f"K{number}"
        collector(Committed(number + 1, [entry, record(1)]))
    assert collector.overlooked == 10
