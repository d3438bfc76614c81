"""What SenML names and units mean: canonical metrics, signals and places."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.model import EMERGENCY_SIGNALS, METRICS, SIGNALS
from protocols.codecs.terminal import Draft

Value = float | str | bool | bytes | None

_UNITS: Final[Mapping[str, tuple[str, float, float]]] = MappingProxyType(
    {
        # RFC 8428, section 12.1, and RFC 8798, with the spellings of UCUM beside them: kind, factor, offset
        "Cel": ("Cel", 1, 0), "K": ("Cel", 1, -273.15), "degC": ("Cel", 1, 0), "degF": ("Cel", 5 / 9, -160 / 9),
        "%": ("%", 1, 0), "/": ("%", 100, 0), "/100": ("%", 1, 0), "%RH": ("%", 1, 0), "%EL": ("%", 1, 0),
        "beat/min": ("/min", 1, 0), "1/min": ("/min", 1, 0), "/min": ("/min", 1, 0), "bpm": ("/min", 1, 0),
        "Hz": ("/min", 60, 0), "1/s": ("/min", 60, 0), "beats": ("/min", 1, 0),
        "Pa": ("mm[Hg]", 1 / 133.322387415, 0), "hPa": ("mm[Hg]", 1 / 1.33322387415, 0),
        "kPa": ("mm[Hg]", 1 / 0.133322387415, 0), "mmHg": ("mm[Hg]", 1, 0), "mm[Hg]": ("mm[Hg]", 1, 0),
        "V": ("V", 1, 0), "mV": ("V", 0.001, 0),
        "dBm": ("dB[mW]", 1, 0), "dBW": ("dB[mW]", 1, 30), "dB[mW]": ("dB[mW]", 1, 0),
        "m": ("m", 1, 0), "km": ("m", 1000, 0), "mm": ("m", 0.001, 0),
        "m/s": ("m/s", 1, 0), "km/h": ("m/s", 1 / 3.6, 0),
        "rad": ("deg", 180 / math.pi, 0), "deg": ("deg", 1, 0),
        "kg": ("kg", 1, 0), "g": ("kg", 0.001, 0),
        "s": ("min", 1 / 60, 0), "min": ("min", 1, 0), "h": ("min", 60, 0),
        "mmol/L": ("mmol/L", 1, 0), "mol/L": ("mmol/L", 1000, 0), "mg/dL": ("mmol/L", 10 / 180.156, 0),
        "/1000000": ("[ppm]", 1, 0), "ppm": ("[ppm]", 1, 0), "[ppm]": ("[ppm]", 1, 0),
        "count": ("{steps}", 1, 0), "{steps}": ("{steps}", 1, 0),
    }
)  # fmt: skip

_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "heart_rate": "heart_rate_bpm", "heartrate": "heart_rate_bpm", "hr": "heart_rate_bpm",
        "pulse": "heart_rate_bpm",
        "spo2": "spo2_percent", "oxygen_saturation": "spo2_percent",
        "systolic": "systolic_mmhg", "sys": "systolic_mmhg", "diastolic": "diastolic_mmhg", "dia": "diastolic_mmhg",
        "mean_arterial": "mean_arterial_mmhg", "map": "mean_arterial_mmhg",
        "body_temperature": "body_temperature_celsius", "body_temp": "body_temperature_celsius",
        "temperature": "temperature_celsius", "temp": "temperature_celsius",
        "humidity": "humidity_percent", "relative_humidity": "humidity_percent",
        "blood_glucose": "blood_glucose_mmol_per_l", "glucose": "blood_glucose_mmol_per_l",
        "respiratory_rate": "respiratory_rate_per_min", "respiration": "respiratory_rate_per_min",
        "weight": "weight_kg", "step": "steps", "step_count": "steps", "sleep": "sleep_minutes",
        "battery": "battery_percent", "battery_level": "battery_percent", "bat": "battery_percent",
        "battery_voltage": "battery_volts", "voltage": "battery_volts",
        "co": "carbon_monoxide_ppm", "rssi": "rssi_dbm", "rsrp": "rssi_dbm",
        "speed": "speed_m_per_s", "course": "course_degrees", "heading": "course_degrees",
        "altitude": "altitude_m", "alt": "altitude_m", "odometer": "odometer_m",
    }
)  # fmt: skip

_SIGNAL_NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {"sos_button": "sos", "panic": "sos", "emergency": "sos", "fall_detected": "fall", "co_alarm": "carbon_monoxide",
     "leak": "water_leak", "presence": "motion"}
)  # fmt: skip

_LATITUDE: Final = frozenset({"lat", "latitude"})
_LONGITUDE: Final = frozenset({"lon", "lng", "long", "longitude"})
_ACCURACY: Final = frozenset({"accuracy", "accuracy_m", "radius"})
_YES: Final = frozenset({"", "1", "on", "true", "yes", "active", "alarm", "pressed"})
_IDENTITY: Final = re.compile(r"urn:dev:(?:mac|imei|ow|sn|org|os|ops|id):([A-Za-z0-9.-]{1,64})")


def identity(name: str) -> str:
    """The device that a name of RFC 9039 begins with: ``urn:dev:mac:0024befffe804ff1/...``; "" for other names."""
    found = _IDENTITY.match(name)
    return "" if found is None else found[1]


def local_name(name: str) -> str:
    """What is measured: the part behind the last separator, in lower case."""
    tail = re.split(r"[/:.]", name)[-1]
    head, _, part = tail.partition("_")
    if part and re.fullmatch(r"[0-9a-fA-F]{6,32}", head):  # RFC 9039: what belongs to a device stands behind "_"
        tail = part
    return tail.lower().replace("-", "_")


def understand(draft: Draft, name: str, own: str, unit: str, value: Value, total: float | None = None) -> None:
    """Put one value into the draft: as a signal, a measurement, a part of a place, or as what is not understood.

    ``own`` is the record's own part of the name; the base name counts where that is empty.
    """
    local = local_name(own or name)
    signal = _SIGNAL_NAMES.get(local, local)
    if signal in SIGNALS or local == "signal":
        _signal(draft, name, signal, value)
        return
    if _place(draft, local, unit, value):
        return
    metric = local if local in METRICS else _NAMES.get(local, "")
    if not metric and unit == "%EL":
        metric = "battery_percent"
    elif metric in ("battery_volts", "battery_percent"):
        metric = "battery_volts" if _UNITS.get(unit, ("",))[0] == "V" else metric
    if metric and isinstance(value, int | float) and not isinstance(value, bool):
        converted = convert(metric, unit, value)
        if converted is not None:
            draft.measure(metric, converted)
            return
        draft.fault(name, f"in {unit[:20]}, which is no unit of {metric}")
    elif metric and value is None and total is not None:
        draft.measure(metric, total)
        return
    draft.keep(name, value if value is not None else total)


def convert(metric: str, unit: str, value: float) -> float | None:
    """The value in the metric's own unit; None when the unit measures something else. No unit is the metric's own."""
    if not unit:
        return value
    known = _UNITS.get(unit)
    if known is None or known[0] != METRICS[metric].ucum:
        return None
    return value * known[1] + known[2]


def _signal(draft: Draft, name: str, signal: str, value: Value) -> None:
    if signal == "signal":  # {"n": "signal", "vs": "sos"}
        named = value.strip().lower() if isinstance(value, str) else ""
        if named in SIGNALS:
            draft.signal(named)
        else:
            draft.fault(name, "not the name of a signal")
            draft.keep(name, value)
        return
    if value is None:
        draft.fault(name, "without a usable value")
        active = signal in EMERGENCY_SIGNALS  # a press counts whatever is wrong with it
    elif isinstance(value, str):
        active = value.strip().lower() in _YES
    else:
        active = bool(value)
    if value is not None or active:
        draft.signal(signal, active=active)


def _place(draft: Draft, local: str, unit: str, value: Value) -> bool:
    """Whether it is a part of a place. The parts wait in the draft's context until ``settle_place``."""
    part = (
        "lat" if local in _LATITUDE or (unit == "lat" and local not in METRICS)
        else "lon" if local in _LONGITUDE or (unit == "lon" and local not in METRICS)
        else "accuracy" if local in _ACCURACY
        else ""
    )  # fmt: skip
    if not part:
        return False
    if isinstance(value, bool) or not isinstance(value, int | float):
        draft.fault(local, "not a number")
        return True
    parts: dict[str, Any] = draft.context if draft.context is not None else {}
    parts[part] = value * 180 / math.pi if unit == "rad" else value
    draft.context = parts
    return True


def settle_place(draft: Draft) -> None:
    """Make a place of its parts, once all of them are there."""
    parts, draft.context = draft.context, None
    if not parts:
        return
    if "lat" in parts and "lon" in parts:
        draft.place(parts["lat"], parts["lon"], accuracy_m=parts.get("accuracy"))
    elif "lat" in parts or "lon" in parts:
        draft.fault("position", "one coordinate alone")
