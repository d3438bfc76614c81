"""An outline of the invented neighbourhood, GeoJSON for maps without tiles: its edge, streets, houses, park and canal.

It shows no real place: that the ground under it is somewhere is a matter of the positions being plausible ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from simulators.geography import Spot, moved
from simulators.neighbourhood import CENTRE, residents

COLUMN_M: Final = 180
ROW_M: Final = 160
EAST_M: Final = 630
NORTH_M: Final = 480
HOUSE_M: Final = (46, 9)
"""Half the length and half the depth of a house."""


def outline() -> dict[str, Any]:
    """A FeatureCollection in WGS-84. ``kind`` of a feature is boundary, street, building, park or water."""
    edge = _box(CENTRE, EAST_M, NORTH_M)
    features = [_area("boundary", "和平里", edge)]
    features.append(_area("park", "和平里公园", _box(moved(CENTRE, EAST_M - 42, 160), 38, 66)))
    canal = [moved(CENTRE, east_m, -440 + 12 * (east_m // 210 % 2)) for east_m in range(-EAST_M, EAST_M + 1, 210)]
    features.append(_line("water", "南运渠", canal))
    for number in range(7):
        east_m = (number - 3) * COLUMN_M
        features.append(
            _line("street", f"{number + 1} 支路", [moved(CENTRE, east_m, north_m) for north_m in (-NORTH_M, NORTH_M)])
        )
    for number in range(6):
        north_m = (number - 2.5) * ROW_M
        features.append(
            _line("street", f"和平里 {number + 1} 街", [moved(CENTRE, east_m, north_m) for east_m in (-EAST_M, EAST_M)])
        )
    for person in residents():
        for side in (-42, 0, 42):
            house = _box(moved(person.home, 0, side), *HOUSE_M)
            features.append(_area("building", person.address.partition(" ")[2] if side == 0 else "", house))
    return {"type": "FeatureCollection", "features": features}


def _box(middle: Spot, east_m: float, north_m: float) -> list[Spot]:
    corners = ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))
    return [moved(middle, x * east_m, y * north_m) for x, y in corners]


def _area(kind: str, name: str, ring: Iterable[Spot]) -> dict[str, Any]:
    return _feature(kind, name, {"type": "Polygon", "coordinates": [_points(ring)]})


def _line(kind: str, name: str, line: Iterable[Spot]) -> dict[str, Any]:
    return _feature(kind, name, {"type": "LineString", "coordinates": _points(line)})


def _points(spots: Iterable[Spot]) -> list[list[float]]:
    return [[spot.longitude, spot.latitude] for spot in spots]


def _feature(kind: str, name: str, geometry: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "properties": {"kind": kind, "name": name}, "geometry": geometry}
