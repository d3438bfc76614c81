"""The device profiles that are loaded."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from starlette.responses import Response

from gateway.api.answers import Id, answer
from gateway.api.auth import may, services_of
from gateway.api.problems import documented
from gateway.errors import NotFoundError
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/profiles", tags=["profiles"])
View = dict[str, Any]


@router.get("", response_model=None, responses={200: {"model": list[View]}})
async def list_profiles(request: Request, _principal: Annotated[ApiKey, Depends(may("profiles.read"))]) -> Response:
    return answer(services_of(request).profiles.list())


@router.get("/{name}", response_model=None, responses={200: {"model": View}, **documented(404)})
async def show_profile(
    request: Request,
    name: Annotated[Id, Path(examples=["carebell.native"])],
    _principal: Annotated[ApiKey, Depends(may("profiles.read"))],
) -> Response:
    found = services_of(request).profiles.show(name)
    if found is None:
        raise NotFoundError(f"no profile {name!r}")
    return answer(found)
