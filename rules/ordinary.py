"""The index of the ordinary: for which values and places no machine of a device would change its state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any

from rules.kinds.geofence import ANYWHERE
from rules.machine import EVERYTHING, Interval, Rule
from rules.runtime import Device, Person, Slot, subject_of


class Ordinary:
    """Keeps ``Device.quick`` and ``Device.boxes``. Machines say themselves what is ordinary (``Rule.quiet``)."""

    def __init__(self, slots: Mapping[tuple[str, str], Slot]) -> None:
        self._slots = slots
        self._intervals: dict[Interval, Interval] = {}

    def index(self, person: Person, metrics: Iterable[str]) -> None:
        """Note anew which values of these metrics are ordinary for the person's devices."""
        for device in person.devices:
            for metric in metrics:
                rules = device.by_metric.get(metric)
                if rules:
                    device.quick[metric] = self._interval(rules, metric, person, device)

    def index_places(self, device: Device, person: Person) -> None:
        """Note anew where it is ordinary for the device to be."""
        rule = person.area
        device.boxes = (ANYWHERE,) if rule is None else rule.quiet_boxes(self._state(rule, person, device))

    def _interval(self, rules: Sequence[Rule[Any]], metric: str, person: Person, device: Device) -> Interval:
        low, high, until = EVERYTHING
        for rule in rules:
            a, b, c = rule.quiet(self._state(rule, person, device), metric)
            low, high, until = max(low, a), min(high, b), min(until, c)
        interval = (low, high, until)
        return self._intervals.setdefault(interval, interval) if until == inf else interval

    def _state(self, rule: Rule[Any], person: Person, device: Device) -> Any:
        slot = self._slots.get((rule.rule_id, subject_of(rule, person, device)))
        return rule.initial() if slot is None else slot.state_of(rule)
