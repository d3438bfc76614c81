"""The nouns. Everything that moves through carebell is one of these; nothing here does anything.

Times inside are ``*_us``: whole microseconds since 1970-01-01T00:00:00Z. The public surfaces print RFC 3339.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec import Struct, field

# ---- vocabulary ------------------------------------------------------------------------------------------------------


class Metric(Struct, frozen=True):
    """What a measurement is: its UCUM unit, its LOINC code where one exists, and what is physically possible.

    Possible is wider than plausible: outside it the member is a fault; rules have their own plausible ranges.
    """

    ucum: str
    loinc: str | None
    lowest: float
    highest: float


METRICS: Final[Mapping[str, Metric]] = MappingProxyType(
    {
        "heart_rate_bpm": Metric("/min", "8867-4", 0, 400),
        "spo2_percent": Metric("%", "2708-6", 0, 100),
        "systolic_mmhg": Metric("mm[Hg]", "8480-6", 0, 400),
        "diastolic_mmhg": Metric("mm[Hg]", "8462-4", 0, 300),
        "mean_arterial_mmhg": Metric("mm[Hg]", "8478-0", 0, 350),
        "body_temperature_celsius": Metric("Cel", "8310-5", 10, 50),
        "blood_glucose_mmol_per_l": Metric("mmol/L", "15074-8", 0, 100),
        "respiratory_rate_per_min": Metric("/min", "9279-1", 0, 150),
        "weight_kg": Metric("kg", "29463-7", 0, 500),
        "steps": Metric("{steps}", "55423-8", 0, 1_000_000),
        "sleep_minutes": Metric("min", None, 0, 10_080),
        "battery_percent": Metric("%", None, 0, 100),
        "battery_volts": Metric("V", None, 0, 100),
        "external_power_volts": Metric("V", None, 0, 1000),
        "temperature_celsius": Metric("Cel", None, -100, 1000),
        "humidity_percent": Metric("%", None, 0, 100),
        "carbon_monoxide_ppm": Metric("[ppm]", None, 0, 1_000_000),
        "rssi_dbm": Metric("dB[mW]", None, -200, 50),
        "speed_m_per_s": Metric("m/s", None, 0, 400),
        "course_degrees": Metric("deg", None, 0, 360),
        "altitude_m": Metric("m", None, -1000, 50_000),
        "odometer_m": Metric("m", None, 0, 1e12),
    }
)
"""Canonical metrics. A profile may add others, named ``x_...``."""

EMERGENCY_SIGNALS: Final = frozenset({"sos", "fall", "smoke", "gas", "carbon_monoxide", "heat", "no_answer"})
"""Nothing suppresses, groups, delays or rate-limits these; only a person resolves what they raise."""

URGENT_SIGNALS: Final = EMERGENCY_SIGNALS | {
    "service_call", "call_cancelled", "water_leak", "geofence_exit", "bed_exit",
}  # fmt: skip
"""Frames that carry one of these are committed without a linger."""

SIGNALS: Final = URGENT_SIGNALS | {
    "door_open", "door_closed", "motion", "no_motion", "vibration", "bed_return", "tamper", "device_removed",
    "device_worn", "low_battery", "battery_normal", "power_lost", "power_restored", "power_on", "power_off",
    "device_fault", "overspeed", "geofence_enter", "im_ok", "check_in", "medication_taken", "medication_missed", "test",
    "connection_lost",
}  # fmt: skip
"""Every signal that an observation may carry. ``connection_lost`` is what an MQTT will message becomes."""

POSITION_SOURCES: Final = frozenset({"gnss", "cell", "wifi", "manual"})


class Severity(enum.IntEnum):
    """Priority of an alert, 1 the highest; printed as ``P1`` to ``P4``."""

    P1 = 1  # emergency: latches, only a person resolves it
    P2 = 2  # urgent: call center and contacts
    P3 = 3  # advisory
    P4 = 4  # technical


class Urgency(enum.IntEnum):
    """How a record is committed."""

    ROUTINE = 0  # may linger for a batch; shed first when the disk is full
    URGENT = 1  # commits at once
    EMERGENCY = 2  # commits at once, and may use the reserved space


class Verdict(enum.Enum):
    """What became of frames that were handed to ingest."""

    ACCEPTED = "accepted"  # on disk: acknowledge
    RETRY = "retry"  # not on disk: withhold the acknowledgement and end the connection


# ---- from bytes to records -------------------------------------------------------------------------------------------


class Frame(Struct, gc=False):
    """Bytes as they arrived.

    ``device_key`` is the identity that the transport knows (device id, IMEI, ...), "" when only the payload tells it.
    ``verified`` is True when a credential proved that identity. ``redelivered`` is the transport's own duplicate flag.
    ``idempotency_key`` is what the sender calls this frame; it names a resend when the payload itself does not.
    ``reports`` is what the transport has parsed of it already, where the conversation needed that; None: ingest parses.
    ``context`` is what earlier reports of this connection taught (``Report.context``); a codec only reads it.
    """

    transport: str
    codec: str
    source: str
    payload: bytes
    received_at_us: int
    device_key: str = ""
    verified: bool = True
    redelivered: bool = False
    idempotency_key: str = ""
    reports: Sequence[Report] | None = None
    context: Mapping[str, Any] | None = None


class Position(Struct, array_like=True, gc=False):
    """WGS-84 degrees. ``valid`` is False for the last known place of a device without a fix."""

    latitude: float
    longitude: float
    observed_at_us: int
    accuracy_m: float | None = None
    source: str = "gnss"
    valid: bool = True


class Reading(Struct, array_like=True, gc=False):
    """The observations of one report, wide: one object for all that was observed at one time.

    ``signals`` maps a signal to whether it is active (False: the device says that the condition ended).
    ``unknown`` keeps what the profile has no meaning for. ``stored`` marks a report that the device had buffered.
    """

    observed_at_us: int
    measurements: dict[str, float] = field(default_factory=dict)
    signals: dict[str, bool] = field(default_factory=dict)
    position: Position | None = None
    unknown: dict[str, Any] | None = None
    stored: bool = False


class Report(Struct, gc=False):
    """One parsed statement of a device, before (``fields``) or after (``reading``) its profile understood it.

    ``dedup_key`` is "" when the protocol has nothing that names a resend. ``boot`` and ``seq`` do so natively.
    ``faults`` are members that could not be used; the rest still counts. ``reply`` goes out only after the commit.
    ``proof`` says whether the payload proved the identity that it claims (False: it tried and failed; None: the
    protocol has nothing to prove one with). ``context`` is what the frames behind this one on its connection need to
    know (a time zone, parts of a split message): a whole new value; None leaves what was taught before.
    """

    device_key: str = ""
    reading: Reading | None = None
    fields: dict[str, Any] | None = None
    seq: int = -1
    boot: int = 0
    dedup_key: str = ""
    model_hint: str = ""
    at_us: int = 0
    stored: bool = False
    faults: list[str] | None = None
    reply: bytes | None = None
    proof: bool | None = None
    context: dict[str, Any] | None = None


class Record(Struct, array_like=True, gc=False):
    """What the journal keeps of one report: the frame, what was made of it, or why nothing could be.

    ``device_id`` is "" for a device that the registry does not know; ``device_key`` then is what it called itself.
    The raw ``payload`` stands on the first record of its frame; ``part`` counts the others from 1.
    """

    received_at_us: int
    transport: str
    codec: str
    source: str
    payload: bytes
    device_id: str
    device_key: str
    person_id: str
    profile: str
    verified: bool
    urgency: int
    dedup_key: str
    reading: Reading | None = None
    fault: str | None = None
    part: int = 0


class Committed(Struct, gc=False):
    """Records on disk. Record i has the sequence number ``first_seq + i``; numbers rise by one and are never reused."""

    first_seq: int
    records: list[Record]

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.records) - 1


# ---- from records to alerts ------------------------------------------------------------------------------------------


class Raise(Struct, frozen=True, kw_only=True):
    """A rule says that something matters. ``effect_id`` is the same after every replay."""

    effect_id: str
    kind: str
    severity: Severity
    person_id: str
    device_id: str
    seq: int  # the record that caused it, 0 for a timer
    occurred_at_us: int
    received_at_us: int
    rule_id: str
    rule_version: str
    evidence: dict[str, Any] = field(default_factory=dict)
    late: bool = False
    verified: bool = True
    position: Position | None = None


class Clear(Struct, frozen=True, kw_only=True):
    """The condition of an earlier Raise of the same person (or device) and kind ended. Never closes a P1."""

    effect_id: str
    kind: str
    person_id: str
    device_id: str
    seq: int
    at_us: int
    rule_id: str
    evidence: dict[str, Any] = field(default_factory=dict)


Effect = Raise | Clear


class Actor(Struct, frozen=True):
    """Who did something: type is ``rule``, ``device``, ``operator``, ``platform``, ``system``; id is never a name."""

    type: str
    id: str
    role: str = ""
    channel: str = ""


class DeviceBinding(Struct, frozen=True, gc=False):
    """What ingest needs to know of a device. ``state`` is ``active``, ``suspended`` or ``retired``."""

    device_id: str
    profile: str
    codec: str
    person_id: str = ""
    state: str = "active"
    district: str = ""
