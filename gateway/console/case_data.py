"""What lies around an alert: the map's geometry, and the readings of 24 hours as drawings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import apsw
import msgspec
from starlette.responses import Response

from gateway.api.routes.alerts import visible_alert
from gateway.clock import US_PER_S, to_us
from gateway.console import charts
from gateway.console.charts import Chart, Limits
from gateway.console.frame import Visit
from gateway.console.outline import shifted
from gateway.datum import from_wgs84
from gateway.errors import StorageError
from gateway.registry.places import list_places

DAY_US: Final = 24 * 3600 * US_PER_S
TRAIL_US: Final = 6 * 3600 * US_PER_S
TRAIL_POINTS: Final = 300
BUCKET_S: Final = 600
CHARTED: Final = (
    "heart_rate_bpm", "systolic_mmhg", "diastolic_mmhg", "spo2_percent", "body_temperature_celsius",
    "respiratory_rate_per_min", "blood_glucose_mmol_per_l",
)  # fmt: skip


async def places(visit: Visit) -> Response:
    """JSON of the map: home and fences, the trail, the newest position; in the datum of the site's tiles."""
    alert = await visible_alert(visit.services, visit.principal, visit.request.path_params["alert_id"])
    drawn = await of_person(visit, alert["person_id"] or "", alert["position"])
    return Response(msgspec.json.encode(drawn), media_type="application/json")


async def of_person(visit: Visit, person_id: str, told: Mapping[str, Any] | None) -> dict[str, Any]:
    """Geometry of a person; ``told`` is the position that an alert carries (a stored position, or None)."""
    datum = visit.frame.look.tile_datum
    now_us = visit.services.clock.now_us()
    trail: list[dict[str, Any]] = []
    history = True
    fences: list[dict[str, Any]] = []
    if person_id:
        fences = await visit.services.store.read(lambda c: _fences(c, person_id, datum))
        try:
            found = await visit.services.history.positions(person_id, now_us - TRAIL_US, now_us, TRAIL_POINTS)
            trail = [_point(feature, datum) for feature in found["features"]]
        except StorageError:
            history = False  # the map says so; the alert's own position is there all the same
    newest = trail[-1] if trail else None
    if told is not None and (newest is None or told["observed_at_us"] >= newest["at"] * 1000):
        latitude, longitude = from_wgs84(told["latitude"], told["longitude"], _datum(datum))
        newest = {
            "at": told["observed_at_us"] // 1000, "lat": latitude, "lon": longitude,
            "accuracy_m": told.get("accuracy_m"), "source": told.get("source"), "valid": told.get("valid", True),
        }  # fmt: skip
    if newest is not None:
        newest = newest | {"source_word": visit.say.word(newest["source"])}
    return {"fences": fences, "trail": trail, "newest": newest, "history": history}


async def readings(visit: Visit) -> Response:
    """The newest readings with their age, and 24 hours of the vital signs. Says so when the history is away."""
    alert = await visible_alert(visit.services, visit.principal, visit.request.path_params["alert_id"])
    person_id = alert["person_id"]
    latest: dict[str, Any] | None = None
    drawn: list[Chart] = []
    away = False
    limits: dict[str, Limits] = {}
    if person_id and visit.sees_names:
        if visit.services.limits is not None:
            limits = charts.limits_by_metric(await visit.services.limits(person_id))
        try:
            latest, drawn = await _history(visit, person_id, limits)
        except StorageError:
            away = True
    return await visit.page(
        "readings.html", latest=latest, charts=drawn, limits=limits, unlimited=Limits(), units=charts.UNITS, away=away,
        width=charts.WIDTH, height=charts.HEIGHT,
    )  # fmt: skip


async def _history(visit: Visit, person_id: str, limits: Mapping[str, Limits]) -> tuple[dict[str, Any], list[Chart]]:
    now_us = visit.services.clock.now_us()
    latest = await visit.services.history.latest(person_id)
    drawn = []
    for metric in CHARTED:
        if metric not in latest["metrics"]:
            continue
        points = await visit.services.history.series(person_id, metric, now_us - DAY_US, now_us, BUCKET_S, 200)
        values = [(to_us(datetime.fromisoformat(point["at"])), float(point["mean"])) for point in points]
        if values:
            drawn.append(charts.draw(metric, values, now_us - DAY_US, now_us, limits.get(metric, Limits())))
    return latest, drawn


def _point(feature: Mapping[str, Any], datum: str) -> dict[str, Any]:
    longitude, latitude = feature["geometry"]["coordinates"]
    told = feature["properties"]
    shifted = from_wgs84(latitude, longitude, _datum(datum))
    at_us = to_us(datetime.fromisoformat(told["at"]))
    return {
        "at": at_us // 1000, "lat": shifted[0], "lon": shifted[1], "accuracy_m": told["accuracy_m"],
        "source": told["source"], "valid": told["valid"],
    }  # fmt: skip


def _fences(connection: apsw.Connection, person_id: str, datum: str) -> list[dict[str, Any]]:
    return [
        {
            "kind": place["kind"],
            "name": place["name"] or "",
            "geometry": shifted(place["geometry"], datum),
            "radius_m": place["radius_m"],
        }
        for place in list_places(connection, person_id=person_id)
    ]


def _datum(name: str) -> Any:
    return name if name in ("gcj02", "bd09") else "wgs84"
