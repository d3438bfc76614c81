"""Devices, whose they are, and their credentials."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from gateway.api.answers import Id, Limit, ShortText, answer, page
from gateway.api.auth import actor_of, may, require_owner, sees, services_of, visible_persons
from gateway.api.bodies import described, take_id, take_reason, take_version
from gateway.api.problems import documented
from gateway.api.services import Services
from gateway.errors import NotFoundError
from gateway.registry.credentials import issue_token
from gateway.registry.devices import (
    SPEC,
    add_device,
    list_devices,
    replace_device,
    set_state,
    show_device,
    update_device,
)
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/devices", tags=["devices"])
View = dict[str, Any]
DeviceId = Annotated[Id, Path(examples=["D-0001"])]
Writer = Annotated[ApiKey, Depends(may("devices.write"))]


class Rotation(BaseModel):
    model_config = ConfigDict(extra="forbid")

    grace_s: int = Field(0, ge=0, le=30 * 86_400, description="for so many seconds the earlier token still works")


class Reason(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: ShortText = ""


class NewToken(BaseModel):
    device_id: str
    token: str = Field(description="shown this once")


@router.get("", response_model=None, responses={200: {"model": list[View]}})
async def index(
    request: Request,
    principal: Annotated[ApiKey, Depends(may("devices.read"))],
    person_id: ShortText = "",
    state: ShortText = "",
    profile: ShortText = "",
    search: Annotated[ShortText, Query(description="a part of the id, the model or an identity")] = "",
    after: ShortText = "",
    limit: Limit = 100,
) -> Response:
    """Devices by id, behind ``after``."""
    services = services_of(request)
    visible = await visible_persons(services, principal)
    found = await services.store.read(
        lambda c: list_devices(
            c, person_id=person_id, state=state, profile=profile, search=search, after_id=after, limit=limit
        )
    )
    shown = [device | _brief(services, device) for device in found if sees(visible, device["person_id"], principal)]
    return page(request, shown, limit, "after", "device_id", last=found[-1] if len(found) >= limit else None)


@router.post(
    "",
    status_code=201,
    response_model=None,
    responses={
        201: {"model": View, "description": "the device, and its token, shown this once"},
        **documented(404, 409),
    },
    openapi_extra=described(SPEC, new=True),
)
async def add(request: Request, body: Annotated[dict[str, Any], Body()], principal: Writer) -> Response:
    """Enter a device. The answer has its ``token``, which cannot be seen again."""
    services = services_of(request)
    device_id = take_id(SPEC, body)
    await require_owner(services, principal, body)
    profiles, at_us, actor = _profiles(services), services.clock.now_us(), actor_of(principal)
    view, token = await services.store.write(
        lambda c: add_device(c, device_id, body, known_profiles=profiles, at_us=at_us, actor=actor)
    )
    return answer({**view, "token": token}, 201, {"location": f"/api/v1/devices/{device_id.strip()}"})


@router.get("/{device_id}", response_model=None, responses={200: {"model": View}, **documented(404)})
async def show(
    request: Request, device_id: DeviceId, principal: Annotated[ApiKey, Depends(may("devices.read"))]
) -> Response:
    """A device with its identities, its bindings in time, and the state of its credentials."""
    services = services_of(request)
    view = await _visible(services, principal, device_id)
    return answer(view | _brief(services, view))


@router.get("/{device_id}/state", response_model=None, responses={200: {"model": View}, **documented(404)})
async def live_state(
    request: Request, device_id: DeviceId, principal: Annotated[ApiKey, Depends(may("devices.read"))]
) -> Response:
    """Whether it is online, when it spoke last, battery, last readings, signals and place, from memory."""
    services = services_of(request)
    view = await _visible(services, principal, device_id)
    if services.live is None:
        raise NotFoundError("there is no live state here")
    return answer(services.live.device(device_id) | {"person_id": view["person_id"], "state": view["state"]})


@router.patch(
    "/{device_id}",
    response_model=None,
    responses={200: {"model": View}, **documented(404, 409)},
    openapi_extra=described(SPEC, new=False),
)
async def update(
    request: Request, device_id: DeviceId, body: Annotated[dict[str, Any], Body()], principal: Writer
) -> Response:
    """Change the members that are given. ``person_id`` moves the device to that person; null takes it away."""
    services = services_of(request)
    await _visible(services, principal, device_id)
    await require_owner(services, principal, body)
    version, reason = take_version(body), take_reason(body)
    profiles, at_us, actor = _profiles(services), services.clock.now_us(), actor_of(principal)
    view = await services.store.write(
        lambda c: update_device(
            c, device_id, body, known_profiles=profiles, at_us=at_us, actor=actor, version=version, reason=reason
        )
    )
    return answer(view)


@router.post(
    "/{device_id}/credentials",
    status_code=201,
    response_model=None,
    responses={201: {"model": NewToken}, **documented(404, 409)},
)
async def rotate(request: Request, device_id: DeviceId, principal: Writer, body: Rotation | None = None) -> Response:
    """A new token. The earlier ones end at once, or after ``grace_s``."""
    services = services_of(request)
    await _visible(services, principal, device_id)
    grace_s, at_us, actor = body.grace_s if body else 0, services.clock.now_us(), actor_of(principal)
    token = await services.store.write(lambda c: issue_token(c, device_id, at_us=at_us, actor=actor, grace_s=grace_s))
    return answer({"device_id": device_id, "token": token}, 201)


@router.post(
    "/{device_id}/replace",
    status_code=201,
    response_model=None,
    responses={201: {"model": View}, **documented(404, 409)},
    openapi_extra=described(SPEC, new=True),
)
async def replace(
    request: Request, device_id: DeviceId, body: Annotated[dict[str, Any], Body()], principal: Writer
) -> Response:
    """Put the device of the body in this one's place: it takes over person and place, this one is retired."""
    services = services_of(request)
    await _visible(services, principal, device_id)
    new_id, reason = take_id(SPEC, body), take_reason(body)
    await require_owner(services, principal, body)
    profiles, at_us, actor = _profiles(services), services.clock.now_us(), actor_of(principal)
    view, token = await services.store.write(
        lambda c: replace_device(
            c, device_id, new_id, body, known_profiles=profiles, at_us=at_us, actor=actor, reason=reason
        )
    )
    return answer({**view, "token": token}, 201, {"location": f"/api/v1/devices/{new_id.strip()}"})


@router.post("/{device_id}/{action}", response_model=None, responses={200: {"model": View}, **documented(404, 409)})
async def change_state(
    request: Request,
    device_id: DeviceId,
    action: Literal["suspend", "resume", "retire"],
    principal: Writer,
    body: Reason | None = None,
) -> Response:
    """Suspended, a device's token opens no connection; retired, it belongs to nobody and its tokens are gone."""
    services = services_of(request)
    await _visible(services, principal, device_id)
    reason, at_us, actor = body.reason if body else "", services.clock.now_us(), actor_of(principal)
    view = await services.store.write(
        lambda c: set_state(c, device_id, action, at_us=at_us, actor=actor, reason=reason)
    )
    return answer(view)


def _brief(services: Services, device: View) -> View:
    return {} if services.live is None else services.live.brief(device["device_id"])


def _profiles(services: Services) -> frozenset[str]:
    return frozenset(str(profile["name"]) for profile in services.profiles.list())


async def _visible(services: Services, principal: ApiKey, device_id: str) -> View:
    view = await services.store.read(lambda c: show_device(c, device_id))
    if not sees(await visible_persons(services, principal), view["person_id"], principal):
        raise NotFoundError(f"no device {device_id!r}")
    return view
