"""What a rule is: a pure state machine. Time reaches it only inside a stimulus, and a timer is a number it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from math import inf
from typing import Any, Final, Generic, Literal, TypeVar

from msgspec import Struct

from gateway.clock import US_PER_S
from gateway.model import Clear, Effect, Position, Raise, Reading, Severity

S = TypeVar("S")

MINUTE_US: Final = 60 * US_PER_S
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US

Interval = tuple[float, float, float]
"""Low, high, until: while low < value < high and time < until, a value changes no state and has no effect."""
EVERYTHING: Final[Interval] = (-inf, inf, inf)
NOTHING: Final[Interval] = (inf, -inf, -inf)


class Stimulus(Struct, frozen=True, kw_only=True):
    """What all stimuli have.

    ``at_us`` is the time to reckon with: when a live record was received, when a late one was observed, when a timer
    was due. ``heard_us``, ``fix`` and ``fix_at_us`` are what the device said before: when it last said anything, and
    its last valid position.
    """

    at_us: int
    subject: str
    person_id: str
    device_id: str
    heard_us: int = 0
    fix: Position | None = None
    fix_at_us: int = 0


class Observed(Stimulus, frozen=True, kw_only=True):
    """A record. ``late`` says that it tells of the past: it was stored, or observed long before it was received."""

    seq: int
    received_at_us: int
    occurred_at_us: int
    reading: Reading
    late: bool = False
    verified: bool = True


class Tick(Stimulus, frozen=True, kw_only=True):
    """The wake-up that a step asked for; ``at_us`` is exactly the time it asked for."""


class Step(Struct, Generic[S], frozen=True):
    """What a stimulus led to. ``wake_at_us`` replaces the earlier wake-up; None means none."""

    state: S
    effects: tuple[Effect, ...] = ()
    wake_at_us: int | None = None


class Rule(ABC, Generic[S]):
    """A machine with its limits already resolved; it may serve many subjects.

    ``subject`` says whose state there is one of: the person's, the device's, or that of both together.
    ``on_late`` says what becomes of late records: ``lane`` folds them with a state of their own, so that they raise
    late alerts and never touch the live state; ``fold`` takes them like others; ``skip`` leaves them out.
    """

    rule_id: str
    version: str
    state_type: type[S]
    metrics: frozenset[str] = frozenset()
    signals: frozenset[str] = frozenset()
    positions: bool = False
    subject: Literal["person", "device", "both"] = "person"
    on_late: Literal["lane", "fold", "skip"] = "skip"
    held_after_outage: bool = False
    """Its wake-ups judge silence, which means nothing while the gateway itself was away."""

    @abstractmethod
    def initial(self) -> S: ...

    @abstractmethod
    def step(self, state: S, stimulus: Observed | Tick) -> Step[S]: ...

    def quiet(self, state: S, metric: str) -> Interval:
        """Values of a metric that, alone, would not change ``state``. NOTHING is always right, only slower."""
        del state, metric
        return NOTHING

    def arm(self, state: S, now_us: int) -> Step[S]:
        """Begin to watch, or watch on by a changed plan, without any record; most machines wait for their first one."""
        del now_us
        return Step(state)


def effect_id(rule_id: str, kind: str, stimulus: Observed | Tick) -> str:
    """The same for every replay, and unique: a rule has at most one Raise of a kind per stimulus."""
    if isinstance(stimulus, Observed):
        return f"r{stimulus.seq}:{rule_id}:{kind}"
    return f"t{stimulus.at_us}:{rule_id}:{stimulus.subject}:{kind}"


def raised(
    rule: Rule[Any], stimulus: Observed | Tick, kind: str, severity: Severity, evidence: dict[str, Any]
) -> Raise:
    """The Raise of a rule for a stimulus."""
    observed = stimulus if isinstance(stimulus, Observed) else None
    return Raise(
        effect_id=effect_id(rule.rule_id, kind, stimulus),
        kind=kind,
        severity=severity,
        person_id=stimulus.person_id,
        device_id=stimulus.device_id,
        seq=observed.seq if observed else 0,
        occurred_at_us=observed.occurred_at_us if observed else stimulus.at_us,
        received_at_us=observed.received_at_us if observed else stimulus.at_us,
        rule_id=rule.rule_id,
        rule_version=rule.version,
        evidence=evidence,
        late=observed.late if observed else False,
        verified=observed.verified if observed else True,
        position=place(stimulus),
    )


def cleared(rule: Rule[Any], stimulus: Observed | Tick, kind: str, evidence: dict[str, Any]) -> Clear:
    """The Clear of a rule for a stimulus."""
    return Clear(
        effect_id=effect_id(rule.rule_id, kind, stimulus) + ":clear",
        kind=kind,
        person_id=stimulus.person_id,
        device_id=stimulus.device_id,
        seq=stimulus.seq if isinstance(stimulus, Observed) else 0,
        at_us=stimulus.at_us,
        rule_id=rule.rule_id,
        evidence=evidence,
    )


def place(stimulus: Observed | Tick) -> Position | None:
    """Where it happened: the record's own position, else the device's last one, marked as not valid any more."""
    if isinstance(stimulus, Observed) and stimulus.reading.position is not None:
        return stimulus.reading.position
    return last_known(stimulus.fix)


def last_known(fix: Position | None) -> Position | None:
    if fix is None:
        return None
    return Position(fix.latitude, fix.longitude, fix.observed_at_us, fix.accuracy_m, fix.source, valid=False)
