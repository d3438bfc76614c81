"""Test mode and maintenance: bounded times in which alerts are kept and not escalated."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from gateway.api.answers import answer
from gateway.api.auth import actor_of, may, require_person, services_of
from gateway.api.problems import documented, refuse
from gateway.api.services import Services
from gateway.errors import UsageError
from gateway.registry.devices import show_device
from gateway.registry.keys import ApiKey
from gateway.registry.persons import show_person

router = APIRouter(prefix="/suppressions", tags=["alerts"])
MINUTE_US = 60_000_000


class SuppressionView(BaseModel):
    id: int
    kind: str
    subject: str
    until: str
    actor: str
    reason: str


class SuppressionBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    kind: Literal["test", "maintenance"]
    subject: Annotated[str, StringConstraints(min_length=3, max_length=140)] = Field(
        description="`device/<id>`, `person/<id>`; maintenance also `site/<site>`", examples=["device/D-0001"]
    )
    minutes: float = Field(gt=0, le=1440, allow_inf_nan=False, description="of a test at most 30, of maintenance 1440")
    reason: Annotated[str, StringConstraints(min_length=1, max_length=500)] = Field(description="goes into the audit")


@router.get("", response_model=None, responses={200: {"model": list[SuppressionView]}})
async def list_suppressions(
    request: Request, _principal: Annotated[ApiKey, Depends(may("suppressions.read"))]
) -> Response:
    """What is in force now: show it wherever alerts are watched."""
    return answer(await services_of(request).desk.suppressions())


@router.post("", status_code=201, response_model=None, responses={201: {"model": SuppressionView}, **documented(404)})
async def start(
    request: Request, body: SuppressionBody, principal: Annotated[ApiKey, Depends(may("suppressions.write"))]
) -> Response:
    """Begin test mode (installer, supervisor, admin) or maintenance (supervisor, admin). It ends by itself."""
    if body.kind == "maintenance" and principal.role == "installer":
        raise refuse(403, "an installer may start a test; maintenance is started by a supervisor")
    services = services_of(request)
    await _require_subject(services, principal, body.subject)
    until_us = services.clock.now_us() + round(body.minutes * MINUTE_US)
    begun = await services.desk.suppress(
        body.kind, body.subject, until_us, actor=actor_of(principal), reason=body.reason
    )
    return answer(begun, 201)


@router.post("/{number}/end", status_code=204, response_model=None, responses=documented(404))
async def end(
    request: Request,
    number: Annotated[int, Path(ge=1, le=2**53)],
    principal: Annotated[ApiKey, Depends(may("suppressions.write"))],
) -> Response:
    """End it before its time: what it held back is looked at now."""
    await services_of(request).desk.end_suppression(number, actor=actor_of(principal))
    return Response(status_code=204)


async def _require_subject(services: Services, principal: ApiKey, subject: str) -> None:
    """Raises NotFoundError for what is not there or not the principal's, UsageError for no subject at all."""
    scope, _, row_id = subject.partition("/")
    if scope == "person":
        await services.store.read(lambda c: show_person(c, row_id))
        await require_person(services, principal, row_id)
    elif scope == "device":
        device: dict[str, Any] = await services.store.read(lambda c: show_device(c, row_id))
        if device["person_id"] and principal.role != "installer":
            await require_person(services, principal, device["person_id"])
    elif scope != "site":
        raise UsageError("body.subject: write device/<id>, person/<id> or site/<site>")
    elif principal.district:
        raise refuse(403, f"this key works in the district {principal.district!r} only")
