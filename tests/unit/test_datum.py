"""Datums against vectors that two independent map libraries agree on, and their inverses against themselves."""

from __future__ import annotations

import json
from math import cos, hypot, radians
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import datum

_VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "datum.json").read_text("utf-8"))
_INLAND = st.tuples(st.floats(18.0, 53.0), st.floats(74.0, 135.0))


def _metres(a: tuple[float, float], b: tuple[float, float]) -> float:
    return hypot(a[0] - b[0], (a[1] - b[1]) * cos(radians(a[0]))) * 111_195


@pytest.mark.parametrize("point", _VECTORS["points"], ids=lambda point: str(point["wgs84"]))
def test_forward_shifts_equal_the_vectors(point: dict[str, list[float]]) -> None:
    tolerance = _VECTORS["tolerance_degrees"]
    lat, lon = point["wgs84"]
    assert datum.wgs84_to_gcj02(lat, lon) == pytest.approx(point["gcj02"], abs=tolerance, rel=0)
    assert datum.wgs84_to_bd09(lat, lon) == pytest.approx(point["bd09"], abs=tolerance, rel=0)
    assert datum.gcj02_to_bd09(*point["gcj02"]) == pytest.approx(point["bd09"], abs=tolerance, rel=0)


@pytest.mark.parametrize("point", _VECTORS["points"], ids=lambda point: str(point["wgs84"]))
def test_inverse_shifts_return_to_the_vectors(point: dict[str, list[float]]) -> None:
    wgs84 = (point["wgs84"][0], point["wgs84"][1])
    for name in ("gcj02", "bd09"):
        lat, lon = point[name]
        assert _metres(datum.to_wgs84(lat, lon, name), wgs84) < 0.1


@given(_INLAND)
def test_there_and_back_is_within_a_decimetre(point: tuple[float, float]) -> None:
    assert _metres(datum.gcj02_to_wgs84(*datum.wgs84_to_gcj02(*point)), point) < 0.1
    assert _metres(datum.bd09_to_wgs84(*datum.wgs84_to_bd09(*point)), point) < 0.1
    assert _metres(datum.wgs84_to_gcj02(*point), point) > 10


@pytest.mark.parametrize("point", [(0.0, 0.0), (48.85, 2.35), (-33.9, 151.2), (60.0, 100.0)])
def test_points_abroad_are_not_shifted(point: tuple[float, float]) -> None:
    for name in ("wgs84", "gcj02", "bd09"):
        assert datum.from_wgs84(*point, name) == point
        assert datum.to_wgs84(*point, name) == point


def test_the_shifted_region_can_be_chosen() -> None:
    hong_kong = (22.28, 114.16)
    assert datum.wgs84_to_gcj02(*hong_kong) != hong_kong
    assert datum.wgs84_to_gcj02(*hong_kong, region=lambda lat, lon: lat > 22.6) == hong_kong
