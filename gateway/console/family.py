"""The family's page: one alert, what happened, where, who goes, and two buttons."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

import apsw
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from gateway.clock import from_us
from gateway.console.family_link import Pass
from gateway.console.family_sketch import Ring, draw, map_links, rings_of
from gateway.console.installer_frame import Outdoors, form_of, log
from gateway.console.words import Translator
from gateway.errors import ConflictError, NotFoundError
from gateway.registry.people import notice_contacts, notice_person
from gateway.registry.places import list_places
from gateway.security import mask_name

OVER: Final = ("resolved", "closed")


def endpoint(outdoors: Outdoors) -> Callable[[Request], Awaitable[Response]]:
    """GET shows and does nothing, so that a preview of the message answers nobody; POST answers."""
    rings = rings_of(outdoors.outline)

    async def family(request: Request) -> Response:
        try:
            opened = outdoors.family.read(request.path_params["token"])
        except (NotFoundError, ConflictError) as error:
            expired = isinstance(error, ConflictError)
            log.warning("family_link_refused", reason="expired" if expired else "forged")
            return await outdoors.page(request, "family/over.html", {"why": "expired" if expired else "unknown"}, 403)
        request.scope["carebell.key_id"] = f"contact:{opened.contact_id}"  # for the access log
        if request.method == "POST":
            outdoors.check_origin(request)
            return await _answer(outdoors, request, opened)
        return await _show(outdoors, request, opened, rings)

    return family


async def _answer(outdoors: Outdoors, request: Request, opened: Pass) -> Response:
    said = (await form_of(request)).get("answer")
    if said not in ("going", "cannot"):
        raise HTTPException(422, "answer: going or cannot")
    await _contact(outdoors, opened)
    came = await outdoors.answer(opened.alert_id, opened.contact_id, said == "going")
    log.info("family_answered", alert_id=opened.alert_id, contact_id=opened.contact_id, result=came)
    return RedirectResponse(request.url.path, 303)


async def _contact(outdoors: Outdoors, opened: Pass) -> tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]:
    """The person, this contact and all contacts. Raises NotFoundError when it is no contact of the person any more."""
    alert = await outdoors.services.desk.alert(opened.alert_id)

    def read(connection: apsw.Connection) -> tuple[dict[str, Any] | None, list[dict[str, Any]]]:
        person_id = alert["person_id"] or ""
        return notice_person(connection, person_id), notice_contacts(connection, person_id)

    person, contacts = await outdoors.services.store.read(read)
    contact = next((each for each in contacts if each["contact_id"] == opened.contact_id), None)
    if person is None or contact is None:
        log.warning("family_link_refused", reason="no contact", alert_id=opened.alert_id)
        raise NotFoundError("this link is no longer in force")
    return person, contact, contacts


async def _show(outdoors: Outdoors, request: Request, opened: Pass, rings: Sequence[Ring]) -> Response:
    alert = await outdoors.services.desk.alert(opened.alert_id)
    if alert["handling"] in OVER:
        log.info("family_link_refused", reason="closed", alert_id=opened.alert_id)
        return await outdoors.page(request, "family/over.html", {"why": "ended"}, 410)
    person, contact, contacts = await _contact(outdoors, opened)
    home = await outdoors.services.store.read(lambda c: _home(c, person["id"]))
    say = Translator("en" if contact["language"] == "en" else "zh")
    ladders = (alert.get("escalation") or {}).get("ladders", {})
    taken_by = (ladders.get("family") or {}).get("taken_by")
    position, zone = alert["position"], ZoneInfo(person["timezone"])
    where = position or home
    return await outdoors.page(
        request,
        "family/alert.html",
        {
            "alert": alert,
            "person": person,
            "t": say.text,
            "w": say.word,
            "language": say.language,
            "said": _said(alert, opened.contact_id),
            "goes": _who_goes(alert, taken_by, opened.contact_id, contacts, say),
            "next": _next(alert, say),
            "position": position,
            "position_age_min": None if position is None else _age_min(outdoors, position["observed_at_us"]),
            "sketch": draw(where, home, rings) if where else None,
            "links": map_links(where, say.language) if where else [],
            "raised": datetime.fromisoformat(alert["raised_at"]).astimezone(zone),
            "until": from_us(opened.until_us).astimezone(zone),
            "action": request.url.path,
        },
    )


def _home(connection: apsw.Connection, person_id: str) -> dict[str, Any] | None:
    """The person's home, when it is a circle."""
    for place in list_places(connection, person_id=person_id):
        if place["kind"] == "home" and place["geometry"]["type"] == "Point":
            longitude, latitude = place["geometry"]["coordinates"]
            return {"latitude": latitude, "longitude": longitude, "radius_m": place["radius_m"]}
    return None


def _age_min(outdoors: Outdoors, at_us: int) -> int:
    return max(0, outdoors.services.clock.now_us() - at_us) // 60_000_000


def _said(alert: Mapping[str, Any], contact_id: str) -> str:
    """What this contact answered last: ``going``, ``cannot`` or ""."""
    for each in reversed(alert["transitions"]):
        if each["actor"]["id"] == contact_id:
            if each["action"] == "family_accept":
                return "going"
            if each["action"] in ("family_release", "next_step"):
                return "cannot"
            digits = (each["evidence"] or {}).get("digits")
            if each["action"] == "answer_noted" and digits in ("1", "2"):
                return "going" if digits == "1" else "cannot"
    return ""


def _who_goes(
    alert: Mapping[str, Any],
    taken_by: str | None,
    contact_id: str,
    contacts: Sequence[Mapping[str, Any]],
    say: Translator,
) -> list[str]:
    """One line for each who has it. Of other contacts the relation, and a masked name."""
    lines = []
    if taken_by == contact_id:
        lines.append(say.text("您：正在前往", "You: on the way"))
    elif taken_by:
        other = next((each for each in contacts if each["contact_id"] == taken_by), None)
        name = "" if other is None else f"{other['relation'] or ''} {mask_name(other['name'])}".strip()
        lines.append(say.text(f"{name or '另一位家属'}：正在前往", f"{name or 'Another contact'}: on the way"))
    if alert["owner"]:
        lines.append(say.text("呼叫中心已接警，正在处理", "The call center has it and is handling it"))
    order = (alert.get("order") or {}).get("status")
    if order in ("dispatched", "arrived"):
        lines.append(say.text("服务人员：", "Helper: ") + say.word(order, "order"))
    return lines


def _next(alert: Mapping[str, Any], say: Translator) -> str:
    """What the call center does next."""
    if alert["handling"] == "raised":
        return say.text(
            "呼叫中心正在接警；在有人处理之前会继续通知联系人。",
            "The call center is taking it; contacts are told on until somebody has it.",
        )
    return say.text("呼叫中心会跟进到事情结束。", "The call center stays with it until it is over.")
