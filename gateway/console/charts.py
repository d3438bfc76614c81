"""Drawings of readings: the line of 24 hours, the person's normal band and limits behind it, and the same in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from gateway.clock import US_PER_S

WIDTH: Final = 288
HEIGHT: Final = 84
EDGE: Final = 4
GAP_US: Final = 3600 * US_PER_S
"""A longer silence breaks the line: nobody knows what was between."""
HOURS: Final = (6, 12, 18)

SIDES: Final = ("urgent_low", "urgent_high", "advisory_low", "advisory_high")

UNITS: Final[Mapping[str, str]] = {
    "heart_rate_bpm": "/min", "spo2_percent": "%", "systolic_mmhg": "mmHg", "diastolic_mmhg": "mmHg",
    "mean_arterial_mmhg": "mmHg", "body_temperature_celsius": "°C", "blood_glucose_mmol_per_l": "mmol/L",
    "respiratory_rate_per_min": "/min", "weight_kg": "kg", "battery_percent": "%", "battery_volts": "V",
    "rssi_dbm": "dBm", "temperature_celsius": "°C", "humidity_percent": "%", "speed_m_per_s": "m/s",
}  # fmt: skip
"""Units as people write them; what has none here is a count or is told without one."""


class Limits(Struct, frozen=True):
    """Of one metric and person; None: that side is not judged. ``open_`` names the limits that are themselves still
    inside, ``own`` tells that one of them was set for this person.
    """

    urgent_low: float | None = None
    advisory_low: float | None = None
    advisory_high: float | None = None
    urgent_high: float | None = None
    open_: frozenset[str] = frozenset()
    own: bool = False

    @property
    def low(self) -> float | None:
        """Where normal begins."""
        return self.urgent_low if self.advisory_low is None else self.advisory_low

    @property
    def high(self) -> float | None:
        """Where normal ends."""
        return self.urgent_high if self.advisory_high is None else self.advisory_high

    def beyond(self, value: float) -> str:
        """Of a value: ``urgent_low``, ``advisory_high`` and so on; "" for a normal one."""
        for name in SIDES:
            limit = getattr(self, name)
            if limit is None or (value == limit and name in self.open_):
                continue
            if value <= limit if name.endswith("low") else value >= limit:
                return name
        return ""


class Chart(Struct, frozen=True):
    """In a box of WIDTH by HEIGHT. ``path`` is the line, ``dots`` values that stand alone. ``band`` is top and height
    of the normal band; ``lines`` are limits in sight.
    """

    metric: str
    path: str
    dots: str
    low: float
    high: float
    limits: Limits
    band: tuple[float, float] | None
    lines: list[tuple[str, float]]
    hours: list[float]


def limits_by_metric(told: Sequence[Mapping[str, Any]]) -> dict[str, Limits]:
    """From what the rules tell; of several rules about one metric the tighter limit counts."""
    found: dict[str, Limits] = {}
    for each in told:
        name = f"{each['level']}_{each['side']}"
        limits = found.get(each["metric"], Limits())
        known, limit = getattr(limits, name), each["limit"]
        if known is not None and (known > limit if each["side"] == "low" else known < limit):
            continue
        open_ = limits.open_ - {name} if each["inclusive"] else limits.open_ | {name}
        found[each["metric"]] = replace(limits, **{name: limit}, open_=open_, own=limits.own or each["own"])
    return found


def draw(metric: str, values: Sequence[tuple[int, float]], from_us: int, to_us: int, limits: Limits) -> Chart:
    """A line through the values (time, value), scaled so that the ends of the normal band are in sight too."""
    numbers = [value for _, value in values]
    seen = [*numbers, *(limit for limit in (limits.low, limits.high) if limit is not None)]
    bottom, top = min(seen), max(seen)
    span = max(top - bottom, 1e-9)

    def height(value: float) -> float:
        return round(EDGE + (HEIGHT - 2 * EDGE) * (1 - (value - bottom) / span), 1)

    pieces: list[list[str]] = []
    before_us = None
    for at_us, value in values:
        point = f"{WIDTH * (at_us - from_us) / (to_us - from_us):.1f} {height(value):g}"
        if before_us is not None and at_us - before_us <= GAP_US:
            pieces[-1].append(point)
        else:
            pieces.append([point])
        before_us = at_us
    path = " ".join("M" + "L".join(piece) for piece in pieces if len(piece) > 1)
    dots = " ".join(f"M{piece[0]}h0" for piece in pieces if len(piece) == 1)
    band = None
    if limits.low is not None or limits.high is not None:
        upper = 0.0 if limits.high is None else height(limits.high)
        lower = float(HEIGHT) if limits.low is None else height(limits.low)
        band = (upper, round(max(lower - upper, 0.0), 1))
    sides = {name: getattr(limits, name) for name in SIDES}
    lines = [(name.partition("_")[0], height(value)) for name, value in sides.items()
             if value is not None and bottom <= value <= top]  # fmt: skip
    hours = [WIDTH * hour / 24 for hour in HOURS]
    return Chart(metric, path, dots, min(numbers), max(numbers), limits, band, lines, hours)
