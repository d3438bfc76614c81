"""What rules and alerts ask of persons and devices, put together from the registry's tables."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

import apsw
import msgspec
from msgspec import Struct

from gateway.care import CarePlan, Fence
from gateway.registry.changes import rows
from gateway.registry.places import fence_of

_CONDITION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class PersonFacts(Struct, frozen=True, gc=False):
    """What decisions need of a person, without personal data. ``state`` is active, suspended or ceased."""

    person_id: str
    state: str
    district: str
    language: str
    timezone: str
    high_risk: bool
    version: int


def facts_of(row: Mapping[str, Any]) -> PersonFacts:
    """The facts in a row of ``person``."""
    return PersonFacts(
        person_id=row["id"],
        state=row["state"],
        district=row["district"] or "",
        language=row["language"],
        timezone=row["timezone"],
        high_risk=bool(row["high_risk"]),
        version=row["version"],
    )


def plan_of(connection: apsw.Connection, row: Mapping[str, Any]) -> CarePlan:
    """The care plan of a row of ``person``: the stored part, the person's columns and the person's places.

    Conditions that rules could not name (free text) are left out. A place wins over a fence of the same id.
    Raises msgspec.ValidationError when what is stored cannot be used.
    """
    stored = {} if row["care_plan"] is None else msgspec.json.decode(row["care_plan"], type=dict[str, Any])
    conditions = [name for name in msgspec.json.decode(row["conditions"]) if _CONDITION.fullmatch(name)]
    plan = msgspec.convert(
        stored
        | {
            "person_id": row["id"],
            "timezone": row["timezone"],
            "district": row["district"] or "",
            "high_risk": bool(row["high_risk"]),
            "conditions": list(dict.fromkeys([*stored.get("conditions", ()), *conditions])),
            "version": row["version"],
        },
        type=CarePlan,
    )
    places = fences_of(connection, row["id"])
    if places:
        taken = {fence.fence_id for fence in places}
        kept = tuple(fence for fence in plan.fences if fence.fence_id not in taken)
        plan = msgspec.structs.replace(plan, fences=kept + places)
    return plan


def fences_of(connection: apsw.Connection, person_id: str) -> tuple[Fence, ...]:
    """The person's places as fences. Raises msgspec.ValidationError."""
    found = rows(connection, "SELECT * FROM place WHERE person_id = ? AND state = 'active' ORDER BY id", (person_id,))
    return tuple(fence_of(row) for row in found)


def order_details(connection: apsw.Connection, person_id: str, device_id: str) -> dict[str, Any]:
    """What an order says of the person and the device (contracts, section 5); members that are not known are null."""
    person: dict[str, Any] = {}
    device: dict[str, Any] = {}
    if person_id:
        person = next(rows(connection, "SELECT * FROM person WHERE id = ?", (person_id,)), person)
    if device_id:
        device = next(rows(connection, "SELECT model, profile FROM device WHERE id = ?", (device_id,)), device)
    return {
        "person": {
            "id": person_id or None,
            "name": person.get("name"),
            "phone": person.get("phone"),
            "address": person.get("address"),
        },
        "device": {"id": device_id or None, "model": device.get("model") or device.get("profile")},
        "preferred_organization": person.get("preferred_organization"),
    }


def notice_person(connection: apsw.Connection, person_id: str) -> dict[str, Any] | None:
    """The stored row of a person for whoever tells of an alert; None when there is none. Asked for each message."""
    return next(rows(connection, "SELECT * FROM person WHERE id = ?", (person_id,)), None)


def notice_device(connection: apsw.Connection, device_id: str) -> dict[str, Any] | None:
    """As ``notice_person``, of a device."""
    return next(rows(connection, "SELECT * FROM device WHERE id = ?", (device_id,)), None)


def notice_contacts(connection: apsw.Connection, person_id: str) -> list[dict[str, Any]]:
    """A person's active contacts in the order in which they are told, with lists for ``channels``, ``severities``."""
    found = rows(
        connection, "SELECT * FROM contact WHERE person_id = ? AND state = 'active' ORDER BY position, id", (person_id,)
    )
    return [
        row
        | {
            "contact_id": row["id"],
            "channels": msgspec.json.decode(row["channels"]),
            "severities": msgspec.json.decode(row["severities"]),
        }
        for row in found
    ]
