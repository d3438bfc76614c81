"""Persons in care, their consents, and the end of their service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import apsw
import msgspec

from gateway import care
from gateway.clock import from_us, iso
from gateway.errors import ConflictError
from gateway.model import Actor
from gateway.registry import fields as f
from gateway.registry.changes import Change, begin, existing, expect_version, fetch, insert, listing, update, view_of
from gateway.registry.devices import SPEC as DEVICE
from gateway.registry.devices import apply_device

STATES: Final = ("active", "suspended", "ceased")
"""``suspended`` is under verification: everything still alarms. ``ceased`` is the verified end of the service."""


def _check_plan(decoded: dict[str, Any]) -> None:
    """Raises ValueError for a plan that the rules could not use. A person's columns win over its copies of them."""
    try:
        found = care.problems(care.plan_from_object({"person_id": "", **decoded}))
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None
    if found:
        raise ValueError("; ".join(found))


SPEC: Final = f.Spec(
    "person",
    "person_id",
    (
        f.Field("name", f.text_of(100), "姓名", personal=True, required=True),
        f.Field("phone", f.PHONE, "电话", personal=True),
        f.Field("address", f.text_of(300), "地址", personal=True),
        f.Field("birth_year", f.integer(1890, 2100), "出生年", personal=True),
        f.Field("district", f.text_of(100), "区县"),
        f.Field("community", f.text_of(100), "社区"),
        f.Field("language", f.one_of("zh", "en"), "语言", default="zh"),
        f.Field("timezone", f.TIMEZONE, "时区", default="Asia/Shanghai"),
        f.Field("state", f.one_of(*STATES), "状态", default="active"),
        f.Field("high_risk", f.BOOL, "高风险", personal=True, default=0),
        f.Field("conditions", f.list_of(), "病症", personal=True, default="[]"),
        f.Field("care_plan", f.json_object(_check_plan), "照护计划", personal=True),
        f.Field("agreement_ref", f.text_of(100), "协议"),
        f.Field("preferred_organization", f.text_of(100), "首选机构"),
        f.Field("address_form", f.text_of(40), "称呼", personal=True),
        f.Field("note", f.text_of(1000), "备注", personal=True),
    ),
)

CONSENT: Final = f.Spec(
    "consent",
    "id",
    (
        f.Field("purpose", f.text_of(100), "目的", required=True),
        f.Field("text_version", f.text_of(100), "文本版本", required=True),
    ),
)


def add_person(
    connection: apsw.Connection, person_id: str, values: Mapping[str, Any], *, at_us: int, actor: Actor
) -> dict[str, Any]:
    """Take a person into care. Raises FieldsError, ConflictError."""
    row_id, row = clean_person(person_id, values, at_us=at_us, partial=False)
    insert_person(connection, row_id, row, begin(connection, at_us=at_us, actor=actor))
    return show_person(connection, row_id)


def update_person(
    connection: apsw.Connection,
    person_id: str,
    values: Mapping[str, Any],
    *,
    at_us: int,
    actor: Actor,
    version: int | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """Change the given fields. ``state='ceased'`` ends the service as ``apply_person`` says.

    Raises FieldsError, NotFoundError, ConflictError.
    """
    row = existing(connection, SPEC, person_id)
    expect_version(SPEC, row, version)
    _, changed = clean_person(person_id, values, at_us=at_us, partial=True)
    apply_person(connection, row, changed, begin(connection, at_us=at_us, actor=actor, reason=reason))
    return show_person(connection, person_id)


def clean_person(
    person_id: str, values: Mapping[str, Any], *, at_us: int, partial: bool
) -> tuple[str, dict[str, f.SqlValue]]:
    """The checked id and values. Raises FieldsError."""
    row_id, row = f.clean_with_id(SPEC, person_id, values, partial=partial)
    year = row.get("birth_year")
    if isinstance(year, int) and year > from_us(at_us).year:
        raise f.FieldsError([f.Problem("birth_year", "lies in the future")])
    return row_id, row


def insert_person(
    connection: apsw.Connection, person_id: str, values: Mapping[str, f.SqlValue], change: Change
) -> None:
    """Insert clean values. Raises ConflictError."""
    insert(connection, SPEC, person_id, values, change)


def apply_person(
    connection: apsw.Connection, row: Mapping[str, Any], values: Mapping[str, f.SqlValue], change: Change
) -> list[str]:
    """Change a person's clean fields; return the names that changed.

    A person who becomes ``ceased`` loses the devices: each is retired (its binding ends, its credentials are revoked)
    and marked for collection. What such a device still sends is kept apart from the person, an SOS as unverified.
    """
    names = update(connection, SPEC, row, values, change)
    if "state" in names and values["state"] == "ceased":
        held = connection.execute(
            "SELECT device_id FROM binding WHERE person_id = ? AND to_us IS NULL ORDER BY device_id", (row["id"],)
        ).fetchall()
        for (device_id,) in held:
            device = existing(connection, DEVICE, str(device_id))
            connection.execute("UPDATE device SET dispose_requested_at_us = ? WHERE id = ?", (change.at_us, device_id))
            apply_device(connection, device, {"state": "retired"}, change, "device.dispose_requested")
    return names


def show_person(connection: apsw.Connection, person_id: str) -> dict[str, Any]:
    """A person with devices, contacts, places and consents, JSON-ready. Raises NotFoundError."""
    row = existing(connection, SPEC, person_id)
    view = view_of(SPEC, row)
    view["devices"] = [
        str(device_id)
        for (device_id,) in connection.execute(
            "SELECT device_id FROM binding WHERE person_id = ? AND to_us IS NULL ORDER BY device_id", (person_id,)
        )
    ]
    view["contacts"] = [
        str(contact_id)
        for (contact_id,) in connection.execute(
            "SELECT id FROM contact WHERE person_id = ? AND state = 'active' ORDER BY position, id", (person_id,)
        )
    ]
    view["places"] = [
        str(place_id)
        for (place_id,) in connection.execute(
            "SELECT id FROM place WHERE person_id = ? AND state = 'active' ORDER BY id", (person_id,)
        )
    ]
    view["consents"] = consents(connection, person_id)
    return view


def list_persons(
    connection: apsw.Connection,
    *,
    state: str = "",
    district: str = "",
    search: str = "",
    after_id: str = "",
    limit: int = 1000,
) -> list[dict[str, Any]]:
    """Persons by id, behind ``after_id``. ``search`` looks for a part of the id, name or phone."""
    conditions = (
        (after_id, "id > ?", (after_id,)),
        (state, "state = ?", (state,)),
        (district, "district = ?", (district,)),
        (search, "(id LIKE ? OR name LIKE ? OR phone LIKE ?)", (f"%{search}%",) * 3),
    )
    found = listing(connection, "SELECT * FROM person", conditions, "id", limit)
    return [view_of(SPEC, row) for row in found]


# ---- consents --------------------------------------------------------------------------------------------------------


def give_consent(
    connection: apsw.Connection, person_id: str, purpose: str, text_version: str, *, at_us: int, actor: Actor
) -> list[dict[str, Any]]:
    """Record that a person agreed to a purpose (health, location, ...) by a version of the text.

    It replaces an earlier consent to that purpose. Raises FieldsError, NotFoundError.
    """
    existing(connection, SPEC, person_id)
    kept = f.clean(CONSENT, {"purpose": purpose, "text_version": text_version}, partial=False)
    change = begin(connection, at_us=at_us, actor=actor)
    _revoke(connection, person_id, str(kept["purpose"]), at_us)
    connection.execute(
        "INSERT INTO consent (person_id, purpose, text_version, given_at_us) VALUES (?, ?, ?, ?)",
        (person_id, kept["purpose"], kept["text_version"], at_us),
    )
    _touch(connection, person_id, change, "person.consent", kept)
    return consents(connection, person_id)


def revoke_consent(
    connection: apsw.Connection, person_id: str, purpose: str, *, at_us: int, actor: Actor
) -> list[dict[str, Any]]:
    """Record that a person took a consent back. Raises NotFoundError, ConflictError when there is none in force."""
    existing(connection, SPEC, person_id)
    if not _revoke(connection, person_id, purpose, at_us):
        raise ConflictError(f"person {person_id!r} has no consent to {purpose!r} in force")
    change = begin(connection, at_us=at_us, actor=actor)
    _touch(connection, person_id, change, "person.consent_revoked", {"purpose": purpose})
    return consents(connection, person_id)


def consents(connection: apsw.Connection, person_id: str) -> list[dict[str, Any]]:
    found = connection.execute(
        "SELECT purpose, text_version, given_at_us, revoked_at_us FROM consent WHERE person_id = ? ORDER BY id",
        (person_id,),
    )
    return [
        {
            "purpose": purpose,
            "text_version": text_version,
            "given_at": iso(given),
            "revoked_at": None if revoked is None else iso(revoked),
        }
        for purpose, text_version, given, revoked in found
    ]


def _revoke(connection: apsw.Connection, person_id: str, purpose: str, at_us: int) -> bool:
    done = connection.execute(
        "UPDATE consent SET revoked_at_us = ? WHERE person_id = ? AND purpose = ? AND revoked_at_us IS NULL"
        " RETURNING id",
        (at_us, person_id, purpose),
    ).fetchone()
    return done is not None


def _touch(connection: apsw.Connection, person_id: str, change: Change, action: str, after: Mapping[str, Any]) -> None:
    row = fetch(connection, SPEC, person_id)
    assert row is not None
    connection.execute(
        "UPDATE person SET version = version + 1, updated_at_us = ?, changed = ? WHERE id = ?",
        (change.at_us, change.number, person_id),
    )
    change.record(connection, action, f"person/{person_id}", version=row["version"] + 1, after=after)
