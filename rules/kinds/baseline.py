"""A person's own normal: a recent mean against a long one, both exponential and by time, not by count."""

from __future__ import annotations

from math import exp, inf, sqrt
from typing import Final

from msgspec import Struct

from gateway.clock import US_PER_S
from gateway.model import Effect, Severity
from rules import schema
from rules.machine import EVERYTHING, NOTHING, Interval, Observed, Rule, Step, Tick, cleared, raised

_SLOW: Final = 0.1


class BaselineState(Struct, array_like=True):
    """Mean and variance over the long memory, the recent mean, how many samples since when."""

    count: int = 0
    first_us: int = 0
    last_us: int = 0
    mean: float = 0.0
    variance: float = 0.0
    recent: float = 0.0
    unusual: bool = False


class BaselineRule(Rule[BaselineState]):
    """See ``schema.Baseline``. While the recent mean is away the long one learns slowly: an illness is not a new normal
    at once, but a new medicine is in the end.
    """

    state_type = BaselineState

    def __init__(self, config: schema.Baseline, version: str) -> None:
        self.rule_id = config.id
        self.version = version
        self.config = config
        self.metrics = frozenset({config.metric})
        self.severity = Severity[config.severity]
        self._low, self._high = config.plausible or (-inf, inf)

    def initial(self) -> BaselineState:
        return BaselineState()

    def quiet(self, state: BaselineState, metric: str) -> Interval:
        if metric not in self.metrics:
            return EVERYTHING
        if not state.count:
            return NOTHING
        return -inf, inf, state.last_us + self.config.every_s * US_PER_S

    def step(self, state: BaselineState, stimulus: Observed | Tick) -> Step[BaselineState]:
        if isinstance(stimulus, Tick):
            return Step(state)
        config, at_us = self.config, stimulus.at_us
        value = stimulus.reading.measurements.get(config.metric)
        if value is None or not self._low <= value <= self._high:
            return Step(state)
        if not state.count:
            return Step(BaselineState(1, at_us, at_us, value, 0.0, value))
        elapsed_s = (at_us - state.last_us) / US_PER_S
        if elapsed_s < config.every_s:
            return Step(state)
        recent = state.recent + (1 - exp(-elapsed_s / config.recent_s)) * (value - state.recent)
        limit = max(config.deviations * sqrt(state.variance), config.min_delta)
        away = abs(recent - state.mean)
        ripe = state.count >= config.min_samples and at_us - state.first_us >= config.min_age_s * US_PER_S
        unusual, effects = state.unusual, tuple[Effect, ...]()
        if ripe and not unusual and away >= limit:
            unusual = True
            evidence = {
                "metric": config.metric, "value": round(recent, 3), "baseline": round(state.mean, 3),
                "deviation": round(sqrt(state.variance), 3), "op": ">=", "limit": round(limit, 3),
                "samples": state.count, "source": config.source,
            }  # fmt: skip
            effects = (raised(self, stimulus, config.alert, self.severity, evidence),)
        elif unusual and away <= limit / 2:
            unusual = False
            effects = (cleared(self, stimulus, config.alert, {"value": round(recent, 3)}),)
        mean, variance = state.mean, state.variance
        # Until as many samples are in as the memory would weigh, a plain mean learns faster.
        weight = max(1 - exp(-elapsed_s / config.memory_s), 1 / (state.count + 1))
        if ripe and away > limit / 2:
            weight *= _SLOW
        delta = value - mean
        mean += weight * delta
        variance = (1 - weight) * (variance + weight * delta * delta)
        return Step(BaselineState(state.count + 1, state.first_us, at_us, mean, variance, recent, unusual), effects)
