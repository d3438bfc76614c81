"""The conference of an alert on its page: who is on the line, called in, held, muted, dropped; by button and by key.

The provider is asked for the legs each time, apart from the case: a slow one delays nothing but its own list.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from starlette.responses import Response

from gateway.api.routes.alerts import visible_alert
from gateway.api.services import Conferences
from gateway.console.frame import Visit, see_other
from gateway.errors import DeliveryError, NotFoundError, UsageError
from gateway.registry.contacts import list_contacts

ROLES: Final = ("person", "call_center", "family", "doctor", "social_worker", "ems120")
CHANGES: Final = ("hold", "unhold", "mute", "unmute", "drop", "end")
TERMINAL: Final = "terminal"
"""The person at another number than the registry's: a terminal's, or sip:..."""
ROLE_OF_RELATION: Final[Mapping[str, str]] = {
    "doctor": "doctor", "医生": "doctor", "social_worker": "social_worker", "社工": "social_worker",
}  # fmt: skip
"""What a contact is on the line; all others are family."""
CALLED_120: Final = "120"
NUMBER_LONGEST: Final = 200

Legs = Sequence[Mapping[str, Any]]


async def legs(visit: Visit) -> Response:
    """Who is on the line or being called to it."""
    alert_id, conferences = await _open(visit)
    return await _answer(visit, alert_id, conferences, lambda: conferences.legs(alert_id))


async def change(visit: Visit) -> Response:
    """One of CHANGES for the legs of a role: ``drop`` may name one of them, ``end`` is for everybody."""
    alert_id, conferences = await _open(visit)
    wanted, role, leg = visit.request.path_params["change"], visit.form.get("role", ""), visit.form.get("leg", "")
    if wanted not in CHANGES:
        raise NotFoundError(f"there is no change {wanted!r}")
    if wanted != "end" and role not in ROLES:
        raise UsageError(f"role: one of {', '.join(ROLES)}")

    async def do() -> Legs:
        if wanted == "end":
            await conferences.end(alert_id, actor=visit.actor)
            return []
        if wanted == "drop":
            return await conferences.drop(alert_id, role, actor=visit.actor, attempt_id=leg)
        return await conferences.change(alert_id, role, wanted, actor=visit.actor)

    return await _answer(visit, alert_id, conferences, do)


async def parties(visit: Visit) -> Response:
    """JSON for the palette: whom to call in, as pairs of a ``party`` of the form and words. No numbers."""
    alert = await visible_alert(visit.services, visit.principal, visit.request.path_params["alert_id"])
    person_id = alert["person_id"]
    say = visit.say
    offered: list[tuple[str, str]] = []
    if person_id and visit.sees_names:
        offered.append(("person", say.word("person", "leg")))
        for contact in (await visit.services.store.read(lambda c: list_contacts(c, person_id=person_id)))[:4]:
            role = ROLE_OF_RELATION.get(contact["relation"], "family")
            relation = say.word(contact["relation"] or role, "" if contact["relation"] else "leg")
            offered.append((f"{role}/{contact['contact_id']}", f"{contact['name']} · {relation}"))
    offered += [
        (party, say.word(party, "leg")) for party in ("ems120", "call_center", "doctor", "social_worker", TERMINAL)
    ]
    return Response(msgspec.json.encode(offered), media_type="application/json")


def party_of(visit: Visit) -> tuple[str, str, str]:
    """Role, contact and number of a form that calls somebody. Raises UsageError."""
    party = visit.form.get("party", "")
    role, _, contact_id = party.partition("/")
    if not party:
        role, contact_id = visit.form.get("role", "person"), visit.form.get("contact_id", "")
    to = visit.form.get("to", "").strip()
    if role == TERMINAL:
        if not to:
            raise UsageError("to: the number of the terminal, or sip:...")
        role = "person"
    if role not in ROLES:
        raise UsageError(f"role: one of {', '.join((*ROLES, TERMINAL))}")
    if len(to) > NUMBER_LONGEST or not to.isprintable():
        raise UsageError("to: a number with its country code, or sip:...")
    if not to and role == "ems120":
        to = CALLED_120
    if not to and role == "call_center":
        to = visit.frame.look.hotline
    return role, contact_id, to


async def _open(visit: Visit) -> tuple[str, Conferences]:
    alert_id = visit.request.path_params["alert_id"]
    await visible_alert(visit.services, visit.principal, alert_id)
    if visit.services.conferences is None:
        raise NotFoundError("this site has no provider that holds conferences")
    return alert_id, visit.services.conferences


async def _answer(visit: Visit, alert_id: str, conferences: Conferences, do: Callable[[], Awaitable[Legs]]) -> Response:
    """The list as it is now, and what stood in the way; ``told`` None when the provider does not say."""
    problem, status = "", 200
    told: Legs | None
    try:
        told = await do()
    except (UsageError, DeliveryError) as error:
        problem, status = str(error), 502 if isinstance(error, DeliveryError) else 422
        told = await _as_they_are(alert_id, conferences) if isinstance(error, UsageError) else None
    if visit.request.method == "POST" and not visit.is_fragment and not problem:
        return see_other(f"/console/alerts/{alert_id}")
    alert = await visible_alert(visit.services, visit.principal, alert_id)
    names = await _names(visit, alert)
    return await visit.page("conference.html", status, alert=alert, told=told, problem=problem, names=names)


async def _as_they_are(alert_id: str, conferences: Conferences) -> Legs | None:
    try:
        return await conferences.legs(alert_id)
    except DeliveryError:
        return None


async def _names(visit: Visit, alert: Mapping[str, Any]) -> dict[str, str]:
    """Names of contacts by the id of the leg that was called for them."""
    person_id = alert["person_id"]
    if not person_id or not visit.sees_names:
        return {}
    contacts = await visit.services.store.read(lambda c: list_contacts(c, person_id=person_id))
    by_id = {contact["contact_id"]: contact["name"] for contact in contacts}
    attempts = alert.get("attempts", [])
    return {each["attempt_id"]: by_id[each["contact_id"]] for each in attempts if each["contact_id"] in by_id}
