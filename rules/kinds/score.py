"""Aggregate scores such as NEWS2, from readings that state every part at one time; never from less."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

from msgspec import Struct

from gateway.model import Effect, Severity
from rules import schema
from rules.machine import EVERYTHING, NOTHING, Interval, Observed, Rule, Step, Tick, cleared, raised

_OXYGEN: Final = "x_oxygen"
_TRIGGER: Final = "x_consciousness"


class ScoreState(Struct, array_like=True):
    """The severity last raised, 0 when none is."""

    severity: int = 0


class ScoreRule(Rule[ScoreState]):
    """See ``schema.Score``. Scale ``2`` of a part has a variant ``2 on oxygen``, as NEWS2 has for SpO2."""

    state_type = ScoreState
    on_late = "lane"

    def __init__(self, config: schema.Score, version: str, conditions: frozenset[str]) -> None:
        self.rule_id = config.id
        self.version = version
        self.config = config
        self.needed = frozenset(part.metric for part in config.part)
        # One part that ordinary readings lack is enough to be called by; the others would cost every reading.
        self.metrics = frozenset({_TRIGGER}) if _TRIGGER in self.needed else self.needed
        chosen = sorted(scale for condition, scale in config.scale_conditions.items() if condition in conditions)
        self.scale = chosen[0] if chosen else ""

    def initial(self) -> ScoreState:
        return ScoreState()

    def quiet(self, state: ScoreState, metric: str) -> Interval:
        del state
        return NOTHING if metric in self.metrics else EVERYTHING

    def points(self, values: dict[str, float]) -> dict[str, int] | None:
        """Points per metric; None when a part is missing."""
        if not self.needed <= values.keys():
            return None
        scale = f"{self.scale} on oxygen" if self.scale and values.get(_OXYGEN) else self.scale
        parts: dict[str, schema.ScorePoints] = {}
        for part in self.config.part:
            if part.scale == scale or (part.scale == "" and part.metric not in parts):
                parts[part.metric] = part
        return {m: part.points[bisect_left(part.up_to, values[m])] for m, part in parts.items()}

    def step(self, state: ScoreState, stimulus: Observed | Tick) -> Step[ScoreState]:
        if isinstance(stimulus, Tick):
            return Step(state)
        points = self.points(stimulus.reading.measurements)
        if points is None:
            return Step(state)
        total, highest = sum(points.values()), max(points.values())
        config = self.config
        severity: Severity | None = None
        if total >= config.high_total:
            severity = Severity[config.high_severity]
        elif total >= config.medium_total or highest >= config.single:
            severity = Severity[config.medium_severity]
        evidence: dict[str, Any] = {
            "total": total, "points": points, "limit": config.high_total, "op": ">=", "scale": self.scale or "1",
            "values": {metric: stimulus.reading.measurements[metric] for metric in sorted(self.needed)},
            "source": config.source,
        }  # fmt: skip
        effects: tuple[Effect, ...] = ()
        if severity is not None and (not state.severity or severity < state.severity):
            effects = (raised(self, stimulus, config.alert, severity, evidence),)
            return Step(ScoreState(int(severity)), effects)
        if severity is None and state.severity:
            return Step(ScoreState(), (cleared(self, stimulus, config.alert, evidence),))
        return Step(state)
