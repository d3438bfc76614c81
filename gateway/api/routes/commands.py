"""Commands to devices: give one, see what became of it, take it back."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from gateway.api.answers import Id, Limit, ShortText, answer, page
from gateway.api.auth import actor_of, may, sees, services_of, visible_persons
from gateway.api.problems import documented, refuse
from gateway.api.services import Services
from gateway.commands.ledger import LONGEST_S, SHORTEST_S, NotAllowedError
from gateway.errors import NotFoundError
from gateway.registry.devices import show_device
from gateway.registry.keys import ApiKey

MAY_BE_DANGEROUS: Final = frozenset({"admin", "supervisor"})
"""Roles that may give dangerous commands."""

router = APIRouter(tags=["commands"])
View = dict[str, Any]
DeviceId = Annotated[Id, Path(examples=["D-0001"])]
CommandId = Annotated[Id, Path(examples=["8c1f5b0d3a7e4c92"])]
Reader = Annotated[ApiKey, Depends(may("devices.read"))]
Commander = Annotated[ApiKey, Depends(may("devices.command"))]


class NewCommand(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: ShortText = Field(description="a command of the device's profile", examples=["locate"])
    parameters: dict[str, Any] = Field({}, description="as the profile declares them", examples=[{"seconds": 30}])
    expires_s: int | None = Field(
        None, ge=SHORTEST_S, le=LONGEST_S, description="it is sent within so many seconds or never; the profile's own"
    )
    reason: ShortText = ""


class Reason(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: ShortText = ""


@router.post(
    "/devices/{device_id}/commands",
    status_code=202,
    response_model=None,
    responses={202: {"model": View, "description": "queued"}, **documented(404, 409)},
)
async def give(request: Request, device_id: DeviceId, body: NewCommand, principal: Commander) -> Response:
    """Queue a command. It is sent when the device is next in contact; dangerous ones need admin or supervisor."""
    services = services_of(request)
    await _require_device(services, principal, device_id)
    try:
        view = await services.commands.request(
            device_id,
            body.name,
            body.parameters,
            actor=actor_of(principal),
            expires_s=body.expires_s,
            reason=body.reason,
            may_be_dangerous=principal.role in MAY_BE_DANGEROUS,
        )
    except NotAllowedError as error:
        raise refuse(403, str(error)) from error
    return answer(view, 202, {"location": f"/api/v1/commands/{view['id']}"})


@router.get(
    "/devices/{device_id}/commands", response_model=None, responses={200: {"model": list[View]}, **documented(404)}
)
async def of_device(
    request: Request,
    device_id: DeviceId,
    principal: Reader,
    *,
    state: ShortText = "",
    open_only: Annotated[bool, Query(alias="open", description="only those that are not over")] = False,
    before: Annotated[int, Query(ge=0, le=2**53, description="the number of the last one of the page before")] = 0,
    limit: Limit = 100,
) -> Response:
    """The device's commands, newest first."""
    services = services_of(request)
    await _require_device(services, principal, device_id)
    found = await services.commands.commands(
        device_id=device_id, state=state, open_only=open_only, before=before, limit=limit
    )
    return page(request, found, limit, "before", "number")


@router.get("/commands/{command_id}", response_model=None, responses={200: {"model": View}, **documented(404)})
async def show(request: Request, command_id: CommandId, principal: Reader) -> Response:
    """A command with its steps: who did what when."""
    return answer(await _visible(services_of(request), principal, command_id))


@router.post(
    "/commands/{command_id}/cancel", response_model=None, responses={200: {"model": View}, **documented(404, 409)}
)
async def cancel(request: Request, command_id: CommandId, principal: Commander, body: Reason | None = None) -> Response:
    """Take back a command that has not been sent; 409 once it has."""
    services = services_of(request)
    await _visible(services, principal, command_id)
    reason = body.reason if body else ""
    return answer(await services.commands.cancel(command_id, actor=actor_of(principal), reason=reason))


async def _require_device(services: Services, principal: ApiKey, device_id: str) -> None:
    device = await services.store.read(lambda c: show_device(c, device_id))
    if not sees(await visible_persons(services, principal), device["person_id"], principal):
        raise NotFoundError(f"no device {device_id!r}")


async def _visible(services: Services, principal: ApiKey, command_id: str) -> View:
    view = await services.commands.command(command_id)
    if not sees(await visible_persons(services, principal), view["person_id"], principal):
        raise NotFoundError(f"no command {command_id!r}")
    return view
