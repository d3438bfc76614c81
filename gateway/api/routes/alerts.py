"""Alerts, and what an operator does with them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from gateway.api.answers import Id, Limit, LongText, ShortText, answer, page
from gateway.api.auth import actor_of, authenticated, may, sees, services_of, visible_persons
from gateway.api.problems import AlertConflictError, documented, refuse
from gateway.api.services import Shared
from gateway.errors import ConflictError, NotFoundError
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/alerts", tags=["alerts"])
AlertId = Annotated[Id, Path(description="id of the alert")]


class Action(StrEnum):
    accept = "accept"
    progress = "progress"
    release = "release"
    resolve = "resolve"
    note = "note"
    escalate = "escalate"
    assign = "assign"
    lower_severity = "lower"
    reopen = "reopen"
    presented = "presented"
    family_accept = "family_accept"
    family_release = "family_release"


UNVERSIONED: Final = frozenset({Action.note, Action.presented, Action.family_release})
"""What changes nothing about the alert itself."""
PERMISSION: Final[Mapping[Action, str]] = MappingProxyType(
    {
        Action.note: "alerts.note",
        Action.presented: "alerts.present",
        Action.family_accept: "alerts.family",
        Action.family_release: "alerts.family",
    }
)
"""What other actions than those of operators (``alerts.act``) need."""


class AlertView(BaseModel):
    """The members that every alert has; there may be more."""

    model_config = ConfigDict(extra="allow")

    id: str
    version: int
    kind: str
    severity: str = Field(examples=["P1"])
    condition: str
    handling: str
    person_id: str | None
    device_id: str | None
    occurrences: int
    raised_at: str
    order: dict[str, Any] | None


class ActionBody(BaseModel):
    """What was seen and what is done."""

    model_config = ConfigDict(extra="forbid")

    version: int | None = Field(
        None, ge=0, le=2**53, description="as it was seen; note, presented and family_release need none"
    )
    outcome: ShortText = Field("", description="with resolve: how it ended")
    note: LongText = ""
    detail: dict[str, Any] | None = Field(
        None, description="progress: `progress`; assign: `owner`; escalate, lower: `severity`"
    )


@router.get("", response_model=None, responses={200: {"model": list[AlertView]}})
async def list_alerts(
    request: Request,
    principal: Annotated[ApiKey, Depends(may("alerts.read"))],
    open_only: Annotated[bool, Query(alias="open", description="only those that nobody resolved yet")] = False,
    person_id: ShortText = "",
    kind: ShortText = "",
    limit: Limit = 100,
    before: Annotated[ShortText, Query(description="id of an alert: only older ones")] = "",
) -> Response:
    """Newest first."""
    services = services_of(request)
    visible = await visible_persons(services, principal)
    if principal.person_id:
        person_id = person_id or principal.person_id
    found = await services.desk.alerts(
        open_only=open_only, person_id=person_id, kind=kind, limit=limit, before_id=before
    )
    shown = [alert for alert in found if sees(visible, alert.get("person_id"), principal)]
    return page(request, shown, limit, "before", "id", last=found[-1] if len(found) >= limit else None)


@router.get("/{alert_id}", response_model=None, responses={200: {"model": AlertView}, **documented(404)})
async def show_alert(
    request: Request, alert_id: AlertId, principal: Annotated[ApiKey, Depends(may("alerts.read"))]
) -> Response:
    """One alert with its occurrences, transitions and order."""
    return answer(await visible_alert(services_of(request), principal, alert_id))


@router.post("/{alert_id}/{action}", response_model=None, responses={200: {"model": AlertView}, **documented(404, 409)})
async def act(
    request: Request,
    alert_id: AlertId,
    action: Action,
    body: ActionBody,
    principal: Annotated[ApiKey, Depends(authenticated)],
) -> Response:
    """Do something with an alert. Of two who do it at one time with one version, one gets 409 with the owner.

    ``presented`` is for consoles: a person saw it. ``family_accept`` and ``family_release`` are for keys of family.
    """
    await may(PERMISSION.get(action, "alerts.act"))(principal)
    if body.version is None and action not in UNVERSIONED:
        raise refuse(422, f"body.version: {action} needs the version of the alert that was seen")
    services = services_of(request)
    await visible_alert(services, principal, alert_id)
    try:
        alert = await services.desk.act(
            alert_id,
            action.value,
            actor=actor_of(principal),
            version=body.version,
            outcome=body.outcome,
            note=body.note,
            detail=body.detail,
        )
    except ConflictError as error:
        now = await services.desk.alert(alert_id)
        members = {name: now.get(name) for name in ("id", "version", "handling", "owner")}
        raise AlertConflictError(str(error), members) from error
    return answer(alert)


async def visible_alert(services: Shared, principal: ApiKey, alert_id: str) -> dict[str, Any]:
    alert = await services.desk.alert(alert_id)
    if not sees(await visible_persons(services, principal), alert.get("person_id"), principal):
        raise NotFoundError(f"there is no alert {alert_id}")
    return alert
