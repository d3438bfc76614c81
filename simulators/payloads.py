"""What simulated devices say: one statement in our vocabulary, written as the JSON of the device's profile.

The formats are those of ``device_profiles``; a statement that a device has no words for is a CannotSayError, so that a
scenario never believes that something was said which was not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field

from gateway.clock import iso, to_us

_CHINA: Final = timezone(timedelta(hours=8))


class Place(Struct, frozen=True):
    """A fix in WGS-84 degrees. ``valid`` False is the last known place of a device that has no fix now."""

    latitude: float
    longitude: float
    accuracy_m: float = 10.0
    source: str = "gnss"
    valid: bool = True


class Statement(Struct, frozen=True):
    """What a device says at one time: signals that hold, signals that ended, measurements, perhaps a place."""

    signals: tuple[str, ...] = ()
    cleared: tuple[str, ...] = ()
    measurements: Mapping[str, float] = field(default_factory=dict)
    position: Place | None = None


class CannotSayError(ValueError):
    """A profile has no words for this. Handler: whoever wrote the statement (scenario loader, command)."""


def write(profile: str, statement: Statement, *, number: int, boot: int, at: datetime) -> bytes:
    """The payload of one message. ``number`` rises by one per message and ``boot`` names the run, so that a resend of
    the same bytes is a duplicate and a new message never is. Raises CannotSayError.
    """
    writer = _WRITERS.get(profile)
    if writer is None:
        raise CannotSayError(f"no simulated device speaks the profile {profile!r}; known are {', '.join(PROFILES)}")
    said = writer(statement, number, boot, at)
    return json.dumps(said, ensure_ascii=False, separators=(",", ":")).encode()


class _Words:
    """What is left of a statement to be said; ``end`` finds what nobody said."""

    def __init__(self, profile: str, statement: Statement) -> None:
        self._profile = profile
        self._signals = list(statement.signals)
        self._cleared = list(statement.cleared)
        self._measurements = dict(statement.measurements)
        self._position = statement.position

    def signal(self, name: str) -> bool:
        return _take(self._signals, name)

    def ended(self, name: str) -> bool:
        return _take(self._cleared, name)

    def one_of(self, words: Mapping[str, str]) -> str | None:
        """The word of the one signal that such a device can say at a time."""
        for name, word in words.items():
            if self.signal(name):
                return word
        return None

    def numbers(self, names: Mapping[str, str]) -> dict[str, float]:
        """Measurements under the profile's own names."""
        return {own: self._measurements.pop(metric) for metric, own in names.items() if metric in self._measurements}

    def position(self) -> Place | None:
        place, self._position = self._position, None
        return place

    def end(self) -> None:
        left = [f"signal {name!r}" for name in self._signals]
        left += [f"end of {name!r}" for name in self._cleared]
        left += [f"measurement {name!r}" for name in self._measurements]
        left += ["position"] if self._position is not None else []
        if left:
            raise CannotSayError(f"a device of the profile {self._profile!r} has no words for: {', '.join(left)}")


def _take(names: list[str], name: str) -> bool:
    if name in names:
        names.remove(name)
        return True
    return False


def _native(statement: Statement, number: int, boot: int, at: datetime) -> dict[str, Any]:
    del at  # the gateway's clock is better than a simulated one
    if statement.cleared:
        raise CannotSayError(
            f"a native device cannot say that {statement.cleared[0]!r} ended; it has signals such as battery_normal"
        )
    said: dict[str, Any] = {"seq": number, "boot": boot}
    if statement.signals:
        said["signals"] = list(statement.signals)
    if statement.measurements:
        said["measurements"] = dict(statement.measurements)
    place = statement.position
    if place is not None:
        said["position"] = {
            "latitude": place.latitude,
            "longitude": place.longitude,
            "accuracy_m": place.accuracy_m,
            "source": place.source,
            "valid": place.valid,
        }
    return said


_PRESSES: Final = {"service_call": "single", "sos": "long", "call_cancelled": "cancel", "test": "test"}


def _button(statement: Statement, number: int, boot: int, at: datetime) -> dict[str, Any]:
    words = _Words("generic.json_button", statement)
    said: dict[str, Any] = {
        "id": boot * 100_000 + number,
        "time": int(at.timestamp()),
        "press": words.one_of(_PRESSES) or "none",
    }
    said |= words.numbers({"battery_percent": "battery", "rssi_dbm": "rssi"})
    words.end()
    return said


def _cuff(statement: Statement, number: int, boot: int, at: datetime) -> dict[str, Any]:
    del number, boot
    words = _Words("generic.json_bp_cuff", statement)
    said: dict[str, Any] = {"unit": "mmHg", "measured": at.astimezone(_CHINA).strftime("%Y-%m-%d %H:%M:%S"), "user": 1}
    said |= words.numbers(
        {
            "systolic_mmhg": "sys",
            "diastolic_mmhg": "dia",
            "mean_arterial_mmhg": "map",
            "heart_rate_bpm": "pul",
            "battery_percent": "battery",
        }
    )
    if words.signal("device_fault"):
        said["error"] = "E1"
    words.end()
    return said


_STATUS_BITS: Final = ("sos", "fall", "low_battery", "device_removed", "geofence_exit", "no_motion", "power_off")
_PENDANT_EVENTS: Final = {"power_on": "on", "device_worn": "worn", "service_call": "call"}
_FIX_TYPES: Final = {"gnss": "gps", "cell": "lbs", "wifi": "wifi"}


def _pendant(statement: Statement, number: int, boot: int, at: datetime) -> dict[str, Any]:
    del boot  # number and time together name a message
    words = _Words("generic.json_gps_pendant", statement)
    status = sum(1 << bit for bit, name in enumerate(_STATUS_BITS) if words.signal(name))
    said: dict[str, Any] = {"n": number, "ts": to_us(at) // 1000, "status": status}
    events = [{"type": word} for name, word in _PENDANT_EVENTS.items() if words.signal(name)]
    if events:
        said["events"] = events
    said |= words.numbers({"battery_percent": "bat", "steps": "steps"})
    place = words.position()
    if place is not None:
        said["gps"] = {
            "lat": place.latitude,
            "lng": place.longitude,
            "acc": place.accuracy_m,
            "fix": int(place.valid),
            "type": _FIX_TYPES.get(place.source, "gps"),
            "coord": "wgs84",
        }
    words.end()
    return said


def _smoke(statement: Statement, number: int, boot: int, at: datetime) -> dict[str, Any]:
    del number, boot
    words = _Words("generic.json_smoke_detector", statement)
    said: dict[str, Any] = {"time": iso(to_us(at))}
    ended = [words.ended(name) for name in ("smoke", "heat")]
    alarm = words.one_of({"smoke": "smoke", "heat": "heat", "test": "test", "device_fault": "fault"})
    said["alarm"] = alarm or ("clear" if any(ended) else "none")
    for name, own in (("tamper", "tamper"), ("low_battery", "battery_low")):
        if words.signal(name):
            said[own] = True
        elif words.ended(name):
            said[own] = False
    said |= words.numbers({"battery_percent": "battery", "temperature_celsius": "temperature", "rssi_dbm": "rssi"})
    words.end()
    return said


_BED_STATES: Final = {"bed_exit": "out", "bed_return": "in", "motion": "moving", "no_motion": "still"}


def _bed(statement: Statement, number: int, boot: int, at: datetime) -> dict[str, Any]:
    del number, boot
    words = _Words("generic.json_bed_sensor", statement)
    said: dict[str, Any] = {"t": int(at.timestamp()), "state": words.one_of(_BED_STATES) or "idle"}
    said["call"] = int(words.signal("sos"))
    said |= words.numbers({"heart_rate_bpm": "hr", "respiratory_rate_per_min": "rr"})
    words.end()
    return said


_WRITERS: Final[Mapping[str, Callable[[Statement, int, int, datetime], dict[str, Any]]]] = MappingProxyType(
    {
        "carebell.native": _native,
        "generic.json_button": _button,
        "generic.json_bp_cuff": _cuff,
        "generic.json_gps_pendant": _pendant,
        "generic.json_smoke_detector": _smoke,
        "generic.json_bed_sensor": _bed,
    }
)

PROFILES: Final = tuple(_WRITERS)


def utc_now() -> datetime:
    """When a simulated device believes that it speaks."""
    return datetime.now(UTC)
