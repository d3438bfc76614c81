"""One alert on one screen: person, place, contacts, who was told, what was done, and what to do next."""

from __future__ import annotations

from typing import Any, Final

import apsw
from starlette.responses import Response

from gateway.access import door, users
from gateway.api.routes.alerts import visible_alert
from gateway.clock import from_us
from gateway.console import queue
from gateway.console.frame import Visit
from gateway.errors import NotFoundError
from gateway.registry.contacts import list_contacts
from gateway.registry.devices import show_device
from gateway.registry.persons import show_person
from gateway.security import mask_name, mask_phone

EARLIER: Final = 5
OPEN: Final = frozenset({"raised", "accepted", "in_progress"})


async def show(visit: Visit) -> Response:
    """The whole case: as a page with the queue, or for the page's script as the case alone."""
    context = await facts(visit, visit.request.path_params["alert_id"])
    if visit.is_fragment:
        return await visit.page("alert.html", **context)
    return await visit.page("queue.html", **await queue.context(visit), **context)


async def panel(visit: Visit) -> Response:
    """The middle of the case, for the page's script when the alert changed."""
    return await visit.page("alert_panel.html", **await facts(visit, visit.request.path_params["alert_id"]))


async def facts(visit: Visit, alert_id: str) -> dict[str, Any]:
    """What the templates of a case need. Names, numbers and addresses are masked as the role asks."""
    alert = await visible_alert(visit.services, visit.principal, alert_id)
    found = await visit.services.store.glance(lambda c: _registry(c, alert))
    person = found["person"]
    if person is not None:
        year = from_us(visit.services.clock.now_us()).year
        person = person | {"age": None if person["birth_year"] is None else year - person["birth_year"]}
        person["phone"] = mask_phone(person["phone"])
        if not visit.sees_names:
            person |= {"name": mask_name(person["name"]), "address": None, "conditions": [], "note": None, "age": None}
    for contact in found["contacts"]:
        contact["phone"] = mask_phone(contact["phone"])
        if not visit.sees_names:
            contact["name"] = mask_name(contact["name"])
    names = found["users"]
    owner_since = next(
        (step["at"] for step in reversed(alert["transitions"]) if step["action"] in ("accept", "assign")), None
    )
    mine = alert["owner"] == visit.actor.id
    return {
        "alert": alert,
        **found,
        "person": person,
        "level": int(alert["severity"][1]),
        "open": alert["handling"] in OPEN,
        "mine": mine,
        "owner_name": names.get(alert["owner"] or "", alert["owner"]),
        "owner_since": owner_since,
        "next": _next(alert, mine=mine),
        "told": _told(alert, found["contacts"], found["roles"]),
        "conference": visit.frame.look.conferences,
        "orders_configured": visit.services.orders is not None,
        "message": "",
        "conflict": "",
        "shown": {},
    }


def _next(alert: dict[str, Any], *, mine: bool) -> str:
    """The act that is the biggest thing on the screen."""
    if alert["handling"] == "raised":
        return "accept"
    if not mine or alert["handling"] not in OPEN:
        return ""
    done = {step["evidence"].get("progress") for step in alert["transitions"] if isinstance(step["evidence"], dict)}
    done.add(alert["progress"])
    if not done & {"contacting_person", "talking"}:
        return "call"
    return "progress" if not done & {"dispatched", "on_scene", "transported"} else "resolve"


def _told(alert: dict[str, Any], contacts: list[dict[str, Any]], roles: dict[str, str]) -> list[dict[str, Any]]:
    """Who was told, newest first; a contact by name, staff and centers as the policy calls them, else by role."""
    names = {contact["contact_id"]: contact["name"] for contact in contacts}
    told = []
    for attempt in reversed(alert.get("attempts", [])):
        contact_id = attempt["contact_id"]
        role = roles.get(attempt["attempt_id"], "")
        if role == "conference":
            continue  # the line as a whole; its parties are rows of their own
        told.append(
            attempt | {"role": role, "whom": names.get(contact_id) or contact_id.partition(":")[2] or contact_id}
        )
    return told[:50]


def _registry(connection: apsw.Connection, alert: dict[str, Any]) -> dict[str, Any]:
    """What the registry knows of whom and what the alert is about."""
    person_id, device_id = alert["person_id"], alert["device_id"]
    return {
        "person": _or_none(lambda: show_person(connection, person_id)) if person_id else None,
        "contacts": list_contacts(connection, person_id=person_id) if person_id else [],
        "device": _or_none(lambda: show_device(connection, device_id)) if device_id else None,
        "has_door_code": bool(person_id) and door.door_code(connection, person_id) is not None,
        "earlier": _earlier(connection, person_id, alert["id"]) if person_id else [],
        "users": users.names_of(
            connection, {alert["owner"] or "", *(each["actor"]["id"] for each in alert["transitions"])}
        ),
        "roles": _roles(connection, alert["id"]),
    }


def _roles(connection: apsw.Connection, alert_id: str) -> dict[str, str]:
    """Whom each call of the alert was for, by the attempt's id."""
    found = connection.execute("SELECT attempt_id, role FROM attempt WHERE alert_id = ?", (alert_id,))
    return {str(attempt_id): str(role or "") for attempt_id, role in found}


def _or_none(show: Any) -> dict[str, Any] | None:
    try:
        view: dict[str, Any] = show()
    except NotFoundError:  # the registry lost it; the alert stays
        return None
    return view


def _earlier(connection: apsw.Connection, person_id: str, alert_id: str) -> list[dict[str, Any]]:
    rows: list[Any] = connection.execute(
        "SELECT id, kind, severity, handling, outcome, raised_at_us FROM alert WHERE person_id = ? AND id <> ?"
        " ORDER BY id DESC LIMIT ?",
        (person_id, alert_id, EARLIER),
    ).fetchall()
    names = ("id", "kind", "severity", "handling", "outcome", "raised_at_us")
    return [dict(zip(names, row, strict=True)) for row in rows]
