"""The care plan: what is agreed for one person and what is known of one device, as far as rules need it.

The registry stores these as JSON (``msgspec.json.encode`` and ``decode``) and hands them out in memory; unknown keys,
wrong types and numbers out of range are refused by msgspec when they come in, and ``problems`` finds what types cannot.
"""

from __future__ import annotations

import math
from datetime import time
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Meta, Struct

from gateway.model import METRICS

LocalTime = Annotated[str, Meta(pattern=r"^([01]\d|2[0-3]):[0-5]\d$")]
"""Wall time at the person's place, ``HH:MM``."""
Weekday = Annotated[int, Meta(ge=1, le=7)]
"""ISO: 1 is Monday, 7 is Sunday."""
Name = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
Text = Annotated[str, Meta(max_length=500)]
Longitude = Annotated[float, Meta(ge=-180, le=180)]
Latitude = Annotated[float, Meta(ge=-90, le=90)]
LonLat = tuple[Longitude, Latitude]
"""As in GeoJSON (RFC 7946): longitude first."""
Datum = Literal["wgs84", "gcj02", "bd09"]
"""Which datum coordinates are in: GNSS receivers speak WGS-84, AMap and Tencent GCJ-02, Baidu BD-09."""
Side = Literal["urgent_low", "advisory_low", "advisory_high", "urgent_high"]

ALL_DAYS: Final = (1, 2, 3, 4, 5, 6, 7)


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts: immutable, by keyword, and a misspelt key is an error."""


class Window(_Part, frozen=True, kw_only=True):
    """A span of local time on some weekdays.

    It runs over midnight when ``until <= start``; the day is that of its start.
    """

    start: LocalTime = "00:00"
    until: LocalTime = "00:00"
    days: tuple[Weekday, ...] = ALL_DAYS


class Schedule(_Part, frozen=True, kw_only=True):
    """When something is in force: in any of its windows, at the person's local time."""

    windows: tuple[Window, ...] = (Window(),)


class Circle(_Part, frozen=True, kw_only=True, tag="Circle", tag_field="type"):
    center: LonLat
    radius_m: Annotated[float, Meta(gt=0, le=50_000)]


class Polygon(_Part, frozen=True, kw_only=True, tag="Polygon", tag_field="type"):
    """A GeoJSON polygon: the outer ring, then holes; each ring closed and of at least four points."""

    coordinates: Annotated[
        tuple[Annotated[tuple[LonLat, ...], Meta(min_length=4, max_length=1000)], ...],
        Meta(min_length=1, max_length=50),
    ]


class Corridor(_Part, frozen=True, kw_only=True, tag="LineString", tag_field="type"):
    """A way and the ground within ``width_m`` / 2 on each side of it."""

    coordinates: Annotated[tuple[LonLat, ...], Meta(min_length=2, max_length=1000)]
    width_m: Annotated[float, Meta(gt=0, le=5_000)]


Shape = Circle | Polygon | Corridor


class Fence(_Part, frozen=True, kw_only=True):
    """An area that a person is to stay in (``home``, ``allowed``) or out of (``forbidden``).

    The person may be in any of the home and allowed areas that are in force. A fence without consent does nothing
    (GB/T DB4110 5.2: only for those who applied for one). ``schedule`` None means always.
    """

    fence_id: Name
    kind: Literal["home", "allowed", "forbidden"]
    shape: Shape
    datum: Datum = "wgs84"
    name: Text = ""
    margin_m: Annotated[float, Meta(ge=0, le=5_000)] = 30.0
    schedule: Schedule | None = None
    consent: bool = False
    consent_by: Text = ""
    consent_at_us: int = 0
    paused_until_us: int = 0
    valid_from_us: int | None = None
    valid_to_us: int | None = None
    version: int = 1


class ThresholdOverride(_Part, frozen=True, kw_only=True):
    """Limits of one metric for one person. A side that is absent keeps the default; null switches that side off."""

    metric: Annotated[str, Meta(min_length=1, max_length=64)]
    limits: dict[Side, float | None]
    author: Annotated[str, Meta(min_length=1, max_length=100)]
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    valid_from_us: int | None = None
    valid_to_us: int | None = None
    version: int = 1


class MeasurementDue(_Part, frozen=True, kw_only=True, tag="measurement", tag_field="type"):
    """A measurement of ``metric`` is due between ``start`` and ``by``; ``grace_minutes`` later it is missing."""

    expectation_id: Name
    metric: Annotated[str, Meta(min_length=1, max_length=64)]
    by: LocalTime
    start: LocalTime = "00:00"
    days: tuple[Weekday, ...] = ALL_DAYS
    grace_minutes: Annotated[int, Meta(ge=0, le=1_440)] = 60


class CheckInDue(_Part, frozen=True, kw_only=True, tag="check_in", tag_field="type"):
    """An "I'm OK" (signal ``im_ok`` or ``check_in``) is due between ``start`` and ``by``."""

    expectation_id: Name
    by: LocalTime
    start: LocalTime = "00:00"
    days: tuple[Weekday, ...] = ALL_DAYS
    grace_minutes: Annotated[int, Meta(ge=0, le=1_440)] = 0


class MotionExpected(_Part, frozen=True, kw_only=True, tag="motion", tag_field="type"):
    """While ``schedule`` is in force, a sign of activity is expected at least every ``within_minutes``."""

    expectation_id: Name
    schedule: Schedule
    within_minutes: Annotated[int, Meta(ge=5, le=2_880)]


Expectation = MeasurementDue | CheckInDue | MotionExpected


class CarePlan(_Part, frozen=True, kw_only=True):
    """What is agreed for one person.

    ``timezone`` is an IANA name, "" the site's. ``conditions`` choose variants of the default thresholds; those that
    the default rules know are ``copd``, ``diabetes``, ``heart_failure`` and ``hypertension``.
    """

    person_id: str
    timezone: str = ""
    district: str = ""
    high_risk: bool = False
    conditions: tuple[Name, ...] = ()
    overrides: tuple[ThresholdOverride, ...] = ()
    fences: Annotated[tuple[Fence, ...], Meta(max_length=200)] = ()
    expectations: Annotated[tuple[Expectation, ...], Meta(max_length=100)] = ()
    version: int = 1


class DeviceCare(_Part, frozen=True, kw_only=True):
    """How one device is supervised; mostly from its profile.

    ``heartbeat_s`` is how often it says something on its own, 0 when it speaks only when used: then nothing is said
    about its silence, unless ``silent_after_s`` is given. Silence is max(3 heartbeats, ``silent_after_s``).
    """

    device_id: str
    person_id: str = ""
    heartbeat_s: Annotated[int, Meta(ge=0)] = 0
    silent_after_s: Annotated[int, Meta(ge=0)] = 0
    battery_low_percent: float | None = None
    battery_low_volts: float | None = None


def problems(plan: CarePlan) -> list[str]:
    """What is wrong with a plan that its types allow: one sentence each, empty when it can be used."""
    found: list[str] = []
    if plan.timezone:
        try:
            ZoneInfo(plan.timezone)
        except (KeyError, ValueError, OSError):
            found.append(f"timezone: {plan.timezone!r} is not an IANA time zone such as Asia/Shanghai")
    for override in plan.overrides:
        found += [f"override of {override.metric}: {text}" for text in _override_problems(override)]
    for kind, ids in (
        ("fence_id", [fence.fence_id for fence in plan.fences]),
        ("expectation_id", [expectation.expectation_id for expectation in plan.expectations]),
    ):
        found += [f"{kind} {name} is used twice" for name in sorted({i for i in ids if ids.count(i) > 1})]
    for fence in plan.fences:
        if isinstance(fence.shape, Polygon):
            found += [f"fence {fence.fence_id}: a ring must end where it starts"] * any(
                ring[0] != ring[-1] for ring in fence.shape.coordinates
            )
        if not _ordered(fence.valid_from_us, fence.valid_to_us):
            found.append(f"fence {fence.fence_id}: valid_to is not after valid_from")
    for expectation in plan.expectations:
        if not isinstance(expectation, MotionExpected):
            if time.fromisoformat(expectation.by) <= time.fromisoformat(expectation.start):
                found.append(f"expectation {expectation.expectation_id}: 'by' must be later in the day than 'start'")
            if isinstance(expectation, MeasurementDue) and not _known(expectation.metric):
                found.append(f"expectation {expectation.expectation_id}: unknown metric {expectation.metric!r}")
    return found


def plan_from_json(data: bytes | str) -> CarePlan:
    """Read a plan. Raises msgspec.ValidationError, whose text names the wrong member."""
    return msgspec.json.decode(data, type=CarePlan)


def plan_from_object(value: Any) -> CarePlan:
    """Read a plan from parsed JSON. Raises msgspec.ValidationError, whose text names the wrong member."""
    return msgspec.convert(value, type=CarePlan)


def _known(metric: str) -> bool:
    return metric in METRICS or metric.startswith("x_")


def _ordered(start: int | None, end: int | None) -> bool:
    return start is None or end is None or start < end


def _override_problems(override: ThresholdOverride) -> list[str]:
    found = []
    if not _known(override.metric):
        found.append("unknown metric")
    if not override.limits:
        found.append("names no limit")
    order: tuple[Side, ...] = ("urgent_low", "advisory_low", "advisory_high", "urgent_high")
    given = [limit for side in order if (limit := override.limits.get(side)) is not None]
    if any(not math.isfinite(limit) for limit in given):
        found.append("a limit is not a number")
    if given != sorted(given):
        found.append("limits must rise from urgent_low over advisory_low and advisory_high to urgent_high")
    if not _ordered(override.valid_from_us, override.valid_to_us):
        found.append("valid_to is not after valid_from")
    return found
