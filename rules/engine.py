"""Drives the machines: every committed record, every wake-up that is due, their states out to disk and back.

The hot path asks one question of a record: is it ordinary, that is, would no machine change its state for it? Only the
others are stepped. Machines say themselves what is ordinary (``Rule.quiet``), so this is an index, not a second judge.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import structlog
from msgspec.structs import replace

from gateway.clock import US_PER_S
from gateway.model import Committed, Effect, Raise, Reading, Record
from rules import timing
from rules.geometry import is_place
from rules.kinds.absence import SilenceRule
from rules.kinds.signal import emergencies, emergencies_ended, unverified_call
from rules.loader import RuleSet
from rules.machine import MINUTE_US, NOTHING, Observed, Rule, Tick, last_known
from rules.ordinary import Ordinary
from rules.roster import PeopleView, Roster
from rules.runtime import PLAN_WAKE, Device, Person, Slot, subject_of, tell_late
from rules.states import Row, States

_log = structlog.get_logger("rules")

SETTLE_US: Final = 2 * US_PER_S
"""Wake-ups wait so long behind the clock, so that records received before them, but still on their way into the
journal, are judged first, as a replay would judge them."""
LANE_GAP_US: Final = 10 * MINUTE_US
"""Late records of a device that follow each other within this are one upload."""
_LATE: Final = "/late"
_NEVER: Final = 1 << 62

_NO_READING: Final = Reading(observed_at_us=0)


class RulesEngine:
    """All rules of a site. Not thread-safe. Only the constructor raises: ConfigError for a time zone that is none."""

    def __init__(
        self, rules: RuleSet, people: PeopleView, site_timezone: str = "Asia/Shanghai", *, settle_us: int = SETTLE_US
    ) -> None:
        self._settle_us = settle_us
        self._states = States()
        self._devices = self._states.devices
        self._slots = self._states.slots
        self._ordinary = Ordinary(self._slots)
        self._roster = Roster(rules, people, site_timezone, self._states, self._ordinary, self._push)
        self._heap: list[tuple[int, str, str]] = []
        self._next_us = _NEVER
        self._armed = False
        self._hold_until_us = 0
        self._told: set[str] = set()
        self.failures: Counter[str] = Counter()
        """How often each rule has failed, by id; for the metric."""
        self.slow_records = 0
        """Records that some machine had to look at."""

    def limits(self, person_id: str, at_us: int) -> list[dict[str, Any]]:
        """The limits that hold for a person's readings now, JSON-ready: ``metric``, ``side`` (low, high), ``level``
        (advisory, urgent), ``limit``, ``inclusive`` (the limit itself is past it), and ``own`` (set for this person).
        """
        return self._roster.limits(person_id, at_us)

    # ---- stimuli -------------------------------------------------------------------------------------------------

    def observe(self, committed: Committed) -> list[Effect]:  # noqa: C901, PLR0912  one loop, for speed: calls cost here
        """Judge records in order; wake-ups due before a record's reception are fired before it."""
        effects: list[Effect] = []
        devices = self._devices
        seq = committed.first_seq - 1
        for record in committed.records:
            seq += 1
            now_us = record.received_at_us
            if now_us >= self._next_us or not self._armed:
                effects += self._fire(now_us)
            try:
                reading = record.reading
                device = devices.get(record.device_id)
                if (
                    reading is not None
                    and device is not None
                    and device.calm
                    and not reading.signals
                    and not reading.stored
                    and record.verified
                    and -timing.AHEAD_US <= now_us - reading.observed_at_us <= timing.LATE_US
                    and device.person_id == record.person_id
                ):
                    quick = device.quick
                    for metric, value in reading.measurements.items():
                        interval = quick.get(metric)
                        if interval is not None:
                            low, high, until = interval
                            if not (low < value < high and now_us < until):
                                break
                    else:
                        if device.waiting:
                            self._states.touch_device(device)
                        fix = reading.position
                        if fix is None or not fix.valid:
                            device.heard_us = now_us
                            continue
                        latitude, longitude = fix.latitude, fix.longitude
                        for inside, south, north, west, east in device.boxes:
                            if (south < latitude < north and west < longitude < east) is not inside:
                                break
                        else:
                            if fix.observed_at_us >= device.fix_made_us and (latitude or longitude):
                                device.heard_us = device.fix_at_us = now_us
                                device.fix = fix
                                device.fix_made_us = fix.observed_at_us
                                continue
            except Exception:  # noqa: BLE001  a value of a strange type is not ordinary; the long way knows more
                self._failed("engine", record.device_id)
            self.slow_records += 1
            effects += self._judge(seq, record)
        return effects

    def tick(self, now_us: int) -> list[Effect]:
        """Fire the wake-ups that are due and settled.

        Call it when ``next_wake_us`` has come, and never with a time beyond the reception of a record that is not yet
        committed by more than two seconds: then a replay would find another order.
        """
        return self._fire(now_us - self._settle_us)

    def next_wake_us(self) -> int | None:
        """When ``tick`` next has something to do."""
        return None if self._next_us == _NEVER else self._next_us + self._settle_us

    def resume(self, now_us: int) -> None:
        """The gateway was away until now: silence meanwhile means nothing, so judge it ten minutes from here at the
        earliest. Call it once, after ``restore`` and the refold of the journal, before the first ``tick``.
        """
        self._hold_until_us = now_us + LANE_GAP_US

    def reload(self, rules: RuleSet | None = None, now_us: int | None = None) -> None:
        """Persons, devices or rules changed. States stay with the rules (by id) and persons that are still there."""
        self._roster.reload(rules)
        if self._armed and now_us is not None:
            self._arm_safely(now_us, anew=True)

    # ---- states --------------------------------------------------------------------------------------------------

    def dirty(self) -> Iterator[Row]:
        """States that changed since the last call, as rows of ``rule_state``; None where the row is to go.

        They are as of this call, however slowly they are taken, and whatever is judged meanwhile.
        """
        return self._states.dirty()

    def restore(self, rows: Iterable[tuple[str, str, bytes]]) -> None:
        """Take states back, before the first stimulus. A row that cannot be read is logged and starts afresh."""
        for wake_us, key in self._states.restore(rows):
            self._push(wake_us, *key)

    # ---- records that matter -------------------------------------------------------------------------------------

    def _judge(self, seq: int, record: Record) -> list[Effect]:
        """Everything but the ordinary. Emergencies come first and depend on nothing that follows."""
        verified = record.verified and record.device_id != ""
        known = self._devices.get(record.device_id) if verified else None
        reading = record.reading
        effects: list[Effect] = []
        when = timing.Timing(late=False, at_us=record.received_at_us, occurred_at_us=record.received_at_us)
        if reading is not None:
            when = timing.judge(
                record.received_at_us,
                reading.observed_at_us,
                stored=reading.stored,
                known_lag_us=known.lag_us if known else None,
                known_lag_at_us=known.lag_at_us if known else 0,
            )
            effects = emergencies(
                seq,
                record,
                late=when.late,
                occurred_at_us=when.occurred_at_us,
                verified=verified,
                last_fix=last_known(known.fix) if known else None,
            )
        try:
            if verified:
                effects += self._judge_known(seq, record, when)
            elif reading is not None and reading.signals.get("service_call"):
                effects.append(unverified_call(seq, record, late=when.late, occurred_at_us=when.occurred_at_us))
        except Exception:  # noqa: BLE001  nothing about one record may keep the next from being judged
            self._failed("engine", record.device_id)
        return effects

    def _judge_known(self, seq: int, record: Record, when: timing.Timing) -> list[Effect]:
        device = self._roster.device(record.device_id, record.person_id, record.received_at_us)
        person = device.person
        reading = record.reading
        # What a replay tells anew was received before the device was last heard: it does not speak now.
        told_anew = reading is not None and reading.stored and record.received_at_us <= device.heard_us
        now_us = device.heard_us if told_anew else record.received_at_us
        effects: list[Effect] = []
        touched: list[Rule[Any]] = []
        if reading is not None and person is not None:
            effects += emergencies_ended(seq, record, when.at_us)
            observed = Observed(
                at_us=when.at_us,
                subject="",
                person_id=record.person_id,
                device_id=record.device_id,
                heard_us=device.heard_us,
                fix=device.fix,
                fix_at_us=device.fix_at_us,
                seq=seq,
                received_at_us=now_us,
                occurred_at_us=when.occurred_at_us,
                reading=reading,
                late=when.late,
            )
            touched = self._concerned(device, person, observed)
            for rule in touched:
                self._step_observed(rule, person, device, observed, effects)
            fix = reading.position
            if not when.late and fix is not None and is_place(fix):
                device.saw(fix, now_us)
        device.heard_us = now_us
        if when.lag_us is not None:
            device.lag_us, device.lag_at_us = when.lag_us, now_us
        if device.silence is not None and person is not None and not told_anew:
            heard = Observed(
                at_us=now_us, subject="", person_id=record.person_id, device_id=record.device_id, heard_us=now_us,
                fix=device.fix, seq=seq, received_at_us=now_us, occurred_at_us=now_us, reading=_NO_READING,
            )  # fmt: skip
            self._step_observed(device.silence, person, device, heard, effects)
        device.calm = person is not None
        if reading is not None and person is not None:
            self._ordinary.index(person, set(reading.measurements).union(*(rule.metrics for rule in touched)))
            self._ordinary.index_places(device, person)
        return effects

    def _concerned(self, device: Device, person: Person, observed: Observed) -> list[Rule[Any]]:
        """The machines that a reading is for, each once, by id."""
        reading = observed.reading
        found: dict[int, Rule[Any]] = {}
        for signal in reading.signals:
            for rule in person.wanted.by_signal.get(signal, ()):
                found[id(rule)] = rule
        for metric, value in reading.measurements.items():
            low, high, until = device.quick.get(metric, NOTHING)
            if low < value < high and observed.at_us < until and not observed.late:
                continue
            for rule in device.by_metric.get(metric, ()):
                found[id(rule)] = rule
        if reading.position is not None and person.area is not None:
            found[id(person.area)] = person.area
        return sorted(found.values(), key=lambda rule: rule.rule_id)

    def _step_observed(
        self, rule: Rule[Any], person: Person, device: Device, observed: Observed, effects: list[Effect]
    ) -> None:
        if observed.late and rule.on_late == "skip":
            return
        subject = subject_of(rule, person, device)
        if observed.late and rule.on_late == "lane":
            self._step_lane(rule, subject + _LATE, observed, effects)
            return
        slot = self._slots.get((rule.rule_id, subject))
        try:
            state = rule.initial() if slot is None else slot.state_of(rule)
            step = rule.step(state, replace(observed, subject=subject))
        except Exception:  # noqa: BLE001  one rule may not keep the others from judging
            self._failed(rule.rule_id, subject)
            return
        effects += step.effects
        if (
            step.state != state
            or slot is None
            or slot.wake_us != step.wake_at_us
            or slot.person_id != observed.person_id
        ):
            self._keep(rule, subject, slot, step.state, step.wake_at_us, observed.person_id, observed.device_id)

    def _keep(
        self,
        rule: Rule[Any],
        subject: str,
        slot: Slot | None,
        state: Any,
        wake_us: int | None,
        person_id: str,
        device_id: str,
    ) -> None:
        key = (rule.rule_id, subject)
        if wake_us is None and state == rule.initial():
            if slot is not None:
                self._states.touch(key)
                del self._slots[key]
            return
        self._states.touch(key)
        if slot is None:
            slot = self._slots[key] = Slot()
        slot.person_id, slot.device_id, slot.state = person_id, device_id, state
        if wake_us is not None and wake_us != slot.wake_us:
            self._push(wake_us, *key)
        slot.wake_us = wake_us

    def _step_lane(self, rule: Rule[Any], subject: str, observed: Observed, effects: list[Effect]) -> None:
        """Late records have a state of their own for as long as one upload lasts; it tells each kind once."""
        key = (rule.rule_id, subject)
        slot = self._slots.get(key)
        try:
            fresh = slot is None
            state = rule.initial() if slot is None else slot.state_of(rule)
            step = rule.step(state, replace(observed, subject=subject, fix=None))
        except Exception:  # noqa: BLE001  one rule may not keep the others from judging
            self._failed(rule.rule_id, subject)
            return
        if slot is None and step.state == rule.initial() and not step.effects:
            return
        self._states.touch(key)
        if slot is None:
            slot = self._slots[key] = Slot()
        slot.person_id, slot.device_id, slot.state = observed.person_id, observed.device_id, step.state
        slot.inner_wake_us, slot.touched_us = step.wake_at_us, observed.received_at_us
        if fresh:
            slot.wake_us = observed.received_at_us + LANE_GAP_US
            self._push(slot.wake_us, *key)
        effects += tell_late(slot, step.effects)

    # ---- wake-ups ------------------------------------------------------------------------------------------------

    def _fire(self, until_us: int) -> list[Effect]:
        if not self._armed:
            self._armed = True
            # What was restored is older than this stimulus: machines are made as of its first wake-up.
            self._arm_safely(min(until_us, self._next_us), anew=False)
        effects: list[Effect] = []
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            wake_us, rule_id, subject = heapq.heappop(heap)
            try:
                effects += self._wake(wake_us, rule_id, subject)
            except Exception:  # noqa: BLE001  one wake-up may not keep the others from firing
                self._failed(rule_id, subject)
        self._next_us = heap[0][0] if heap else _NEVER
        return effects

    def _wake(self, wake_us: int, rule_id: str, subject: str) -> Sequence[Effect]:
        if rule_id == PLAN_WAKE:
            self._roster.renew(subject, wake_us)
            return ()
        key = (rule_id, subject)
        slot = self._slots.get(key)
        if slot is None or slot.wake_us != wake_us:
            return ()
        if subject.endswith(_LATE):
            return self._end_lane(key, slot, wake_us)
        self._states.touch(key)
        slot.wake_us = None
        device = self._roster.device_of(slot, wake_us)
        person = self._roster.person(slot.person_id, slot.device_id, wake_us)
        rule = self._rule(rule_id, person, device)
        if rule is None:  # it is no longer in the rule set, or no longer agreed for this person
            del self._slots[key]
            return ()
        if rule.held_after_outage and wake_us < self._hold_until_us:
            slot.wake_us = self._hold_until_us
            self._push(slot.wake_us, *key)
            return ()
        tick = Tick(
            at_us=wake_us,
            subject=subject,
            person_id=slot.person_id,
            device_id=slot.device_id,
            heard_us=device.heard_us if device else 0,
            fix=device.fix if device else None,
            fix_at_us=device.fix_at_us if device else 0,
        )
        step = rule.step(slot.state_of(rule), tick)
        self._keep(rule, subject, slot, step.state, step.wake_at_us, slot.person_id, slot.device_id)
        self._ordinary.index(person, rule.metrics)
        if device is not None:
            device.calm = device.calm and not (isinstance(rule, SilenceRule) and step.effects)
            if rule.positions:
                self._ordinary.index_places(device, person)
        return step.effects

    def _end_lane(self, key: tuple[str, str], slot: Slot, wake_us: int) -> Sequence[Effect]:
        """When an upload has ended, what still waited for another reading in it is told."""
        self._states.touch(key)
        if wake_us < slot.touched_us + LANE_GAP_US:
            slot.wake_us = slot.touched_us + LANE_GAP_US
            self._push(slot.wake_us, *key)
            return ()
        del self._slots[key]
        person = self._roster.person(slot.person_id, slot.device_id, wake_us)
        rule = self._rule(key[0], person, None)
        if rule is None or slot.inner_wake_us is None or slot.inner_wake_us > wake_us:
            return ()
        tick = Tick(at_us=slot.inner_wake_us, subject=key[1], person_id=slot.person_id, device_id=slot.device_id)
        effects = rule.step(slot.state_of(rule), tick).effects
        told = [replace(effect, received_at_us=wake_us) if isinstance(effect, Raise) else effect for effect in effects]
        return tell_late(slot, told)

    def _push(self, wake_us: int, rule_id: str, subject: str) -> None:
        heapq.heappush(self._heap, (wake_us, rule_id, subject))
        self._next_us = min(self._next_us, wake_us)

    def _arm_safely(self, now_us: int, *, anew: bool) -> None:
        try:
            self._arm(now_us, anew=anew)
        except Exception:  # noqa: BLE001  without timers of absence everything else must still be judged
            self._failed("expectations", "")

    def _arm(self, now_us: int, *, anew: bool) -> None:
        """Set the first wake-up of expectations, which must be noticed even if nothing ever comes."""
        for plan in self._roster.people.plans():
            if not plan.expectations:
                continue
            person = self._roster.person(plan.person_id, "", now_us)
            for rule in person.wanted.by_id.values():
                if rule.subject != "person":
                    continue
                slot = self._slots.get((rule.rule_id, person.subject))
                if slot is not None and not anew:
                    continue
                state = rule.initial() if slot is None else slot.state_of(rule)
                step = rule.arm(state, now_us)
                if step.wake_at_us is not None or step.state != state:
                    device_id = slot.device_id if slot else ""
                    self._keep(rule, person.subject, slot, step.state, step.wake_at_us, plan.person_id, device_id)

    def _rule(self, rule_id: str, person: Person, device: Device | None) -> Rule[Any] | None:
        return person.rule(rule_id) or (device.rule(rule_id) if device is not None else None)

    def _failed(self, rule_id: str, subject: str) -> None:
        self.failures[rule_id] += 1
        if rule_id not in self._told:
            self._told.add(rule_id)
            _log.exception("rule failed; it is skipped where it fails, the others go on", rule=rule_id, subject=subject)
