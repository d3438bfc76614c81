"""Datums of Chinese maps: WGS-84 (GNSS), GCJ-02 (AMap, Tencent), BD-09 (Baidu). Pure; degrees in and out.

Functions take and return ``(latitude, longitude)``. The formulas are the published approximations; WGS-84 is what
carebell stores, the other two exist on the way in and out only.
"""

from __future__ import annotations

from collections.abc import Callable
from math import atan2, cos, fabs, hypot, isfinite, pi, radians, sin, sqrt
from typing import Final, Literal

Point = tuple[float, float]
Region = Callable[[float, float], bool]

_A: Final = 6378245.0  # Krasovsky 1940, metres
_EE: Final = 0.00669342162296594323
_X_PI: Final = pi * 3000.0 / 180.0
_CLOSE_DEGREES: Final = 1e-9
_MAX_ROUNDS: Final = 20


def in_china_box(latitude: float, longitude: float) -> bool:
    """The crude box in which maps are shifted. It holds neighbours, Hong Kong, Macau and Taiwan too; pass another
    ``region`` where that matters.
    """
    return 72.004 <= longitude <= 137.8347 and 0.8293 <= latitude <= 55.8271


def wgs84_to_gcj02(latitude: float, longitude: float, *, region: Region = in_china_box) -> Point:
    """Shift a WGS-84 point; unchanged outside ``region``."""
    if not region(latitude, longitude):
        return latitude, longitude
    shift_lat, shift_lon = _shift(latitude, longitude)
    return latitude + shift_lat, longitude + shift_lon


def gcj02_to_wgs84(latitude: float, longitude: float, *, region: Region = in_china_box) -> Point:
    """The WGS-84 point whose shift is this one, by iteration: within 0.1 m, mostly far closer."""
    if not (isfinite(latitude) and isfinite(longitude) and region(latitude, longitude)):
        return latitude, longitude
    guess_lat, guess_lon = latitude, longitude
    for _ in range(_MAX_ROUNDS):
        shift_lat, shift_lon = _shift(guess_lat, guess_lon)
        error_lat, error_lon = guess_lat + shift_lat - latitude, guess_lon + shift_lon - longitude
        guess_lat, guess_lon = guess_lat - error_lat, guess_lon - error_lon
        if fabs(error_lat) < _CLOSE_DEGREES and fabs(error_lon) < _CLOSE_DEGREES:
            break
    return guess_lat, guess_lon


def gcj02_to_bd09(latitude: float, longitude: float) -> Point:
    z = hypot(longitude, latitude) + 2e-5 * sin(latitude * _X_PI)
    theta = atan2(latitude, longitude) + 3e-6 * cos(longitude * _X_PI)
    return z * sin(theta) + 0.006, z * cos(theta) + 0.0065


def bd09_to_gcj02(latitude: float, longitude: float) -> Point:
    """The GCJ-02 point whose BD-09 is this one, by iteration (the usual closed form is about a metre off)."""
    guess_lat, guess_lon = latitude - 0.006, longitude - 0.0065
    for _ in range(_MAX_ROUNDS):
        there_lat, there_lon = gcj02_to_bd09(guess_lat, guess_lon)
        error_lat, error_lon = there_lat - latitude, there_lon - longitude
        guess_lat, guess_lon = guess_lat - error_lat, guess_lon - error_lon
        if fabs(error_lat) < _CLOSE_DEGREES and fabs(error_lon) < _CLOSE_DEGREES:
            break
    return guess_lat, guess_lon


def wgs84_to_bd09(latitude: float, longitude: float, *, region: Region = in_china_box) -> Point:
    """Unchanged outside ``region``, like ``wgs84_to_gcj02``."""
    if not region(latitude, longitude):
        return latitude, longitude
    return gcj02_to_bd09(*wgs84_to_gcj02(latitude, longitude, region=region))


def bd09_to_wgs84(latitude: float, longitude: float, *, region: Region = in_china_box) -> Point:
    """Unchanged outside ``region``."""
    if not region(latitude, longitude):
        return latitude, longitude
    return gcj02_to_wgs84(*bd09_to_gcj02(latitude, longitude), region=region)


def to_wgs84(latitude: float, longitude: float, datum: Literal["wgs84", "gcj02", "bd09"]) -> Point:
    """A point of a declared datum as WGS-84."""
    if datum == "gcj02":
        return gcj02_to_wgs84(latitude, longitude)
    if datum == "bd09":
        return bd09_to_wgs84(latitude, longitude)
    return latitude, longitude


def from_wgs84(latitude: float, longitude: float, datum: Literal["wgs84", "gcj02", "bd09"]) -> Point:
    """A WGS-84 point in the datum of a map."""
    if datum == "gcj02":
        return wgs84_to_gcj02(latitude, longitude)
    if datum == "bd09":
        return wgs84_to_bd09(latitude, longitude)
    return latitude, longitude


def _shift(latitude: float, longitude: float) -> Point:
    """How far GCJ-02 lies from WGS-84 at a WGS-84 point, in degrees."""
    x, y = longitude - 105.0, latitude - 35.0
    common = 2 / 3 * (20 * sin(6 * x * pi) + 20 * sin(2 * x * pi))
    d_lat = -100 + 2 * x + 3 * y + 0.2 * y * y + 0.1 * x * y + 0.2 * sqrt(fabs(x)) + common
    d_lat += 2 / 3 * (20 * sin(y * pi) + 40 * sin(y / 3 * pi))
    d_lat += 2 / 3 * (160 * sin(y / 12 * pi) + 320 * sin(y * pi / 30))
    d_lon = 300 + x + 2 * y + 0.1 * x * x + 0.1 * x * y + 0.1 * sqrt(fabs(x)) + common
    d_lon += 2 / 3 * (20 * sin(x * pi) + 40 * sin(x / 3 * pi))
    d_lon += 2 / 3 * (150 * sin(x / 12 * pi) + 300 * sin(x / 30 * pi))
    phi = radians(latitude)
    m = 1 - _EE * sin(phi) ** 2
    lat_shift = d_lat * 180 / (_A * (1 - _EE) / (m * sqrt(m)) * pi)
    lon_shift = d_lon * 180 / (_A / sqrt(m) * cos(phi) * pi)
    return lat_shift, lon_shift
