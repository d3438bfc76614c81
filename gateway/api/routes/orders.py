"""Orders at the platform: what became of them, and the platform's callback (contracts, section 5)."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from gateway.api.answers import Id, Limit, LongText, ShortText, Time, answer
from gateway.api.auth import actor_of, may, sees, services_of, visible_persons
from gateway.api.problems import documented
from gateway.api.routes import cases, checkins
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/orders", tags=["orders"])
router.include_router(cases.router)
router.include_router(checkins.router)


class OrderStatus(StrEnum):
    accepted = "accepted"
    dispatched = "dispatched"
    arrived = "arrived"
    completed = "completed"
    cancelled = "cancelled"
    complained = "complained"
    followed_up = "followed_up"


class StatusBody(BaseModel):
    """A step of an order. Members that this version does not know are ignored."""

    status: OrderStatus
    at: Time | None = Field(None, description="when it happened; without it: now")
    organization: ShortText | None = None
    worker: ShortText | None = None
    note: LongText | None = None
    service_code: ShortText | None = Field(None, description="with arrived: the code that the person was shown")


class OrderView(BaseModel):
    model_config = ConfigDict(extra="allow")

    alert_id: str


@router.get("", response_model=None, responses={200: {"model": list[OrderView]}})
async def list_orders(
    request: Request,
    principal: Annotated[ApiKey, Depends(may("orders.read"))],
    open_only: Annotated[bool, Query(alias="open", description="only those of open alerts")] = False,
    person_id: ShortText = "",
    limit: Limit = 100,
) -> Response:
    """The orders of the newest ``limit`` alerts."""
    services = services_of(request)
    visible = await visible_persons(services, principal)
    found = await services.desk.alerts(open_only=open_only, person_id=person_id, limit=limit)
    orders: list[dict[str, Any]] = [
        {"alert_id": alert["id"], **alert["order"]}
        for alert in found
        if alert.get("order") and sees(visible, alert.get("person_id"), principal)
    ]
    return answer(orders)


@router.post(
    "/{order_id}/status", response_model=None, responses={200: {"model": dict[str, Any]}, **documented(404, 409)}
)
async def order_status(
    request: Request,
    order_id: Annotated[Id, Path(description="the platform's id of the order")],
    body: StatusBody,
    principal: Annotated[ApiKey, Depends(may("orders.callback"))],
) -> Response:
    """The platform tells how an order goes on. The same step twice is one step."""
    status = body.model_dump(mode="json", exclude_none=True)
    return answer(await services_of(request).desk.order_status(order_id, status, actor=actor_of(principal)))
