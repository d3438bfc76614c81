"""Cases: alerts with their orders, what was promised, and what people do about them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from gateway.api.answers import Id, Limit, LongText, ShortText, answer
from gateway.api.auth import actor_of, may, sees, services_of, visible_persons
from gateway.api.problems import documented, refuse
from gateway.api.services import OrderCases, Services
from gateway.errors import NotFoundError
from gateway.registry.devices import show_device
from gateway.registry.keys import ApiKey
from gateway.registry.persons import show_person

router = APIRouter(prefix="/cases")
Reference = Annotated[Id, Path(description="id of the alert, or the platform's id of one of its orders")]


class Intent(StrEnum):
    emergency = "emergency"
    life_help = "life_help"
    consultation = "consultation"
    maintenance = "maintenance"


class Category(StrEnum):
    emergency = "emergency"
    service = "service"
    consultation = "consultation"
    maintenance = "maintenance"


class CaseAction(StrEnum):
    redispatch = "redispatch"
    supervise = "supervise"
    complaint = "complaint"
    follow_up = "follow_up"


class CaseView(BaseModel):
    """The members that every case has; there are more."""

    model_config = ConfigDict(extra="allow")

    alert_id: str
    version: int
    category: str | None
    due_at: str | None
    overdue_at: str | None
    supervised: list[str]


class RequestBody(BaseModel):
    """What somebody asked for by telephone or at a counter."""

    model_config = ConfigDict(extra="forbid")

    intent: Intent
    person_id: ShortText = Field("", description="for whom; of a repair it may be left out")
    device_id: ShortText = Field("", description="what is to be repaired")
    text: LongText = Field(description="what is wanted, in a sentence")


class CaseBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    version: int | None = Field(None, ge=0, le=2**53, description="of the alert as it was seen")
    note: LongText = Field("", description="why; all but follow_up need it")
    satisfied: bool | None = Field(None, description="with follow_up")


def _cases_of(services: Services) -> OrderCases:
    if services.orders is None:
        raise refuse(503, "this gateway keeps no orders")
    return services.orders


async def _visible(services: Services, principal: ApiKey, reference: str) -> dict[str, Any]:
    case = await _cases_of(services).case(reference)
    if not sees(await visible_persons(services, principal), case.get("person_id"), principal):
        raise NotFoundError(f"there is no order {reference}")
    return case


@router.get("", response_model=None, responses={200: {"model": list[CaseView]}})
async def list_cases(
    request: Request,
    principal: Annotated[ApiKey, Depends(may("orders.read"))],
    open_only: Annotated[bool, Query(alias="open", description="only those of open alerts")] = False,
    overdue: Annotated[bool, Query(description="only those whose promised time is over")] = False,
    supervised: Annotated[bool, Query(description="only those under supervision")] = False,
    category: Category | None = None,
    person_id: ShortText = "",
    limit: Limit = 100,
) -> Response:
    """Newest first."""
    services = services_of(request)
    visible = await visible_persons(services, principal)
    found = await _cases_of(services).cases(
        open_only=open_only, overdue=overdue, supervised=supervised, category=category.value if category else "",
        person_id=person_id, limit=limit,
    )  # fmt: skip
    return answer([case for case in found if sees(visible, case.get("person_id"), principal)])


@router.post("", response_model=None, status_code=201, responses={201: {"model": CaseView}, **documented(404)})
async def request_order(
    request: Request, body: RequestBody, principal: Annotated[ApiKey, Depends(may("alerts.act"))]
) -> Response:
    """Open a case. While one of this person and kind is open, it is the same case once more."""
    services = services_of(request)
    visible = await visible_persons(services, principal)
    if not sees(visible, body.person_id or None, principal):
        raise NotFoundError(f"there is no person {body.person_id}")
    if body.person_id:
        await services.store.read(lambda c: show_person(c, body.person_id))
    if body.device_id:
        await services.store.read(lambda c: show_device(c, body.device_id))
    case = await _cases_of(services).request(
        body.intent.value, person_id=body.person_id, device_id=body.device_id, text=body.text,
        actor=actor_of(principal),
    )  # fmt: skip
    return answer(case, 201)


@router.get("/{reference}", response_model=None, responses={200: {"model": CaseView}, **documented(404)})
async def show_case(
    request: Request, reference: Reference, principal: Annotated[ApiKey, Depends(may("orders.read"))]
) -> Response:
    """One case with every order, what the platform said of it, and all that was done."""
    return answer(await _visible(services_of(request), principal, reference))


@router.post("/{reference}/{action}", response_model=None, responses={200: {"model": CaseView}, **documented(404, 409)})
async def act(
    request: Request,
    reference: Reference,
    action: CaseAction,
    body: CaseBody,
    principal: Annotated[ApiKey, Depends(may("alerts.act"))],
) -> Response:
    """Dispatch the same incident again, have its order supervised, record a complaint or a follow-up."""
    services = services_of(request)
    await _visible(services, principal, reference)
    case = await _cases_of(services).act(
        reference, action.value, actor=actor_of(principal), note=body.note, version=body.version,
        satisfied=body.satisfied,
    )  # fmt: skip
    return answer(case)
