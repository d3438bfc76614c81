"""Whom a person designated to be told."""

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
from gateway.registry.contacts import SPEC, add_contact, list_contacts, show_contact, update_contact
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/contacts", tags=["contacts"])
View = dict[str, Any]
ContactId = Annotated[Id, Path(examples=["P-0001.1"])]
Reader = Annotated[ApiKey, Depends(may("contacts.read"))]
Writer = Annotated[ApiKey, Depends(may("contacts.write"))]


@router.get("", response_model=None, responses={200: {"model": list[View]}})
async def index(
    request: Request, principal: Reader, person_id: ShortText = "", state: ShortText = "active", limit: Limit = 1000
) -> Response:
    """Contacts: of one person in the order in which they are told, else by id."""
    services = services_of(request)
    visible = await visible_persons(services, principal)
    person_id = person_id or principal.person_id
    found = await services.store.read(lambda c: list_contacts(c, person_id=person_id, state=state, limit=limit))
    return answer([contact for contact in found if sees(visible, contact["person_id"], principal)])


@router.post(
    "",
    status_code=201,
    response_model=None,
    responses={201: {"model": View}, **documented(404, 409)},
    openapi_extra=described(SPEC, new=True, id_optional=True),
)
async def add(request: Request, body: Annotated[dict[str, Any], Body()], principal: Writer) -> Response:
    """Add a contact; without ``contact_id`` one is made up."""
    services = services_of(request)
    contact_id = take_id(SPEC, body, optional=True)
    await require_owner(services, principal, body)
    at_us, actor = services.clock.now_us(), actor_of(principal)
    view = await services.store.write(lambda c: add_contact(c, contact_id, body, at_us=at_us, actor=actor))
    return answer(view, 201, {"location": f"/api/v1/contacts/{view['contact_id']}"})


@router.get("/{contact_id}", response_model=None, responses={200: {"model": View}, **documented(404)})
async def show(request: Request, contact_id: ContactId, principal: Reader) -> Response:
    return answer(await _visible(services_of(request), principal, contact_id))


@router.patch(
    "/{contact_id}",
    response_model=None,
    responses={200: {"model": View}, **documented(404, 409)},
    openapi_extra=described(SPEC, new=False),
)
async def update(
    request: Request, contact_id: ContactId, body: Annotated[dict[str, Any], Body()], principal: Writer
) -> Response:
    """Change the members that are given; ``state: removed`` ends being told."""
    services = services_of(request)
    await _visible(services, principal, contact_id)
    await require_owner(services, principal, body)
    version, reason = take_version(body), take_reason(body)
    at_us, actor = services.clock.now_us(), actor_of(principal)
    view = await services.store.write(
        lambda c: update_contact(c, contact_id, body, at_us=at_us, actor=actor, version=version, reason=reason)
    )
    return answer(view)


async def _visible(services: Services, principal: ApiKey, contact_id: str) -> View:
    view = await services.store.read(lambda c: show_contact(c, contact_id))
    if not sees(await visible_persons(services, principal), view["person_id"], principal):
        raise NotFoundError(f"no contact {contact_id!r}")
    return view
