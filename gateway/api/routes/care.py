"""Care: caring messages and "I'm OK" checks, who does not want them, and what came of them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response

from gateway.api import services as ports
from gateway.api.answers import Id, Limit, ShortText, answer
from gateway.api.auth import actor_of, may, require_person, sees, services_of, visible_persons
from gateway.api.problems import documented, refuse
from gateway.api.services import Services
from gateway.errors import NotFoundError
from gateway.registry.contacts import show_contact
from gateway.registry.keys import ApiKey
from gateway.registry.persons import show_person

router = APIRouter(prefix="/care", tags=["care"])
ScheduleId = Annotated[Id, Path(description="id of the schedule")]
PersonId = Annotated[Id, Path(description="id of the person")]
Reader = Annotated[ApiKey, Depends(may("care.read"))]
Planner = Annotated[ApiKey, Depends(may("care.write"))]
Operator = Annotated[ApiKey, Depends(may("care.act"))]
Time = Annotated[str, StringConstraints(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
Days = Annotated[str, StringConstraints(pattern=r"^[1-7]{1,7}$")]
Words = Annotated[str, StringConstraints(max_length=300)]
WaitMinutes = Annotated[int, Field(ge=5, le=240)]
Tries = Annotated[int, Field(ge=1, le=5)]


class Kind(StrEnum):
    message = "message"
    check = "check"


class Medium(StrEnum):
    sms = "sms"
    voice = "voice"


class Answer(StrEnum):
    well = "well"
    help = "help"


class Schedule(BaseModel):
    """What is said to whom and when; times are those of the person's own clock."""

    model_config = ConfigDict(extra="forbid")

    id: ShortText = Field("", description="a name for it; without it person, kind and time are the name")
    person_id: Id
    contact_id: ShortText = Field("", description="to this contact; without it to the person")
    kind: Kind = Field(description="a message, or a check whose silence becomes an alert")
    medium: Medium = Medium.voice
    at: Time = Field(description="07:00 to 20:59", examples=["09:00"])
    days: Days = Field("1234567", description="1 is Monday")
    words: Words = Field("", description="what to say; without them the standard words")
    since: Time = Field("05:00", description="of a check: a sign of life after this is an answer")
    wait_minutes: WaitMinutes = Field(15, description="of a check: how long one question waits")
    tries: Tries = Field(2, description="of a check: how often it is asked")


class Changes(BaseModel):
    """The members that are to be different."""

    model_config = ConfigDict(extra="forbid")

    medium: Medium | None = None
    at: Time | None = None
    days: Days | None = None
    words: Words | None = None
    since: Time | None = None
    wait_minutes: WaitMinutes | None = None
    tries: Tries | None = None


class ScheduleView(BaseModel):
    """The members that every schedule has; a check has ``since``, ``wait_minutes`` and ``tries`` as well."""

    model_config = ConfigDict(extra="allow")

    id: str
    person_id: str
    contact_id: str | None
    kind: str
    medium: str
    at: str
    days: str
    words: str
    next_at: str


class OptOut(BaseModel):
    """Of all of it, or of one medium; of the person, or of one of their contacts. Alarms still reach everybody."""

    model_config = ConfigDict(extra="forbid")

    contact_id: ShortText = ""
    medium: Medium | None = None


class OptOutView(BaseModel):
    person_id: str
    contact_id: str | None
    medium: str | None
    at: str
    actor: str


class Said(BaseModel):
    """What the person said to whoever asked: by telephone, at the door."""

    model_config = ConfigDict(extra="forbid")

    answer: Answer


class OccasionView(BaseModel):
    """One time that a schedule came due. ``state``: asking, sent, answered, help, unanswered, skipped, failed."""

    model_config = ConfigDict(extra="allow")

    id: int
    schedule_id: str
    person_id: str
    day: str
    state: str
    reason: str | None
    alert_id: str | None


Occasions: dict[int | str, dict[str, Any]] = {200: {"model": list[OccasionView]}}


@router.get("/schedules", response_model=None, responses={200: {"model": list[ScheduleView]}})
async def list_schedules(
    request: Request, principal: Reader, person_id: ShortText = "", limit: Limit = 100
) -> Response:
    """What is said to whom and when, by id."""
    services = services_of(request)
    person_id = person_id or principal.person_id
    return await _seen(services, principal, await _care(services).schedules(person_id=person_id, limit=limit))


@router.post("/schedules", response_model=None, status_code=201,
             responses={201: {"model": ScheduleView}, **documented(404, 409)})  # fmt: skip
async def add(request: Request, body: Schedule, principal: Planner) -> Response:
    """One more. A check asks the person; to a contact go messages only."""
    services = services_of(request)
    timezone = await _timezone(services, principal, body.person_id, body.contact_id)
    members = body.model_dump(mode="json", exclude={"person_id", "id"}) | {"name": body.id}
    return answer(await _care(services).add(body.person_id, members, timezone, actor=actor_of(principal)), 201)


@router.get("/schedules/{schedule_id}", response_model=None,
            responses={200: {"model": ScheduleView}, **documented(404)})  # fmt: skip
async def show(request: Request, schedule_id: ScheduleId, principal: Reader) -> Response:
    return answer(await _visible(services_of(request), principal, schedule_id))


@router.patch("/schedules/{schedule_id}", response_model=None,
              responses={200: {"model": ScheduleView}, **documented(404)})  # fmt: skip
async def change(request: Request, schedule_id: ScheduleId, body: Changes, principal: Planner) -> Response:
    """A question that is under way goes on as it began."""
    services = services_of(request)
    found = await _visible(services, principal, schedule_id)
    timezone = await _timezone(services, principal, found["person_id"], "")
    changes = body.model_dump(mode="json", exclude_none=True)
    return answer(await _care(services).change(schedule_id, changes, timezone, actor=actor_of(principal)))


@router.delete("/schedules/{schedule_id}", status_code=204, response_model=None, responses=documented(404))
async def stop(request: Request, schedule_id: ScheduleId, principal: Planner) -> Response:
    """Nothing more is said on it; a question that is under way is dropped."""
    services = services_of(request)
    await _visible(services, principal, schedule_id)
    await _care(services).stop(schedule_id, actor=actor_of(principal))
    return Response(status_code=204)


@router.get("/opt-outs", response_model=None, responses={200: {"model": list[OptOutView]}})
async def list_opt_outs(request: Request, principal: Reader, person_id: ShortText = "", limit: Limit = 100) -> Response:
    """Who does not want it."""
    services = services_of(request)
    person_id = person_id or principal.person_id
    return await _seen(services, principal, await _care(services).opt_outs(person_id=person_id, limit=limit))


@router.post("/persons/{person_id}/opt-outs", response_model=None,
             responses={200: {"model": list[OptOutView]}, **documented(404)})  # fmt: skip
async def opt_out(request: Request, person_id: PersonId, body: OptOut, principal: Operator) -> Response:
    """They do not want it; all of the person's opt-outs. Twice is once."""
    services = services_of(request)
    await _timezone(services, principal, person_id, body.contact_id)
    medium = body.medium.value if body.medium else ""
    found = await _care(services).opt_out(person_id, body.contact_id, medium, actor=actor_of(principal))
    return answer(found)


@router.delete("/persons/{person_id}/opt-outs", status_code=204, response_model=None, responses=documented(404))
async def opt_in(
    request: Request,
    person_id: PersonId,
    principal: Operator,
    contact_id: Annotated[ShortText, Query(description="of this contact; without it of the person")] = "",
) -> Response:
    """They want it again, by every medium."""
    services = services_of(request)
    await require_person(services, principal, person_id)
    await _care(services).opt_in(person_id, contact_id, actor=actor_of(principal))
    return Response(status_code=204)


@router.get("/occasions", response_model=None, responses=Occasions)
async def list_occasions(
    request: Request, principal: Reader, person_id: ShortText = "", limit: Limit = 100
) -> Response:
    """What was said, what was answered, and what came of it; newest first."""
    services = services_of(request)
    person_id = person_id or principal.person_id
    return await _seen(services, principal, await _care(services).occasions(person_id=person_id, limit=limit))


@router.post("/persons/{person_id}/answer", response_model=None, responses={**Occasions, **documented(404)})
async def take_answer(request: Request, person_id: PersonId, body: Said, principal: Operator) -> Response:
    """Somebody talked to the person. ``well`` answers what is asked now and clears what a silence raised (a person ends
    it); ``help`` is an SOS. The person's newest occasions.
    """
    services = services_of(request)
    await _timezone(services, principal, person_id, "")
    return answer(await _care(services).answer(person_id, body.answer.value, actor=actor_of(principal)))


def _care(services: Services) -> ports.Care:
    if services.care is None:
        raise refuse(503, "this gateway has no care")
    return services.care


async def _seen(services: Services, principal: ApiKey, found: list[dict[str, Any]]) -> Response:
    visible = await visible_persons(services, principal)
    return answer([each for each in found if sees(visible, each["person_id"], principal)])


async def _visible(services: Services, principal: ApiKey, schedule_id: str) -> dict[str, Any]:
    found = await _care(services).schedule(schedule_id)
    if not sees(await visible_persons(services, principal), found["person_id"], principal):
        raise NotFoundError(f"there is no care schedule {schedule_id}")
    return found


async def _timezone(services: Services, principal: ApiKey, person_id: str, contact_id: str) -> str:
    """The person's. Raises NotFoundError for a person that is not there or not the principal's, and for a contact that
    is not the person's.
    """
    await require_person(services, principal, person_id)
    person = await services.store.read(lambda c: show_person(c, person_id))
    if contact_id:
        contact = await services.store.read(lambda c: show_contact(c, contact_id))
        if contact["person_id"] != person_id:
            raise NotFoundError(f"{person_id} has no contact {contact_id}")
    return str(person["timezone"])
