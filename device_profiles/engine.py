"""Profiles compiled: a tree of the fields that have a meaning, walked once for each report. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from device_profiles.conversions import CONVERSIONS, Linear
from device_profiles.schema import FieldIs, FieldMap, Place, Profile, Time, value_key
from gateway.clock import to_us
from gateway.datum import bd09_to_wgs84, gcj02_to_wgs84
from gateway.model import METRICS, Position, Reading, Report

MAX_FAULTS: Final = 16
MAX_MEASUREMENTS: Final = 64
UNKNOWN_DATUM_M: Final = 700.0  # how far GCJ-02 and BD-09 move a place at most, roughly
MAX_NUMBER: Final = 2.0**63
LAST_SECOND: Final = 253_402_300_799  # 9999-12-31T23:59:59Z

_DECIMAL: Final = re.compile(r"\s*[+-]?(?:\d{1,18}(?:\.\d{0,18})?|\.\d{1,18})\s*", re.ASCII)
_HEXADECIMAL: Final = re.compile(r"\s*(?:0[xX])?[0-9a-fA-F]{1,16}\s*", re.ASCII)
_UNITS_PER_S: Final = {"epoch_s": 1, "epoch_ms": 1_000, "epoch_us": 1_000_000}


class Draft:
    """One report on its way to a reading."""

    __slots__ = ("_more_faults", "faults", "fields", "measurements", "signals", "slots", "unknown")

    def __init__(self, fields: Mapping[str, Any], reading: Reading | None) -> None:
        self.fields = fields
        self.measurements: dict[str, float] = {} if reading is None else dict(reading.measurements)
        self.signals: dict[str, bool] = {} if reading is None else dict(reading.signals)
        self.unknown: dict[str, Any] = {} if reading is None or reading.unknown is None else dict(reading.unknown)
        self.slots: dict[str, Any] = {}
        self.faults: list[str] = []
        self._more_faults = 0

    def fault(self, path: str, what: str) -> None:
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(f"{path}: {what}")
        else:
            self._more_faults += 1

    def all_faults(self) -> list[str]:
        return [*self.faults, f"and {self._more_faults} more faults"] if self._more_faults else self.faults

    def signal(self, signal: str, active: bool) -> None:
        self.signals[signal] = active or self.signals.get(signal, False)


Handler = Callable[[Draft, Any, str], None]


class _Node:
    """What is known of one place in the fields."""

    __slots__ = ("children", "elements", "handlers", "ignored")

    def __init__(self) -> None:
        self.children: dict[str, _Node] | None = None
        self.elements: _Node | None = None
        self.handlers: list[Handler] = []
        self.ignored = False

    def at(self, path: str) -> _Node:
        """The node at a path below this one, made when it is not there."""
        node = self
        for part in path.split("."):
            name = part.rstrip("[]")
            if node.children is None:
                node.children = {}
            node = node.children.setdefault(name, _Node())
            for _ in range((len(part) - len(name)) // 2):
                if node.elements is None:
                    node.elements = _Node()
                node = node.elements
        return node

    def visit(self, draft: Draft, value: Any, path: str) -> None:
        if value is None or self.ignored:
            return
        for handler in self.handlers:
            handler(draft, value, path)
        if isinstance(value, dict) and self.children is not None:
            self.walk(draft, value, f"{path}.")
        elif isinstance(value, list) and self.elements is not None:
            for index, element in enumerate(value):
                self.elements.visit(draft, element, f"{path}[{index}]")
        elif not self.handlers:
            draft.unknown[path] = value
            expected = "an object" if self.children is not None else "an array"
            draft.fault(path, f"not {expected}")

    def walk(self, draft: Draft, members: Mapping[str, Any], prefix: str) -> None:
        children = self.children or {}
        for name, value in members.items():
            child = children.get(name)
            if child is None:
                draft.unknown[prefix + name] = value
            else:
                child.visit(draft, value, prefix + name)


class Plan:
    """A profile, ready to explain reports."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._root = _Node()
        self._dedup = profile.dedup.fields if profile.dedup is not None else []
        for path, field in profile.fields.items():
            self._root.at(path).handlers.extend(_handlers(field))
        for path in _slot_paths(profile):
            self._root.at(path).handlers.append(_remember(path))
        for path in profile.ignore:
            node = self._root.at(path.removesuffix(".*"))
            node.ignored = path.endswith(".*") or not (node.children or node.elements or node.handlers)

    def explain(self, report: Report, received_at_us: int) -> Reading:
        """The reading of a report with fields. Puts faults and the dedup key into the report."""
        profile = self._profile
        fields = report.fields or {}
        draft = Draft(fields, report.reading)
        self._root.walk(draft, fields, "")
        observed_at_us = report.at_us or received_at_us
        if profile.time is not None:
            report.at_us = _time(draft, profile.time) or report.at_us
            observed_at_us = report.at_us or received_at_us
        reading = Reading(observed_at_us, draft.measurements, draft.signals)
        if profile.position is not None:
            reading.position = _position(draft, profile.position, observed_at_us)
        elif report.reading is not None:
            reading.position = report.reading.position
        self._battery(draft)
        reading.unknown = draft.unknown or None
        report.stored = reading.stored = report.stored or _field_is(draft, profile.stored, default=False)
        if self._dedup and not report.dedup_key:
            parts = [draft.slots.get(path) for path in self._dedup]
            if all(isinstance(part, str | int | float) for part in parts):
                report.dedup_key = "|".join(value_key(part) for part in parts)[:200]
        if draft.faults:
            report.faults = [*(report.faults or ()), *draft.all_faults()]
        return reading

    def _battery(self, draft: Draft) -> None:
        limits, percent = self._profile.battery, draft.measurements.get("battery_percent")
        if limits is None or percent is None:
            return
        if percent <= limits.low_percent:
            draft.signal("low_battery", active=True)
        elif limits.clear_percent is not None and percent >= limits.clear_percent:
            draft.signal("low_battery", active=False)


def number_of(value: Any) -> float | None:
    """A finite number, also one that is written as a text of digits, else None. True and false are no numbers."""
    if isinstance(value, str):
        return float(value) if _DECIMAL.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= MAX_NUMBER:
        return None
    return float(value)


# ---- what a field can mean -------------------------------------------------------------------------------------------


def _handlers(field: FieldMap) -> list[Handler]:
    handlers: list[Handler] = []
    if field.values or field.clears:
        handlers.append(_values_handler(field))
    if field.bits:
        handlers.append(_bits_handler(field))
    if field.metric is not None:
        handlers.append(_metric_handler(field, field.metric))
    return handlers


def _remember(path: str) -> Handler:
    def remember(draft: Draft, value: Any, _path: str) -> None:
        draft.slots[path] = value

    return remember


def _values_handler(field: FieldMap) -> Handler:
    table: dict[str, list[tuple[str, bool]]] = {}
    for named, active in ((field.values, True), (field.clears, False)):
        for key, signals in named.items():
            table.setdefault(key, []).extend((signal, active) for signal in signals)
    missing = {value_key(value) for value in field.missing}
    judged_elsewhere = field.metric is not None or bool(field.bits)

    def values(draft: Draft, value: Any, path: str) -> None:
        key = None if isinstance(value, dict | list) else value_key(value)
        meaning = table.get(key) if key is not None else None
        if meaning is not None:
            for signal, active in meaning:
                draft.signal(signal, active)
        elif not judged_elsewhere and key not in missing:
            draft.unknown[path] = value
            draft.fault(path, "a value without a meaning in this profile")

    return values


def _bits_handler(field: FieldMap) -> Handler:
    masks = [(1 << bit, signal, bit in field.clear_bits) for bit, signals in field.bits.items() for signal in signals]
    missing = {value_key(value) for value in field.missing}
    hexadecimal = field.hexadecimal

    def bits(draft: Draft, value: Any, path: str) -> None:
        if not isinstance(value, dict | list) and value_key(value) in missing:
            return
        number: float | None
        if hexadecimal and isinstance(value, str):
            number = int(value, 16) if _HEXADECIMAL.fullmatch(value) else None
        else:
            number = number_of(value)
        if number is None or number < 0 or number != int(number):
            draft.unknown[path] = value
            draft.fault(path, "not a whole number of bits")
            return
        flags = int(number)
        for mask, signal, clears in masks:
            if flags & mask:
                draft.signal(signal, active=True)
            elif clears:
                draft.signal(signal, active=False)

    return bits


def _metric_handler(field: FieldMap, metric: str) -> Handler:
    known = METRICS.get(metric)
    lowest, highest = (known.lowest, known.highest) if known is not None else (-math.inf, math.inf)
    missing = {value_key(value) for value in field.missing}
    signal_values = set(field.values) | set(field.clears)
    numbers, scale, offset, convert_by = field.numbers, field.scale, field.offset, field.convert_by
    plain = CONVERSIONS[field.convert]
    units = {key: CONVERSIONS[name] for key, name in convert_by.values.items()} if convert_by is not None else {}

    def unit(draft: Draft) -> Linear | None:
        stated = None if convert_by is None else _look_up(draft.fields, convert_by.field)
        if stated is None:
            return plain
        return None if isinstance(stated, dict | list) else units.get(value_key(stated))

    def measure(draft: Draft, value: Any, path: str) -> None:
        key = "" if isinstance(value, dict | list) else value_key(value)
        if key in missing:
            return
        number = numbers.get(key) if numbers else None
        number = number_of(value) if number is None else number
        if number is None:
            if key not in signal_values:
                draft.unknown[path] = value
                draft.fault(path, "not a number")
            return
        conversion = unit(draft)
        if conversion is None:
            draft.unknown[path] = value
            draft.fault(path, "in a unit without a meaning in this profile")
            return
        converted = (number * scale + offset) * conversion.factor + conversion.offset
        converted = round(converted, 4) if converted != number else number
        if not lowest <= converted <= highest:
            draft.unknown[path] = value
            draft.fault(path, f"{metric} not within {lowest:g} to {highest:g}")
        elif len(draft.measurements) >= MAX_MEASUREMENTS:
            draft.fault(path, f"more than {MAX_MEASUREMENTS} measurements")
        else:
            draft.measurements[metric] = converted

    return measure


# ---- what several fields mean together -------------------------------------------------------------------------------


def _slot_paths(profile: Profile) -> list[str]:
    paths: list[str | None] = [*(profile.dedup.fields if profile.dedup is not None else [])]
    if profile.time is not None:
        paths.append(profile.time.field)
    if profile.stored is not None:
        paths.append(profile.stored.field)
    paths.extend(field.convert_by.field for field in profile.fields.values() if field.convert_by is not None)
    place = profile.position
    if place is not None:
        paths.extend([place.latitude, place.longitude, place.accuracy_m])
        paths.extend(part.field for part in (place.datum_by, place.source_by, place.valid) if part is not None)
    return [path for path in dict.fromkeys(paths) if path is not None]


def _look_up(fields: Mapping[str, Any], path: str) -> Any:
    """The value at a path without arrays: a unit may stand behind the value that it belongs to."""
    value: Any = fields
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _field_is(draft: Draft, condition: FieldIs | None, *, default: bool) -> bool:
    value = None if condition is None else draft.slots.get(condition.field)
    if condition is None or value is None or isinstance(value, dict | list):
        return default
    return value_key(value) in {value_key(expected) for expected in condition.values}


def _time(draft: Draft, time: Time) -> int:
    """Microseconds since the epoch, or 0 when there is no usable time."""
    value = draft.slots.get(time.field)
    if value is None:
        return 0
    at_us: int | None = None
    if time.format in _UNITS_PER_S:
        number = number_of(value)
        per_s = _UNITS_PER_S[time.format]
        if number is not None and 0 < number <= LAST_SECOND * per_s:
            exact = value if isinstance(value, int) else number
            at_us = round(exact * (1_000_000 // per_s))
    elif isinstance(value, str | int):
        at_us = _written_time(str(value), time)
    if at_us is None or at_us <= 0:
        draft.fault(time.field, f"not a time as {time.format}")
        return 0
    return at_us


def _written_time(text: str, time: Time) -> int | None:
    try:
        at = datetime.fromisoformat(text) if time.format == "rfc3339" else datetime.strptime(text, time.format)  # noqa: DTZ007 - the zone follows
        if at.tzinfo is None:
            at = at.replace(tzinfo=ZoneInfo(time.zone))
        return to_us(at.astimezone(UTC))
    except (ValueError, OverflowError):
        return None


def _position(draft: Draft, place: Place, observed_at_us: int) -> Position | None:
    stated = draft.slots.get(place.latitude), draft.slots.get(place.longitude)
    if stated[0] is None and stated[1] is None:
        return None
    latitude, longitude = number_of(stated[0]), number_of(stated[1])
    if latitude is None or longitude is None:
        draft.fault(place.latitude if latitude is None else place.longitude, "not a number of degrees")
        return None
    latitude, longitude = latitude * place.scale, longitude * place.scale
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        draft.fault(place.latitude, "not on Earth")
        return None
    if latitude == 0 and longitude == 0:
        draft.fault(place.latitude, "0, 0 is what a receiver without a fix sends")
        return None
    accuracy_m = _accuracy(draft, place)
    datum = _chosen(draft, place.datum_by, place.datum)
    if datum is None:
        accuracy_m = (accuracy_m or 0.0) + UNKNOWN_DATUM_M
    elif datum == "gcj02":
        latitude, longitude = gcj02_to_wgs84(latitude, longitude)
    elif datum == "bd09":
        latitude, longitude = bd09_to_wgs84(latitude, longitude)
    source = _chosen(draft, place.source_by, place.source) or place.source
    valid = _field_is(draft, place.valid, default=True)
    latitude, longitude = min(90.0, max(-90.0, latitude)), min(180.0, max(-180.0, longitude))
    return Position(round(latitude, 7), round(longitude, 7), observed_at_us, accuracy_m, source, valid)


def _accuracy(draft: Draft, place: Place) -> float | None:
    value = None if place.accuracy_m is None else draft.slots.get(place.accuracy_m)
    if place.accuracy_m is None or value is None:
        return None
    number = number_of(value)
    if number is None or number < 0:
        draft.fault(place.accuracy_m, "not a number of metres")
        return None
    return number


def _chosen(draft: Draft, chosen_by: Any, default: str) -> str | None:
    """The listed meaning of another field's value; ``default`` when it is absent, None (and a fault) when unlisted."""
    value = None if chosen_by is None else draft.slots.get(chosen_by.field)
    if value is None:
        return default
    meaning: str | None = None if isinstance(value, dict | list) else chosen_by.values.get(value_key(value))
    if meaning is None:
        draft.fault(chosen_by.field, "a value without a meaning in this profile")
    return meaning
