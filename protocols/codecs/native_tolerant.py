"""The tolerant road of the native protocol: each member is judged by itself, and an emergency signal always counts."""

from __future__ import annotations

import hashlib
import re
from datetime import datetime
from typing import Any, Final

import msgspec

from gateway.clock import to_us
from gateway.datum import bd09_to_wgs84, gcj02_to_wgs84
from gateway.errors import ParseError
from gateway.model import METRICS, POSITION_SOURCES, SIGNALS, Frame, Position, Reading, Report
from protocols.codecs.tolerant_json import (
    MAX_BAD_ELEMENTS,
    Faults,
    as_integer,
    as_number,
    clean,
    is_text,
    kind,
    load,
    shown,
)

MAX_SEQ: Final = 2**32 - 1
MAX_BOOT_CHARACTERS: Final = 64
MAX_MEASUREMENTS: Final = 64
MAX_ACCURACY_M: Final = 1e8
UNKNOWN_DATUM_M: Final = 700.0  # how far GCJ-02 and BD-09 move a place at most, roughly

_MEMBERS: Final = frozenset(
    {
        "seq",
        "boot",
        "at",
        "signals",
        "measurements",
        "position",
        "stored",
        "command",
        "result",
        "detail",
        "service_checkin",
    }
)
RESULTS: Final = ("done", "refused", "unknown")
MAX_COMMAND_CHARACTERS: Final = 64
MAX_DETAIL_CHARACTERS: Final = 200
NOTHING_STATED: Final = "none of signals, measurements, position"
_EXTRA_METRIC: Final = re.compile(r"x_[a-z0-9_]{1,62}")
_PLACE_MEMBERS: Final = frozenset({"latitude", "longitude", "accuracy_m", "source", "datum", "valid"})


def read_tolerantly(frame: Frame) -> list[Report]:
    """What can be used of a payload that is not an ordinary message. Raises ParseError when it is not JSON at all."""
    value, faults = load(frame.payload)
    if isinstance(value, dict):
        report = _Draft(frame, Faults("", faults)).read(value)
        if report.reading is None and not report.faults:
            raise ParseError(NOTHING_STATED)
        return [report]
    if not isinstance(value, list):
        raise ParseError(f"neither an object nor an array of objects, but {kind(value)}")
    if not value:
        raise ParseError("an array without objects")
    return _elements(frame, value, faults)


def to_wgs84(datum: str, latitude: float, longitude: float) -> tuple[float, float]:
    """Degrees of ``gcj02`` or ``bd09`` as WGS-84, still on the globe; those of any other datum as they are."""
    if datum == "gcj02":
        latitude, longitude = gcj02_to_wgs84(latitude, longitude)
    elif datum == "bd09":
        latitude, longitude = bd09_to_wgs84(latitude, longitude)
    return min(90.0, max(-90.0, latitude)), min(180.0, max(-180.0, longitude))


def boot_number(boot: int | str) -> int:
    """A stable number below 2**63 for a boot: its own, or one made of the text by which a device names it."""
    if isinstance(boot, int):
        return boot
    return int.from_bytes(hashlib.blake2b(boot.encode(), digest_size=8).digest()) >> 1


def _elements(frame: Frame, elements: list[Any], faults: list[str]) -> list[Report]:
    reports: list[Report] = []
    bad = 0
    for index, element in enumerate(elements):
        path = f"[{index}]"
        if isinstance(element, dict):
            report = _Draft(frame, Faults(f"{path}.", faults)).read(element)
            if report.reading is None and not report.faults:
                report.faults = [f"{path}: {NOTHING_STATED}"]
        else:
            report = Report(frame.device_key, faults=[*faults, f"{path}: {kind(element)}, not an object"])
        faults = []  # those of the whole payload stand on its first report
        if report.reading is None:
            bad += 1
            if bad > MAX_BAD_ELEMENTS:
                continue
        reports.append(report)
    if bad > MAX_BAD_ELEMENTS:
        reports.append(Report(frame.device_key, faults=[f"and {bad - MAX_BAD_ELEMENTS} more elements of no use"]))
    return reports


class _Draft:
    """One object on its way to a report."""

    def __init__(self, frame: Frame, faults: Faults) -> None:
        self._frame = frame
        self._faults = faults
        self._fault = faults.add
        self._unknown: dict[str, Any] = {}
        self._observed_at_us = frame.received_at_us

    def read(self, message: dict[str, Any]) -> Report:
        report = Report(self._frame.device_key)
        signals = self._signals(message.get("signals"))  # first, so that no bound is used up before them
        self._number(message, report)
        self._time(message, report)
        reading = Reading(self._observed_at_us, signals=signals)
        reading.measurements = self._measurements(message.get("measurements"))
        reading.position = self._position(message.get("position"))
        report.stored = reading.stored = self._boolean("stored", message.get("stored"), default=False)
        for name, value in message.items():
            if name not in _MEMBERS:
                self._keep(self._unknown, name, value)
        answer = self._answer(message)
        if answer is not None:
            self._unknown["command_reply"] = answer
        scan = message.get("service_checkin")
        if isinstance(scan, dict):  # what it means is for whoever keeps the orders
            self._keep(self._unknown, "service_checkin", scan)
        elif scan is not None:
            self._fault("service_checkin", f"{kind(scan)}, not an object")
        reading.unknown = self._unknown or None
        report.faults = self._faults.texts()
        stated = any(message.get(name) is not None for name in ("signals", "measurements", "position"))
        useful = reading.signals or reading.measurements or reading.position or answer or isinstance(scan, dict)
        if useful or (stated and not report.faults):
            report.reading = reading
        return report

    # ---- number and time ---------------------------------------------------------------------------------------------

    def _number(self, message: dict[str, Any], report: Report) -> None:
        seq, boot = as_integer(message.get("seq")), message.get("boot")
        number: int | None = 0
        if isinstance(boot, str) and len(boot) <= MAX_BOOT_CHARACTERS and is_text(boot):
            number = boot_number(boot)
        elif boot is not None:
            number = as_integer(boot)
            if number is None or not 0 <= number <= MAX_SEQ:
                self._fault("boot", f"not an integer of 0 to {MAX_SEQ}, nor a text of at most 64 characters")
                number = None
        if seq is not None and 0 <= seq <= MAX_SEQ:
            if number is not None:  # by a wrong boot a new message could pass for a resend
                report.seq, report.boot = seq, number
        elif message.get("seq") is not None:
            self._fault("seq", f"not an integer of 0 to {MAX_SEQ}")

    def _time(self, message: dict[str, Any], report: Report) -> None:
        value = message.get("at")
        if value is None:
            return
        if not isinstance(value, str):
            self._fault("at", f"{kind(value)}, not an RFC 3339 time")
            return
        try:
            at = msgspec.convert(value, datetime)
        except (msgspec.ValidationError, UnicodeEncodeError):
            self._fault("at", "not an RFC 3339 time")
            return
        if at.tzinfo is None:
            self._fault("at", "a time without an offset; write Z or +08:00 behind it")
            return
        at_us = to_us(at)
        if at_us < 0:
            self._fault("at", "before 1970")
            return
        self._observed_at_us = report.at_us = at_us

    # ---- signals -----------------------------------------------------------------------------------------------------

    def _signals(self, value: Any) -> dict[str, bool]:
        signals: dict[str, bool] = {}
        if value is None:
            return signals
        if isinstance(value, list):
            for index, element in enumerate(value):
                self._signal(signals, f"signals[{index}]", element)
        elif isinstance(value, dict) and "signal" not in value:
            self._fault("signals", "an object, not a list")
            for name, active in value.items():
                self._signal(signals, f"signals.{shown(name)}", {"signal": name, "active": active})
        else:
            self._fault("signals", f"{kind(value)}, not a list")
            self._signal(signals, "signals", value)
        return signals

    def _signal(self, signals: dict[str, bool], path: str, value: Any) -> None:
        """Note one signal: its name, or ``{"signal": name, "active": false}`` when the condition ended."""
        active = True
        name = value
        if isinstance(value, dict):
            name = value.get("signal")
            active = self._boolean(f"{path}.active", value.get("active"), default=True)
            others = {key: other for key, other in value.items() if key not in ("signal", "active")}
            if others:
                self._keep(self._unknown, path, others)
        if not isinstance(name, str):
            self._fault(path, f"{kind(name)}, not the name of a signal")
            return
        if name not in SIGNALS:
            meant = name.strip().lower()
            if meant not in SIGNALS:
                self._fault(path, f"{shown(name)} is not a signal")
                return
            self._fault(path, f"{shown(name)}, taken as {meant}")
            name = meant
        signals[name] = active or signals.get(name, False)

    # ---- measurements ------------------------------------------------------------------------------------------------

    def _measurements(self, value: Any) -> dict[str, float]:
        measurements: dict[str, float] = {}
        if value is None:
            return measurements
        if not isinstance(value, dict):
            self._fault("measurements", f"{kind(value)}, not an object")
            return measurements
        unknown: dict[str, Any] = {}
        for name, member in value.items():
            path = f"measurements.{shown(name)}"
            metric = METRICS.get(name)
            if metric is None and not _EXTRA_METRIC.fullmatch(name):
                self._keep(unknown, name, member, "measurements")
                continue
            if member is None:
                continue
            if len(measurements) >= MAX_MEASUREMENTS:
                self._fault(path, f"more than {MAX_MEASUREMENTS} measurements")
                continue
            number = as_number(member)
            if number is None:
                self._fault(path, f"{kind(member)}, not a number")
            elif metric is not None and not metric.lowest <= number <= metric.highest:
                self._fault(path, f"not within {metric.lowest:g} to {metric.highest:g}")
            else:
                measurements[name] = number
        if unknown:
            self._unknown["measurements"] = unknown
        return measurements

    # ---- position ----------------------------------------------------------------------------------------------------

    def _position(self, value: Any) -> Position | None:
        if value is None:
            return None
        if not isinstance(value, dict):
            self._fault("position", f"{kind(value)}, not an object")
            return None
        unknown: dict[str, Any] = {}
        for name, member in value.items():
            if name not in _PLACE_MEMBERS:
                self._keep(unknown, name, member, "position")
        if unknown:
            self._unknown["position"] = unknown
        latitude = self._degrees("latitude", value, 90)
        longitude = self._degrees("longitude", value, 180)
        accuracy_m = self._accuracy(value.get("accuracy_m"))
        source = value.get("source")
        if source is None or not (isinstance(source, str) and source in POSITION_SOURCES):
            if source is not None:
                self._fault("position.source", "none of " + ", ".join(sorted(POSITION_SOURCES)))
            source = "gnss"
        valid = self._boolean("position.valid", value.get("valid"), default=True)
        datum = value.get("datum")
        if latitude is None or longitude is None:
            return None
        if datum in ("gcj02", "bd09"):
            latitude, longitude = to_wgs84(datum, latitude, longitude)
        elif datum not in (None, "wgs84"):
            self._fault("position.datum", f"none of wgs84, gcj02, bd09; read as wgs84, {UNKNOWN_DATUM_M:g} m less sure")
            accuracy_m = (accuracy_m or 0.0) + UNKNOWN_DATUM_M
        return Position(latitude, longitude, self._observed_at_us, accuracy_m, source, valid)

    def _degrees(self, name: str, place: dict[str, Any], limit: float) -> float | None:
        value = place.get(name)
        number = as_number(value)
        if number is None:
            self._fault(f"position.{name}", "missing" if value is None else f"{kind(value)}, not a number")
            return None
        if not -limit <= number <= limit:
            self._fault(f"position.{name}", f"not within -{limit} to {limit}")
            return None
        return number

    def _accuracy(self, value: Any) -> float | None:
        if value is None:
            return None
        number = as_number(value)
        if number is None or not 0 <= number <= MAX_ACCURACY_M:
            self._fault("position.accuracy_m", "not a number of metres")
            return None
        return number

    # ---- answers to commands -----------------------------------------------------------------------------------------

    def _answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """``command`` with ``result`` and ``detail``: what became of a command. None when it is no usable answer."""
        command, result, detail = message.get("command"), message.get("result"), message.get("detail")
        if command is None:
            for name, value in (("result", result), ("detail", detail)):
                if value is not None:
                    self._keep(self._unknown, name, value)
            return None
        if not (isinstance(command, str) and 0 < len(command) <= MAX_COMMAND_CHARACTERS and is_text(command)):
            self._fault("command", f"not the id of a command, a text of at most {MAX_COMMAND_CHARACTERS} characters")
            return None
        if not (isinstance(result, str) and result in RESULTS):
            self._fault("result", "none of " + ", ".join(RESULTS))
            return None
        answer = {"command": command, "result": result}
        if isinstance(detail, str) and is_text(detail):
            answer["detail"] = detail[:MAX_DETAIL_CHARACTERS]
        elif detail is not None:
            self._fault("detail", f"{kind(detail)}, not a text")
        return answer

    # ---- the rest ----------------------------------------------------------------------------------------------------

    def _boolean(self, path: str, value: Any, *, default: bool) -> bool:
        if value is None:
            return default
        if not isinstance(value, bool):
            self._fault(path, f"{kind(value)}, not true or false")
            return default
        return value

    def _keep(self, unknown: dict[str, Any], name: str, value: Any, parent: str = "") -> None:
        unknown.update(clean({name: value}, 1, parent, self._faults))
