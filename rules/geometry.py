"""Fences on the ground: distances in metres to shapes, by a local equirectangular projection (good below 50 km)."""

from __future__ import annotations

from math import cos, hypot, pi, radians, sqrt
from typing import Final

import shapely
from shapely import LineString, Point
from shapely import Polygon as Area
from shapely.geometry.base import BaseGeometry
from shapely.prepared import PreparedGeometry, prep

from gateway.care import Circle, Corridor, Fence, LonLat, Polygon
from gateway.datum import to_wgs84
from gateway.model import Position

EARTH_RADIUS_M: Final = 6_371_008.8
_METRES_PER_DEGREE: Final = radians(1) * EARTH_RADIUS_M
_SHRINK_ROUNDS: Final = 14

LatLonBox = tuple[float, float, float, float]
"""South, north, west, east."""


def is_place(fix: Position) -> bool:
    """Whether a fix says where something is: valid, on Earth, and not the 0/0 of a receiver that knows nothing."""
    return (
        fix.valid
        and -90 <= fix.latitude <= 90
        and -180 <= fix.longitude <= 180
        and (fix.latitude != 0 or fix.longitude != 0)
    )


def distance_m(lat_a: float, lon_a: float, lat_b: float, lon_b: float) -> float:
    """Metres between two points; equirectangular, so only right for short ways and only large for long ones."""
    east = ((lon_b - lon_a + 180) % 360 - 180) * cos(radians((lat_a + lat_b) / 2))
    return hypot(east, lat_b - lat_a) * _METRES_PER_DEGREE


class Ground:
    """A fence's shape in metres around its own middle."""

    def __init__(self, fence: Fence) -> None:
        shape = fence.shape
        lonlats = [shape.center] if isinstance(shape, Circle) else _points(fence)
        wgs84 = [to_wgs84(lat, lon, fence.datum) for lon, lat in lonlats]
        self._lat0 = (min(lat for lat, _ in wgs84) + max(lat for lat, _ in wgs84)) / 2
        self._lon0 = (min(lon for _, lon in wgs84) + max(lon for _, lon in wgs84)) / 2
        self._per_lon = _METRES_PER_DEGREE * max(cos(radians(self._lat0)), 0.01)
        self.margin_m = fence.margin_m
        self._circle_m = shape.radius_m if isinstance(shape, Circle) else 0.0
        self.radius_m = self.inner_m = self._circle_m
        """Of the circle of the same area; and how far from the edge the innermost point is, about."""
        if not self._circle_m:  # a circle needs no polygon, and there are as many as homes
            self._solid: BaseGeometry = self._build(fence)
            self._prepared: PreparedGeometry[BaseGeometry] = prep(self._solid)
            self._edge: BaseGeometry = self._solid.boundary
            self.radius_m = sqrt(self._solid.area / pi)
            self.inner_m = self._depth()

    def signed_distance_m(self, latitude: float, longitude: float) -> float:
        """How far outside the edge a point is; negative inside."""
        x, y = self._xy(latitude, longitude)
        if self._circle_m:
            return hypot(x, y) - self._circle_m
        point = Point(x, y)
        away = float(self._edge.distance(point))
        return -away if self._prepared.contains(point) else away

    def box_within(self) -> LatLonBox:
        """A box around the middle in which no point is further out than the margin."""
        if self._circle_m:
            half = (self._circle_m + self.margin_m) / sqrt(2) * 0.999
            return self._degrees(-half, -half, half, half)
        roomy = self._solid.buffer(self.margin_m * 0.99)
        middle = self._solid.representative_point()
        west, south, east, north = roomy.bounds
        share, step = 0.0, 0.5
        for _ in range(_SHRINK_ROUNDS):
            wider = share + step
            if roomy.contains(shapely.box(*_scaled(middle.x, middle.y, (west, south, east, north), wider))):
                share = wider
            step /= 2
        return self._degrees(*_scaled(middle.x, middle.y, (west, south, east, north), share))

    def box_around(self) -> LatLonBox:
        """A box outside of which every point is outside the shape."""
        if self._circle_m:
            r = self._circle_m + 1.0
            return self._degrees(-r, -r, r, r)
        west, south, east, north = self._solid.bounds
        return self._degrees(west - 1, south - 1, east + 1, north + 1)

    def _build(self, fence: Fence) -> BaseGeometry:
        shape = fence.shape
        if isinstance(shape, Corridor):
            return LineString(self._ring(shape.coordinates, fence)).buffer(shape.width_m / 2)
        rings = [self._ring(ring, fence) for ring in shape.coordinates] if isinstance(shape, Polygon) else []
        solid = Area(rings[0], rings[1:])
        return solid if solid.is_valid else shapely.make_valid(solid)

    def _depth(self) -> float:
        parts = [part for part in shapely.get_parts(self._solid) if isinstance(part, Area)]
        circles = [shapely.maximum_inscribed_circle(part, tolerance=1.0) for part in parts]
        return max((float(circle.length) for circle in circles), default=1.0)

    def _ring(self, points: tuple[LonLat, ...], fence: Fence) -> list[tuple[float, float]]:
        return [self._xy(*to_wgs84(lat, lon, fence.datum)) for lon, lat in points]

    def _xy(self, latitude: float, longitude: float) -> tuple[float, float]:
        east = (longitude - self._lon0 + 180) % 360 - 180
        return east * self._per_lon, (latitude - self._lat0) * _METRES_PER_DEGREE

    def _degrees(self, west: float, south: float, east: float, north: float) -> LatLonBox:
        lat0, lon0 = self._lat0, self._lon0
        return (
            lat0 + south / _METRES_PER_DEGREE, lat0 + north / _METRES_PER_DEGREE,
            lon0 + west / self._per_lon, lon0 + east / self._per_lon,
        )  # fmt: skip


def _scaled(
    x: float, y: float, bounds: tuple[float, float, float, float], share: float
) -> tuple[float, float, float, float]:
    west, south, east, north = bounds
    return x + (west - x) * share, y + (south - y) * share, x + (east - x) * share, y + (north - y) * share


def _points(fence: Fence) -> list[LonLat]:
    shape = fence.shape
    if isinstance(shape, Corridor):
        return list(shape.coordinates)
    return list(shape.coordinates[0]) if not isinstance(shape, Circle) else [shape.center]
