"""Being where one should not be: fixes with an accuracy against areas with a margin.

A fix says *out* when it is further outside than its accuracy and the margin, *in* when it is surely inside, else
nothing. An exit needs two such fixes over a minute, or one that is far out; fixes from radio cells need more of both
and only make a suspicion. A return needs two fixes. What cannot be (invalid, 0/0, too fast, older than the last one) is
left out here, and only here: no emergency depends on its position.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import inf
from typing import Any, Final, Literal
from zoneinfo import ZoneInfo

from msgspec import Struct, field
from msgspec.structs import replace

from gateway.care import Fence
from gateway.clock import US_PER_S
from gateway.model import Effect, Position, Severity
from rules import schema
from rules.geometry import Ground, distance_m, is_place
from rules.local_time import in_force, next_change_us
from rules.machine import Observed, Rule, Step, Tick, cleared, raised
from rules.timing import LATE_US, sane_us

Box = tuple[bool, float, float, float, float]
"""Inside, south, north, west, east."""
ANYWHERE: Final[Box] = (True, -90.000001, 90.000001, -180.000001, 180.000001)
_NO_PLACE: Final[Box] = (True, inf, -inf, inf, -inf)
_ACCURACY_M: Final[Mapping[str, float]] = {"gnss": 15.0, "wifi": 50.0, "cell": 1000.0, "manual": 50.0}

Where = Literal["", "in", "out"]


class FenceState(Struct, array_like=True, frozen=True):
    """``where`` is what is believed, "" before the first clear fix. Counts and since when speak of the other side."""

    where: Where = ""
    suspected: bool = False
    count: int = 0
    since_us: int = 0
    cell_count: int = 0
    cell_since_us: int = 0
    away_m: float = 0.0


class AreaState(Struct, array_like=True):
    """Per fence what is believed; the alarms that stand (kind → when raised, suspected).

    ``late_fix_us`` is when the last fix of an upload was made; of live ones the stimulus tells.
    """

    fences: dict[str, FenceState] = field(default_factory=dict)
    alarms: dict[str, tuple[int, bool]] = field(default_factory=dict)
    late_fix_us: int = 0


_UNKNOWN: Final = FenceState()


class AreaRule(Rule[AreaState]):
    """All fences of a person, for one device. The person may be in any home or allowed area that is in force."""

    state_type = AreaState
    positions = True
    subject = "both"
    on_late = "lane"

    def __init__(self, config: schema.Geofence, version: str, fences: list[Fence], zone: ZoneInfo) -> None:
        self.rule_id = "geofence"
        self.version = version
        self.config = config
        self.zone = zone
        self.fences = {fence.fence_id: fence for fence in fences}
        self.ground = {fence.fence_id: Ground(fence) for fence in fences}
        self._boxes = {name: (ground.box_within(), ground.box_around()) for name, ground in self.ground.items()}
        self._speed_m_per_s = config.max_speed_km_per_h / 3.6

    def initial(self) -> AreaState:
        return AreaState()

    def quiet_boxes(self, state: AreaState) -> tuple[Box, ...]:
        """Where a fix changes no state: within the margin of where the person is, clear of where the person is not."""
        if state.alarms:
            return (_NO_PLACE,)
        boxes: list[Box] = [] if any(known.where == "in" for known in state.fences.values()) else [ANYWHERE]
        for name in self.fences:
            known = state.fences.get(name, _UNKNOWN)
            if not known.where or known.count or known.cell_count:
                return (_NO_PLACE,)
            within, around = self._boxes[name]
            boxes.append((True, *within) if known.where == "in" else (False, *around))
        return tuple(boxes)

    def step(self, state: AreaState, stimulus: Observed | Tick) -> Step[AreaState]:
        fences = {name: state.fences[name] for name in self.fences if name in state.fences}
        late_fix_us = 0
        fix: Position | None = None
        if isinstance(stimulus, Observed):
            fix = stimulus.reading.position
            made_us = _made_us(stimulus)
            if fix is None or made_us is None or not self._usable(fix, made_us, state, stimulus):
                return Step(state, (), self._wake_us(fences, stimulus.at_us))
            late_fix_us = made_us if stimulus.late else 0
            for name in self.fences:
                fences[name] = self._judge(name, fences.get(name, _UNKNOWN), fix, made_us)
        else:
            for name, known in fences.items():
                fences[name] = self._dwelt(known, self._sense_in(name), stimulus.at_us)
        alarms = dict(state.alarms)
        effects = self._alarms(fences, alarms, stimulus, fix)
        return Step(AreaState(fences, alarms, late_fix_us), effects, self._wake_us(fences, stimulus.at_us))

    # ---- one fix -------------------------------------------------------------------------------------------------

    def _usable(self, fix: Position, made_us: int, state: AreaState, at: Observed) -> bool:
        """Whether a fix is one, newer than the one before it, and reachable from there."""
        if not is_place(fix):
            return False
        if at.late:
            return made_us >= state.late_fix_us
        before = at.fix
        if before is None:
            return True
        if made_us < sane_us(before.observed_at_us, at.fix_at_us):
            return False
        apart_m = distance_m(before.latitude, before.longitude, fix.latitude, fix.longitude)
        apart_m -= self._accuracy(before) + self._accuracy(fix)
        elapsed_us = max(at.received_at_us - at.fix_at_us, fix.observed_at_us - before.observed_at_us, US_PER_S)
        return apart_m <= self._speed_m_per_s * elapsed_us / US_PER_S

    def _judge(self, name: str, known: FenceState, fix: Position, at_us: int) -> FenceState:
        ground, accuracy_m, cell = self.ground[name], self._accuracy(fix), fix.source == "cell"
        away_m = ground.signed_distance_m(fix.latitude, fix.longitude)
        if not cell and accuracy_m > max(ground.radius_m, ground.margin_m):
            return known
        if away_m > max(accuracy_m, ground.margin_m):
            return self._out(known, away_m, at_us, cell=cell, news=self.fences[name].kind != "forbidden")
        depth_m = max(accuracy_m, ground.margin_m / 2)
        if away_m < -min(depth_m, ground.inner_m / 2):
            return self._in(known, at_us, news=self.fences[name].kind == "forbidden")
        return known

    def _out(self, known: FenceState, away_m: float, at_us: int, *, cell: bool, news: bool) -> FenceState:
        """A fix outside. ``news``: that would be an alarm, so the very first fix does not settle it."""
        config = self.config
        if known.where == "out" or (known.where == "" and not news):
            return FenceState("out", suspected=known.suspected and cell, away_m=away_m)
        if cell:
            count, since_us = known.cell_count + 1, known.cell_since_us or at_us
            if count >= config.cell_fixes and at_us - since_us >= config.cell_dwell_s * US_PER_S:
                return FenceState("out", suspected=True, away_m=away_m)
            return replace(known, cell_count=min(count, config.cell_fixes), cell_since_us=since_us, away_m=away_m)
        count, since_us = known.count + 1, known.since_us or at_us
        if away_m > config.far_m or (count >= config.fixes and at_us - since_us >= config.dwell_s * US_PER_S):
            return FenceState("out", away_m=away_m)
        return replace(known, count=min(count, config.fixes), since_us=since_us, away_m=away_m)

    def _in(self, known: FenceState, at_us: int, *, news: bool) -> FenceState:
        if known.where == "in" or (known.where == "" and not news):
            return FenceState("in")
        if known.count + 1 >= self.config.return_fixes:
            return FenceState("in")
        return replace(known, count=known.count + 1, since_us=at_us)

    def _dwelt(self, known: FenceState, sense_in: bool, at_us: int) -> FenceState:
        """Enough fixes were out and no other came since: the dwell ends by itself."""
        due_us = self._dwell_end_us(known)
        if sense_in and due_us is not None and at_us >= due_us:
            return FenceState("out", away_m=known.away_m)
        return known

    def _dwell_end_us(self, known: FenceState) -> int | None:
        if known.where == "out" or known.count < self.config.fixes:
            return None
        return known.since_us + self.config.dwell_s * US_PER_S

    def _sense_in(self, name: str) -> bool:
        return self.fences[name].kind != "forbidden"

    def _accuracy(self, fix: Position) -> float:
        if fix.accuracy_m is not None and 0 < fix.accuracy_m < inf:
            return fix.accuracy_m
        given = {str(key): value for key, value in self.config.accuracy_m.items()}
        return given.get(fix.source, _ACCURACY_M.get(fix.source, 50.0))

    # ---- all fences ----------------------------------------------------------------------------------------------

    def _alarms(
        self,
        fences: dict[str, FenceState],
        alarms: dict[str, tuple[int, bool]],
        at: Observed | Tick,
        fix: Position | None,
    ) -> tuple[Effect, ...]:
        effects: list[Effect] = []
        now = {name for name, fence in self.fences.items() if in_force(fence.schedule, at.at_us, self.zone)}
        homes = sorted(name for name in now if self.fences[name].kind != "forbidden")
        outside = bool(homes) and all(fences.get(name, _UNKNOWN).where == "out" for name in homes)
        suspected = outside and all(fences[name].suspected for name in homes)
        trespassed = sorted(
            name for name in now if self.fences[name].kind == "forbidden" and fences.get(name, _UNKNOWN).where == "in"
        )
        if any(fences[name].count for name in homes) and self.config.exit_alert not in alarms:
            outside = False  # the last fix was in one of the areas: not confirmed yet, but no reason to start an alarm
        away_m = min((fences[name].away_m for name in homes), default=0.0) if outside else 0.0
        detail: dict[str, Any] = {"away_m": round(away_m), "suspected": suspected}
        self._alarm(self.config.exit_alert, outside, homes, suspected, detail, alarms, at, fix, effects)
        self._alarm(self.config.forbidden_alert, bool(trespassed), trespassed, False, {}, alarms, at, fix, effects)
        return tuple(effects)

    def _alarm(
        self,
        kind: str,
        wrong: bool,
        names: list[str],
        suspected: bool,
        detail: dict[str, Any],
        alarms: dict[str, tuple[int, bool]],
        at: Observed | Tick,
        fix: Position | None,
        effects: list[Effect],
    ) -> None:
        stands = alarms.get(kind)
        if not wrong:
            if stands is not None:
                del alarms[kind]
                effects.append(cleared(self, at, kind, {"fences": names}))
            return
        again = stands is not None and at.at_us - stands[0] >= self.config.again_after_s * US_PER_S and fix is not None
        if stands is not None and not again and (suspected or not stands[1]):
            return
        alarms[kind] = (at.at_us, suspected)
        severity = self.config.suspected_severity if suspected else self.config.severity
        where = fix or at.fix
        evidence: dict[str, Any] = {
            "fences": [{"id": n, "kind": self.fences[n].kind, "version": self.fences[n].version} for n in names],
            "accuracy_m": self._accuracy(where) if where else None,
            "fix_source": where.source if where else None,
            "source": self.config.source,
            **detail,
        }
        effects.append(raised(self, at, kind, Severity[severity], evidence))

    def _wake_us(self, fences: dict[str, FenceState], at_us: int) -> int | None:
        """The end of a dwell, or the next time a schedule opens or closes while that could make a difference."""
        dwells = (self._dwell_end_us(known) for name, known in fences.items() if self._sense_in(name))
        wakes = [max(due_us, at_us + 1) for due_us in dwells if due_us is not None]
        if any(known.where == ("out" if self._sense_in(name) else "in") for name, known in fences.items()):
            changes = (next_change_us(fence.schedule, at_us, self.zone) for fence in self.fences.values())
            wakes += [change for change in changes if change is not None]
        return min(wakes, default=None)


def _made_us(at: Observed) -> int | None:
    """When a fix was made, in the time that the record is judged by; None for one too old to speak of now.

    A clock that is wrong by a constant does not matter: a fix is as old as the reading it came with says.
    """
    fix = at.reading.position
    if fix is None:
        return None
    age_us = at.reading.observed_at_us - fix.observed_at_us
    if at.late:
        return at.at_us - max(age_us, 0)
    if age_us > LATE_US:
        return None
    return sane_us(fix.observed_at_us, at.received_at_us, at.at_us - max(age_us, 0))
