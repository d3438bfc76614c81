"""What FastAPI cannot know of the API: the ingest endpoint, and that every error is a problem."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from gateway.api.problems import MEDIA_TYPE

_PROBLEM = {"$ref": "#/components/schemas/Problem"}


def complete(api: FastAPI) -> None:
    """Make /openapi.json complete."""
    generate = api.openapi

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            schema = generate()
            schema["paths"]["/ingest/v1/{device_id}"] = _ingest()
            for path in schema["paths"].values():
                for operation in path.values():
                    if "requestBody" in operation:
                        operation["responses"].setdefault("400", {"description": "the body is not UTF-8"})
                    _problems_only(operation)
            schema["components"]["schemas"].pop("HTTPValidationError", None)
            schema["components"]["schemas"].pop("ValidationError", None)
            api.openapi_schema = schema
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]  # the documented way to extend the schema


def _problems_only(operation: dict[str, Any]) -> None:
    for status, response in operation["responses"].items():
        if (status >= "400" and status != "503") or _is_problem(response):
            response["content"] = {MEDIA_TYPE: {"schema": _PROBLEM}}


def _is_problem(response: dict[str, Any]) -> bool:
    return MEDIA_TYPE in response.get("content", {})


def _ingest() -> dict[str, Any]:
    def refused(text: str) -> dict[str, Any]:
        return {"description": text, "content": {MEDIA_TYPE: {"schema": _PROBLEM}}}

    return {
        "post": {
            "tags": ["ingest"],
            "summary": "A frame of a device",
            "description": "Answered 202 only once the frame is durable. A frame that cannot be read is kept as well, "
            "with its fault. A frame with a wrong or missing token is kept as unverified, within bounds per sender.",
            "operationId": "ingest",
            "security": [{"device_token": []}],
            "parameters": [
                {
                    "name": "device_id",
                    "in": "path",
                    "required": True,
                    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
                },
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "required": False,
                    "description": "makes a resend a duplicate when the frame itself has no seq",
                    "schema": {"type": "string", "maxLength": 128},
                },
            ],
            "requestBody": {
                "required": True,
                "description": "at most 65536 bytes, in the format of the device's profile; natively JSON",
                "content": {
                    "application/json": {
                        "schema": {},
                        "example": {"seq": 17, "signals": ["sos"], "measurements": {"heart_rate_bpm": 72}},
                    },
                    "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                },
            },
            "responses": {
                "202": {
                    "description": "durable",
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "required": ["status"],
                                "properties": {"status": {"const": "accepted"}},
                            }
                        }
                    },
                },
                "401": refused("wrong or missing token"),
                "404": refused("no id that a device could have"),
                "408": refused("the body came too slowly"),
                "413": refused("longer than 65536 bytes"),
                "503": refused("not durable; send it again after Retry-After seconds"),
            },
        }
    }
