"""Values past a limit: bands, confirmation, hysteresis, and repeats for readings that cannot be believed."""

from __future__ import annotations

import copy
from math import inf, nextafter
from typing import Any, Final, Literal

from msgspec import Struct, field

from gateway.care import ThresholdOverride
from gateway.clock import US_PER_S
from gateway.model import METRICS, Effect, Severity
from rules import schema
from rules.machine import EVERYTHING, NOTHING, Interval, Observed, Rule, Step, Tick, cleared, raised

ADVISORY: Final = 1
URGENT: Final = 2
_LEVEL: Final = {"advisory": ADVISORY, "urgent": URGENT}
_KEPT_SAMPLES: Final = 20

SideName = Literal["low", "high"]
_SIDES: Final[tuple[SideName, ...]] = ("low", "high")


class Limit(Struct, frozen=True):
    """One limit of one metric, as it holds for one person."""

    metric: str
    level: int
    high: bool
    value: float
    inclusive: bool
    clear_margin: float
    at_once_beyond: float | None
    source: str
    override: dict[str, Any] | None = None

    def passed(self, value: float) -> bool:
        if self.high:
            return value >= self.value if self.inclusive else value > self.value
        return value <= self.value if self.inclusive else value < self.value

    def far_passed(self, value: float) -> bool:
        if self.at_once_beyond is None:
            return False
        far = self.value + self.at_once_beyond if self.high else self.value - self.at_once_beyond
        return value >= far if self.high else value <= far

    def edge(self) -> float:
        """The outermost value that is just inside, as an open bound."""
        if self.inclusive:
            return self.value
        return nextafter(self.value, inf if self.high else -inf)

    def evidence(self, value: float) -> dict[str, Any]:
        op = (">" if self.high else "<") + ("=" if self.inclusive else "")
        known = METRICS.get(self.metric)
        found: dict[str, Any] = {
            "metric": self.metric, "value": value, "op": op, "limit": self.value, "unit": known.ucum if known else "",
            "level": "urgent" if self.level == URGENT else "advisory", "source": self.source,
        }  # fmt: skip
        if self.override:
            found["override"] = self.override
        return found


class SideState(Struct, array_like=True):
    """What is known of one side (too low, too high).

    ``level`` is what has been raised: 0, 1 advisory, 2 urgent. ``samples`` are times and levels of recent readings.
    ``runs_us`` is since when every reading was past the advisory and the urgent limit, 0 when the last was not.
    ``deadline_us`` ends the wait for another reading after one of ``waiting_level``. ``past`` names the metrics that
    were past a limit: only a reading that tells of all of them can end the condition.
    """

    level: int = 0
    samples: list[tuple[int, int]] = field(default_factory=list)
    runs_us: tuple[int, int] = (0, 0)
    deadline_us: int = 0
    waiting_level: int = 0
    waiting: dict[str, Any] | None = None
    raised_us: int = 0
    calm: int = 0
    past: tuple[str, ...] = ()


class ThresholdState(Struct, array_like=True):
    low: SideState = field(default_factory=SideState)
    high: SideState = field(default_factory=SideState)
    implausible: int = 0
    doubted: bool = False


_CALM_SIDE: Final = SideState()
_CALM: Final = ThresholdState()


class ThresholdRule(Rule[ThresholdState]):
    """See ``schema.Threshold``. A wait that ends in silence raises what the last reading said."""

    state_type = ThresholdState
    on_late: Literal["lane", "fold", "skip"] = "lane"

    def __init__(self, config: schema.Threshold, version: str, limits: tuple[Limit, ...]) -> None:
        self.rule_id = config.id
        self.version = version
        self.config = config
        self.limits = limits
        self.metrics = frozenset(limit.metric for limit in limits)
        self._severity = {
            ADVISORY: Severity[config.advisory_severity],
            URGENT: Severity[config.urgent_severity],
        }
        self._confirm = {ADVISORY: config.advisory, URGENT: config.urgent}
        self._alert: dict[SideName, str] = {"low": config.alert_low, "high": config.alert_high}
        self._limits: dict[SideName, tuple[Limit, ...]] = {
            "low": tuple(limit for limit in limits if not limit.high),
            "high": tuple(limit for limit in limits if limit.high),
        }
        self._inside = {metric: self._interval(metric) for metric in self.metrics}
        self._calm_at = {(metric, side): self._calm_limit(metric, side) for metric in self.metrics for side in _SIDES}

    def initial(self) -> ThresholdState:
        return _CALM

    def quiet(self, state: ThresholdState, metric: str) -> Interval:
        if state != _CALM:
            return NOTHING
        return self._inside.get(metric, EVERYTHING)

    def step(self, state: ThresholdState, stimulus: Observed | Tick) -> Step[ThresholdState]:
        new = copy.copy(state)
        effects: list[Effect] = []
        if isinstance(stimulus, Tick):
            for side in _SIDES:
                self._side_silent(new, side, stimulus, effects)
            return self._done(new, effects)
        values = {m: v for m, v in stimulus.reading.measurements.items() if m in self.metrics}
        if not values:
            return self._done(new, effects)
        if not self._plausible(values):
            self._doubt(new, values, stimulus, effects)
            return self._done(new, effects)
        new.implausible = 0
        if new.doubted:
            new.doubted = False
            effects.append(cleared(self, stimulus, "measurement_implausible", {"values": values}))
        for side in _SIDES:
            self._side_reading(new, side, values, stimulus, effects)
        return self._done(new, effects)

    # ---- readings ------------------------------------------------------------------------------------------------

    def _side_reading(
        self, new: ThresholdState, side: SideName, values: dict[str, float], at: Observed, effects: list[Effect]
    ) -> None:
        limits = self._limits[side]
        if not limits or not any(limit.metric in values for limit in limits):
            return
        old: SideState = getattr(new, side)
        worst = max(
            (limit for limit in limits if limit.metric in values and limit.passed(values[limit.metric])),
            key=lambda limit: (limit.level, abs(values[limit.metric] - limit.value) / max(abs(limit.value), 1.0)),
            default=None,
        )
        if worst is None and old == _CALM_SIDE:
            return
        level = worst.level if worst else 0
        s = copy.copy(old)
        s.runs_us = self._runs(old, level, at.at_us)
        s.samples = [*old.samples, (at.at_us, level)][-_KEPT_SAMPLES:]
        s.deadline_us, s.waiting_level, s.waiting = 0, 0, None
        if worst is not None:
            s.calm = 0
            s.past = tuple(
                sorted({*old.past, *(x.metric for x in limits if x.metric in values and x.passed(values[x.metric]))})
            )
            evidence = worst.evidence(values[worst.metric])
            evidence["values"] = values
            self._past(s, old, worst, evidence, values, at, side, effects)
        elif s.level and values.keys() >= set(s.past):
            s.calm = s.calm + 1 if all(self._is_calm(m, side, v) for m, v in values.items()) else 0
            if s.calm >= self.config.clear_readings:
                effects.append(cleared(self, at, self._alert[side], {"values": values}))
                s = SideState()
        if not s.level and not s.deadline_us and not self._undecided(s):
            s = SideState()
        setattr(new, side, s)

    def _past(
        self,
        s: SideState,
        old: SideState,
        worst: Limit,
        evidence: dict[str, Any],
        values: dict[str, float],
        at: Observed,
        side: SideName,
        effects: list[Effect],
    ) -> None:
        """A reading past a limit: raise the highest level that is believed, wait for the one that is not yet."""
        far = any(x.level == worst.level and x.metric in values and x.far_passed(values[x.metric]) for x in self.limits
                  if x.high == worst.high)  # fmt: skip
        believed, why = (worst.level, "at once") if far else self._believed(s, worst.level, at.at_us)
        if believed < worst.level:
            confirm = self._confirm[worst.level]
            if confirm.silence_s and s.level < worst.level:
                keep = old.deadline_us if old.waiting_level == worst.level else 0
                s.deadline_us = keep or at.at_us + confirm.silence_s * US_PER_S
                s.waiting_level, s.waiting = worst.level, evidence
            if confirm.first == "advisory" and max(s.level, believed) < ADVISORY:
                believed, why = ADVISORY, "first reading"
            evidence = {**evidence, "repeat_requested": bool(confirm.first)}
        again = s.level and at.at_us - s.raised_us >= self.config.again_after_s * US_PER_S
        if believed > s.level or (again and worst.level >= s.level):
            s.level, s.raised_us = max(believed, s.level), at.at_us
            evidence = {**evidence, "confirmed_by": why or "still past the limit"}
            effects.append(raised(self, at, self._alert[side], self._severity[s.level], evidence))

    def _believed(self, s: SideState, level: int, now_us: int) -> tuple[int, str]:
        """The highest level up to ``level`` that the readings confirm, and how."""
        for wanted in (URGENT, ADVISORY):
            if wanted > level:
                continue
            confirm = self._confirm[wanted]
            if confirm.count:
                recent = [t for t, sample in s.samples[-confirm.of :]
                          if sample >= wanted and now_us - t <= confirm.window_s * US_PER_S]  # fmt: skip
                apart = recent[-1] - recent[0] if recent else 0
                if len(recent) >= confirm.count and apart >= confirm.apart_s * US_PER_S:
                    return wanted, f"{confirm.count} of {confirm.of} readings"
            since = s.runs_us[wanted - 1]
            if confirm.for_s and since and now_us - since >= confirm.for_s * US_PER_S:
                return wanted, f"for {confirm.for_s} s"
        return 0, ""

    def _runs(self, old: SideState, level: int, now_us: int) -> tuple[int, int]:
        last_us = old.samples[-1][0] if old.samples else 0
        runs = []
        for wanted in (ADVISORY, URGENT):
            since = old.runs_us[wanted - 1]
            if level < wanted:
                runs.append(0)
            elif since and now_us - last_us <= self._confirm[wanted].gap_s * US_PER_S:
                runs.append(since)
            else:
                runs.append(now_us)
        return runs[0], runs[1]

    def _undecided(self, s: SideState) -> bool:
        """Whether a reading past a limit is still among those that later ones are counted with."""
        reach = max(self.config.advisory.of, self.config.urgent.of)
        return any(level for _, level in s.samples[-reach:]) or s.runs_us != (0, 0)

    def _side_silent(self, new: ThresholdState, side: SideName, at: Tick, effects: list[Effect]) -> None:
        old: SideState = getattr(new, side)
        if not old.deadline_us or at.at_us < old.deadline_us:
            return
        s = copy.copy(old)
        s.deadline_us, s.waiting_level, s.waiting = 0, 0, None
        if old.waiting_level > old.level:
            s.level, s.raised_us = old.waiting_level, at.at_us
            silence_s = self._confirm[old.waiting_level].silence_s
            evidence = {**(old.waiting or {}), "confirmed_by": f"no other reading for {silence_s} s"}
            effects.append(raised(self, at, self._alert[side], self._severity[s.level], evidence))
        setattr(new, side, s)

    # ---- readings that cannot be believed ------------------------------------------------------------------------

    def _plausible(self, values: dict[str, float]) -> bool:
        for metric, value in values.items():
            low, high = self.config.plausible.get(metric, (-inf, inf))
            if not low <= value <= high:
                return False
        if self.config.less_than:
            small, big = (values.get(metric) for metric in self.config.less_than)
            return small is None or big is None or small < big
        return True

    def _doubt(self, new: ThresholdState, values: dict[str, float], at: Observed, effects: list[Effect]) -> None:
        new.implausible += 1
        if new.implausible >= self.config.implausible_limit and not new.doubted:
            new.doubted = True
            evidence = {"values": values, "readings": new.implausible, "plausible": dict(self.config.plausible)}
            effects.append(raised(self, at, "measurement_implausible", Severity.P4, evidence))
        new.implausible = min(new.implausible, self.config.implausible_limit)

    # ---- limits --------------------------------------------------------------------------------------------------

    def _interval(self, metric: str) -> Interval:
        """Where a value neither passes a limit nor is implausible, alone or beside its counterpart."""
        low, high = self.config.plausible.get(metric, (-inf, inf))
        for limit in self.limits:
            if limit.metric == metric:
                low, high = (low, min(high, limit.edge())) if limit.high else (max(low, limit.edge()), high)
        if self.config.less_than and metric == self.config.less_than[1] and self.config.less_than[0] in self.metrics:
            low = max(low, self._interval(self.config.less_than[0])[1])
        return low, high, inf

    def _calm_limit(self, metric: str, side: SideName) -> float:
        """Where a value must be back to count as calm: the margin, but never past the middle of the band."""
        own = [limit for limit in self._limits[side] if limit.metric == metric]
        other = [limit.value for limit in self._limits["low" if side == "high" else "high"] if limit.metric == metric]
        if not own:
            return inf if side == "high" else -inf
        inner = (min if side == "high" else max)(own, key=lambda limit: limit.value)
        back = inner.value - inner.clear_margin if side == "high" else inner.value + inner.clear_margin
        if other:
            middle = (inner.value + ((max if side == "high" else min)(other))) / 2
            back = max(back, middle) if side == "high" else min(back, middle)
        return round(back, 6)

    def _is_calm(self, metric: str, side: SideName, value: float) -> bool:
        limit = self._calm_at[(metric, side)]
        return value <= limit if side == "high" else value >= limit

    def _done(self, new: ThresholdState, effects: list[Effect]) -> Step[ThresholdState]:
        waits = [side.deadline_us for side in (new.low, new.high) if side.deadline_us]
        return Step(new, tuple(effects), min(waits) if waits else None)


class DeviceThresholdRule(ThresholdRule):
    """The same of a device: battery limits."""

    subject = "device"
    on_late = "skip"


def limits_for(
    config: schema.Threshold, conditions: frozenset[str], overrides: tuple[ThresholdOverride, ...]
) -> tuple[Limit, ...]:
    """The limits that hold: general bands, replaced by those of a condition, replaced by the person's own."""
    chosen: dict[tuple[str, bool, int], Limit] = {}
    for band in sorted(config.band, key=lambda band: bool(band.conditions)):
        if band.conditions and not conditions.intersection(band.conditions):
            continue
        high, level = band.side == "high", _LEVEL[band.level]
        chosen[band.metric, high, level] = Limit(
            band.metric, level, high, band.limit, band.inclusive, band.clear_margin, band.at_once_beyond, band.source
        )
    metrics = {band.metric for band in config.band}
    for override in overrides:
        if override.metric not in metrics:
            continue
        note = {"author": override.author, "reason": override.reason, "version": override.version}
        for side, value in override.limits.items():
            level_name, _, side_name = side.partition("_")
            key = (override.metric, side_name == "high", _LEVEL[level_name])
            if not (config.alert_high if key[1] else config.alert_low):
                continue
            general = chosen.pop(key, None)
            if value is not None:
                chosen[key] = Limit(
                    override.metric,
                    key[2],
                    key[1],
                    value,
                    inclusive=True,
                    clear_margin=general.clear_margin if general else _margin(chosen, override.metric),
                    at_once_beyond=general.at_once_beyond if general else None,
                    source="the person's own limit",
                    override=note,
                )
    return tuple(chosen[key] for key in sorted(chosen))


def _margin(chosen: dict[tuple[str, bool, int], Limit], metric: str) -> float:
    return max((limit.clear_margin for limit in chosen.values() if limit.metric == metric), default=0.0)
