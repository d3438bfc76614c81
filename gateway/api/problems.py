"""Every error of the API is a problem (RFC 9457)."""

from __future__ import annotations

import http
import json
from collections.abc import Mapping
from typing import Any

import structlog
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.responses import Response

from gateway.errors import ConflictError, DeliveryError, NotFoundError, StorageError, UsageError

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5


class FieldProblem(BaseModel):
    """One member of the request that cannot be used."""

    field: str = Field(description="where it is, for example `body.version` or `query.limit`")
    reason: str


class Problem(BaseModel):
    """RFC 9457 problem details."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = Field(None, description="with 422: each member that is wrong, and why")
    alert: dict[str, Any] | None = Field(
        None, description="with 409 of an alert: id, version, handling and owner as they are now"
    )


class AlertConflictError(ConflictError):
    """A lost race for an alert, with the alert as it is now. Handler: the API (409)."""

    def __init__(self, detail: str, alert: Mapping[str, Any]) -> None:
        super().__init__(detail)
        self.alert = alert


def problem(status: int, detail: str, *, headers: Mapping[str, str] | None = None, **members: Any) -> Response:
    """The response. ``members`` are extensions."""
    body = {"type": "about:blank", "title": http.HTTPStatus(status).phrase, "status": status, "detail": detail}
    content = json.dumps({**body, **members}, ensure_ascii=False).encode("utf-8", "replace")
    return Response(content, status, dict(headers or {}), MEDIA_TYPE)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of these answers."""
    return {
        status: {
            "description": http.HTTPStatus(status).phrase,
            "model": Problem,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def install(app: FastAPI) -> None:
    """Make problems of all that handlers raise."""
    app.add_exception_handler(StarletteHTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UsageError, _usage)
    app.add_exception_handler(StorageError, _storage)
    app.add_exception_handler(DeliveryError, _delivery)
    app.add_exception_handler(Exception, _bug)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    detail = error.detail
    if error.status_code == 404 and detail == "Not Found":
        detail = f"there is no {request.url.path[:200]} here; /openapi.json lists what there is"
    elif error.status_code == 405:
        detail = f"{request.method} is not for {request.url.path[:200]}"
    return problem(error.status_code, detail, headers=error.headers)


async def _invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = [{"field": _place(entry), "reason": _reason(entry)} for entry in error.errors()[:50]]
    detail = "; ".join(f"{entry['field']}: {entry['reason']}" for entry in errors)
    return problem(422, detail[:2000], errors=errors)


def _place(entry: Mapping[str, Any]) -> str:
    location = entry["loc"]
    if entry["type"] == "json_invalid":
        return "body"  # the rest of the location is an offset
    return ".".join(str(part)[:100] for part in location)


def _reason(entry: Mapping[str, Any]) -> str:
    if entry["type"] == "json_invalid":
        return f"is not JSON: {entry['ctx']['error']} at character {entry['loc'][-1]}"
    return str(entry["msg"]).removeprefix("Value error, ")


async def _usage(_request: Request, error: Exception) -> Response:
    detail = str(error)
    if isinstance(error, NotFoundError):
        return problem(404, detail)
    if isinstance(error, AlertConflictError):
        return problem(409, detail, alert=error.alert)
    if isinstance(error, ConflictError):
        return problem(409, detail)
    found = getattr(error, "problems", None)  # gateway.registry.fields.FieldsError lists all that is wrong
    if found is None:
        return problem(422, detail)
    errors = [{"field": f"body.{entry.field}" if entry.field else "body", "reason": entry.text} for entry in found]
    return problem(422, detail[:2000], errors=errors)


async def _storage(_request: Request, _error: Exception) -> Response:
    return problem(503, "what this needs cannot be reached now; try again", headers={"retry-after": str(RETRY_AFTER_S)})


async def _delivery(_request: Request, error: Exception) -> Response:
    return problem(502, str(error))


async def _bug(_request: Request, error: Exception) -> Response:
    structlog.get_logger("api").error("request_failed", error=type(error).__name__)
    return problem(500, "a fault in carebell; it is logged")


def refuse(status: int, detail: str, headers: dict[str, str] | None = None) -> HTTPException:
    """The exception that becomes this problem, for use where a response cannot be returned."""
    return HTTPException(status, detail, headers)
