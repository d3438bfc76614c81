"""What the parameters and the JSON of OsmAnd clients mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

from gateway.clock import US_PER_S, to_us
from protocols.codecs.fixes import fix
from protocols.codecs.terminal import KNOT_M_PER_S, Draft, clean_text, decimal, number

LAST_S: Final = 253_402_300_799  # 9999-12-31

ALARMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sos": "sos",
        "panic": "sos",
        "falldown": "fall",
        "fall": "fall",
        "removing": "removed",
        "lowbattery": "low_battery",
        "lowpower": "low_power",
        "powercut": "power_cut",
        "powerrestored": "power_restored",
        "poweroff": "power_off",
        "poweron": "power_on",
        "geofence": "fence",
        "geofenceenter": "fence_enter",
        "geofenceexit": "fence_exit",
        "movement": "motion",
        "vibration": "vibration",
        "overspeed": "overspeed",
        "tampering": "tamper",
        "fault": "fault",
        "accident": "accident",
        "general": "general",
        "door": "door",
    }
)
"""Words of the ``alarm`` parameter, in lower case without separators."""

_METRICS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "batt": "battery_percent",
        "battery": "battery_percent",
        "batterylevel": "battery_percent",
        "heartrate": "heart_rate_bpm",
        "hr": "heart_rate_bpm",
        "spo2": "spo2_percent",
        "steps": "steps",
        "temperature": "temperature_celsius",
        "bodytemp": "body_temperature_celsius",
        "altitude": "altitude_m",
        "power": "external_power_volts",
    }
)


def at_of(text: str) -> int:
    """Seconds (also with a fraction), milliseconds, ISO 8601 or ``yyyy-MM-dd HH:mm:ss`` (UTC) as microseconds.

    0 when it is no time.
    """
    digits = number(text)
    if digits is not None:
        if digits > 100_000_000_000:  # milliseconds: as seconds it would be after the year 5000
            return digits * 1000 if digits // 1000 <= LAST_S else 0
        return digits * US_PER_S if digits > 0 else 0
    fraction = decimal(text)
    if fraction is not None:
        return round(fraction * US_PER_S) if 0 < fraction <= LAST_S else 0
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError:
        return 0
    try:
        return max(0, to_us(at if at.tzinfo is not None else at.replace(tzinfo=UTC)))
    except (OverflowError, ValueError):
        return 0


def figure_of(text: str) -> float | None:
    """A finite number as programs write one, with an exponent too (``-1.5E-4``). None when it is none."""
    text = text.strip()
    digits, _, exponent = text.lower().partition("e")
    plain = decimal(digits)
    if plain is None or not exponent:
        return plain if "e" not in text.lower() else None
    power = number(exponent)
    return None if power is None or not -30 <= power <= 15 else float(text)


def raise_alarms(draft: Draft, text: str) -> None:
    """Every alarm of a list with commas; unknown ones are kept."""
    for word in text.split(",")[:16]:
        name = ALARMS.get(word.strip().lower().replace("_", "").replace("-", ""))
        if name is not None:
            draft.alarm(name)
        elif word.strip():
            draft.keep("alarm", word)


# ---- parameters ------------------------------------------------------------------------------------------------------


def read_parameters(draft: Draft, pairs: Sequence[tuple[str, str]]) -> None:
    """All parameters; of those that stand twice the last counts, but cells, access points and alarms are lists."""
    values = dict(pairs)
    stamp = values.get("timestamp", "")
    if stamp:
        draft.at_us = at_of(stamp)
        if not draft.at_us:
            draft.fault("timestamp", f"{stamp[:40]!r} is no time")
    for name, value in pairs:
        reader = _READERS.get(name)
        if reader is not None:
            reader(draft, value)
        elif name not in _ELSEWHERE:
            _other(draft, name, value)
    _place(draft, values)


def _place(draft: Draft, values: Mapping[str, str]) -> None:
    latitude, longitude = values.get("lat"), values.get("lon")
    if "location" in values:
        latitude, _, longitude = values["location"].partition(",")
    if latitude is None and longitude is None:
        return
    degrees = figure_of(latitude or ""), figure_of(longitude or "")
    if degrees[0] is None or degrees[1] is None:
        draft.fault("lat, lon", "not two numbers")
        return
    valid = values.get("valid", "true").lower() not in ("false", "0")
    fix(draft, degrees[0], degrees[1], valid=valid, accuracy_m=figure_of(values.get("accuracy", "")))


def _speed(draft: Draft, value: str) -> None:
    knots = figure_of(value)
    draft.measure("speed_m_per_s", None if knots is None or knots < 0 else knots * KNOT_M_PER_S)


def _course(draft: Draft, value: str) -> None:
    degrees = figure_of(value)
    draft.measure("course_degrees", None if degrees is None or degrees < 0 else degrees % 360)


def _cell(draft: Draft, value: str) -> None:
    parts = [number(part) for part in value.split(",")]
    if len(parts) < 4 or any(part is None for part in parts):
        draft.fault("cell", "not mcc,mnc,lac,cid[,rssi]")
        return
    mcc, mnc, lac, cid, *rest = (part or 0 for part in parts)
    draft.cell(mcc, mnc, lac, cid, rest[0] if rest else None)


def _wifi(draft: Draft, value: str) -> None:
    mac, _, rssi = value.partition(",")
    draft.wifi(mac, number(rssi))


_READERS: Final[Mapping[str, Callable[[Draft, str], None]]] = MappingProxyType(
    {
        "speed": _speed,
        "bearing": _course,
        "heading": _course,
        "cell": _cell,
        "wifi": _wifi,
        "alarm": raise_alarms,
    }
)
_ELSEWHERE: Final = frozenset({"id", "deviceid", "timestamp", "lat", "lon", "location", "valid", "accuracy"})


def _other(draft: Draft, name: str, value: str) -> None:
    key = name.lower()
    metric = _METRICS.get(key)
    figure = figure_of(value)
    if metric is not None and figure is not None:
        draft.measure(metric, figure)
    elif key in ("sos", "panic", "fall") and value.lower() in ("true", "1", "yes"):
        draft.alarm("fall" if key == "fall" else "sos")
    elif value.lower() in ("true", "false"):
        draft.keep(clean_text(name)[:64], value.lower() == "true")
    else:
        draft.keep(clean_text(name)[:64], value if figure is None else figure)


# ---- JSON ------------------------------------------------------------------------------------------------------------


def read_json(draft: Draft, location: Mapping[str, Any]) -> None:
    """One location of the common background-geolocation clients. Numbers below zero stand for "not known"."""
    stamp = location.get("timestamp")
    if isinstance(stamp, str | int | float):
        draft.at_us = at_of(str(stamp))
        if not draft.at_us:
            draft.fault("timestamp", "no time")
    coords = _object(location.get("coords"))
    latitude, longitude = _figure(coords.get("latitude")), _figure(coords.get("longitude"))
    if latitude is not None and longitude is not None:
        accuracy_m = _known(coords.get("accuracy"))
        fix(draft, latitude, longitude, accuracy_m=accuracy_m)
    draft.measure("speed_m_per_s", _known(coords.get("speed")))
    draft.measure("course_degrees", _known(coords.get("heading")))
    draft.measure("altitude_m", _figure(coords.get("altitude")))
    draft.measure("odometer_m", _known(location.get("odometer")))
    battery = _object(location.get("battery"))
    level = _known(battery.get("level"))
    draft.measure("battery_percent", None if level is None else round(level * 100, 1))
    if isinstance(battery.get("is_charging"), bool):
        draft.keep("charging", battery["is_charging"])
    for name in ("event", "is_moving", "mock"):
        if isinstance(location.get(name), str | bool):
            draft.keep(name, location[name])
    activity = _object(location.get("activity")).get("type")
    if isinstance(activity, str):
        draft.keep("activity", activity)
    for members in (location, _object(location.get("extras"))):
        if isinstance(members.get("alarm"), str):
            raise_alarms(draft, members["alarm"])
        if members.get("sos") is True:
            draft.alarm("sos")
    _extras(draft, _object(location.get("extras")))


def _extras(draft: Draft, extras: Mapping[str, Any]) -> None:
    for name, value in list(extras.items())[:32]:
        metric = _METRICS.get(name.lower())
        figure = _figure(value)
        if metric is not None and figure is not None:
            draft.measure(metric, figure)
        elif name not in ("alarm", "sos") and isinstance(value, str | bool | int | float):
            draft.keep(f"extra_{clean_text(name)[:48]}", value)


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _figure(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e15:
        return None
    return value


def _known(value: Any) -> float | None:
    figure = _figure(value)
    return None if figure is None or figure < 0 else figure
