"""The columns that the pages of persons and devices show, and no more of each: a hundred rows in one step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw

from gateway.filters import Filter, where
from gateway.storage.many import fetch

PERSON: Final = ("person_id", "name", "phone", "address", "district", "state")
DEVICE: Final = ("device_id", "model", "profile", "person_id", "install_place", "state")


def persons(
    connection: apsw.Connection, *, search: str, district: str, after_id: str, limit: int
) -> list[dict[str, Any]]:
    """Persons by id behind ``after_id``; ``search`` and ``district`` as gateway.registry.persons.list_persons."""
    columns = ("id", "name", "phone", "address", "district", "state")
    conditions = (
        (after_id, "id > ?", (after_id,)),
        (district, "district = ?", (district,)),
        (search, "(id LIKE ? OR name LIKE ? OR phone LIKE ?)", (f"%{search}%",) * 3),
    )
    return _page(connection, columns, "FROM person", conditions, "id", limit, PERSON)


def devices(connection: apsw.Connection, *, search: str, after_id: str, limit: int) -> list[dict[str, Any]]:
    """Devices by id behind ``after_id``; ``search`` as gateway.registry.devices.list_devices."""
    columns = ("d.id", "d.model", "d.profile", "b.person_id", "d.install_place", "d.state")
    named = (
        "(d.id LIKE ? OR d.model LIKE ? OR EXISTS"
        " (SELECT 1 FROM device_key k WHERE k.device_id = d.id AND k.shown LIKE ?))"
    )
    conditions = ((after_id, "d.id > ?", (after_id,)), (search, named, (f"%{search}%",) * 3))
    table = "FROM device d LEFT JOIN binding b ON b.device_id = d.id AND b.to_us IS NULL"
    return _page(connection, columns, table, conditions, "d.id", limit, DEVICE)


def _page(
    connection: apsw.Connection,
    columns: Sequence[str],
    table: str,
    conditions: Sequence[Filter],
    order: str,
    limit: int,
    names: Sequence[str],
) -> list[dict[str, Any]]:
    asked, values = where(*conditions)
    found = fetch(connection, columns, f"{table}{asked} ORDER BY {order} LIMIT ?", (*values, limit))
    return [dict(zip(names, row, strict=True)) for row in found]
