"""The call log: who was called and written to, and what came of it (docs/call-log.md)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import apsw
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from gateway.api.answers import Limit, ShortText, Time, answer, page, parse_time
from gateway.api.auth import actor_of, may, sees, services_of, visible_persons
from gateway.api.problems import documented
from gateway.clock import to_us
from gateway.errors import NotFoundError
from gateway.registry import fields
from gateway.registry.keys import ApiKey
from gateway.storage import calls
from gateway.storage.calls import FULL_ROLES, MAX_ROWS, Question

router = APIRouter(tags=["calls"])
Reader = Annotated[ApiKey, Depends(may("calls.read"))]


class Medium(StrEnum):
    voice = "voice"
    sms = "sms"
    email = "email"
    chat = "chat"
    push = "push"
    webhook = "webhook"


class CallView(BaseModel):
    """The members that every call has; docs/call-log.md explains them all."""

    model_config = ConfigDict(extra="allow")

    id: int
    attempt_id: str
    direction: str
    medium: str
    provider: str
    alert_id: str
    person_id: str
    caller: str
    callee: str
    state: str
    digits: str
    created_at: str
    recordings: list[dict[str, Any]]
    held: bool


def _question(
    person_id: ShortText = "",
    alert_id: ShortText = "",
    contact_id: ShortText = "",
    number: Annotated[ShortText, Query(description="whole, in any spelling")] = "",
    medium: Medium | None = None,
    state: ShortText = "",
    from_: Annotated[Time | None, Query(alias="from", description="decided then or later")] = None,
    to: Annotated[Time | None, Query(description="decided before that")] = None,
    before: Annotated[int | None, Query(ge=1, le=2**53, description="id of a call: only older ones")] = None,
) -> Question:
    return Question(
        person_id=person_id,
        alert_id=alert_id,
        contact_id=contact_id,
        number=dialled(number),
        medium="" if medium is None else medium.value,
        state=state,
        from_us=None if from_ is None else to_us(parse_time(from_)),
        to_us=None if to is None else to_us(parse_time(to)),
        before=before,
    )


Asked = Annotated[Question, Depends(_question)]


def dialled(number: str) -> str:
    """A number as it is dialled; what is none (a service number, the name of an endpoint) as it is."""
    try:
        return str(fields.PHONE.parse(number)) if number else ""
    except ValueError:
        return number


@router.get("/calls", response_model=None, responses={200: {"model": list[CallView]}})
async def index(request: Request, principal: Reader, question: Asked, limit: Limit = 100) -> Response:
    """Calls and messages, newest first."""
    shown, last = await _search(request, principal, question, limit)
    return page(request, shown, limit, "before", "id", last=last)


@router.get(
    "/calls.csv",
    response_model=None,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}, "description": "RFC 4180, UTF-8"}},
)
async def export(
    request: Request,
    principal: Reader,
    question: Asked,
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS, description="at most so many")] = MAX_ROWS,
) -> Response:
    """The same as CSV, newest first. The export is in the audit."""
    services = services_of(request)
    shown, last = await _search(request, principal, question, limit)
    actor, now_us, masked = actor_of(principal), services.clock.now_us(), _masked(principal)
    await services.store.write(
        lambda c: calls.note_export(c, question, len(shown), actor=actor, now_us=now_us, masked=masked)
    )
    headers = {"content-disposition": 'attachment; filename="calls.csv"'}
    if last is not None:  # the same header as a page of JSON has
        headers |= {"link": page(request, [], limit, "before", "id", last=last).headers["link"]}
    return Response("".join(calls.to_csv(shown)), 200, headers, "text/csv; charset=utf-8")


@router.get("/calls/{call_id}", response_model=None, responses={200: {"model": CallView}, **documented(404)})
async def show(request: Request, call_id: Annotated[int, Path(ge=1, le=2**53)], principal: Reader) -> Response:
    """One call with everything that its provider told."""
    services = services_of(request)
    masked = _masked(principal)
    view = await services.store.read(lambda c: calls.show(c, call_id, masked=masked))
    if not sees(await visible_persons(services, principal), view["person_id"], principal):
        raise NotFoundError(f"there is no call {call_id} in the call log")
    return answer(view)


async def _search(
    request: Request, principal: ApiKey, question: Question, limit: int
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """What the principal may see of a page, and where the next one begins, None when this is the last."""
    services = services_of(request)
    visible = await visible_persons(services, principal)
    masked = _masked(principal)

    def read(connection: apsw.Connection) -> list[dict[str, Any]]:
        return calls.search(connection, question, limit=limit, masked=masked)

    found = await services.store.read(read)
    shown = [view for view in found if sees(visible, view["person_id"], principal)]
    return shown, found[-1] if len(found) >= limit else None


def _masked(principal: ApiKey) -> bool:
    return principal.role not in FULL_ROLES
