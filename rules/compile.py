"""From rule files and a care plan to machines with their limits resolved. Equal machines are shared between persons."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

from msgspec import Struct

from gateway.care import CarePlan, CheckInDue, DeviceCare, MeasurementDue, ThresholdOverride
from rules import schema
from rules.kinds.absence import DueRule, MotionRule, SilenceRule
from rules.kinds.baseline import BaselineRule
from rules.kinds.geofence import AreaRule
from rules.kinds.rate import RateRule
from rules.kinds.score import ScoreRule
from rules.kinds.signal import SignalRule
from rules.kinds.threshold import DeviceThresholdRule, ThresholdRule, limits_for
from rules.loader import RuleSet
from rules.machine import Rule


class Compiled(Struct, frozen=True):
    """The machines of a person. ``until_us`` is when a validity begins or ends, so that they must be made anew."""

    rules: tuple[Rule[Any], ...]
    until_us: int | None


class Compiler:
    """Makes machines; remembers those that do not depend on one person."""

    def __init__(self, rules: RuleSet, site_timezone: str) -> None:
        self._rules = rules
        self._site_zone = ZoneInfo(site_timezone)
        self._shared: dict[tuple[Any, ...], tuple[Rule[Any], ...]] = {}

    def zone(self, plan: CarePlan) -> ZoneInfo:
        """The person's time zone, the site's when it has none or one that does not exist."""
        if plan.timezone:
            try:
                return ZoneInfo(plan.timezone)
            except (KeyError, ValueError, OSError):
                return self._site_zone
        return self._site_zone

    def person(self, plan: CarePlan, at_us: int) -> Compiled:
        zone = self.zone(plan)
        key = (frozenset(plan.conditions), zone.key)
        shared = self._shared.get(key)
        if shared is None:
            shared = self._shared[key] = (*self._thresholds(plan, ()), *self._general(plan, zone))
        overrides = tuple(o for o in plan.overrides if _valid(o.valid_from_us, o.valid_to_us, at_us))
        if overrides:
            shared = (*self._thresholds(plan, overrides), *self._general(plan, zone))
        edges = [edge for override in plan.overrides for edge in (override.valid_from_us, override.valid_to_us)]
        for fence in plan.fences:
            edges += [fence.valid_from_us, fence.valid_to_us, fence.paused_until_us]
        later = [edge for edge in edges if edge is not None and edge > at_us]
        own = (*self._expectations(plan, zone), *self._areas(plan, zone, at_us))
        return Compiled((*shared, *own), min(later, default=None))

    def device(self, care: DeviceCare, plan: CarePlan) -> tuple[Rule[Any], ...]:
        rules: list[Rule[Any]] = []
        for item in self._rules.thresholds.values():
            config: schema.Threshold = item.config
            if config.per == "device":
                limits = limits_for(config, frozenset(), _battery(care))
                rules.append(DeviceThresholdRule(config, item.version, limits))
        silence: schema.Silence = self._rules.silence.config
        limit_s = max(silence.heartbeats * care.heartbeat_s, care.silent_after_s)
        if limit_s:
            rules.append(SilenceRule(silence, self._rules.silence.version, limit_s, high_risk=plan.high_risk))
        return tuple(rules)

    def _thresholds(self, plan: CarePlan, overrides: tuple[ThresholdOverride, ...]) -> list[Rule[Any]]:
        rules: list[Rule[Any]] = []
        for item in self._rules.thresholds.values():
            config: schema.Threshold = item.config
            if config.per != "person":
                continue
            own = tuple(o for o in overrides if any(band.metric == o.metric for band in config.band))
            version = item.version + "".join(f"+{plan.person_id}.{o.version}" for o in own)
            limits = limits_for(config, frozenset(plan.conditions), own)
            if limits:
                rules.append(ThresholdRule(config, version, limits))
        return rules

    def _general(self, plan: CarePlan, zone: ZoneInfo) -> list[Rule[Any]]:
        conditions = frozenset(plan.conditions)
        rules: list[Rule[Any]] = [SignalRule(item.config, item.version, zone) for item in self._rules.signals.values()]
        rules += [
            RateRule(item.config, item.version)
            for item in self._rules.rates.values()
            if _applies(item.config.conditions, conditions)
        ]
        rules += [
            BaselineRule(item.config, item.version)
            for item in self._rules.baselines.values()
            if _applies(item.config.conditions, conditions)
        ]
        rules += [ScoreRule(item.config, item.version, conditions) for item in self._rules.scores.values()]
        return rules

    def _expectations(self, plan: CarePlan, zone: ZoneInfo) -> list[Rule[Any]]:
        config: schema.Absence = self._rules.absence.config
        version = f"{self._rules.absence.version}+{plan.person_id}.{plan.version}"
        rules: list[Rule[Any]] = []
        for expectation in plan.expectations:
            if isinstance(expectation, MeasurementDue | CheckInDue):
                rules.append(DueRule(config, version, expectation, zone))
            else:
                rules.append(MotionRule(config, version, expectation, zone))
        return rules

    def _areas(self, plan: CarePlan, zone: ZoneInfo, at_us: int) -> list[Rule[Any]]:
        fences = [
            fence
            for fence in plan.fences
            if fence.consent
            and _valid(fence.valid_from_us, fence.valid_to_us, at_us)
            and fence.paused_until_us <= at_us
        ]
        if not fences:
            return []
        versions = ",".join(f"{fence.fence_id}.{fence.version}" for fence in fences)
        return [AreaRule(self._rules.geofence.config, f"{self._rules.geofence.version}+{versions}", fences, zone)]


def _battery(care: DeviceCare) -> tuple[ThresholdOverride, ...]:
    limits = {"battery_percent": care.battery_low_percent, "battery_volts": care.battery_low_volts}
    return tuple(
        ThresholdOverride(
            metric=metric, limits={"advisory_low": limit}, author="profile", reason="the device's own limit"
        )
        for metric, limit in limits.items()
        if limit is not None
    )


def _applies(wanted: tuple[str, ...], conditions: frozenset[str]) -> bool:
    return not wanted or not conditions.isdisjoint(wanted)


def _valid(start_us: int | None, end_us: int | None, at_us: int) -> bool:
    return (start_us is None or start_us <= at_us) and (end_us is None or at_us < end_us)
