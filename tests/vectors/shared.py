"""The public tracker frames beside the project (``../shared/vectors``), and what they say in our words."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway.clock import from_us
from gateway.errors import FrameError
from gateway.model import Frame, Reading, Report
from protocols.registry import TERMINALS, lenient

FOLDER = Path(__file__).resolve().parents[3] / "shared" / "vectors"
KNOT_M_PER_S = 1852 / 3600
NOW = datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)
DEVICE_KEY = "123456789012345"

NAMES: dict[str, str] = {}
"""Codecs that are called otherwise there."""

ALARMS = {
    "sos": {"sos"},
    "fallDown": {"fall"},
    "accident": {"fall"},
    "removing": {"device_removed"},
    "lowBattery": {"low_battery"},
    "lowPower": {"low_battery"},
    "powerCut": {"power_lost"},
    "powerRestored": {"power_restored"},
    "powerOff": {"power_off"},
    "powerOn": {"power_on"},
    "geofence": {"geofence_exit", "geofence_enter"},
    "geofenceExit": {"geofence_exit"},
    "geofenceEnter": {"geofence_enter"},
    "movement": {"motion"},
    "vibration": {"vibration"},
    "overspeed": {"overspeed"},
    "tampering": {"tamper"},
    "fault": {"device_fault"},
    "door": {"door_open"},
    "general": {"service_call", "sos"},
}
"""What an alarm may be here; one of them is enough."""

METRICS = {
    "batteryLevel": ("battery_percent", 1.0),
    "battery": ("battery_volts", 1.0),
    "power": ("external_power_volts", 1.0),
    "heartRate": ("heart_rate_bpm", 1.0),
    "steps": ("steps", 1.0),
    "temp1": ("temperature_celsius", 1.0),
    "bodyTemp": ("body_temperature_celsius", 1.0),
    "temperature": ("body_temperature_celsius", 1.0),
    "pressureHigh": ("systolic_mmhg", 1.0),
    "pressureLow": ("diastolic_mmhg", 1.0),
    "bloodOxygen": ("spo2_percent", 1.0),
    "altitude": ("altitude_m", 1.0),
    "course": ("course_degrees", 1.0),
    "speed": ("speed_m_per_s", KNOT_M_PER_S),
}


SAME = {"temperature_celsius": "body_temperature_celsius"}
"""Metrics that are one attribute there: a wearable's first temperature is its wearer's."""


def lines(name: str) -> list[dict[str, Any]]:
    path = FOLDER / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def payload_of(row: dict[str, Any]) -> bytes:
    """The bytes of a row."""
    text: str = row["payload"]
    if row["framing"] == "binary":
        return bytes.fromhex(text)
    if row["framing"] == "text":
        return text.encode("latin-1")
    if row["http_method"] == "GET":
        return f"GET {row['url']} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    body = text.encode()
    kind = "application/json" if text.startswith("{") else "application/x-www-form-urlencoded"
    head = f"POST {row['url']} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Line:
    """One connection as ``carebell decode`` sees it: what a report teaches is known behind it."""

    def __init__(self, codec: str) -> None:
        self._strict = TERMINALS[codec]
        self._lenient = lenient(codec)
        self._key = DEVICE_KEY
        self._context: dict[str, Any] | None = None
        self.was_lenient = False

    def parse(self, payload: bytes) -> Sequence[Report]:
        frame = Frame(
            "decode", self._strict.name, "test", payload, round(NOW.timestamp() * 1e6), self._key,
            context=self._context,
        )  # fmt: skip
        self.was_lenient = False
        try:
            reports = self._strict.parse(frame)
        except FrameError:
            reports = self._lenient.parse(frame)
            self.was_lenient = True
        for report in reports:
            if report.device_key:
                self._key = report.device_key
            if report.context is not None:
                self._context = report.context
        return reports


def judge(expected: dict[str, Any], reports: Sequence[Report]) -> str | None:
    """What does not hold, "" when the statement holds, None when it is about nothing that carebell observes."""
    readings = [report.reading for report in reports if report.reading is not None]
    if "position" in expected:
        return _position(expected["position"], readings)
    if "positions" in expected:
        located = any(reading.position or (reading.unknown or {}).get("network") for reading in readings)
        return "" if located or (readings and not expected["positions"].get("check_location")) else "no position"
    if "attribute" in expected:
        return _attribute(expected["attribute"]["key"], expected["attribute"].get("value"), readings)
    if expected.get("attributes_nonempty"):
        useful = any(reading.measurements or reading.signals or reading.unknown for reading in readings)
        return "" if useful else "nothing observed"
    seen = [r for r in readings if r.measurements or r.signals or r.position]
    if "result" in expected and seen:
        return f"observed {seen}"
    return "" if "result" in expected or readings else "nothing observed"


def _position(expected: Any, readings: Sequence[Reading]) -> str:
    places = [reading.position for reading in readings if reading.position is not None]
    if not places:  # cells without a fix are a place at 0, 0 for some, and none here until a resolver knows them
        cells = expected == "plausible" and any((reading.unknown or {}).get("network") for reading in readings)
        return "" if cells else "no position"
    if isinstance(expected, str):
        at = from_us(places[0].observed_at_us)
        return "" if datetime(2000, 1, 1, tzinfo=UTC) < at < NOW + timedelta(days=3650) else f"at {at}"
    tolerance = expected.get("tolerance_deg", 1e-5)
    place = places[0]
    if abs(place.latitude - expected["lat"]) > tolerance or abs(place.longitude - expected["lon"]) > tolerance:
        return f"at {place.latitude}, {place.longitude}"
    if "valid" in expected and place.valid != expected["valid"]:
        return f"valid is {place.valid}"
    stated = expected.get("time")
    if stated is not None:
        at = datetime.fromisoformat(stated).replace(tzinfo=UTC)
        if abs((from_us(place.observed_at_us) - at).total_seconds()) > 1:
            return f"at {from_us(place.observed_at_us)}"
    return ""


def _attribute(key: str, value: Any, readings: Sequence[Reading]) -> str | None:
    if key == "alarm":
        signals = {name for reading in readings for name, active in reading.signals.items() if active}
        wanted = [ALARMS[name] for name in str(value).split(",") if name in ALARMS]
        if not wanted:
            return None
        return "" if all(names & signals for names in wanted) else f"signals {sorted(signals)}"
    if key == "network":
        return "" if any((reading.unknown or {}).get("network") for reading in readings) else "no network"
    if key in METRICS:
        metric, factor = METRICS[key]
        if value is None:
            return "" if all(metric not in reading.measurements for reading in readings) else f"{metric} observed"
        named = (metric, SAME.get(metric, metric))
        seen = [value for reading in readings for name, value in reading.measurements.items() if name in named]
        close = any(abs(number - value * factor) <= max(0.06, abs(value) * 0.002) for number in seen)
        return "" if close else f"{metric} {seen}"
    return None


def statements(codec: str, file: str) -> Iterator[tuple[dict[str, Any], str | None, bool]]:
    """Each row, what does not hold of it (see ``judge``), and whether it took a lenient decoder."""
    line, test = Line(codec), None
    for row in lines(file):
        if row["test"] != test:
            line, test = Line(codec), row["test"]
        payload = payload_of(row)
        if row["kind"] == "frame":
            expected = row["expect"]["frame"]
            framer = TERMINALS[codec].framer()
            frames = framer.feed(payload)
            first = frames[0] if frames else None
            wanted = None if expected is None else payload_of(expected)
            # a row may be about the second frame of a buffer whose first one an earlier row took
            yield row, "" if first == wanted or wanted in frames else f"framed {first!r}", False
            continue
        try:
            reports = line.parse(payload)
        except FrameError as error:
            yield row, f"fault {error}", True
            continue
        yield row, judge(row["expect"], reports), line.was_lenient
