"""From rule files and a care plan to machines with their limits resolved. Equal machines are shared between persons."""

from __future__ import annotations

from collections.abc import Iterable
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
from rules.kinds.threshold import DeviceThresholdRule, Limit, ThresholdRule, limits_for
from rules.loader import RuleSet
from rules.machine import Rule


class Wanted:
    """Which of some machines want a metric or a signal; in the order of the rule set. Never changed once made."""

    __slots__ = ("by_id", "by_metric", "by_signal")

    def __init__(self, rules: Iterable[Rule[Any]]) -> None:
        self.by_id: dict[str, Rule[Any]] = {}
        self.by_metric: dict[str, list[Rule[Any]]] = {}
        self.by_signal: dict[str, list[Rule[Any]]] = {}
        for rule in rules:
            self.by_id[rule.rule_id] = rule
            for metric in rule.metrics:
                self.by_metric.setdefault(metric, []).append(rule)
            for signal in rule.signals:
                self.by_signal.setdefault(signal, []).append(rule)


class Compiled(Struct, frozen=True):
    """The machines of a person. ``until_us`` is when a validity begins or ends, so that they must be made anew."""

    wanted: Wanted
    area: AreaRule | None
    until_us: int | None


class Compiler:
    """Makes machines; remembers those that do not depend on one person."""

    def __init__(self, rules: RuleSet, site_timezone: str) -> None:
        self._rules = rules
        self._site_zone = ZoneInfo(site_timezone)
        self._shared: dict[tuple[Any, ...], tuple[tuple[Rule[Any], ...], Wanted]] = {}
        self._of_devices: dict[tuple[Any, ...], tuple[Rule[Any], ...]] = {}

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
            rules = (*self._thresholds(plan, ()), *self._general(plan, zone))
            shared = self._shared[key] = (rules, Wanted(rules))
        rules, wanted = shared
        overrides = tuple(o for o in plan.overrides if _valid(o.valid_from_us, o.valid_to_us, at_us))
        expectations = self._expectations(plan, zone)
        if overrides:
            rules = (*self._thresholds(plan, overrides), *self._general(plan, zone))
        if overrides or expectations:
            wanted = Wanted((*rules, *expectations))
        edges = [edge for override in plan.overrides for edge in (override.valid_from_us, override.valid_to_us)]
        for fence in plan.fences:
            edges += [fence.valid_from_us, fence.valid_to_us, fence.paused_until_us]
        later = [edge for edge in edges if edge is not None and edge > at_us]
        return Compiled(wanted, self._area(plan, zone, at_us), min(later, default=None))

    def limits(self, plan: CarePlan, at_us: int) -> tuple[Limit, ...]:
        """Those that hold for the person's readings now, the person's own among them."""
        rules = self.person(plan, at_us).wanted.by_id.values()
        return tuple(limit for rule in rules if isinstance(rule, ThresholdRule) for limit in rule.limits)

    def device(self, care: DeviceCare, plan: CarePlan) -> tuple[Rule[Any], ...]:
        silence: schema.Silence = self._rules.silence.config
        limit_s = max(silence.heartbeats * care.heartbeat_s, care.silent_after_s)
        key = (limit_s, plan.high_risk, care.battery_low_percent, care.battery_low_volts)
        known = self._of_devices.get(key)
        if known is not None:
            return known
        rules: list[Rule[Any]] = []
        for item in self._rules.thresholds.values():
            config: schema.Threshold = item.config
            if config.per == "device":
                limits = limits_for(config, frozenset(), _battery(care))
                rules.append(DeviceThresholdRule(config, item.version, limits))
        if limit_s:
            rules.append(SilenceRule(silence, self._rules.silence.version, limit_s, high_risk=plan.high_risk))
        known = self._of_devices[key] = tuple(rules)
        return known

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

    def _area(self, plan: CarePlan, zone: ZoneInfo, at_us: int) -> AreaRule | None:
        fences = [
            fence
            for fence in plan.fences
            if fence.consent
            and _valid(fence.valid_from_us, fence.valid_to_us, at_us)
            and fence.paused_until_us <= at_us
        ]
        if not fences:
            return None
        versions = ",".join(f"{fence.fence_id}.{fence.version}" for fence in fences)
        return AreaRule(self._rules.geofence.config, f"{self._rules.geofence.version}+{versions}", fences, zone)


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
