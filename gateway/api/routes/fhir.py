"""FHIR R4: observations of a person, for who grades or treats (DB4110 5.4.3)."""

from __future__ import annotations

import calendar
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import Response

from gateway.api import fhir
from gateway.api.answers import parse_time
from gateway.api.auth import may, require_person, services_of
from gateway.api.problems import documented
from gateway.clock import from_us, iso, to_us
from gateway.errors import UsageError
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/fhir", tags=["fhir"])

DEFAULT_DAYS: Final = 30
POINTS: Final = 10_000  # of each metric are looked at for one page

_DATE = re.compile(r"(eq|ge|gt|le|lt|sa|eb)?(\d{4})(?:-(\d{2})(?:-(\d{2})(T.+)?)?)?")

Resource = dict[str, Any]
_FHIR: dict[int | str, dict[str, Any]] = {
    200: {"content": {fhir.MEDIA_TYPE: {"schema": {"type": "object", "required": ["resourceType"]}}}}
}


def _answer(resource: Resource) -> Response:
    return Response(msgspec.json.encode(resource), 200, None, f"{fhir.MEDIA_TYPE}; charset=utf-8")


@router.get("/metadata", response_model=None, responses=_FHIR)
async def metadata(request: Request, principal: Annotated[ApiKey, Depends(may("observations.read"))]) -> Response:
    """The CapabilityStatement."""
    del principal
    services = services_of(request)
    at = iso(services.clock.now_us())
    return _answer(fhir.capability(services.versions.get("carebell", "0"), at, _base(request)))


@router.get("/Observation", response_model=None, responses={**_FHIR, **documented(404)})
async def search(
    request: Request,
    principal: Annotated[ApiKey, Depends(may("observations.read"))],
    patient: Annotated[str, Query(max_length=140, description="the person's id, or Patient/<id>")],
    code: Annotated[str, Query(max_length=400, description="LOINC, several with commas; without it: all")] = "",
    date: Annotated[list[str] | None, Query(max_length=4, description="ge2026-11-01, lt2026-12-01T00:00:00Z")] = None,
    category: Annotated[str, Query(max_length=120, description="vital-signs or activity")] = "",
    count: Annotated[int, Query(alias="_count", ge=1, le=1000, description="at most so many a page")] = 200,
) -> Response:
    """A searchset of Observations, newest first. Without ``date``: the last 30 days."""
    services = services_of(request)
    person_id = patient.removeprefix("Patient/")
    from_us, until_us = _period(date or [], services.clock.now_us())
    metrics = _metrics(code, category.rpartition("|")[2])
    await require_person(services, principal, person_id)
    series = {
        metric: await services.history.series(person_id, metric, from_us, until_us, None, POINTS) for metric in metrics
    }
    found = fhir.observations(person_id, series)
    # The history gives the oldest points of a period: where one was cut short, what is newer comes first when asked.
    cut = [points[-1]["at"] for points in series.values() if len(points) >= POINTS]
    following = ""
    if cut:
        until = min(cut)
        found = [resource for resource in found if resource["effectiveDateTime"] <= until]
        following = _page_url(request, [f"gt{until}", f"lt{iso(until_us)}"], count)
    elif len(found) > count:
        last = found[count - 1]["effectiveDateTime"]
        kept = [resource for resource in found if resource["effectiveDateTime"] >= last]  # no time torn apart
        following = _page_url(request, [f"ge{iso(from_us)}", f"lt{last}"], count) if len(kept) < len(found) else ""
        found = kept
    return _answer(fhir.bundle(found, str(request.url), _base(request), following=following))


def _base(request: Request) -> str:
    return f"{str(request.base_url).rstrip('/')}/api/v1/fhir"


def _page_url(request: Request, dates: list[str], count: int) -> str:
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in ("date", "_count")]
    return f"{_base(request)}/Observation?{urlencode([*kept, *(('date', each) for each in dates), ('_count', count)])}"


def _metrics(code: str, category: str) -> tuple[str, ...]:
    known = fhir.codes()
    wanted: dict[str, None] = {}
    for token in filter(None, (part.strip() for part in code.split(","))):
        system, _, value = token.rpartition("|")
        if system not in ("", fhir.LOINC):
            continue  # a code of another system matches nothing here
        wanted |= dict.fromkeys(known.get(value, ()))
    found = tuple(wanted) if code else tuple(fhir.DISPLAYS)
    if category:
        found = tuple(metric for metric in found if (metric in fhir.ACTIVITY) == (category == "activity"))
    return found if category in ("", "vital-signs", "activity") else ()


def _period(dates: list[str], now_us: int) -> tuple[int, int]:
    """Both ends in microseconds. Each ``date`` narrows them. Raises UsageError."""
    low, high = None, None
    for value in dates:
        prefix, begin, end = _interval(value)
        if prefix in ("eq", "ge"):
            low = begin if low is None else max(low, begin)
        if prefix in ("gt", "sa"):
            low = end if low is None else max(low, end)
        if prefix in ("eq", "le"):
            high = end if high is None else min(high, end)
        if prefix in ("lt", "eb"):
            high = begin if high is None else min(high, begin)
    high = now_us if high is None else high
    low = high - DEFAULT_DAYS * 86_400_000_000 if low is None else low
    if low >= high:
        raise UsageError("query.date: these dates leave no time between them")
    return low, high


def _interval(value: str) -> tuple[str, int, int]:
    """The prefix, and the time that a date stands for: a year, a month, a day, or one moment (FHIR R4, search)."""
    match = _DATE.fullmatch(value.replace(" ", "+"))
    if match is None:
        raise UsageError("query.date: must be a date or time with its zone, such as ge2026-11-22")
    prefix, year, month, day, clock = match[1] or "eq", int(match[2]), match[3], match[4], match[5]
    try:
        if clock:
            moment = parse_time(f"{match[2]}-{month}-{day}{clock}")
            fraction = "." in clock
            return prefix, to_us(moment), to_us(moment) + (1000 if fraction else 1_000_000)
        begin = datetime(year, int(month or 1), int(day or 1), tzinfo=UTC)
        if day:
            end = begin + timedelta(days=1)
        elif month:
            end = begin + timedelta(days=calendar.monthrange(year, int(month))[1])
        else:
            end = datetime(year + 1, 1, 1, tzinfo=UTC)
        low, high = to_us(begin), to_us(end)
        from_us(low), from_us(high)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"query.date: {error}") from None
    return prefix, low, high
