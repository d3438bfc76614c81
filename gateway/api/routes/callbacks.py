"""What carriers call back. Not of the API: each carrier proves itself in its own way, and speaks its own language."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gateway.api.auth import services_of
from gateway.api.services import Callbacks
from gateway.errors import NotFoundError

router = APIRouter(prefix="/callbacks", include_in_schema=False)


@router.post("/twilio/{rest:path}", response_model=None)  # noqa: FAST003 - the raw path is what counts
async def twilio(request: Request) -> Response:
    """Answered once what it tells is durable. Path and query count as they came: they are signed."""
    took = await _callbacks(request).take_twilio(
        _raw_path(request.scope), request.scope["query_string"].decode("latin-1"), request.headers, await request.body()
    )
    return Response(took[2], took[0], media_type=took[1])


@router.post("/aliyun/{token}", response_model=None)  # noqa: FAST003 - as above
async def aliyun(request: Request) -> Response:
    """As above. The token in the path is the proof."""
    took = await _callbacks(request).take_aliyun(_raw_path(request.scope), await request.body())
    return Response(took[2], took[0], media_type=took[1])


def _callbacks(request: Request) -> Callbacks:
    callbacks = services_of(request).callbacks
    if callbacks is None:
        raise NotFoundError("no such callback")
    return callbacks


def _raw_path(scope: Any) -> str:
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0].decode("latin-1")
