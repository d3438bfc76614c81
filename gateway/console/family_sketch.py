"""A drawing of where somebody is, without a map server: the place, its accuracy, home, the site's outline."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from msgspec import Struct

from gateway.datum import wgs84_to_gcj02

WIDTH: Final = 320
HEIGHT: Final = 200
SPANS_M: Final = (200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
MAX_POINTS: Final = 600
_M_PER_DEGREE: Final = 111_320.0

Ring = Sequence[tuple[float, float]]


class Sketch(Struct, frozen=True):
    """In the units of an SVG of WIDTH by HEIGHT, the place in its middle. ``scale`` is the bar's length and meaning."""

    accuracy: float
    home: tuple[float, float] | None
    home_radius: float
    paths: list[str]
    scale: float
    scale_m: int


def rings_of(outline: str) -> list[Ring]:
    """Lines and rings of a GeoJSON text as (longitude, latitude); none of one that cannot be read."""
    try:
        return list(_rings(json.loads(outline))) if outline else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _rings(value: Any) -> Iterator[Ring]:
    match value.get("type"):
        case "FeatureCollection":
            for feature in value["features"]:
                yield from _rings(feature)
        case "Feature":
            yield from _rings(value["geometry"] or {})
        case "GeometryCollection":
            for geometry in value["geometries"]:
                yield from _rings(geometry)
        case "LineString":
            yield _points(value["coordinates"])
        case "MultiLineString" | "Polygon":
            yield from map(_points, value["coordinates"])
        case "MultiPolygon":
            for polygon in value["coordinates"]:
                yield from map(_points, polygon)


def _points(coordinates: Any) -> Ring:
    return [(float(point[0]), float(point[1])) for point in coordinates]


def draw(position: Mapping[str, Any], home: Mapping[str, Any] | None, rings: Sequence[Ring]) -> Sketch:
    """``position`` and ``home`` have ``latitude`` and ``longitude`` (WGS-84), ``accuracy_m`` and ``radius_m``."""
    latitude, longitude = position["latitude"], position["longitude"]
    narrow = math.cos(math.radians(latitude))
    accuracy_m = float(position.get("accuracy_m") or 0)

    def metres(lon: float, lat: float) -> tuple[float, float]:
        return (lon - longitude) * _M_PER_DEGREE * narrow, (lat - latitude) * _M_PER_DEGREE

    away = (0.0, 0.0) if home is None else metres(home["longitude"], home["latitude"])
    need_m = max(accuracy_m, abs(away[0]) * HEIGHT / WIDTH, abs(away[1]), 50) * 2.4
    span_m = next((span for span in SPANS_M if span >= need_m), SPANS_M[-1])  # over the height
    unit = HEIGHT / span_m

    def put(lon: float, lat: float) -> tuple[float, float]:
        east, north = metres(lon, lat)
        return round(WIDTH / 2 + east * unit, 1), round(HEIGHT / 2 - north * unit, 1)

    shown = None
    if home is not None:
        x, y = put(home["longitude"], home["latitude"])
        shown = (x, y) if 0 <= x <= WIDTH and 0 <= y <= HEIGHT else None
    radius_m = 0.0 if home is None else float(home.get("radius_m") or 0)
    return Sketch(
        accuracy=round(min(accuracy_m * unit, 4.0 * WIDTH), 1),
        home=shown,
        home_radius=round(radius_m * unit, 1),
        paths=list(_paths([[put(*point) for point in ring] for ring in rings])),
        scale=round(span_m / 4 * unit, 1),
        scale_m=span_m // 4,
    )


def _paths(rings: Sequence[Sequence[tuple[float, float]]]) -> Iterator[str]:
    """SVG paths of what crosses the picture's surroundings, at most MAX_POINTS points in all."""
    left = MAX_POINTS
    for ring in rings:
        near = [(x, y) for x, y in ring if -2 * WIDTH <= x <= 3 * WIDTH and -2 * HEIGHT <= y <= 3 * HEIGHT][:left]
        if len(near) > 1:
            left -= len(near)
            yield "M" + "L".join(f"{x:g} {y:g}" for x, y in near)


def map_links(place: Mapping[str, Any], language: str) -> list[tuple[str, str]]:
    """Words and addresses of maps that open there: Amap (GCJ-02), and whatever the phone has (``geo:``, WGS-84)."""
    latitude, longitude = place["latitude"], place["longitude"]
    east, north = wgs84_to_gcj02(latitude, longitude)[::-1]
    amap = "https://uri.amap.com/marker?" + urlencode(
        {"position": f"{east:.6f},{north:.6f}", "coordinate": "gaode", "callnative": "1"}
    )
    phone = f"geo:{latitude:.6f},{longitude:.6f}"
    return [("高德地图", amap), ("手机地图", phone)] if language == "zh" else [("Amap", amap), ("Phone's map", phone)]
