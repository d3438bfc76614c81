"""Pages that list: persons, devices, calls, the audit, what is supervised, and the map of everybody."""

from __future__ import annotations

from typing import Any, Final

import apsw
import msgspec
from starlette.responses import Response

from gateway.access import door, users
from gateway.api.auth import require_person, sees, visible_persons
from gateway.clock import iso
from gateway.console import sheets
from gateway.console.frame import Visit, see_other
from gateway.console.outline import shifted
from gateway.console.queue import JSON, mine
from gateway.errors import NotFoundError, UsageError
from gateway.registry.contacts import list_contacts
from gateway.registry.devices import list_devices, show_device
from gateway.registry.persons import show_person
from gateway.security import mask_name, mask_phone
from gateway.storage import calls as call_log
from gateway.storage.calls import FULL_ROLES, Question
from gateway.storage.many import fetch

PAGE: Final = 100
AUDIT_PAGE: Final = 200


async def persons(visit: Visit) -> Response:
    """A page of persons. What is searched for stands in a form, never in a URL: it may be a name or a number."""
    search = visit.form.get("search", "").strip()[:100]
    after = visit.request.query_params.get("after", "")[:128]
    found = await visit.services.store.read(
        lambda c: sheets.persons(c, search=search, district=visit.principal.district, after_id=after, limit=PAGE)
    )
    masked = visit.principal.role not in ("supervisor", "admin") and not search
    for person in found:
        person["phone"] = mask_phone(person["phone"])
        if masked or not visit.sees_names:
            person["name"], person["address"] = mask_name(person["name"]), ""
    more = found[-1]["person_id"] if len(found) == PAGE and not search else ""
    return await visit.page("persons.html", persons=found, search=search, more=more, masked=masked)


async def person(visit: Visit) -> Response:
    """One person's card. Opening it is written to the audit: it is nobody's alert."""
    person_id = visit.request.path_params["person_id"]
    await require_person(visit.services, visit.principal, person_id)
    now_us, actor = visit.services.clock.now_us(), visit.actor

    def read(connection: apsw.Connection) -> dict[str, Any]:
        view = show_person(connection, person_id)
        door.reveal(connection, f"person/{person_id}", "card", at_us=now_us, actor=actor, reason="person's page")
        alerts: list[Any] = connection.execute(
            "SELECT id, kind, severity, handling, outcome, raised_at_us FROM alert WHERE person_id = ?"
            " ORDER BY id DESC LIMIT 20",
            (person_id,),
        ).fetchall()
        return {
            "person": view,
            "contacts": list_contacts(connection, person_id=person_id),
            "devices": list_devices(connection, person_id=person_id),
            "has_door_code": door.door_code(connection, person_id) is not None,
            "alerts": alerts,
        }

    facts = await visit.services.store.write(read)
    facts["person"]["phone"] = mask_phone(facts["person"]["phone"])
    for contact in facts["contacts"]:
        contact["phone"] = mask_phone(contact["phone"])
    return await visit.page("person.html", **facts)


async def door_code(visit: Visit) -> Response:
    """Keep or forget how to get through a person's door."""
    person_id = visit.request.path_params["person_id"]
    await require_person(visit.services, visit.principal, person_id)
    now_us, code = visit.services.clock.now_us(), visit.form.get("code", "")
    if len(code) > 100:
        raise UsageError("a door code has at most 100 characters")
    await visit.services.store.write(
        lambda c: door.set_door_code(c, person_id, code, at_us=now_us, actor=visit.actor)
    )  # fmt: skip
    return see_other(f"/console/persons/{person_id}")


async def devices(visit: Visit) -> Response:
    """A page of devices."""
    search = visit.form.get("search", "").strip()[:100]
    after = visit.request.query_params.get("after", "")[:128]
    visible = await visible_persons(visit.services, visit.principal)
    found = await visit.services.store.read(lambda c: sheets.devices(c, search=search, after_id=after, limit=PAGE))
    more = found[-1]["device_id"] if len(found) == PAGE and not search else ""
    shown = [one for one in found if sees(visible, one["person_id"], visit.principal)]
    faults = await visit.services.store.read(_device_alerts)
    return await visit.page("devices.html", devices=shown, search=search, more=more, faults=faults)


async def device(visit: Visit) -> Response:
    """One device of the ledger."""
    device_id = visit.request.path_params["device_id"]
    found = await visit.services.store.read(lambda c: show_device(c, device_id))
    visible = await visible_persons(visit.services, visit.principal)
    if not sees(visible, found["person_id"], visit.principal):
        raise NotFoundError(f"there is no device {device_id}")
    return await visit.page("device.html", device=found)


async def calls(visit: Visit) -> Response:
    """The newest calls and messages; numbers masked for most roles."""
    before = visit.request.query_params.get("before", "")
    question = Question(before=int(before) if before.isdecimal() and len(before) < 16 else None)
    masked = visit.principal.role not in FULL_ROLES
    found = await visit.services.store.read(
        lambda c: call_log.search(c, question, limit=PAGE, masked=masked)
    )  # fmt: skip
    visible = await visible_persons(visit.services, visit.principal)
    shown = [one for one in found if sees(visible, one["person_id"], visit.principal)]
    more = found[-1]["id"] if len(found) == PAGE else None
    return await visit.page("calls.html", calls=shown, more=more)


async def audit(visit: Visit) -> Response:
    """The newest rows of the audit: ids, states and settings."""
    before = visit.request.query_params.get("before", "")
    seq = int(before) if before.isdecimal() and len(before) < 19 else 1 << 62

    def read(connection: apsw.Connection) -> tuple[list[dict[str, Any]], dict[str, str]]:
        found = connection.execute(
            "SELECT body FROM audit WHERE seq < ? ORDER BY seq DESC LIMIT ?", (seq, AUDIT_PAGE)
        ).fetchall()
        return [msgspec.json.decode(str(body)) for (body,) in found], users.names(connection)

    rows, names = await visit.services.store.read(read)
    for row in rows:
        row["at"] = iso(row["at_us"])
    more = rows[-1]["seq"] if len(rows) == AUDIT_PAGE else None
    return await visit.page("audit.html", rows=rows, names=names, more=more)


async def supervision(visit: Visit) -> Response:
    """Orders that a supervisor has to look after: under supervision, or over their promised time."""
    cases: list[dict[str, Any]] = []
    if visit.services.orders is not None:
        visible = await visible_persons(visit.services, visit.principal)
        both = [
            *await visit.services.orders.cases(supervised=True, limit=200),
            *await visit.services.orders.cases(overdue=True, open_only=True, limit=200),
        ]
        once = {case["alert_id"]: case for case in both}
        cases = [case for case in once.values() if sees(visible, case.get("person_id"), visit.principal)]
    return await visit.page("supervision.html", cases=cases)


async def whole_map(visit: Visit) -> Response:
    """Everybody with an open alert whose place is known."""
    return await visit.page("map.html")


async def whole_map_data(visit: Visit) -> Response:
    """JSON of that map, in the datum of the site's tiles."""
    rows = {row.id: row for row in await mine(visit)}

    def read(connection: apsw.Connection) -> list[tuple[str, dict[str, Any]]]:
        found = connection.execute(
            "SELECT id, position FROM alert WHERE handling IN ('raised', 'accepted', 'in_progress')"
            " AND position IS NOT NULL AND position <> 'null' ORDER BY severity, id LIMIT 1000"
        )
        return [(str(alert_id), msgspec.json.decode(str(position))) for alert_id, position in found]

    drawn = []
    for alert_id, position in await visit.services.store.read(read):
        row = rows.get(alert_id)
        if row is None or not position:
            continue
        point = {"type": "Point", "coordinates": [position["longitude"], position["latitude"]]}
        longitude, latitude = shifted(point, visit.frame.look.tile_datum)["coordinates"]
        drawn.append({
            "lat": latitude, "lon": longitude, "level": row.severity, "url": f"/console/alerts/{alert_id}",
            "title": f"P{row.severity} {row.name or row.device_id} {visit.say.word(row.kind)}",
        })  # fmt: skip
    return Response(msgspec.json.encode({"persons": drawn}), 200, JSON)


def _device_alerts(connection: apsw.Connection) -> dict[str, list[str]]:
    """Kinds of open alerts by device."""
    found: dict[str, list[str]] = {}
    rest = (
        "FROM alert WHERE handling IN ('raised', 'accepted', 'in_progress') AND device_id <> ''"
        " AND subject LIKE 'device/%' LIMIT 10000"
    )
    for device_id, kind in fetch(connection, ("device_id", "kind"), rest):
        found.setdefault(str(device_id), []).append(str(kind))
    return found
