"""The conference of an alert: the person, the call center, family, doctor, social worker and 120 on one line."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from gateway.api.answers import Id, ShortText, answer
from gateway.api.auth import actor_of, may, services_of
from gateway.api.problems import documented
from gateway.api.routes.alerts import visible_alert
from gateway.api.services import Conferences
from gateway.errors import NotFoundError
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/alerts/{alert_id}/conference", tags=["alerts"])
AlertId = Annotated[Id, Path(description="id of the alert")]
Operator = Annotated[ApiKey, Depends(may("alerts.act"))]
_ANSWERS = documented(404, 502)


class Role(StrEnum):
    person = "person"
    call_center = "call_center"
    family = "family"
    doctor = "doctor"
    social_worker = "social_worker"
    ems120 = "ems120"


class Change(StrEnum):
    hold = "hold"
    unhold = "unhold"
    mute = "mute"
    unmute = "unmute"


class NewLeg(BaseModel):
    """Whom to call in: ``to``, else the contact's number, else (for the person) the number in the registry."""

    model_config = ConfigDict(extra="forbid")

    role: Role
    to: ShortText = Field("", description="a number with its country code, or sip:...", examples=["+8613800000001"])
    contact_id: ShortText = ""
    muted: bool = False


class Gathering(BaseModel):
    """Who is to be on the line. They are called by their roles: the person, call center, family, doctor and so on."""

    model_config = ConfigDict(extra="forbid")

    parties: Annotated[list[NewLeg], Field(min_length=1, max_length=20)]


class LegView(BaseModel):
    role: str
    attempt_id: str
    call_id: str
    status: str
    muted: bool
    on_hold: bool


class NotCalled(BaseModel):
    role: str
    contact_id: str | None
    detail: str


class GatheredView(BaseModel):
    legs: list[LegView]
    failed: list[NotCalled]


Legs: dict[int | str, dict[str, Any]] = {200: {"model": list[LegView]}}


@router.get("", response_model=None, responses={**Legs, **_ANSWERS})
async def show(request: Request, alert_id: AlertId, principal: Operator) -> Response:
    """Who is in it, or being called into it. No numbers: those are in the call log."""
    return answer(await (await _conferences(request, principal, alert_id)).legs(alert_id))


@router.post("", status_code=201, response_model=None, responses={201: {"model": GatheredView}, **_ANSWERS})
async def gather(request: Request, alert_id: AlertId, body: Gathering, principal: Operator) -> Response:
    """Call several in with one request. Who cannot be called is in ``failed``, and keeps nobody else from it."""
    conferences = await _conferences(request, principal, alert_id)
    parties = [
        {"role": each.role.value, "to": each.to, "contact_id": each.contact_id, "muted": each.muted}
        for each in body.parties
    ]
    return answer(await conferences.gather(alert_id, parties, actor=actor_of(principal)), 201)


@router.post("/legs", status_code=201, response_model=None, responses={201: {"model": LegView}, **_ANSWERS})
async def add(request: Request, alert_id: AlertId, body: NewLeg, principal: Operator) -> Response:
    """Call somebody in; the first leg begins the conference. 120 is called because this asks for it."""
    conferences = await _conferences(request, principal, alert_id)
    leg = await conferences.add(
        alert_id, body.role.value, actor=actor_of(principal), to=body.to, contact_id=body.contact_id, muted=body.muted
    )
    return answer(leg, 201)


@router.post("/{role}/{change}", response_model=None, responses={**Legs, **_ANSWERS})
async def change(request: Request, alert_id: AlertId, role: Role, change: Change, principal: Operator) -> Response:
    """Put all legs of a role on hold or mute them, or end that."""
    conferences = await _conferences(request, principal, alert_id)
    return answer(await conferences.change(alert_id, role.value, change.value, actor=actor_of(principal)))


@router.delete("/{role}", response_model=None, responses={**Legs, **_ANSWERS})
async def drop(
    request: Request,
    alert_id: AlertId,
    role: Role,
    principal: Operator,
    attempt_id: Annotated[ShortText, Query(description="only this leg")] = "",
) -> Response:
    """Hang up the legs of a role. The person's own line is kept."""
    conferences = await _conferences(request, principal, alert_id)
    return answer(await conferences.drop(alert_id, role.value, actor=actor_of(principal), attempt_id=attempt_id))


@router.delete("", response_model=None, responses={200: {"model": dict[str, bool]}, **_ANSWERS})
async def end(request: Request, alert_id: AlertId, principal: Operator) -> Response:
    """End it for everybody, the person included."""
    conferences = await _conferences(request, principal, alert_id)
    return answer({"ended": await conferences.end(alert_id, actor=actor_of(principal))})


async def _conferences(request: Request, principal: ApiKey, alert_id: str) -> Conferences:
    services = services_of(request)
    await visible_alert(services, principal, alert_id)
    if services.conferences is None:
        raise NotFoundError("this site has no provider that holds conferences; set [notify.twilio] with a public_url")
    return services.conferences
