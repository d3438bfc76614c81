"""Places as a line of a table: what a CSV file and the command line hold, in columns that a person can fill in.

A circle is ``latitude``, ``longitude`` and ``radius_m``; a polygon, or a way with ``width_m``, is GeoJSON in
``geometry``.
Members of ``settings`` that people set often have columns of their own; ``settings`` holds the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import apsw
import msgspec

from gateway.model import Actor
from gateway.registry import fields as f
from gateway.registry import places
from gateway.registry.changes import Change, begin, existing, expect_version

SPEC: Final = f.Spec(
    "place",
    "place_id",
    (
        f.Field("person_id", f.ID, "人员", required=True),
        f.Field("kind", places.SPEC.field("kind").kind, "类别", required=True),
        f.Field("name", places.SPEC.field("name").kind, "名称"),
        f.Field("latitude", f.number(-90, 90), "纬度"),
        f.Field("longitude", f.number(-180, 180), "经度"),
        f.Field("radius_m", places.SPEC.field("radius_m").kind, "半径"),
        f.Field("geometry", f.json_object(), "几何"),
        f.Field("width_m", places.SPEC.field("width_m").kind, "宽度"),
        f.Field("datum", f.one_of("wgs84", "gcj02", "bd09"), "坐标系"),
        f.Field("margin_m", f.number(0, 5_000), "边距"),
        f.Field("schedule", f.json_object(), "时段"),
        f.Field("consent", f.BOOL, "同意"),
        f.Field("consent_by", f.text_of(500), "同意人"),
        f.Field("settings", f.json_object(), "设置"),
        f.Field("state", places.SPEC.field("state").kind, "状态", default="active"),
    ),
)
_SAME: Final = ("person_id", "kind", "name", "radius_m", "width_m", "state")
_OF_SETTINGS: Final = ("datum", "margin_m", "schedule", "consent", "consent_by")
_IDENTITY: Final = ("fence_id", "kind", "name", "shape")  # which settings cannot change
_ELSEWHERE: Final = frozenset({*_OF_SETTINGS, *_IDENTITY})
_MEMBER = re.compile(r"`\$\.(?:shape\.)?(\w+)")


def clean_line(place_id: str, values: Mapping[str, Any]) -> tuple[str, dict[str, f.SqlValue]]:
    """The checked id and values of a whole line, which make a fence by themselves. Raises FieldsError."""
    checked, line = f.clean_with_id(SPEC, place_id, values, partial=False)
    _row(checked, line, {})
    return checked, line


def add_line(
    connection: apsw.Connection, place_id: str, values: Mapping[str, Any], *, at_us: int, actor: Actor
) -> dict[str, Any]:
    """Add a place; return it as ``places.show_place``. Raises FieldsError, NotFoundError (person), ConflictError."""
    checked, line = clean_line(place_id, values)
    insert_line(connection, checked, line, begin(connection, at_us=at_us, actor=actor))
    return places.show_place(connection, checked)


def update_line(
    connection: apsw.Connection,
    place_id: str,
    values: Mapping[str, Any],
    *,
    at_us: int,
    actor: Actor,
    version: int | None = None,
    reason: str = "",
) -> dict[str, Any]:
    """Change the given columns; ``state='removed'`` takes the place away. Raises as ``add_line``."""
    row = existing(connection, places.SPEC, place_id)
    expect_version(places.SPEC, row, version)
    given = f.clean(SPEC, values, partial=True)
    apply_line(connection, row, given, begin(connection, at_us=at_us, actor=actor, reason=reason))
    return places.show_place(connection, place_id)


def insert_line(
    connection: apsw.Connection, place_id: str, line: Mapping[str, f.SqlValue], change: Change
) -> dict[str, f.SqlValue]:
    """Insert a clean line; return the stored values. As ``add_line``."""
    row = _row(place_id, line, {})
    places.insert_place(connection, place_id, row, change)
    return row


def apply_line(
    connection: apsw.Connection, row: Mapping[str, Any], given: Mapping[str, f.SqlValue], change: Change
) -> list[str]:
    """Change the clean columns of a stored place; return the names of stored fields that changed.

    A new shape of another form replaces the old one, whose measures go with it.
    """
    line = line_of(row) | dict(given)
    if given.get("geometry") is not None:
        line |= {name: given.get(name) for name in ("latitude", "longitude")}
    elif given.get("latitude") is not None or given.get("longitude") is not None:
        line["geometry"] = given.get("geometry")
    form = _form(line)
    if form != "Point" and "radius_m" not in given:
        line["radius_m"] = None
    if form != "LineString" and "width_m" not in given:
        line["width_m"] = None
    return places.apply_place(connection, row, _row(str(row["id"]), line, row), change)


def line_of(row: Mapping[str, Any]) -> dict[str, f.SqlValue]:
    """A stored place as the clean values of a line."""
    geometry = f.decode_object(row["geometry"])
    settings = f.decode_object(row["settings"])
    for name in _IDENTITY:
        settings.pop(name, None)
    line: dict[str, f.SqlValue] = dict.fromkeys(SPEC.names) | {name: row[name] for name in _SAME}
    line |= {name: settings.pop(name, None) for name in ("datum", "consent_by")}
    margin, schedule = settings.pop("margin_m", None), settings.pop("schedule", None)
    line["margin_m"] = None if margin is None else float(margin)
    line["schedule"] = None if schedule is None else f.encode_object(schedule)
    line["consent"] = int(settings.pop("consent", False))
    line["settings"] = f.encode_object(settings) if settings else None
    if geometry["type"] == "Point":
        line["longitude"], line["latitude"] = map(float, geometry["coordinates"])
    else:
        line["geometry"] = row["geometry"]
    return line


def list_lines(connection: apsw.Connection, *, after_id: str = "", limit: int = 1000) -> list[dict[str, Any]]:
    """Places as lines, the removed ones too, by id behind ``after_id``: for an export."""
    found = places.place_rows(connection, state="", after_id=after_id, limit=limit)
    return [view_of(row) for row in found]


def show_line(connection: apsw.Connection, place_id: str) -> dict[str, Any]:
    """A place as a line, JSON-ready. Raises NotFoundError."""
    return view_of(existing(connection, places.SPEC, place_id))


def view_of(row: Mapping[str, Any]) -> dict[str, Any]:
    return {SPEC.id_name: row["id"], **f.show_row(SPEC, line_of(row))}


def _form(line: Mapping[str, Any]) -> object:
    """The GeoJSON type of a line's shape; None when it has none."""
    if line["geometry"] is not None:
        return f.decode_object(line["geometry"]).get("type")
    return None if line["latitude"] is None and line["longitude"] is None else "Point"


def _row(place_id: str, line: Mapping[str, Any], old: Mapping[str, Any]) -> dict[str, f.SqlValue]:
    """Stored values of a whole clean line. Raises FieldsError, whose problems name columns of the line."""
    settings = f.decode_object(line["settings"])
    found = _shape_problems(line)
    found += [f.Problem("settings", f"{name!r} has a column of its own") for name in settings if name in _ELSEWHERE]
    if found:
        raise f.FieldsError(found)
    own = {name: line[name] for name in _OF_SETTINGS if line[name] is not None}
    if "schedule" in own:
        own["schedule"] = msgspec.json.decode(line["schedule"])
    settings |= own | {"consent": bool(own.get("consent"))}
    values: dict[str, Any] = {name: line[name] for name in _SAME} | {"settings": settings or None}
    point = {"type": "Point", "coordinates": [line["longitude"], line["latitude"]]}
    values["geometry"] = point if line["geometry"] is None else line["geometry"]
    try:
        return places.clean_place(place_id, values, old)
    except f.FieldsError as error:
        raise f.FieldsError([_in_columns(problem) for problem in error.problems]) from None


def _shape_problems(line: Mapping[str, Any]) -> list[f.Problem]:
    form = _form(line)
    if form is None:
        return [f.Problem("geometry", "a place needs latitude, longitude and radius_m, or a geometry")]
    found = []
    if line["geometry"] is None:
        found += [f.Problem(n, "a circle needs it") for n in ("latitude", "longitude") if line[n] is None]
    else:
        found += [
            f.Problem(n, "a place has a circle or a geometry, not both")
            for n in ("latitude", "longitude")
            if line[n] is not None
        ]
    for name, owner, noun in (("radius_m", "Point", "circle"), ("width_m", "LineString", "LineString")):
        if form == owner and line[name] is None:
            found.append(f.Problem(name, f"a {noun} needs it"))
        if form != owner and line[name] is not None:
            found.append(f.Problem(name, f"only a {noun} has it"))
    return found


def _in_columns(problem: f.Problem) -> f.Problem:
    """The problem at the column that its text speaks of: ``geometry`` stands for the whole fence there."""
    if problem.field != "geometry":
        return problem
    if ("unknown field" in problem.text and "`$" not in problem.text) or "valid_to" in problem.text:
        return f.Problem("settings", problem.text)
    member = _MEMBER.search(problem.text)
    if member is None or member[1] in {"shape", "coordinates", "center"}:
        return problem
    if member[1] == "fence_id":
        return f.Problem(SPEC.id_name, problem.text)
    return f.Problem(member[1] if member[1] in SPEC.names else "settings", problem.text)
