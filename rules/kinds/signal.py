"""What devices signal: emergencies, which are judged without state, and the rest, which may latch or wait."""

from __future__ import annotations

from typing import Any, Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from gateway.care import Schedule, Window
from gateway.clock import US_PER_S
from gateway.model import EMERGENCY_SIGNALS, Clear, Effect, Position, Raise, Record, Severity
from rules import schema
from rules.local_time import in_force
from rules.machine import Observed, Rule, Step, Tick, cleared, raised

EMERGENCY_RULE_VERSION: Final = "builtin-v1"
CANCELLED_KINDS: Final = ("sos", "service_call")
"""What ``call_cancelled`` speaks of: calls that the person made. A cancelled call is still an emergency for people."""


def emergencies(
    seq: int, record: Record, *, late: bool, occurred_at_us: int, verified: bool, last_fix: Position | None
) -> list[Effect]:
    """A Raise for every emergency signal that is active in a record, whatever else it holds and whoever sent it.

    P1; P2 where nothing proves who sent it, so that it is shown as unverified. No state, no person, no clock needed.
    """
    reading = record.reading
    if reading is None:
        return []
    effects: list[Effect] = []
    for signal, active in reading.signals.items():
        if not active or signal not in EMERGENCY_SIGNALS:
            continue
        evidence: dict[str, Any] = {"signal": signal}
        if reading.measurements:
            evidence["values"] = dict(reading.measurements)
        effects.append(
            Raise(
                effect_id=f"r{seq}:signal.{signal}:{signal}",
                kind=signal,
                severity=Severity.P1 if verified else Severity.P2,
                person_id=record.person_id,
                device_id=record.device_id,
                seq=seq,
                occurred_at_us=occurred_at_us,
                received_at_us=record.received_at_us,
                rule_id=f"signal.{signal}",
                rule_version=EMERGENCY_RULE_VERSION,
                evidence=evidence,
                late=late,
                verified=verified,
                position=reading.position or last_fix,
            )
        )
    return effects


def emergencies_ended(seq: int, record: Record, at_us: int) -> list[Effect]:
    """A Clear for every emergency that the device says ended or was cancelled: a note on the alert, never its end."""
    reading = record.reading
    if reading is None:
        return []
    signals = reading.signals
    ended = {kind: "ended" for kind, active in signals.items() if kind in EMERGENCY_SIGNALS and not active}
    if signals.get("call_cancelled"):
        ended |= dict.fromkeys(CANCELLED_KINDS, "cancelled")
    return [
        Clear(
            effect_id=f"r{seq}:signal.{kind}:{kind}:clear",
            kind=kind,
            person_id=record.person_id,
            device_id=record.device_id,
            seq=seq,
            at_us=at_us,
            rule_id=f"signal.{kind}",
            evidence={"signal": "call_cancelled" if why == "cancelled" else kind},
        )
        for kind, why in ended.items()
    ]


def unverified_call(seq: int, record: Record, *, late: bool, occurred_at_us: int) -> Raise:
    """A call for a service from nobody known: shown, below what a known device would get."""
    return Raise(
        effect_id=f"r{seq}:service-call:service_call",
        kind="service_call",
        severity=Severity.P3,
        person_id=record.person_id,
        device_id=record.device_id,
        seq=seq,
        occurred_at_us=occurred_at_us,
        received_at_us=record.received_at_us,
        rule_id="service-call",
        rule_version=EMERGENCY_RULE_VERSION,
        evidence={"signal": "service_call"},
        late=late,
        verified=False,
        position=record.reading.position if record.reading else None,
    )


class LatchState(Struct, array_like=True):
    """``active`` since it was told; ``due_us`` is when a signal that may still end will be told, 0 when none waits."""

    active: bool = False
    raised_us: int = 0
    due_us: int = 0
    began_us: int = 0


_REST: Final = LatchState()


class SignalRule(Rule[LatchState]):
    """See ``schema.Signal``. A record that says both "it is so" and "it ended" counts as the former."""

    state_type = LatchState
    on_late = "lane"

    def __init__(self, config: schema.Signal, version: str, zone: ZoneInfo) -> None:
        self.rule_id = config.id
        self.version = version
        self.config = config
        self.zone = zone
        self.severity = Severity[config.severity]
        self.signals = frozenset({config.signal, *config.ended_by})
        self.subject = "device" if self.severity is Severity.P4 else "person"
        self._when = (
            None
            if config.start == config.until
            else Schedule(windows=(Window(start=config.start, until=config.until),))
        )

    def initial(self) -> LatchState:
        return _REST

    def step(self, state: LatchState, stimulus: Observed | Tick) -> Step[LatchState]:
        if isinstance(stimulus, Tick):
            if not state.due_us or stimulus.at_us < state.due_us:
                return Step(state, (), state.due_us or None)
            return self._tell(stimulus, began_us=state.began_us)
        signals = stimulus.reading.signals
        began = signals.get(self.config.signal)
        if began:
            return self._began(state, stimulus)
        if began is False or any(signals.get(name) for name in self.config.ended_by):
            told = state.active or not self.config.latched
            evidence = {"signals": dict(signals)}
            return Step(_REST, (cleared(self, stimulus, self.config.alert, evidence),) if told else ())
        return Step(state, (), state.due_us or None)

    def _began(self, state: LatchState, at: Observed) -> Step[LatchState]:
        if self.config.after_s:
            if state.active or state.due_us or not in_force(self._when, at.at_us, self.zone):
                return Step(state, (), state.due_us or None)
            due_us = at.at_us + self.config.after_s * US_PER_S
            return Step(LatchState(due_us=due_us, began_us=at.at_us), (), due_us)
        again = at.at_us - state.raised_us >= self.config.again_after_s * US_PER_S
        if self.config.latched and state.active and not again:
            return Step(state)
        if not in_force(self._when, at.at_us, self.zone):
            return Step(state)
        return self._tell(at, began_us=at.at_us)

    def _tell(self, at: Observed | Tick, *, began_us: int) -> Step[LatchState]:
        evidence: dict[str, Any] = {"signal": self.config.signal, "source": self.config.source}
        if self.config.after_s:
            evidence |= {"since_us": began_us, "after_s": self.config.after_s}
        effect = raised(self, at, self.config.alert, self.severity, evidence)
        return Step(LatchState(active=True, raised_us=at.at_us) if self.config.latched else _REST, (effect,))
