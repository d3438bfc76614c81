"""/healthz, /readyz, /metrics, and the status of the parts for who has a key."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import PlainTextResponse, Response

from gateway.api.answers import answer
from gateway.api.auth import may, services_of
from gateway.registry.keys import ApiKey

router = APIRouter(tags=["health"])
api_router = APIRouter(tags=["health"])


class PartView(BaseModel):
    name: str
    ok: bool
    text: str
    required: bool


class Readiness(BaseModel):
    ready: bool
    at: str
    parts: list[PartView]


class Status(Readiness):
    versions: dict[str, str]


@router.get("/healthz", response_class=PlainTextResponse)
async def healthz() -> PlainTextResponse:
    """The process lives and its loop turns."""
    return PlainTextResponse("ok\n")


@router.get(
    "/readyz",
    response_model=None,
    responses={
        200: {"model": Readiness},
        503: {"model": Readiness, "description": "cannot commit, or a required part is down"},
    },
)
async def readyz(request: Request) -> Response:
    """A committed write, at most two seconds old; and the state of each part."""
    ready, report = await services_of(request).health.report()
    return answer(report, 200 if ready else 503)


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Prometheus text format, or OpenMetrics."""
    page, content_type = services_of(request).metrics.render(request.headers.get("accept", ""))
    return Response(page, headers={"content-type": content_type})


@api_router.get("/status", response_model=None, responses={200: {"model": Status}})
async def status(request: Request, _principal: Annotated[ApiKey, Depends(may("status.read"))]) -> Response:
    """Each part's state, and the versions of carebell and of what it is built on."""
    services = services_of(request)
    _, report = await services.health.report()
    content: dict[str, Any] = {**report, "versions": dict(services.versions)}
    return answer(content)
