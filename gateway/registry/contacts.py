"""Whom a person designated to be told, in order. Nobody else is ever contacted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import apsw

from gateway.model import Actor, Severity
from gateway.registry import fields as f
from gateway.registry.changes import (
    Change,
    begin,
    existing,
    expect_version,
    insert,
    listing,
    require_person,
    rows,
    update,
    view_of,
)

CHANNELS: Final = ("voice", "sms", "app", "wechat", "email")

SPEC: Final = f.Spec(
    "contact",
    "contact_id",
    (
        f.Field("person_id", f.ID, "人员", required=True),
        f.Field("name", f.text_of(100), "姓名", personal=True, required=True),
        f.Field("phone", f.PHONE, "电话", personal=True, required=True),
        f.Field("relation", f.text_of(50), "关系", personal=True),
        f.Field("position", f.integer(1, 99), "顺序", default=1),
        f.Field("language", f.one_of("zh", "en"), "语言", default="zh"),
        f.Field("channels", f.list_of(CHANNELS), "渠道", default='["voice","sms"]'),
        f.Field("severities", f.list_of([f"P{level}" for level in Severity]), "级别", default='["P1","P2"]'),
        f.Field("quiet_from", f.CLOCK_TIME, "免打扰自"),
        f.Field("quiet_to", f.CLOCK_TIME, "免打扰至"),
        f.Field("email", f.EMAIL, "邮箱", personal=True),
        f.Field("note", f.text_of(1000), "备注", personal=True),
        f.Field("state", f.one_of("active", "removed"), "状态", default="active"),
    ),
)


def add_contact(
    connection: apsw.Connection, contact_id: str, values: Mapping[str, Any], *, at_us: int, actor: Actor
) -> dict[str, Any]:
    """Add a contact of a person; ``contact_id`` "" makes one up, and no ``position`` puts it behind the others.

    Raises FieldsError, NotFoundError (its person), ConflictError.
    """
    row_id, row = clean_contact(contact_id, values, partial=False)
    if not str(values.get("position") or "").strip():
        row["position"] = next_position(connection, str(row["person_id"]))
    row_id = insert_contact(connection, row_id, row, begin(connection, at_us=at_us, actor=actor))
    return show_contact(connection, row_id)


def update_contact(
    connection: apsw.Connection,
    contact_id: str,
    values: Mapping[str, Any],
    *,
    at_us: int,
    actor: Actor,
    version: int | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """Change the given fields; ``state='removed'`` ends being told. Raises as ``add_contact``."""
    row = existing(connection, SPEC, contact_id)
    expect_version(SPEC, row, version)
    _, changed = clean_contact(contact_id, values, partial=True)
    apply_contact(connection, row, changed, begin(connection, at_us=at_us, actor=actor, reason=reason))
    return show_contact(connection, contact_id)


def clean_contact(contact_id: str, values: Mapping[str, Any], *, partial: bool) -> tuple[str, dict[str, f.SqlValue]]:
    """The checked id ("" stays "") and values. Raises FieldsError."""
    row_id, row = f.clean_with_id(SPEC, contact_id or "-", values, partial=partial)
    return row_id if contact_id else "", row


def insert_contact(
    connection: apsw.Connection, contact_id: str, values: Mapping[str, f.SqlValue], change: Change
) -> str:
    """Insert clean values; return the id, which is made up when it is "". As ``add_contact``."""
    person_id = str(values["person_id"])
    _require_whole(connection, values)
    if not contact_id:
        number = _count(connection, person_id) + 1
        while contact_exists(connection, contact_id := f"{person_id[:60]}.{number}"):
            number += 1
    insert(connection, SPEC, contact_id, values, change)
    return contact_id


def apply_contact(
    connection: apsw.Connection, row: Mapping[str, Any], values: Mapping[str, f.SqlValue], change: Change
) -> list[str]:
    """Change a contact's clean fields; return the names that changed."""
    _require_whole(connection, {**row, **values})
    return update(connection, SPEC, row, values, change)


def find_contact(connection: apsw.Connection, person_id: str, phone: str) -> dict[str, Any] | None:
    """The stored contact of a person with this number (E.164)."""
    return next(
        rows(
            connection,
            "SELECT * FROM contact WHERE person_id = ? AND phone = ? ORDER BY state, position, id LIMIT 1",
            (person_id, phone),
        ),
        None,
    )


def contact_exists(connection: apsw.Connection, contact_id: str) -> bool:
    return connection.execute("SELECT 1 FROM contact WHERE id = ?", (contact_id,)).fetchone() is not None


def show_contact(connection: apsw.Connection, contact_id: str) -> dict[str, Any]:
    """A contact, JSON-ready. Raises NotFoundError."""
    return view_of(SPEC, existing(connection, SPEC, contact_id))


def list_contacts(
    connection: apsw.Connection,
    *,
    person_id: str = "",
    state: str = "active",
    search: str = "",
    after_id: str = "",
    limit: int = 1000,
) -> list[dict[str, Any]]:
    """Contacts: of one person in the order in which they are told, else by id behind ``after_id``."""
    conditions = (
        (person_id, "person_id = ?", (person_id,)),
        (after_id, "id > ?", (after_id,)),
        (state, "state = ?", (state,)),
        (search, "(id LIKE ? OR name LIKE ? OR phone LIKE ?)", (f"%{search}%",) * 3),
    )
    found = listing(connection, "SELECT * FROM contact", conditions, "position, id" if person_id else "id", limit)
    return [view_of(SPEC, row) for row in found]


def _require_whole(connection: apsw.Connection, values: Mapping[str, Any]) -> None:
    require_person(connection, values["person_id"])
    if (values["quiet_from"] is None) != (values["quiet_to"] is None):
        raise f.FieldsError([f.Problem("quiet_to", "quiet hours need both quiet_from and quiet_to")])
    if "email" in str(values["channels"]) and values["email"] is None:
        raise f.FieldsError([f.Problem("email", "is required when channels contains email")])


def _count(connection: apsw.Connection, person_id: str) -> int:
    row = connection.execute("SELECT count(*) FROM contact WHERE person_id = ?", (person_id,)).fetchone()
    assert row is not None
    return int(row[0])


def next_position(connection: apsw.Connection, person_id: str) -> int:
    """Behind the person's other contacts."""
    row = connection.execute(
        "SELECT coalesce(max(position), 0) + 1 FROM contact WHERE person_id = ? AND state = 'active'", (person_id,)
    ).fetchone()
    assert row is not None
    return min(int(row[0]), 99)
