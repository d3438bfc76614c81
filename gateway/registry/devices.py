"""The ledger of devices: identities, whose they are and were, and their life from install to retirement."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import apsw

from gateway.clock import iso
from gateway.errors import ConflictError, NotFoundError
from gateway.model import Actor
from gateway.registry import fields as f
from gateway.registry.changes import Change, begin, existing, expect_version, insert, listing, update
from gateway.registry.credentials import revoke_tokens, store_token, touch_device

STATES: Final = ("active", "suspended", "retired")
KEY_KINDS: Final = ("serial", "imei", "iccid", "deveui", "mac", "certificate", "other_key")
"""Fields that are kept in device_key, each unique among all devices. ``certificate`` is a client certificate's CN."""

SPEC: Final = f.Spec(
    "device",
    "device_id",
    (
        f.Field("profile", f.text_of(100), "型号配置", required=True),
        f.Field("person_id", f.ID, "人员", stored=False),
        f.Field("serial", f.KEY, "序列号", personal=True, stored=False),
        f.Field("imei", f.IMEI, "IMEI", personal=True, stored=False),
        f.Field("iccid", f.ICCID, "ICCID", personal=True, stored=False),
        f.Field("deveui", f.DEVEUI, "DevEUI", personal=True, stored=False),
        f.Field("mac", f.MAC, "MAC", personal=True, stored=False),
        f.Field("certificate", f.KEY, "证书名", personal=True, stored=False),
        f.Field("other_key", f.KEY, "其他标识", personal=True, stored=False),
        f.Field("model", f.text_of(100), "型号"),
        f.Field("firmware", f.text_of(100), "固件"),
        f.Field("custodian", f.text_of(100), "保管人", personal=True),
        f.Field("district", f.text_of(100), "区县"),
        f.Field("install_place", f.text_of(200), "安装位置", personal=True),
        f.Field("install_date", f.DATE, "安装日期"),
        f.Field("warranty_until", f.DATE, "保修至"),
        f.Field("agreement_ref", f.text_of(100), "协议"),
        f.Field("agreement_waiver", f.text_of(200), "免协议原因"),
        f.Field("note", f.text_of(1000), "备注", personal=True),
        f.Field("state", f.one_of(*STATES), "状态", default="active"),
    ),
)


def add_device(
    connection: apsw.Connection,
    device_id: str,
    values: Mapping[str, Any],
    *,
    known_profiles: Collection[str],
    at_us: int,
    actor: Actor,
) -> tuple[dict[str, Any], str]:
    """Enter a device; return its view and its token, which is shown this once ("" for one entered as retired).

    Raises FieldsError, NotFoundError (its person), ConflictError (its id or one of its identities is taken).
    """
    row_id, row = clean_device(device_id, values, known_profiles=known_profiles, partial=False)
    token = insert_device(connection, row_id, row, begin(connection, at_us=at_us, actor=actor))
    return show_device(connection, row_id), token


def update_device(
    connection: apsw.Connection,
    device_id: str,
    values: Mapping[str, Any],
    *,
    known_profiles: Collection[str],
    at_us: int,
    actor: Actor,
    version: int | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """Change the given fields; ``person_id`` moves the device to that person from now on, blank takes it away.

    Raises FieldsError, NotFoundError, ConflictError.
    """
    row = existing(connection, SPEC, device_id)
    expect_version(SPEC, row, version)
    _, changed = clean_device(device_id, values, known_profiles=known_profiles, partial=True)
    apply_device(connection, row, changed, begin(connection, at_us=at_us, actor=actor, reason=reason))
    return show_device(connection, device_id)


def clean_device(
    device_id: str, values: Mapping[str, Any], *, known_profiles: Collection[str], partial: bool
) -> tuple[str, dict[str, f.SqlValue]]:
    """The checked id and values. Raises FieldsError."""
    row_id, row = f.clean_with_id(SPEC, device_id, values, partial=partial)
    profile = row.get("profile")
    if profile is not None and profile not in known_profiles:
        text = f"{profile!r} is {f.unknown_name(str(profile), known_profiles)}"
        raise f.FieldsError([f.Problem("profile", text)])
    return row_id, row


def insert_device(
    connection: apsw.Connection, device_id: str, values: Mapping[str, f.SqlValue], change: Change, action: str = ""
) -> str:
    """Insert clean values with identities, binding and a token; return the token. As ``add_device``."""
    owner = connection.execute(
        "SELECT device_id FROM device_key WHERE key = ?", (f.normalize_key(device_id),)
    ).fetchone()
    if owner is not None:
        raise ConflictError(f"device_id: {device_id!r} is an identity of device {owner[0]!r}")
    insert(connection, SPEC, device_id, values, change, action)
    _no_longer_unknown(connection, device_id, device_id)
    for kind in KEY_KINDS:
        if values[kind] is not None:
            _add_key(connection, device_id, kind, str(values[kind]))
    if values["person_id"] is not None:
        _bind(connection, device_id, str(values["person_id"]), change)
    return "" if values["state"] == "retired" else store_token(connection, device_id, at_us=change.at_us)


def apply_device(
    connection: apsw.Connection,
    row: Mapping[str, Any],
    values: Mapping[str, f.SqlValue],
    change: Change,
    action: str = "",
) -> list[str]:
    """Change a device's clean fields; return the names that changed. ``retired`` ends its binding and its tokens."""
    device_id = str(row["id"])
    values = dict(values)
    if values.get("state", row["state"]) == "retired":
        if values.get("person_id") is not None:
            raise ConflictError(f"person_id: device {device_id!r} is retired and cannot belong to a person")
        values["person_id"] = None
    before = keys_of(connection, device_id) | {"person_id": current_person(connection, device_id)}
    extra = {
        name: (before.get(name), value)
        for name, value in values.items()
        if name not in SPEC.columns and before.get(name) != value
    }
    for kind in KEY_KINDS:
        if kind in extra:
            connection.execute("DELETE FROM device_key WHERE device_id = ? AND kind = ?", (device_id, kind))
            if values[kind] is not None:
                _add_key(connection, device_id, kind, str(values[kind]))
    if "person_id" in extra:
        _bind(connection, device_id, None if values["person_id"] is None else str(values["person_id"]), change)
    names = update(connection, SPEC, row, values, change, action, extra)
    if "state" in names and values["state"] == "retired":
        revoke_tokens(connection, device_id, at_us=change.at_us)
    return names


def set_state(
    connection: apsw.Connection, device_id: str, action: str, *, at_us: int, actor: Actor, reason: str = ""
) -> dict[str, Any]:
    """``suspend``, ``resume`` or ``retire`` a device. Suspended, its token opens no connection; its SOS still alarms.

    What a retired device sends is unverified. One that comes back from retirement needs new credentials.
    Raises NotFoundError, ConflictError.
    """
    target = {"suspend": "suspended", "resume": "active", "retire": "retired"}[action]
    row = existing(connection, SPEC, device_id)
    if row["state"] == target:
        raise ConflictError(f"device {device_id!r} is {target} already")
    if row["state"] == "retired" and target == "suspended":
        raise ConflictError(f"device {device_id!r} is retired")
    change = begin(connection, at_us=at_us, actor=actor, reason=reason)
    apply_device(connection, row, {"state": target}, change, f"device.{action}")
    return show_device(connection, device_id)


def replace_device(
    connection: apsw.Connection,
    old_id: str,
    new_id: str,
    values: Mapping[str, Any],
    *,
    known_profiles: Collection[str],
    at_us: int,
    actor: Actor,
    reason: str = "",
) -> tuple[dict[str, Any], str]:
    """Put a new device in the place of another: it takes over the person and the place, the old one is retired.

    ``values`` are the new one's own fields; its profile defaults to the old one's. Returns the new view and token.
    Raises FieldsError, NotFoundError, ConflictError.
    """
    old = existing(connection, SPEC, old_id)
    if old["state"] == "retired":
        raise ConflictError(f"device {old_id!r} is retired already")
    inherited = ("profile", "custodian", "district", "install_place", "agreement_ref", "agreement_waiver")
    taken = {name: old[name] for name in inherited} | {"person_id": current_person(connection, old_id)}
    row_id, row = clean_device(new_id, taken | dict(values), known_profiles=known_profiles, partial=False)
    change = begin(connection, at_us=at_us, actor=actor, reason=reason)
    apply_device(connection, old, {"state": "retired"}, change, "device.replace")
    token = insert_device(connection, row_id, row, change)
    connection.execute("UPDATE device SET replaced_by = ? WHERE id = ?", (row_id, old_id))
    touch_device(connection, old_id, change, "device.replaced_by", {"replaced_by": row_id})
    return show_device(connection, row_id), token


# ---- identities and bindings -----------------------------------------------------------------------------------------


def keys_of(connection: apsw.Connection, device_id: str) -> dict[str, str]:
    """The identities of a device by kind, as they were entered."""
    found = connection.execute("SELECT kind, shown FROM device_key WHERE device_id = ?", (device_id,))
    return {str(kind): str(shown) for kind, shown in found}


def current_person(connection: apsw.Connection, device_id: str) -> str | None:
    row = connection.execute(
        "SELECT person_id FROM binding WHERE device_id = ? AND to_us IS NULL", (device_id,)
    ).fetchone()
    return None if row is None else str(row[0])


def person_at(connection: apsw.Connection, device_id: str, at_us: int) -> str | None:
    """Whose device it was at that time."""
    row = connection.execute(
        "SELECT person_id FROM binding WHERE device_id = ? AND from_us <= ? AND (to_us IS NULL OR to_us > ?)"
        " ORDER BY from_us DESC, id DESC LIMIT 1",
        (device_id, at_us, at_us),
    ).fetchone()
    return None if row is None else str(row[0])


def _add_key(connection: apsw.Connection, device_id: str, kind: str, shown: str) -> None:
    key = f.normalize_key(shown)
    owner = connection.execute(
        "SELECT device_id FROM device_key WHERE key = ?1 AND device_id <> ?3"
        " UNION ALL SELECT id FROM device WHERE id IN (?1, ?2) AND id <> ?3 LIMIT 1",
        (key, shown, device_id),
    ).fetchone()
    if owner is not None:
        raise ConflictError(f"{kind}: this identity belongs to device {owner[0]!r}")
    connection.execute(
        "INSERT INTO device_key (key, kind, shown, device_id) VALUES (?, ?, ?, ?)", (key, kind, shown, device_id)
    )
    for spelling in {key, shown}:
        _no_longer_unknown(connection, spelling, device_id)


def _no_longer_unknown(connection: apsw.Connection, key: str, device_id: str) -> None:
    connection.execute("UPDATE unknown_device SET claimed_by = ? WHERE device_key = ?", (device_id, key))


def _bind(connection: apsw.Connection, device_id: str, person_id: str | None, change: Change) -> None:
    connection.execute(
        "UPDATE binding SET to_us = max(from_us, ?) WHERE device_id = ? AND to_us IS NULL", (change.at_us, device_id)
    )
    if person_id is None:
        return
    row = connection.execute("SELECT state FROM person WHERE id = ?", (person_id,)).fetchone()
    if row is None:
        raise NotFoundError(f"person_id: no person {person_id!r}")
    if row[0] == "ceased":
        raise ConflictError(f"person_id: the service of person {person_id!r} has ended")
    connection.execute(
        "INSERT INTO binding (device_id, person_id, from_us) VALUES (?, ?, ?)", (device_id, person_id, change.at_us)
    )


# ---- reading ---------------------------------------------------------------------------------------------------------


def show_device(connection: apsw.Connection, device_id: str) -> dict[str, Any]:
    """A device with its identities, bindings and the state of its credentials, JSON-ready. Raises NotFoundError."""
    row = existing(connection, SPEC, device_id)
    row |= keys_of(connection, device_id) | {"person_id": current_person(connection, device_id)}
    view = _view(row)
    found = connection.execute(
        "SELECT person_id, from_us, to_us FROM binding WHERE device_id = ? ORDER BY id", (device_id,)
    )
    view["bindings"] = [
        {"person_id": person_id, "from": iso(start), "to": None if end is None else iso(end)}
        for person_id, start, end in found
    ]
    issued = connection.execute(
        "SELECT created_at_us, expires_at_us, revoked_at_us FROM credential WHERE device_id = ? ORDER BY created_at_us",
        (device_id,),
    )
    view["credentials"] = [
        {
            "created_at": iso(created),
            "expires_at": None if expires is None else iso(expires),
            "revoked_at": None if revoked is None else iso(revoked),
        }
        for created, expires, revoked in issued
    ]
    return view


def list_devices(
    connection: apsw.Connection,
    *,
    person_id: str = "",
    state: str = "",
    profile: str = "",
    search: str = "",
    unassigned: bool = False,
    after_id: str = "",
    limit: int = 1000,
) -> list[dict[str, Any]]:
    """Devices by id, behind ``after_id``. ``search`` looks for a part of the id, the model or an identity.

    ``unassigned``: only those in service that belong to nobody.
    """
    select = (
        "SELECT d.*, b.person_id,"
        " (SELECT json_group_object(kind, shown) FROM device_key k WHERE k.device_id = d.id) AS keys"
        " FROM device d LEFT JOIN binding b ON b.device_id = d.id AND b.to_us IS NULL"
    )
    named = (
        "(d.id LIKE ? OR d.model LIKE ? OR EXISTS"
        " (SELECT 1 FROM device_key k WHERE k.device_id = d.id AND k.shown LIKE ?))"
    )
    conditions = (
        (person_id, "b.person_id = ?", (person_id,)),
        (after_id, "d.id > ?", (after_id,)),
        (state, "d.state = ?", (state,)),
        (profile, "d.profile = ?", (profile,)),
        (unassigned, "b.person_id IS NULL AND d.state <> 'retired'", ()),
        (search, named, (f"%{search}%",) * 3),
    )
    found = listing(connection, select, conditions, "d.id", limit)
    return [_view(row | f.decode_object(row["keys"])) for row in found]


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    dispose = row["dispose_requested_at_us"]
    return {
        SPEC.id_name: row["id"],
        **f.show_row(SPEC, row),
        "dispose_requested_at": None if dispose is None else iso(dispose),
        "replaced_by": row["replaced_by"],
        "version": row["version"],
        "created_at": iso(row["created_at_us"]),
        "updated_at": iso(row["updated_at_us"]),
    }
