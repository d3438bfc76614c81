"""What did not happen: a silent device, a missed measurement or "I'm OK", no sign of activity."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from gateway.care import CheckInDue, MeasurementDue, MotionExpected
from gateway.clock import US_PER_S
from gateway.model import Effect, Severity
from rules import schema
from rules.local_time import local_date, wall_us, windows_from
from rules.machine import MINUTE_US, NOTHING, Interval, Observed, Rule, Step, Tick, cleared, raised

_DAYS_LOOKED_AHEAD: Final = 9


class SilenceState(Struct, array_like=True):
    """``due_us`` is the pending look, which may find that the device spoke meanwhile."""

    silent: bool = False
    due_us: int = 0


class SilenceRule(Rule[SilenceState]):
    """A device that spoke once and then says nothing for ``limit_s``; what was known of its person is then unknown.

    It is stepped for the first record and the first after silence; in between the stimulus tells when it was heard.
    """

    state_type = SilenceState
    subject = "device"
    held_after_outage = True

    def __init__(self, config: schema.Silence, version: str, limit_s: int, *, high_risk: bool) -> None:
        self.rule_id = "device-silence"
        self.version = version
        self.config = config
        self.limit_us = limit_s * US_PER_S
        self.severity = Severity[config.high_risk_severity if high_risk else config.severity]

    def initial(self) -> SilenceState:
        return SilenceState()

    def step(self, state: SilenceState, stimulus: Observed | Tick) -> Step[SilenceState]:
        if isinstance(stimulus, Observed):
            due_us = state.due_us or stimulus.at_us + self.limit_us
            effects: tuple[Effect, ...] = ()
            if state.silent:
                due_us = stimulus.at_us + self.limit_us
                effects = (cleared(self, stimulus, self.config.alert, {}),)
            return Step(SilenceState(silent=False, due_us=due_us), effects, due_us)
        due_us = stimulus.heard_us + self.limit_us
        if due_us > stimulus.at_us:
            return Step(SilenceState(silent=False, due_us=due_us), (), due_us)
        evidence = {
            "silent_for_s": (stimulus.at_us - stimulus.heard_us) // US_PER_S, "limit_s": self.limit_us // US_PER_S,
            "last_heard_us": stimulus.heard_us, "condition": "unknown", "source": self.config.source,
        }  # fmt: skip
        effect = raised(self, stimulus, self.config.alert, self.severity, evidence)
        return Step(SilenceState(silent=True), (effect,))


class DueState(Struct, array_like=True):
    """``done_us`` is the last time it was done, ``missed`` whether that was told, ``due_us`` the deadline awaited."""

    done_us: int = 0
    missed: bool = False
    due_us: int = 0


class DueRule(Rule[DueState]):
    """Something that is to be done daily between two local times: a measurement, or an "I'm OK".

    Late records count by the time at which they were observed.
    """

    state_type = DueState
    on_late = "fold"
    held_after_outage = True

    def __init__(self, config: schema.Absence, version: str, due: MeasurementDue | CheckInDue, zone: ZoneInfo) -> None:
        self.rule_id = f"due.{due.expectation_id}"
        self.version = version
        self.due = due
        self.zone = zone
        self.source = config.source
        if isinstance(due, MeasurementDue):
            self.metrics = frozenset({due.metric})
            self.alert, severity = config.measurement_alert, config.measurement_severity
        else:
            self.signals = frozenset(config.check_in_signals)
            self.alert, severity = config.check_in_alert, config.check_in_severity
        self.severity = Severity[severity]

    def initial(self) -> DueState:
        return DueState()

    def arm(self, state: DueState, now_us: int) -> Step[DueState]:
        due_us = self._deadline_after(now_us)
        return Step(DueState(state.done_us, state.missed, due_us or 0), (), due_us)

    def quiet(self, state: DueState, metric: str) -> Interval:
        if state.missed or metric not in self.metrics:
            return NOTHING
        start_us = self._start_after(state.done_us) if state.done_us else 0
        return (float("-inf"), float("inf"), start_us) if start_us else NOTHING

    def step(self, state: DueState, stimulus: Observed | Tick) -> Step[DueState]:
        if isinstance(stimulus, Observed):
            return self._observed(state, stimulus)
        at_us = stimulus.at_us
        next_us = self._deadline_after(at_us)
        start_us, by_us = self._window_due_by(at_us)
        missed = not state.done_us >= start_us
        new = DueState(state.done_us, missed or state.missed, next_us or 0)
        if not missed:
            return Step(new, (), next_us)
        evidence: dict[str, Any] = {
            "expectation": self.due.expectation_id, "start": self.due.start, "by": self.due.by, "by_us": by_us,
            "grace_minutes": self.due.grace_minutes, "last_done_us": state.done_us or None, "source": self.source,
        }  # fmt: skip
        if isinstance(self.due, MeasurementDue):
            evidence["metric"] = self.due.metric
        return Step(new, (raised(self, stimulus, self.alert, self.severity, evidence),), next_us)

    def _observed(self, state: DueState, at: Observed) -> Step[DueState]:
        due_us = state.due_us or self._deadline_after(at.received_at_us) or 0
        if not self._says_so(at):
            return Step(DueState(state.done_us, state.missed, due_us), (), due_us or None)
        effects: tuple[Effect, ...] = ()
        missed = state.missed
        if missed and not at.late:
            effects, missed = (cleared(self, at, self.alert, {"done_us": at.at_us}),), False
        return Step(DueState(max(state.done_us, at.at_us), missed, due_us), effects, due_us or None)

    def _says_so(self, at: Observed) -> bool:
        if isinstance(self.due, MeasurementDue):
            return self.due.metric in at.reading.measurements
        return any(at.reading.signals.get(signal) for signal in self.signals)

    def _deadline(self, day: date) -> int:
        return wall_us(day, self.due.by, self.zone) + self.due.grace_minutes * MINUTE_US

    def _deadline_after(self, at_us: int) -> int | None:
        """The first deadline after a time; grace may carry one into the next day."""
        day = local_date(at_us, self.zone) - timedelta(days=1)
        for _ in range(_DAYS_LOOKED_AHEAD):
            if day.isoweekday() in self.due.days and (deadline := self._deadline(day)) > at_us:
                return deadline
            day += timedelta(days=1)
        return None

    def _window_due_by(self, at_us: int) -> tuple[int, int]:
        """Start and 'by' of the last window whose deadline is not after a time."""
        day = local_date(at_us, self.zone)
        for _ in range(_DAYS_LOOKED_AHEAD):
            if day.isoweekday() in self.due.days and self._deadline(day) <= at_us:
                return wall_us(day, self.due.start, self.zone), wall_us(day, self.due.by, self.zone)
            day -= timedelta(days=1)
        return at_us, at_us

    def _start_after(self, at_us: int) -> int:
        """When the first window after the one that holds a time opens; 0 when that is not within nine days."""
        day = local_date(at_us, self.zone)
        for _ in range(_DAYS_LOOKED_AHEAD):
            start_us = wall_us(day, self.due.start, self.zone)
            if day.isoweekday() in self.due.days and start_us > at_us:
                return start_us
            day += timedelta(days=1)
        return 0


class MotionState(Struct, array_like=True):
    """``seen_us`` is the last sign of activity, ``due_us`` the pending look, ``begun_us`` when watching began."""

    seen_us: int = 0
    still: bool = False
    due_us: int = 0
    begun_us: int = 0


class MotionRule(Rule[MotionState]):
    """A sign of activity is expected within so many minutes, counted only while the schedule is in force."""

    state_type = MotionState
    on_late = "fold"
    held_after_outage = True

    def __init__(self, config: schema.Absence, version: str, expected: MotionExpected, zone: ZoneInfo) -> None:
        self.rule_id = f"due.{expected.expectation_id}"
        self.version = version
        self.config = config
        self.expected = expected
        self.zone = zone
        self.signals = frozenset(config.motion_signals)
        self.severity = Severity[config.motion_severity]
        self._within_us = expected.within_minutes * MINUTE_US

    def initial(self) -> MotionState:
        return MotionState()

    def arm(self, state: MotionState, now_us: int) -> Step[MotionState]:
        begun_us = state.begun_us or now_us
        due_us = None if state.still else self._due_us(max(state.seen_us, begun_us), now_us)
        return Step(MotionState(state.seen_us, state.still, due_us or 0, begun_us), (), due_us)

    def step(self, state: MotionState, stimulus: Observed | Tick) -> Step[MotionState]:
        at_us = stimulus.at_us
        if isinstance(stimulus, Observed):
            if not any(stimulus.reading.signals.get(signal) for signal in self.signals):
                return Step(state, (), state.due_us or None)
            effects: tuple[Effect, ...] = ()
            seen_us, still, due_us = max(state.seen_us, at_us), state.still, state.due_us
            if still and not stimulus.late:
                effects, still = (cleared(self, stimulus, self.config.motion_alert, {}),), False
                due_us = 0
            due_us = due_us or self._due_us(seen_us, stimulus.received_at_us) or 0
            return Step(MotionState(seen_us, still, due_us, state.begun_us), effects, due_us or None)
        next_us = self._due_us(max(state.seen_us, state.begun_us), at_us - 1)
        if next_us is None or next_us > at_us:
            return Step(MotionState(state.seen_us, state.still, next_us or 0, state.begun_us), (), next_us)
        evidence = {
            "expectation": self.expected.expectation_id, "within_minutes": self.expected.within_minutes,
            "last_seen_us": state.seen_us or None, "source": self.config.source,
        }  # fmt: skip
        effect = raised(self, stimulus, self.config.motion_alert, self.severity, evidence)
        return Step(MotionState(state.seen_us, still=True, begun_us=state.begun_us), (effect,))

    def _due_us(self, seen_us: int, now_us: int) -> int | None:
        """The first time after ``now_us`` at which a window has been open for so long without a sign."""
        day = local_date(now_us, self.zone) - timedelta(days=1)
        for start_us, end_us in windows_from(self.expected.schedule, day, self.zone):
            due_us = max(seen_us, start_us) + self._within_us
            if due_us > now_us and due_us <= end_us:
                return due_us
        return None
