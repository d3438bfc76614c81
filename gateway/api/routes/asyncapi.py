"""The AsyncAPI document of the events, where clients look for it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from fastapi import APIRouter
from starlette.responses import Response

from gateway.api.problems import documented
from gateway.errors import NotFoundError

router = APIRouter(tags=["events"])

YAML: Final = "application/yaml"
DOCUMENT: Final = Path(__file__).resolve().parents[3] / "docs" / "asyncapi.yaml"


@router.get(
    "/asyncapi.yaml",
    response_model=None,
    response_class=Response,
    responses={200: {"content": {YAML: {"schema": {"type": "object"}}}}, **documented(404)},
)
def asyncapi() -> Response:
    """AsyncAPI 3.0 of Redis Streams, WebSocket, server-sent events and webhooks."""
    try:
        text = DOCUMENT.read_bytes()
    except OSError:
        raise NotFoundError("the document is in docs/asyncapi.yaml of the source tree") from None
    return Response(text, media_type=YAML)
