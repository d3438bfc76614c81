"""A change that is too fast: one value against those of a window before it."""

from __future__ import annotations

from math import inf
from typing import Final

from msgspec import Struct, field

from gateway.clock import US_PER_S
from gateway.model import Effect, Severity
from rules import schema
from rules.machine import EVERYTHING, NOTHING, Interval, Observed, Rule, Step, Tick, cleared, raised

_KEPT: Final = 64


class RateState(Struct, array_like=True):
    """``samples`` are times and values of the window, one per 64th of it; ``raised_us`` is 0 while all is well."""

    samples: list[tuple[int, float]] = field(default_factory=list)
    raised_us: int = 0


class RateRule(Rule[RateState]):
    """See ``schema.Rate``. Late records do not count: their neighbours in time are not known yet."""

    state_type = RateState

    def __init__(self, config: schema.Rate, version: str) -> None:
        self.rule_id = config.id
        self.version = version
        self.config = config
        self.metrics = frozenset({config.metric})
        self.severity = Severity[config.severity]
        self._window_us = config.window_s * US_PER_S
        self._spacing_us = self._window_us // _KEPT
        self._low, self._high = config.plausible or (-inf, inf)

    def initial(self) -> RateState:
        return RateState()

    def quiet(self, state: RateState, metric: str) -> Interval:
        if metric not in self.metrics:
            return EVERYTHING
        if state.raised_us or not state.samples:
            return NOTHING
        values = [value for _, value in state.samples]
        up, down = self.config.direction != "down", self.config.direction != "up"
        high = min(values) + self.config.delta if up else inf
        low = max(values) - self.config.delta if down else -inf
        return max(low, self._low), min(high, self._high), state.samples[-1][0] + self._spacing_us

    def step(self, state: RateState, stimulus: Observed | Tick) -> Step[RateState]:
        if isinstance(stimulus, Tick):
            return Step(state)
        value = stimulus.reading.measurements.get(self.config.metric)
        if value is None or not self._low <= value <= self._high:
            return Step(state)
        at_us = stimulus.at_us
        samples = [sample for sample in state.samples if at_us - sample[0] <= self._window_us]
        then_us, then = self._farthest(samples, value)
        change = value - then
        if not samples or at_us - samples[-1][0] >= self._spacing_us:
            samples = [*samples, (at_us, value)][-_KEPT:]
        raised_us, effects = state.raised_us, tuple[Effect, ...]()
        again = at_us - raised_us >= self.config.again_after_s * US_PER_S
        if abs(change) >= self.config.delta and (not raised_us or again):
            raised_us = at_us
            evidence = {
                "metric": self.config.metric, "value": value, "then": then, "then_us": then_us,
                "change": round(change, 6), "op": ">=", "limit": self.config.delta, "window_s": self.config.window_s,
                "source": self.config.source,
            }  # fmt: skip
            effects = (raised(self, stimulus, self.config.alert, self.severity, evidence),)
        elif raised_us and abs(change) <= self.config.delta - self.config.clear_margin:
            raised_us = 0
            effects = (cleared(self, stimulus, self.config.alert, {"value": value}),)
        return Step(RateState(samples, raised_us), effects)

    def _farthest(self, samples: list[tuple[int, float]], value: float) -> tuple[int, float]:
        """The sample that the value has moved from the most, in a direction that counts."""
        counted = [
            sample
            for sample in samples
            if self.config.direction == "both" or (value > sample[1]) == (self.config.direction == "up")
        ]
        return max(counted, key=lambda sample: abs(value - sample[1]), default=(0, value))
