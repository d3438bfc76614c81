"""Staff who check in and out at the person's door: the service code of their order, read by a terminal or an app."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.security import HTTPAuthorizationCredentials
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from gateway.api.answers import ShortText, Time, answer
from gateway.api.auth import actor_of, authenticated, bearer, may, principal_of, services_of
from gateway.api.problems import documented, refuse
from gateway.model import Actor
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/checkins")


class Direction(StrEnum):
    in_ = "in"
    out = "out"


class Method(StrEnum):
    nfc = "nfc"
    ble = "ble"
    qr = "qr"
    ic_card = "ic_card"
    keyed = "keyed"


class CheckIn(BaseModel):
    """A service code that was read. Who tells it is the backend, staff, or a device of the registry by its token."""

    model_config = ConfigDict(extra="forbid")

    service_code: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    staff_id: Annotated[str, StringConstraints(min_length=1, max_length=64)] = Field(description="who came")
    direction: Direction = Direction.in_
    device_id: ShortText = Field("", description="the terminal; needed with a device's token")
    method: Method | None = None
    at: Time | None = Field(None, description="when it was read; without it: now")


class VisitView(BaseModel):
    model_config = ConfigDict(extra="allow")

    alert_id: str
    number: int
    order_id: str | None
    staff_id: str
    in_at: str
    out_at: str | None


async def _key(
    request: Request, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]
) -> ApiKey | None:
    """The holder of a key that may do this; None for what may be a device's token. Raises 401 and 403."""
    if credentials is None or await principal_of(services_of(request), credentials.credentials) is not None:
        return await may("orders.checkin")(await authenticated(request, credentials))
    return None


async def _actor(request: Request, body: CheckIn, key: ApiKey | None) -> Actor:
    """Who tells it. Raises 401."""
    if key is not None:
        return actor_of(key)
    devices, token = services_of(request).credentials, request.headers["authorization"].partition(" ")[2].strip()
    device = None if devices is None else await devices.authenticate(body.device_id, token.encode())
    if device is None:
        raise refuse(401, "this needs a key, or device_id and that device's token", {"www-authenticate": "Bearer"})
    return Actor("device", device.device_id, channel="terminal")


@router.post("", response_model=None, status_code=200, responses={200: {"model": VisitView}, **documented(404, 409)})
async def check_in(request: Request, body: CheckIn, key: Annotated[ApiKey | None, Depends(_key)]) -> Response:
    """``in`` begins the service and uses the code up; ``out`` ends the visit. An unknown code is a 404, a used one and
    one of an order that has ended a 409. The same scan told again within five minutes changes nothing.
    """
    services = services_of(request)
    if services.orders is None:
        raise refuse(503, "this gateway keeps no orders")
    actor = await _actor(request, body, key)
    told: dict[str, Any] = body.model_dump(mode="json", exclude_none=True, exclude={"device_id"})
    return answer(await services.orders.check_in(told, device_id=body.device_id, actor=actor))
