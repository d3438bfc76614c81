"""What is on its way to other systems, and what could not be delivered."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import BaseModel, ConfigDict, StringConstraints
from starlette.responses import Response

from gateway.api.answers import Limit, ShortText, answer
from gateway.api.auth import actor_of, may, services_of
from gateway.api.problems import documented
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/outbox", tags=["outbox"])
Views = dict[str, Any]


class Reason(BaseModel):
    model_config = ConfigDict(extra="forbid")

    reason: Annotated[str, StringConstraints(min_length=1, max_length=500)]


@router.get("", response_model=None, responses={200: {"model": list[Views]}})
async def list_dispatches(
    request: Request,
    _principal: Annotated[ApiKey, Depends(may("outbox.read"))],
    state: ShortText = "",
    limit: Limit = 100,
) -> Response:
    """Dispatches, newest first; ``state`` narrows them."""
    return answer(await services_of(request).desk.outbox(state=state, limit=limit))


@router.post("/{dispatch_id}/{action}", response_model=None, responses={200: {"model": Views}, **documented(404, 409)})
async def act(
    request: Request,
    dispatch_id: Annotated[int, Path(ge=1, le=2**53)],
    action: Literal["retry", "discard"],
    body: Reason,
    principal: Annotated[ApiKey, Depends(may("outbox.act"))],
) -> Response:
    """Try a dead dispatch again, or give it up. The reason goes into the audit."""
    desk = services_of(request).desk
    return answer(await desk.outbox_act(dispatch_id, action, actor=actor_of(principal), reason=body.reason))
