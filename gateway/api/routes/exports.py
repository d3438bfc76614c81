"""CSV for who evaluates in a table: observations of a person, alerts. Streamed a page at a time."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import StreamingResponse

from gateway.api.answers import Id, ShortText, parse_time, time_range
from gateway.api.auth import may, require_person, sees, services_of, visible_persons
from gateway.api.problems import documented
from gateway.api.routes.observations import From, MetricName, To
from gateway.api.services import Services
from gateway.clock import to_us
from gateway.errors import UsageError
from gateway.model import METRICS
from gateway.registry.keys import ApiKey

router = APIRouter(prefix="/export", tags=["export"])

PAGE: Final = 5000
ALERTS_PAGE: Final = 500
OBSERVATION_COLUMNS: Final = ("person_id", "metric", "unit", "loinc", "at", "value", "device_id")
ALERT_COLUMNS: Final = (
    "id", "kind", "severity", "condition", "handling", "outcome", "person_id", "device_id", "occurrences", "raised_at",
    "resolved_at", "owner",
)  # fmt: skip

_CSV: dict[int | str, dict[str, Any]] = {
    200: {"description": "UTF-8 with a byte order mark", "content": {"text/csv": {"schema": {"type": "string"}}}}
}


@router.get("/observations.csv", response_model=None, responses={**_CSV, **documented(404)})
async def observations(
    request: Request,
    principal: Annotated[ApiKey, Depends(may("observations.read"))],
    person_id: Annotated[Id, Query()],
    metric: Annotated[
        list[MetricName] | None, Query(description="may be repeated; without it: all of the model")
    ] = None,
    from_: From = None,
    to: To = None,
) -> StreamingResponse:
    """Every point of a person in a period, by metric, oldest first."""
    services = services_of(request)
    wanted = tuple(dict.fromkeys(metric or METRICS))
    unknown = [name for name in wanted if name not in METRICS and not name.startswith("x_")]
    if unknown:
        raise UsageError(f"query.metric: {unknown[0]} is not a metric, and does not begin with x_")
    from_us, until_us = time_range(from_, to, services.clock.now_us())
    await require_person(services, principal, person_id)
    # The first question is asked before the answer begins: a history that is away is a 503, not a torn file.
    first = await services.history.series(person_id, wanted[0], from_us, until_us, None, PAGE)
    rows = _points(services, person_id, wanted, from_us, until_us, first)
    return _file("observations.csv", _csv(OBSERVATION_COLUMNS, rows))


@router.get("/alerts.csv", response_model=None, responses=_CSV)
async def alerts(
    request: Request,
    principal: Annotated[ApiKey, Depends(may("alerts.read"))],
    person_id: ShortText = "",
    kind: ShortText = "",
    open_only: Annotated[bool, Query(alias="open")] = False,
) -> StreamingResponse:
    """Alerts, newest first."""
    services = services_of(request)
    visible = await visible_persons(services, principal)

    async def rows() -> AsyncIterator[list[list[Any]]]:
        before = ""
        while True:
            found = await services.desk.alerts(
                open_only=open_only, person_id=person_id, kind=kind, limit=ALERTS_PAGE, before_id=before
            )
            yield [
                [alert.get(name) for name in ALERT_COLUMNS]
                for alert in found
                if sees(visible, alert.get("person_id"), principal)
            ]
            if len(found) < ALERTS_PAGE:
                return
            before = str(found[-1]["id"])

    return _file("alerts.csv", _csv(ALERT_COLUMNS, rows()))


async def _points(
    services: Services, person_id: str, metrics: Iterable[str], from_us: int, until_us: int, first: list[dict[str, Any]]
) -> AsyncIterator[list[list[Any]]]:
    page: list[dict[str, Any]] | None = first
    for metric in metrics:
        known = METRICS.get(metric)
        facts = [person_id, metric, known.ucum if known else None, known.loinc if known else None]
        start_us, seen = from_us, 0
        while True:
            if page is None:
                page = await services.history.series(person_id, metric, start_us, until_us, None, PAGE + seen)
            fresh = page[seen:]
            yield [[*facts, point["at"], point["value"], point["device_id"]] for point in fresh]
            full, page = len(page) >= PAGE + seen, None
            if not full or not fresh:
                break
            # Times are printed in whole milliseconds: go on within the last one, behind those of it that were seen.
            last = fresh[-1]["at"]
            again = sum(point["at"] == last for point in fresh)
            begin_us = _us(last)
            seen = again + (seen if begin_us == start_us else 0)
            start_us = begin_us


def _us(at: str) -> int:
    return to_us(parse_time(at))


async def _csv(columns: tuple[str, ...], pages: AsyncIterator[list[list[Any]]]) -> AsyncIterator[str]:
    yield "\ufeff" + ",".join(columns) + "\r\n"
    async for rows in pages:
        text = io.StringIO()
        csv.writer(text).writerows([[_cell(value) for value in row] for row in rows])
        yield text.getvalue()


def _cell(value: Any) -> Any:
    """Text that a spreadsheet would take for a formula gets a ``'`` in front (CWE-1236)."""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r"):
        return f"'{value}"
    return value


def _file(name: str, body: AsyncIterator[str]) -> StreamingResponse:
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    return StreamingResponse(body, 200, headers, "text/csv; charset=utf-8")
