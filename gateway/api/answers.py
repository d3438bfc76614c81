"""What routes have in common: answers, times and durations in queries."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import msgspec
from fastapi import Query
from pydantic import AfterValidator, StringConstraints
from starlette.requests import Request
from starlette.responses import Response

from gateway.clock import to_us
from gateway.errors import UsageError

MAX_LIMIT: Final = 1000

Id = Annotated[str, StringConstraints(min_length=1, max_length=128)]
ShortText = Annotated[str, StringConstraints(max_length=200)]
LongText = Annotated[str, StringConstraints(max_length=2000)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="at most so many")]

_DURATION = re.compile(r"([0-9]{1,8})(s|m|h|d)?")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def answer(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """JSON as it is: the parts behind the API make JSON-ready views."""
    return Response(msgspec.json.encode(content), status, headers, "application/json")


def page(
    request: Request,
    items: list[dict[str, Any]],
    limit: int,
    cursor: str,
    member: str,
    *,
    last: dict[str, Any] | None = None,
) -> Response:
    """A JSON array; with a Link header (RFC 8288, rel="next") when it is as long as it may be.

    ``last`` is where the next page begins when ``items`` are only the visible ones of a full page.
    """
    headers = {}
    if last is None and len(items) >= limit:
        last = items[-1]
    if last is not None:
        query = dict(request.query_params) | {cursor: str(last[member])}
        headers["link"] = f'<{request.url.path}?{urlencode(query)}>; rel="next"'
    return answer(items, headers=headers)


def parse_time(value: str) -> datetime:
    """An RFC 3339 time with its zone. A blank before the offset is taken for the ``+`` that a URL made of it."""
    text = re.sub(r" (\d\d:?\d\d)$", r"+\1", value.strip())
    try:
        parsed = datetime.fromisoformat(text)
        to_us(parsed)
    except (ValueError, OverflowError):
        raise ValueError("must be a time with its zone (RFC 3339), such as 2026-11-22T01:02:03Z") from None
    if not 1970 <= parsed.year <= 9998:
        raise ValueError("must be between 1970 and 9998")
    return parsed


def _check_time(value: str) -> str:
    parse_time(value)
    return value


Time = Annotated[
    str, AfterValidator(_check_time), Query(description="RFC 3339 with its zone", examples=["2026-11-22T01:02:03Z"])
]


def time_range(from_: str | None, to: str | None, now_us: int, default_s: int = 86_400) -> tuple[int, int]:
    """Microseconds of both ends; without ``to`` now, without ``from`` a day before. Raises UsageError."""
    to_us_ = now_us if to is None else to_us(parse_time(to))
    from_us = to_us_ - default_s * 1_000_000 if from_ is None else to_us(parse_time(from_))
    if from_us >= to_us_:
        raise UsageError("query.from: must be before query.to")
    return from_us, to_us_


def bucket_seconds(value: str | None) -> int | None:
    """``300``, ``30s``, ``5m``, ``1h``, ``1d``: whole seconds, from 1 to 366 days. Raises UsageError."""
    if value is None:
        return None
    match = _DURATION.fullmatch(value.strip().lower())
    seconds = 0 if match is None else int(match[1]) * _SECONDS[match[2] or "s"]
    if not 1 <= seconds <= 366 * 86_400:
        raise UsageError("query.bucket: must be a duration such as 30s, 5m, 1h or 1d, at most 366d")
    return seconds
