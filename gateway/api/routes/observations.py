"""What was measured, and where somebody was."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, StringConstraints
from starlette.responses import Response

from gateway.api.answers import Id, Time, answer, bucket_seconds, time_range
from gateway.api.auth import may, require_person, services_of
from gateway.api.problems import documented
from gateway.errors import NotFoundError, UsageError
from gateway.model import METRICS
from gateway.registry.keys import ApiKey

router = APIRouter(tags=["observations"])
GEOJSON = "application/geo+json"

PersonId = Annotated[Id, Query(examples=["P-0001"])]
From = Annotated[Time | None, Query(alias="from", description="without it: a day before `to`")]
To = Annotated[Time | None, Query(description="without it: now")]
PointLimit = Annotated[int, Query(ge=1, le=10_000, description="at most so many, oldest first")]
MetricName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$"),
    Query(description="a metric of the model, or a profile's own, x_...", examples=["heart_rate_bpm"]),
]


class Point(BaseModel):
    """Raw: value and device_id. Bucketed: count, min, max and mean."""

    at: str
    value: float | None = None
    device_id: str | None = None
    count: int | None = None
    min: float | None = None
    max: float | None = None
    mean: float | None = None


@router.get("/observations", response_model=None, responses={200: {"model": list[Point]}, **documented(404)})
async def series(
    request: Request,
    principal: Annotated[ApiKey, Depends(may("observations.read"))],
    person_id: PersonId,
    metric: MetricName,
    from_: From = None,
    to: To = None,
    bucket: Annotated[str | None, Query(max_length=16, description="30s, 5m, 1h, 1d; without it: raw")] = None,
    limit: PointLimit = 1000,
) -> Response:
    """A metric of a person over time."""
    if metric not in METRICS and not metric.startswith("x_"):
        raise UsageError(f"query.metric: {metric} is not one of {', '.join(METRICS)}, and does not begin with x_")
    services = services_of(request)
    from_us, to_us = time_range(from_, to, services.clock.now_us())
    bucket_s = bucket_seconds(bucket)
    await require_person(services, principal, person_id)
    return answer(await services.history.series(person_id, metric, from_us, to_us, bucket_s, limit))


@router.get(
    "/persons/{person_id}/latest", response_model=None, responses={200: {"model": dict[str, Any]}, **documented(404)}
)
async def latest(
    request: Request,
    person_id: Annotated[Id, Path()],
    principal: Annotated[ApiKey, Depends(may("observations.read"))],
) -> Response:
    """The newest value of each metric and signal of a person, and the newest position."""
    services = services_of(request)
    await require_person(services, principal, person_id)
    return answer(await services.history.latest(person_id))


@router.get(
    "/persons/{person_id}/state", response_model=None, responses={200: {"model": dict[str, Any]}, **documented(404)}
)
async def live_state(
    request: Request,
    person_id: Annotated[Id, Path()],
    principal: Annotated[ApiKey, Depends(may("observations.read"))],
) -> Response:
    """As ``latest``, from memory: what came in since the journal's end was read at the last start."""
    services = services_of(request)
    await require_person(services, principal, person_id)
    if services.live is None:
        raise NotFoundError("there is no live state here")
    return answer(services.live.person(person_id))


@router.get(
    "/positions",
    response_model=None,
    response_class=Response,
    responses={200: {"content": {GEOJSON: {"schema": {"type": "object"}}}}, **documented(404)},
)
async def positions(
    request: Request,
    principal: Annotated[ApiKey, Depends(may("observations.read"))],
    person_id: PersonId,
    from_: From = None,
    to: To = None,
    limit: PointLimit = 1000,
) -> Response:
    """A GeoJSON FeatureCollection (RFC 7946, WGS-84), oldest first."""
    services = services_of(request)
    from_us, to_us = time_range(from_, to, services.clock.now_us())
    await require_person(services, principal, person_id)
    found = await services.history.positions(person_id, from_us, to_us, limit)
    return Response(msgspec.json.encode(found), media_type=GEOJSON)
