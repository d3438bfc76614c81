"""What the engine keeps in memory of persons, devices and states, and how it looks on disk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from gateway.care import CarePlan
from gateway.model import Effect, Position, Raise, Severity
from rules.compile import Compiled
from rules.kinds.absence import SilenceRule
from rules.kinds.geofence import Box
from rules.machine import Interval, Rule
from rules.timing import sane_us

DEVICE_ROW: Final = "~device"
"""Rows under this name hold what devices said last; they are no rule's."""
PLAN_WAKE: Final = "~plan"


class _SlotRow(Struct, array_like=True):
    person_id: str
    device_id: str
    wake_us: int | None
    inner_wake_us: int | None
    touched_us: int
    told: dict[str, int]
    state: msgspec.Raw


class Slot:
    """The state of one machine for one subject, and its wake-up.

    ``told`` and ``inner_wake_us`` are for uploads of late records: the severity told per kind, and the machine's own
    wake-up in the time of the records.
    """

    __slots__ = ("device_id", "inner_wake_us", "person_id", "raw", "state", "told", "touched_us", "wake_us")

    def __init__(self) -> None:
        self.person_id = ""
        self.device_id = ""
        self.wake_us: int | None = None
        self.inner_wake_us: int | None = None
        self.touched_us = 0
        self.told: dict[str, int] = {}
        self.state: Any = None
        self.raw: bytes | None = None

    def state_of(self, rule: Rule[Any]) -> Any:
        """The state; raises msgspec.DecodeError once when what was restored is not a state of this rule."""
        if self.raw is not None:
            raw, self.raw, self.state = self.raw, None, rule.initial()
            self.state = msgspec.msgpack.decode(raw, type=rule.state_type)
        return self.state

    def to_bytes(self) -> bytes:
        state = msgspec.Raw(self.raw if self.raw is not None else msgspec.msgpack.encode(self.state))
        return msgspec.msgpack.encode(
            _SlotRow(
                self.person_id, self.device_id, self.wake_us, self.inner_wake_us, self.touched_us, self.told, state
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Slot:
        row = msgspec.msgpack.decode(data, type=_SlotRow)
        slot = cls()
        slot.person_id, slot.device_id, slot.wake_us = row.person_id, row.device_id, row.wake_us
        slot.inner_wake_us, slot.touched_us, slot.told = row.inner_wake_us, row.touched_us, row.told
        slot.raw = bytes(row.state)
        return slot


class Person:
    """The machines of a person. ``subject`` names the person's states."""

    __slots__ = ("area", "devices", "person_id", "plan", "subject", "until_us", "wanted")

    def __init__(self, person_id: str, subject: str, plan: CarePlan, compiled: Compiled) -> None:
        self.person_id = person_id
        self.subject = subject
        self.plan = plan
        self.until_us = compiled.until_us
        self.wanted = compiled.wanted
        self.area = compiled.area
        self.devices: list[Device] = []

    def rule(self, rule_id: str) -> Rule[Any] | None:
        if self.area is not None and rule_id == self.area.rule_id:
            return self.area
        return self.wanted.by_id.get(rule_id)


class _DeviceRow(Struct, array_like=True):
    person_id: str
    heard_us: int
    fix_at_us: int
    fix: Position | None = None
    lag_us: int | None = None
    lag_at_us: int = 0


class Device:
    """What a device said last, and what is ordinary for it: ``quick`` per metric, ``boxes`` for its place.

    ``calm`` is False while its next record must be looked at, whatever it says. A box is (inside, south, north, west,
    east): an ordinary position lies within it, or outside when ``inside`` is False. ``waiting``: it is to be saved
    as it is now (``rules.states``).
    """

    __slots__ = (
        "boxes", "by_metric", "calm", "device_id", "fix", "fix_at_us", "fix_made_us", "heard_us", "lag_at_us", "lag_us",
        "person", "person_id", "quick", "rules", "saved", "silence", "waiting",
    )  # fmt: skip

    def __init__(self, device_id: str) -> None:
        self.device_id = device_id
        self.person_id = ""
        self.person: Person | None = None
        self.calm = False
        self.waiting = False
        self.quick: dict[str, Interval] = {}
        self.boxes: tuple[Box, ...] = ()
        self.rules: tuple[Rule[Any], ...] = ()
        self.by_metric: dict[str, list[Rule[Any]]] = {}
        self.silence: SilenceRule | None = None
        self.heard_us = 0
        self.saved: tuple[str, int, int, Position | None, int | None, int] | None = None
        self.fix: Position | None = None
        self.fix_at_us = 0
        self.fix_made_us = 0
        self.lag_us: int | None = None
        self.lag_at_us = 0

    def settle(self, person: Person, rules: tuple[Rule[Any], ...]) -> None:
        """Belong to a person, with the machines of this device."""
        if self.person_id != person.person_id:
            self.fix, self.fix_at_us, self.fix_made_us = None, 0, 0
        self.person, self.person_id = person, person.person_id
        person.devices.append(self)
        self.rules = rules
        self.silence = next((rule for rule in rules if isinstance(rule, SilenceRule)), None)
        self.by_metric = dict(person.wanted.by_metric)
        for rule in rules:
            for metric in rule.metrics:
                self.by_metric[metric] = [*self.by_metric.get(metric, ()), rule]
        self.quick = {}

    def changed(self) -> bool:
        """Whether there is something new since this was last asked."""
        now = (self.person_id, self.heard_us, self.fix_at_us, self.fix, self.lag_us, self.lag_at_us)
        if now == self.saved:
            return False
        self.saved = now
        return True

    def saw(self, fix: Position, received_at_us: int) -> None:
        """Remember a fix, unless it is older than the last one; a time that cannot be right counts as its reception."""
        before = self.fix
        if before is not None:
            made_us = sane_us(fix.observed_at_us, received_at_us)
            if made_us < sane_us(before.observed_at_us, self.fix_at_us):
                return
        self.fix, self.fix_at_us, self.fix_made_us = fix, received_at_us, fix.observed_at_us

    def rule(self, rule_id: str) -> Rule[Any] | None:
        return next((rule for rule in self.rules if rule.rule_id == rule_id), None)

    def to_bytes(self) -> bytes:
        return msgspec.msgpack.encode(
            _DeviceRow(self.person_id, self.heard_us, self.fix_at_us, self.fix, self.lag_us, self.lag_at_us)
        )

    @classmethod
    def from_bytes(cls, device_id: str, data: bytes) -> Device:
        row = msgspec.msgpack.decode(data, type=_DeviceRow)
        device = cls(device_id)
        device.person_id, device.heard_us = row.person_id, row.heard_us
        device.fix, device.fix_at_us, device.lag_us, device.lag_at_us = (
            row.fix,
            row.fix_at_us,
            row.lag_us,
            row.lag_at_us,
        )
        device.fix_made_us = row.fix.observed_at_us if row.fix is not None else 0
        device.changed()
        return device


def subject_of(rule: Rule[Any], person: Person, device: Device) -> str:
    if rule.subject == "person":
        return person.subject
    if rule.subject == "device":
        return device.device_id
    return f"{person.subject}/{device.device_id}"


def tell_late(slot: Slot, effects: Sequence[Effect]) -> list[Effect]:
    """Of what a machine said about late records: each kind once per upload, again only when it gets more severe."""
    told: list[Effect] = []
    for effect in effects:
        if isinstance(effect, Raise) and effect.severity < slot.told.get(effect.kind, Severity.P4 + 1):
            slot.told[effect.kind] = int(effect.severity)
            told.append(replace(effect, late=True))
    return told
