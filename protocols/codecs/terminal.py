"""What the codecs of terminals share: a report in the making, alarms by their common names, cells and access points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from gateway.model import METRICS, Frame, Position, Reading, Report

MAX_FAULTS: Final = 16
MAX_NETWORK: Final = 64
MAX_UNKNOWN: Final = 64
MAX_TEXT: Final = 2048
KNOT_M_PER_S: Final = 1852 / 3600
KMH_M_PER_S: Final = 1 / 3.6

ALARMS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "sos": "sos",
        "fall": "fall",
        "accident": "fall",  # a blow to whatever wears the terminal: somebody has to ask
        "general": "service_call",  # an alarm without a name: a person looks at it
        "removed": "device_removed",
        "worn": "device_worn",
        "low_battery": "low_battery",
        "low_power": "low_battery",
        "power_cut": "power_lost",
        "power_restored": "power_restored",
        "power_off": "power_off",
        "power_on": "power_on",
        "fence": "geofence_exit",  # the terminal does not say which way: the one that matters
        "fence_enter": "geofence_enter",
        "fence_exit": "geofence_exit",
        "motion": "motion",
        "vibration": "vibration",
        "overspeed": "overspeed",
        "tamper": "tamper",
        "fault": "device_fault",
        "door": "door_open",
        "smoke": "smoke",
        "gas": "gas",
        "no_motion": "no_motion",
    }
)
"""The signal of each alarm that has one. Others (``low_speed``, ``temperature``, ``braking``, ...) stay names."""

_RANGES: Final = {name: (metric.lowest, metric.highest) for name, metric in METRICS.items()}
_EMERGENCIES_FIRST: Final = ("fall", "sos")


class Draft:
    """One report in the making. Every method takes what a device may say and never raises for it.

    ``at_us`` is the device's time, 0 when it has none (set it before ``place``, or give ``place`` its own).
    """

    __slots__ = (
        "at_us", "context", "dedup_key", "device_key", "faults", "measurements", "model_hint", "position", "proof",
        "received_at_us", "reply", "signals", "stored", "unknown",
    )  # fmt: skip

    def __init__(self, frame: Frame, device_key: str = "") -> None:
        self.received_at_us = frame.received_at_us
        self.device_key = device_key or frame.device_key
        self.at_us = 0
        self.stored = False
        self.dedup_key = ""
        self.model_hint = ""
        self.reply: bytes | None = None
        self.proof: bool | None = None
        self.context: dict[str, Any] | None = None
        self.measurements: dict[str, float] = {}
        self.signals: dict[str, bool] = {}
        self.position: Position | None = None
        self.unknown: dict[str, Any] = {}
        self.faults: list[str] = []

    def fault(self, member: str, what: object) -> None:
        """Say that a member could not be used; the others count."""
        if len(self.faults) < MAX_FAULTS:
            self.faults.append(f"{member}: {what}"[:300])

    def measure(self, metric: str, value: float | None) -> None:
        """A canonical metric (or ``x_...``) in its own unit; None is no reading. Impossible values become faults."""
        if value is None:
            return
        if isinstance(value, bool):  # the journal could not read it back as a number
            self.fault(metric, "true or false, not a number")
            return
        lowest, highest = _RANGES.get(metric, (-1e15, 1e15))
        if lowest <= value <= highest:
            self.measurements[metric] = value if isinstance(value, int) else round(value, 4)
        else:
            self.fault(metric, f"{value} is not within {lowest:g} to {highest:g}")

    def signal(self, signal: str, active: bool = True) -> None:
        """A signal of the model. What is active stays so."""
        self.signals[signal] = active or self.signals.get(signal, False)

    def alarm(self, *names: str) -> None:
        """Alarms by their common names. Every one is kept: as its signal, and by name where the signal says less."""
        for name in names:
            signal = ALARMS.get(name)
            if signal is not None:
                self.signals[signal] = True
            if signal is None or name in ("accident", "general", "fence", "low_power"):
                kept = self.unknown.setdefault("alarms", [])
                if name not in kept and len(kept) < MAX_NETWORK:
                    kept.append(name)

    def keep(self, name: str, value: Any) -> None:
        """What has no observation of its own stays readable in ``Reading.unknown``: JSON values, bytes as hex."""
        if value is None or (len(self.unknown) >= MAX_UNKNOWN and name not in self.unknown):
            return
        if isinstance(value, bytes | bytearray):
            value = value[:MAX_TEXT].hex()
        elif isinstance(value, str):
            value = clean_text(value)
        elif isinstance(value, float) and not math.isfinite(value):
            return
        elif isinstance(value, int) and not -(2**63) <= value < 2**64:
            value = str(value)
        self.unknown[name] = value

    def cell(self, mcc: int, mnc: int, lac: int, cid: int, rssi: int | None = None, radio: str = "") -> None:
        """A mobile cell that the terminal sees. All zero is none."""
        if not (lac or cid):
            return
        seen: dict[str, Any] = {"mcc": mcc, "mnc": mnc, "lac": lac, "cid": cid}
        if rssi is not None:
            seen["rssi"] = rssi
        if radio:
            seen["radio"] = radio
        self._network(seen)

    def wifi(self, bssid: str | bytes, rssi: int | None = None, name: str = "") -> None:
        """A Wi-Fi access point that the terminal sees, by its MAC address (6 bytes, or text)."""
        address = bssid.hex(":") if isinstance(bssid, bytes) else clean_text(bssid.strip().lower())[:32]
        if not address.strip("0:-"):
            return
        seen: dict[str, Any] = {"bssid": address.replace("-", ":")}
        if rssi is not None:
            seen["rssi"] = rssi
        if name:
            seen["name"] = clean_text(name)[:64]
        self._network(seen)

    def _network(self, seen: dict[str, Any]) -> None:
        network = self.unknown.setdefault("network", [])
        if len(network) < MAX_NETWORK:
            network.append(seen)

    def place(
        self,
        latitude: float,
        longitude: float,
        *,
        valid: bool = True,
        source: str = "gnss",
        accuracy_m: float | None = None,
        at_us: int = 0,
    ) -> None:
        """A place in WGS-84 degrees. 0, 0 is what terminals send for none; impossible degrees are a fault."""
        if latitude == 0 and longitude == 0:
            return
        if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
            self.fault("position", f"{latitude}, {longitude} is not on Earth")
            return
        if accuracy_m is not None and not 0 <= accuracy_m <= 1e8:
            accuracy_m = None
        self.position = Position(
            latitude, longitude, at_us or self.at_us or self.received_at_us, accuracy_m, source, valid
        )

    def empty(self) -> bool:
        """Whether there is nothing in it that the platform would want."""
        return not (self.measurements or self.signals or self.position or self.unknown)

    def report(self) -> Report:
        """The report. Its reading is None when nothing was observed."""
        reading = None
        if not self.empty():
            signals = self.signals
            if len(signals) > 1:
                for first in _EMERGENCIES_FIRST:
                    if signals.get(first):
                        signals = {first: True} | signals
            reading = Reading(
                self.at_us or self.received_at_us,
                self.measurements,
                signals,
                self.position,
                self.unknown or None,
                self.stored,
            )
        return Report(
            device_key=self.device_key,
            reading=reading,
            dedup_key=self.dedup_key,
            model_hint=self.model_hint,
            at_us=self.at_us,
            stored=self.stored,
            faults=self.faults or None,
            reply=self.reply,
            proof=self.proof,
            context=self.context,
        )


def conversation(
    frame: Frame, *, device_key: str = "", reply: bytes | None = None, context: dict[str, Any] | None = None
) -> Report:
    """A report that observes nothing: a login, a heartbeat, an answer."""
    return Report(device_key=device_key or frame.device_key, reply=reply, context=context)


def clean_text(text: str) -> str:
    """At most MAX_TEXT characters that every store takes: no NUL, no half surrogate pairs."""
    return text[:MAX_TEXT].replace("\0", "").encode("utf-8", "replace").decode()


def number(text: str, *, base: int = 10) -> int | None:
    """A whole number in ASCII digits (an optional sign), else None."""
    text = text.strip()
    digits = text[1:] if text[:1] in ("-", "+") else text
    allowed = "0123456789" if base == 10 else "0123456789abcdefABCDEF"
    if not digits or len(digits) > 18 or digits.strip(allowed):
        return None
    return int(text, base)


def decimal(text: str) -> float | None:
    """A finite decimal number in ASCII digits, without an exponent, else None."""
    text = text.strip()
    digits = (text[1:] if text[:1] in ("-", "+") else text).replace(".", "", 1)
    if not digits or len(digits) > 24 or digits.strip("0123456789"):
        return None
    return float(text)


def degrees_minutes(text: str, hemisphere: str = "") -> float | None:
    """``ddmm.mmmm`` or ``dddmm.mmmm`` as degrees; S and W are negative. None when it is no such number."""
    value = decimal(text)
    if value is None:
        return None
    whole = int(abs(value) // 100)
    degrees = whole + (abs(value) - whole * 100) / 60
    negative = value < 0 or hemisphere in ("S", "W", "s", "w")
    return -degrees if negative else degrees
