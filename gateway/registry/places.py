"""Homes and fences of persons, kept as GeoJSON and handed to the rules as ``gateway.care.Fence``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import apsw
import msgspec

from gateway.care import CarePlan, Fence, problems
from gateway.model import Actor
from gateway.registry import fields as f
from gateway.registry.changes import (
    Change,
    begin,
    existing,
    expect_version,
    insert,
    listing,
    require_person,
    update,
    view_of,
)

SPEC: Final = f.Spec(
    "place",
    "place_id",
    (
        f.Field("person_id", f.ID, "人员", required=True),
        f.Field("kind", f.one_of("home", "allowed", "forbidden"), "类别", required=True),
        f.Field("name", f.text_of(100), "名称", personal=True),
        f.Field("geometry", f.json_object(), "几何", personal=True, required=True),
        f.Field("radius_m", f.number(1, 50_000), "半径"),
        f.Field("width_m", f.number(1, 5_000), "宽度"),
        f.Field("settings", f.json_object(), "设置", personal=True),
        f.Field("state", f.one_of("active", "removed"), "状态", default="active"),
    ),
)
_OF_FENCE: Final = frozenset({"geometry", "radius_m", "width_m", "settings"})


def add_place(
    connection: apsw.Connection, place_id: str, values: Mapping[str, Any], *, at_us: int, actor: Actor
) -> dict[str, Any]:
    """Add a place: ``geometry`` is a Point with ``radius_m``, a Polygon, or a LineString with ``width_m``.

    ``settings`` are further members of ``gateway.care.Fence`` (schedule, datum, margin_m, consent, ...).
    Raises FieldsError, NotFoundError (its person), ConflictError.
    """
    row = clean_place(place_id, values, {})
    insert_place(connection, place_id, row, begin(connection, at_us=at_us, actor=actor))
    return show_place(connection, place_id)


def update_place(
    connection: apsw.Connection,
    place_id: str,
    values: Mapping[str, Any],
    *,
    at_us: int,
    actor: Actor,
    version: int | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """Change the given fields; ``state='removed'`` takes the place away. Raises as ``add_place``."""
    row = existing(connection, SPEC, place_id)
    expect_version(SPEC, row, version)
    changed = clean_place(place_id, values, row)
    apply_place(connection, row, changed, begin(connection, at_us=at_us, actor=actor, reason=reason))
    return show_place(connection, place_id)


def clean_place(place_id: str, values: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, f.SqlValue]:
    """Clean values of a new place (``old`` is empty), or of what changes in the stored row ``old``.

    Raises FieldsError; what is wrong with the fence that they make stands under ``geometry``.
    """
    found: list[f.Problem] = []
    row: dict[str, f.SqlValue] = {}
    try:
        _, row = f.clean_with_id(SPEC, place_id, values, partial=bool(old))
        fence = fence_of({**old, **row, "id": place_id})
        found = [f.Problem("geometry", text) for text in problems(CarePlan(person_id="", fences=(fence,)))]
    except f.FieldsError as error:
        found = error.problems
    except msgspec.ValidationError as error:
        found = [f.Problem("geometry", str(error))]
    if found:
        raise f.FieldsError(found)
    return row


def insert_place(connection: apsw.Connection, place_id: str, values: Mapping[str, f.SqlValue], change: Change) -> None:
    """Insert clean values; of the settings the audit tells the consent alone. As ``add_place``."""
    require_person(connection, str(values["person_id"]))
    told = {"consent": fence_of({**values, "id": place_id}).consent}
    insert(connection, SPEC, place_id, {**values, **told}, change)
    _touch_person(connection, str(values["person_id"]), change)


def apply_place(
    connection: apsw.Connection, row: Mapping[str, Any], values: Mapping[str, f.SqlValue], change: Change
) -> list[str]:
    """Change a place's clean fields; return the names that changed. Another spelling of the same fence is no change."""
    if "person_id" in values:
        require_person(connection, str(values["person_id"]))
    before, after = fence_of(row), fence_of({**row, **values})
    if before == after:
        values = {name: value for name, value in values.items() if name not in _OF_FENCE}
    told = {"consent": (before.consent, after.consent)} if before.consent != after.consent else {}
    names = update(connection, SPEC, row, values, change, extra=told)
    if names:
        for person_id in {str(row["person_id"]), str(values.get("person_id", row["person_id"]))}:
            _touch_person(connection, person_id, change)
    return names


def show_place(connection: apsw.Connection, place_id: str) -> dict[str, Any]:
    """A place, JSON-ready. Raises NotFoundError."""
    return view_of(SPEC, existing(connection, SPEC, place_id))


def list_places(
    connection: apsw.Connection,
    *,
    person_id: str = "",
    state: str = "active",
    search: str = "",
    after_id: str = "",
    limit: int = 1000,
) -> list[dict[str, Any]]:
    """Places in this state ("" is any), by id behind ``after_id``."""
    found = place_rows(connection, person_id=person_id, state=state, search=search, after_id=after_id, limit=limit)
    return [view_of(SPEC, row) for row in found]


def place_rows(
    connection: apsw.Connection,
    *,
    person_id: str = "",
    state: str = "active",
    search: str = "",
    after_id: str = "",
    limit: int = 1000,
) -> Iterator[dict[str, Any]]:
    """As ``list_places``, as they are stored."""
    conditions = (
        (person_id, "person_id = ?", (person_id,)),
        (after_id, "id > ?", (after_id,)),
        (state, "state = ?", (state,)),
        (search, "(id LIKE ? OR name LIKE ?)", (f"%{search}%",) * 2),
    )
    return listing(connection, "SELECT * FROM place", conditions, "id", limit)


def fence_of(row: Mapping[str, Any]) -> Fence:
    """A row of ``place`` as a fence. Raises msgspec.ValidationError, whose text names the wrong member."""
    geometry = msgspec.json.decode(row["geometry"], type=dict[str, Any])
    shape: dict[str, Any]
    match geometry.get("type"):
        case "Point":
            shape = {"type": "Circle", "center": geometry.get("coordinates"), "radius_m": row["radius_m"]}
        case "LineString":
            shape = geometry | {"width_m": row["width_m"]}
        case "Polygon":
            shape = geometry
        case other:
            raise msgspec.ValidationError(f"a geometry is a Point, a Polygon or a LineString, not {other!r}")
    settings = {} if row["settings"] is None else msgspec.json.decode(row["settings"], type=dict[str, Any])
    own = {"fence_id": row["id"], "kind": row["kind"], "shape": shape, "name": row["name"] or ""}
    return msgspec.convert(settings | own, type=Fence)


def _touch_person(connection: apsw.Connection, person_id: str, change: Change) -> None:
    """The person's plan contains the place, so that it has a new version too."""
    connection.execute(
        "UPDATE person SET version = version + 1, updated_at_us = ?, changed = ? WHERE id = ?",
        (change.at_us, change.number, person_id),
    )
