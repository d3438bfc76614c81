"""Persons in care."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Path, Query, Request
from starlette.responses import Response

from gateway.api.answers import Id, Limit, ShortText, answer, page
from gateway.api.auth import actor_of, may, require_person, services_of
from gateway.api.bodies import described, keep_district, take_id, take_reason, take_version
from gateway.api.problems import documented
from gateway.registry.keys import ApiKey
from gateway.registry.persons import SPEC, add_person, list_persons, show_person, update_person

router = APIRouter(prefix="/persons", tags=["persons"])
View = dict[str, Any]
PersonId = Annotated[Id, Path(examples=["P-0001"])]


@router.get("", response_model=None, responses={200: {"model": list[View]}})
async def index(
    request: Request,
    principal: Annotated[ApiKey, Depends(may("persons.read"))],
    state: ShortText = "",
    district: ShortText = "",
    search: Annotated[ShortText, Query(description="a part of the id, the name or the phone")] = "",
    after: ShortText = "",
    limit: Limit = 100,
) -> Response:
    """Persons by id, behind ``after``."""
    services = services_of(request)
    if principal.person_id:
        mine = principal.person_id
        return answer([await services.store.read(lambda c: show_person(c, mine))])
    if principal.district:
        district = principal.district
    found = await services.store.read(
        lambda c: list_persons(c, state=state, district=district, search=search, after_id=after, limit=limit)
    )
    return page(request, found, limit, "after", "person_id")


@router.post(
    "",
    status_code=201,
    response_model=None,
    responses={201: {"model": View}, **documented(409)},
    openapi_extra=described(SPEC, new=True),
)
async def add(
    request: Request,
    body: Annotated[dict[str, Any], Body()],
    principal: Annotated[ApiKey, Depends(may("persons.write"))],
) -> Response:
    """Take a person into care."""
    services = services_of(request)
    person_id = take_id(SPEC, body)
    keep_district(body, principal.district, new=True)
    at_us, actor = services.clock.now_us(), actor_of(principal)
    view = await services.store.write(lambda c: add_person(c, person_id, body, at_us=at_us, actor=actor))
    return answer(view, 201, {"location": f"/api/v1/persons/{person_id.strip()}"})


@router.get("/{person_id}", response_model=None, responses={200: {"model": View}, **documented(404)})
async def show(
    request: Request, person_id: PersonId, principal: Annotated[ApiKey, Depends(may("persons.read"))]
) -> Response:
    """A person with devices, contacts, places and consents."""
    services = services_of(request)
    await require_person(services, principal, person_id)
    return answer(await services.store.read(lambda c: show_person(c, person_id)))


@router.patch(
    "/{person_id}",
    response_model=None,
    responses={200: {"model": View}, **documented(404, 409)},
    openapi_extra=described(SPEC, new=False),
)
async def update(
    request: Request,
    person_id: PersonId,
    body: Annotated[dict[str, Any], Body()],
    principal: Annotated[ApiKey, Depends(may("persons.write"))],
) -> Response:
    """Change the members that are given; null or blank empties one. ``state: ceased`` ends the service."""
    services = services_of(request)
    await require_person(services, principal, person_id)
    keep_district(body, principal.district, new=False)
    version, reason = take_version(body), take_reason(body)
    at_us, actor = services.clock.now_us(), actor_of(principal)
    view = await services.store.write(
        lambda c: update_person(c, person_id, body, at_us=at_us, actor=actor, version=version, reason=reason)
    )
    return answer(view)
