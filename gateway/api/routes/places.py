"""Homes and fences."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Request
from starlette.responses import Response

from gateway.api.answers import Id, Limit, ShortText, answer
from gateway.api.auth import actor_of, may, require_owner, sees, services_of, visible_persons
from gateway.api.bodies import described, take_id, take_reason, take_version
from gateway.api.problems import documented
from gateway.api.services import Services
from gateway.errors import NotFoundError
from gateway.registry.keys import ApiKey
from gateway.registry.places import SPEC, add_place, list_places, show_place, update_place

router = APIRouter(prefix="/places", tags=["places"])
View = dict[str, Any]
PlaceId = Annotated[Id, Path(examples=["home-0001"])]
Reader = Annotated[ApiKey, Depends(may("persons.read"))]
Writer = Annotated[ApiKey, Depends(may("persons.write"))]


@router.get("", response_model=None, responses={200: {"model": list[View]}})
async def index(request: Request, principal: Reader, person_id: ShortText = "", limit: Limit = 1000) -> Response:
    """Places that were not removed, by id; their geometry is GeoJSON (WGS-84 unless a setting names another datum)."""
    services = services_of(request)
    visible = await visible_persons(services, principal)
    person_id = person_id or principal.person_id
    found = await services.store.read(lambda c: list_places(c, person_id=person_id, limit=limit))
    return answer([place for place in found if sees(visible, place["person_id"], principal)])


@router.post(
    "",
    status_code=201,
    response_model=None,
    responses={201: {"model": View}, **documented(404, 409)},
    openapi_extra=described(SPEC, new=True),
)
async def add(request: Request, body: Annotated[dict[str, Any], Body()], principal: Writer) -> Response:
    """Add a place: a Point with ``radius_m``, a Polygon, or a LineString with ``width_m``."""
    services = services_of(request)
    place_id = take_id(SPEC, body)
    await require_owner(services, principal, body)
    at_us, actor = services.clock.now_us(), actor_of(principal)
    view = await services.store.write(lambda c: add_place(c, place_id, body, at_us=at_us, actor=actor))
    return answer(view, 201, {"location": f"/api/v1/places/{place_id.strip()}"})


@router.get("/{place_id}", response_model=None, responses={200: {"model": View}, **documented(404)})
async def show(request: Request, place_id: PlaceId, principal: Reader) -> Response:
    return answer(await _visible(services_of(request), principal, place_id))


@router.patch(
    "/{place_id}",
    response_model=None,
    responses={200: {"model": View}, **documented(404, 409)},
    openapi_extra=described(SPEC, new=False),
)
async def update(
    request: Request, place_id: PlaceId, body: Annotated[dict[str, Any], Body()], principal: Writer
) -> Response:
    """Change the members that are given; ``state: removed`` takes the place away."""
    services = services_of(request)
    await _visible(services, principal, place_id)
    await require_owner(services, principal, body)
    version, reason = take_version(body), take_reason(body)
    at_us, actor = services.clock.now_us(), actor_of(principal)
    view = await services.store.write(
        lambda c: update_place(c, place_id, body, at_us=at_us, actor=actor, version=version, reason=reason)
    )
    return answer(view)


async def _visible(services: Services, principal: ApiKey, place_id: str) -> View:
    view = await services.store.read(lambda c: show_place(c, place_id))
    if not sees(await visible_persons(services, principal), view["person_id"], principal):
        raise NotFoundError(f"no place {place_id!r}")
    return view
