"""Small distances on the ground, good to a few millimetres in a neighbourhood."""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct

_M_PER_DEGREE: Final = 111_320.0


class Spot(Struct, frozen=True):
    """WGS-84 degrees."""

    latitude: float
    longitude: float


def moved(spot: Spot, east_m: float, north_m: float) -> Spot:
    """Where one is after so many metres; for distances up to some kilometres."""
    latitude = spot.latitude + north_m / _M_PER_DEGREE
    longitude = spot.longitude + east_m / (_M_PER_DEGREE * math.cos(math.radians(spot.latitude)))
    return Spot(round(latitude, 6), round(longitude, 6))
