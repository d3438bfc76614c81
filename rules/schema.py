"""What rule files may say. Every number carries the source it was taken from.

One document may hold any of the tables below; ``[[threshold]]``, ``[[rate]]`` and so on repeat. A rule whose ``id`` a
later file names again is replaced as a whole; ``disabled`` takes rules out.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from gateway.care import LocalTime, Name

SeverityName = Literal["P1", "P2", "P3", "P4"]
AlertKind = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
Seconds = Annotated[int, Meta(ge=0, le=40_000_000)]
Source = Annotated[str, Meta(min_length=3)]


class _Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all parts: immutable, by keyword, and a misspelt key is an error."""


class Band(_Part, frozen=True, kw_only=True):
    """One limit. With ``conditions`` it holds for persons who have one of them, and then replaces the general one.

    ``at_once_beyond``: so far past the limit, one value is confirmation enough. ``clear_margin``: how far a value must
    come back inside before the alarm can arise anew (hysteresis).
    """

    metric: str
    side: Literal["low", "high"]
    level: Literal["advisory", "urgent"]
    limit: float
    source: Source
    inclusive: bool = True
    conditions: tuple[Name, ...] = ()
    clear_margin: Annotated[float, Meta(ge=0)] = 0.0
    at_once_beyond: Annotated[float, Meta(ge=0)] | None = None


class Confirm(_Part, frozen=True, kw_only=True):
    """When a value past its limit is believed.

    ``count`` of the last ``of`` readings within ``window_s``, the first and last of them ``apart_s`` apart; or past the
    limit in every reading for ``for_s`` with no gap longer than ``gap_s``; 0 switches either off. ``silence_s``: the
    last reading was past the limit and no other came for so long. ``first`` = ``advisory`` raises an advisory at once
    that asks for a second reading.
    """

    count: Annotated[int, Meta(ge=0, le=20)] = 1
    of: Annotated[int, Meta(ge=1, le=20)] = 1
    for_s: Seconds = 0
    gap_s: Seconds = 900
    apart_s: Seconds = 0
    window_s: Seconds = 3600
    silence_s: Seconds = 0
    first: Literal["", "advisory"] = ""


class Threshold(_Part, frozen=True, kw_only=True):
    """Bands of one or more metrics that make one alert kind per side.

    ``plausible`` bounds are inclusive; outside them nothing clinical follows, and ``implausible_limit`` such readings
    in a row are a technical alert. ``again_after_s``: still past the limit so long after the last alarm, a reading says
    so again, lest an alert that was resolved meanwhile leaves a standing danger mute.
    """

    id: Name
    alert_high: AlertKind = ""
    alert_low: AlertKind = ""
    band: tuple[Band, ...]
    plausible: dict[str, tuple[float, float]] = field(default_factory=dict)
    less_than: tuple[str, str] | None = None
    advisory: Confirm = Confirm()
    urgent: Confirm = Confirm()
    advisory_severity: SeverityName = "P3"
    urgent_severity: SeverityName = "P2"
    clear_readings: Annotated[int, Meta(ge=1, le=20)] = 1
    implausible_limit: Annotated[int, Meta(ge=1)] = 3
    again_after_s: Seconds = 14_400
    per: Literal["person", "device"] = "person"


class Signal(_Part, frozen=True, kw_only=True):
    """What a device's signal means. Emergencies are not here: they are built in and cannot be configured away.

    ``latched``: told once until it ends (the device says so, or one of ``ended_by`` comes) or ``again_after_s`` passed;
    without it every report counts. ``after_s``: only when it has not ended by then; ``start``/``until``: only when it
    begins in that local time.
    """

    id: Name
    signal: str
    alert: AlertKind
    severity: SeverityName
    source: Source
    latched: bool = True
    ended_by: tuple[str, ...] = ()
    after_s: Seconds = 0
    start: LocalTime = "00:00"
    until: LocalTime = "00:00"
    again_after_s: Seconds = 86_400


class Geofence(_Part, frozen=True, kw_only=True):
    """How fixes are judged against fences (reference: fence rules F3)."""

    source: Source
    exit_alert: AlertKind = "geofence_exit"
    forbidden_alert: AlertKind = "geofence_forbidden"
    severity: SeverityName = "P2"
    suspected_severity: SeverityName = "P3"
    fixes: Annotated[int, Meta(ge=1, le=20)] = 2
    dwell_s: Seconds = 60
    far_m: float = 300.0
    cell_fixes: Annotated[int, Meta(ge=1, le=20)] = 3
    cell_dwell_s: Seconds = 600
    return_fixes: Annotated[int, Meta(ge=1, le=20)] = 2
    max_speed_km_per_h: float = 150.0
    accuracy_m: dict[Literal["gnss", "wifi", "cell", "manual"], float] = field(default_factory=dict)
    again_after_s: Seconds = 14_400


class Silence(_Part, frozen=True, kw_only=True):
    """A device that says nothing. ``heartbeats`` of its own heartbeat make silence."""

    source: Source
    alert: AlertKind = "device_silent"
    severity: SeverityName = "P4"
    high_risk_severity: SeverityName = "P2"
    heartbeats: Annotated[int, Meta(ge=1, le=100)] = 3


class Absence(_Part, frozen=True, kw_only=True):
    """What a care plan's expectations become."""

    source: Source
    measurement_alert: AlertKind = "measurement_missed"
    measurement_severity: SeverityName = "P3"
    check_in_alert: AlertKind = "check_in_missed"
    check_in_severity: SeverityName = "P2"
    check_in_signals: tuple[str, ...] = ("im_ok", "check_in")
    motion_alert: AlertKind = "no_activity"
    motion_severity: SeverityName = "P2"
    motion_signals: tuple[str, ...] = ("motion",)


class Rate(_Part, frozen=True, kw_only=True):
    """A change of at least ``delta`` within ``window_s``, for persons with one of ``conditions`` (none: everybody)."""

    id: Name
    metric: str
    delta: Annotated[float, Meta(gt=0)]
    window_s: Annotated[int, Meta(ge=60, le=40_000_000)]
    alert: AlertKind
    severity: SeverityName = "P3"
    direction: Literal["both", "up", "down"] = "both"
    clear_margin: Annotated[float, Meta(ge=0)] = 0.0
    conditions: tuple[Name, ...] = ()
    plausible: tuple[float, float] | None = None
    again_after_s: Seconds = 86_400
    source: Source


class Baseline(_Part, frozen=True, kw_only=True):
    """A rolling mean that leaves the person's own long mean by ``deviations`` and at least ``min_delta``.

    Both means are exponential with the time constants ``recent_s`` and ``memory_s``, of at most one value per
    ``every_s``; nothing is said before ``min_samples`` over ``min_age_s``.
    """

    id: Name
    metric: str
    alert: AlertKind
    severity: SeverityName = "P3"
    memory_s: Annotated[int, Meta(ge=3600)] = 1_209_600
    recent_s: Annotated[int, Meta(ge=60)] = 21_600
    every_s: Annotated[int, Meta(ge=1)] = 900
    min_samples: Annotated[int, Meta(ge=2)] = 100
    min_age_s: Seconds = 604_800
    deviations: Annotated[float, Meta(gt=0)] = 3.0
    min_delta: Annotated[float, Meta(ge=0)] = 0.0
    conditions: tuple[Name, ...] = ()
    plausible: tuple[float, float] | None = None
    source: Source


class ScorePoints(_Part, frozen=True, kw_only=True):
    """Points of one metric: ``up_to`` are rising inclusive bounds, ``points`` one more than there are bounds."""

    metric: str
    up_to: tuple[float, ...]
    points: tuple[int, ...]
    scale: str = ""


class Score(_Part, frozen=True, kw_only=True):
    """A sum of points over metrics that must all stand in one reading; nothing is computed from less."""

    id: Name
    part: tuple[ScorePoints, ...]
    alert: AlertKind
    high_total: int
    medium_total: int
    single: int
    high_severity: SeverityName = "P2"
    medium_severity: SeverityName = "P3"
    scale_conditions: dict[str, str] = field(default_factory=dict)
    source: Source


class Document(_Part, frozen=True, kw_only=True):
    """A rule file."""

    version: Annotated[str, Meta(min_length=1, max_length=64)]
    threshold: tuple[Threshold, ...] = ()
    signal: tuple[Signal, ...] = ()
    rate: tuple[Rate, ...] = ()
    baseline: tuple[Baseline, ...] = ()
    score: tuple[Score, ...] = ()
    geofence: Geofence | None = None
    silence: Silence | None = None
    absence: Absence | None = None
    disabled: tuple[Name, ...] = ()
