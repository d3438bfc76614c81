"""Request bodies whose members the registry's own specifications name and check, so that each has one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from gateway.api.problems import refuse
from gateway.registry import fields as f
from gateway.registry.fields import FieldsError, Problem, Spec

VERSION: Final = {"type": "integer", "minimum": 0, "description": "of the row as it was seen; another one is a 409"}
REASON: Final = {"type": "string", "maxLength": 500, "description": "goes into the audit"}

_TYPES: Final[Mapping[int, Any]] = {
    id(f.BOOL): {"type": "boolean"},
    id(f.PHONE): {"type": "string", "description": "any spelling; kept as E.164, +86 by default"},
    id(f.DATE): {"type": "string", "format": "date"},
}


def described(spec: Spec, *, new: bool, id_optional: bool = False) -> dict[str, Any]:
    """The ``openapi_extra`` of a route that takes a body of this specification: a new row, or changes of one."""
    properties: dict[str, Any] = {}
    if new:
        properties[spec.id_name] = {"type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$"}
    else:
        properties |= {"version": VERSION, "reason": REASON}
    for field in spec.fields:
        properties[field.name] = {"title": field.label, **_TYPES.get(id(field.kind), {})}
    schema: dict[str, Any] = {"type": "object", "properties": properties, "additionalProperties": False}
    if new:
        required = [field.name for field in spec.fields if field.required]
        schema["required"] = required if id_optional else [spec.id_name, *required]
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def take_id(spec: Spec, body: dict[str, Any], *, optional: bool = False) -> str:
    """Take the id out of a new row's body, "" when it may be missing and is. Raises FieldsError."""
    row_id = body.pop(spec.id_name, "" if optional else None)
    if not isinstance(row_id, str):
        raise FieldsError([Problem(spec.id_name, "is required" if row_id is None else "must be text")])
    return row_id


def take_version(body: dict[str, Any]) -> int | None:
    """Take the optional version out of a body of changes. Raises FieldsError."""
    version = body.pop("version", None)
    if version is not None and (isinstance(version, bool) or not isinstance(version, int)):
        raise FieldsError([Problem("version", "must be a whole number")])
    return version


def take_reason(body: dict[str, Any]) -> str:
    """Take the optional reason out of a body. Raises FieldsError."""
    reason = body.pop("reason", "")
    if not isinstance(reason, str) or len(reason) > 500 or not reason.isprintable():
        raise FieldsError([Problem("reason", "must be one line of text of at most 500 characters")])
    return reason


def keep_district(body: dict[str, Any], district: str, *, new: bool) -> None:
    """A key of one district writes into that one only. Fills it in for a new row."""
    if not district:
        return
    if new:
        body.setdefault("district", district)
    if body.get("district", district) != district:
        raise refuse(403, f"this key works in the district {district!r} only")
