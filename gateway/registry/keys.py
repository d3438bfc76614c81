"""API keys of people and programs: made here, shown once, stored as digests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import apsw
from msgspec import Struct

from gateway.clock import iso
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Actor
from gateway.registry import fields as f
from gateway.registry.changes import begin, rows
from gateway.security import ROLES, digest_of, is_one_of, new_api_key, split_api_key

SPEC: Final = f.Spec(
    "api_key",
    "key_id",
    (
        f.Field("role", f.one_of(*sorted(ROLES)), "角色", required=True),
        f.Field("label", f.text_of(100), "用途", required=True),
        f.Field("district", f.text_of(100), "区县"),
        f.Field("person_id", f.ID, "人员"),
    ),
)


class ApiKey(Struct, frozen=True):
    """What a request may do. ``district`` and ``person_id`` narrow what it sees, "" does not."""

    key_id: str
    role: str
    digest: bytes
    district: str = ""
    person_id: str = ""
    expires_at_us: int | None = None


def issue_api_key(
    connection: apsw.Connection, values: Mapping[str, Any], *, at_us: int, actor: Actor, valid_days: int | None = None
) -> tuple[dict[str, Any], str]:
    """Make a key with ``role``, ``label`` and, optionally, ``district`` and ``person_id``; return its view and the key.

    A ``family`` key must name its person. Raises FieldsError, NotFoundError, UsageError.
    """
    row = f.clean(SPEC, values, partial=False)
    if (row["role"] == "family") != (row["person_id"] is not None):
        raise UsageError("a key of role 'family' names its person, and no other key does")
    if valid_days is not None and not 1 <= valid_days <= 3660:
        raise UsageError("a key is valid for 1 to 3660 days")
    person = row["person_id"]
    if person is not None and connection.execute("SELECT 1 FROM person WHERE id = ?", (person,)).fetchone() is None:
        raise NotFoundError(f"person_id: no person {person!r}")
    change = begin(connection, at_us=at_us, actor=actor)
    key_id, key = new_api_key()
    expires = None if valid_days is None else at_us + valid_days * 86_400_000_000
    connection.execute(
        "INSERT INTO api_key (id, digest, role, district, person_id, label, created_at_us, expires_at_us, changed)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (key_id, digest_of(key), row["role"], row["district"], person, row["label"], at_us, expires, change.number),
    )
    change.record(connection, "key.add", f"key/{key_id}", after={"role": row["role"], "district": row["district"]})
    return show_api_key(connection, key_id), key


def revoke_api_key(
    connection: apsw.Connection, key_id: str, *, at_us: int, actor: Actor, reason: str = ""
) -> dict[str, Any]:
    """End a key now. Raises NotFoundError, ConflictError when it ended before."""
    view = show_api_key(connection, key_id)
    if view["revoked_at"] is not None:
        raise ConflictError(f"key {key_id!r} was revoked at {view['revoked_at']}")
    change = begin(connection, at_us=at_us, actor=actor, reason=reason)
    connection.execute("UPDATE api_key SET revoked_at_us = ?, changed = ? WHERE id = ?", (at_us, change.number, key_id))
    change.record(connection, "key.revoke", f"key/{key_id}")
    return show_api_key(connection, key_id)


def show_api_key(connection: apsw.Connection, key_id: str) -> dict[str, Any]:
    """A key without its secret. Raises NotFoundError."""
    row = next(rows(connection, "SELECT * FROM api_key WHERE id = ?", (key_id,)), None)
    if row is None:
        raise NotFoundError(f"no key {key_id!r}")
    return _view(row)


def list_api_keys(connection: apsw.Connection) -> list[dict[str, Any]]:
    """All keys, the revoked ones too, oldest first."""
    return [_view(row) for row in rows(connection, "SELECT * FROM api_key ORDER BY created_at_us, id")]


def has_admin_key(connection: apsw.Connection, at_us: int) -> bool:
    """Whether an administrator can still get in, so that a start knows if it has to make the first key."""
    row = connection.execute(
        "SELECT 1 FROM api_key WHERE role = 'admin' AND district IS NULL AND revoked_at_us IS NULL"
        " AND (expires_at_us IS NULL OR expires_at_us > ?)",
        (at_us,),
    ).fetchone()
    return row is not None


def key_id_of(presented: str) -> str:
    """The id in a presented key, "" when it is no API key."""
    parts = split_api_key(presented)
    return "" if parts is None else parts[0]


def api_key_of(row: Mapping[str, Any]) -> ApiKey:
    """A row of the table that is not revoked."""
    return ApiKey(
        row["id"], row["role"], row["digest"], row["district"] or "", row["person_id"] or "", row["expires_at_us"]
    )


def confirmed(key: ApiKey | None, presented: str, at_us: int) -> ApiKey | None:
    """The key with the id that was presented, if what was presented is it and it has not expired."""
    if not is_one_of(presented, () if key is None else (key.digest,)) or key is None:
        return None
    return None if key.expires_at_us is not None and key.expires_at_us <= at_us else key


def key_in_force(connection: apsw.Connection, presented: str, at_us: int) -> ApiKey | None:
    """As ``gateway.registry.directory.Registry.api_key``, by a look into the file."""
    query = "SELECT * FROM api_key WHERE id = ? AND revoked_at_us IS NULL"
    row = next(rows(connection, query, (key_id_of(presented),)), None)
    return confirmed(None if row is None else api_key_of(row), presented, at_us)


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    times = {name: row[f"{name}_us"] for name in ("created_at", "expires_at", "revoked_at")}
    return {
        SPEC.id_name: row["id"],
        **f.show_row(SPEC, row),
        **{name: None if at_us is None else iso(at_us) for name, at_us in times.items()},
    }
