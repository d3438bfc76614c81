"""API keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from gateway.api.answers import Id, ShortText, answer
from gateway.api.auth import actor_of, may, services_of
from gateway.api.problems import documented
from gateway.registry.keys import ApiKey, issue_api_key, list_api_keys, revoke_api_key

router = APIRouter(prefix="/keys", tags=["keys"])
View = dict[str, Any]
Writer = Annotated[ApiKey, Depends(may("keys.write"))]


class NewKey(BaseModel):
    model_config = ConfigDict(extra="forbid")

    role: ShortText = Field(examples=["backend"])
    label: ShortText = Field(description="what it is for")
    district: ShortText | None = Field(None, description="it then sees this district only")
    person_id: ShortText | None = Field(None, description="for the role family: whom it sees")
    valid_days: int | None = Field(None, ge=1, le=3660)


@router.get("", response_model=None, responses={200: {"model": list[View]}})
async def index(request: Request, _principal: Writer) -> Response:
    """All keys, without their secrets, the revoked ones too."""
    return answer(await services_of(request).store.read(list_api_keys))


@router.post("", status_code=201, response_model=None, responses={201: {"model": View}, **documented(404)})
async def add(request: Request, body: NewKey, principal: Writer) -> Response:
    """Make a key. The answer has it as ``key``; it cannot be seen again."""
    services = services_of(request)
    values = body.model_dump(exclude={"valid_days"}, exclude_none=True)
    at_us, actor = services.clock.now_us(), actor_of(principal)
    view, key = await services.store.write(
        lambda c: issue_api_key(c, values, at_us=at_us, actor=actor, valid_days=body.valid_days)
    )
    return answer({**view, "key": key}, 201)


@router.post("/{key_id}/revoke", response_model=None, responses={200: {"model": View}, **documented(404, 409)})
async def revoke(request: Request, key_id: Annotated[Id, Path()], principal: Writer) -> Response:
    """End a key now."""
    services = services_of(request)
    at_us, actor = services.clock.now_us(), actor_of(principal)
    return answer(await services.store.write(lambda c: revoke_api_key(c, key_id, at_us=at_us, actor=actor)))
