"""What each characteristic of the health services says, as fields: names, numbers in the unit that was sent, flags.

Sources: Bluetooth SIG, GATT Specification Supplement and the services HRS 1.0, BLS 1.1, HTS 1.0, PLXS 1.0, GLS 1.0,
WSS 1.0, BAS 1.0, CTS 1.1. Everything is little-endian; optional members are announced by the flags in front.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import tzinfo
from types import MappingProxyType
from typing import Any, Final

from gateway.errors import ParseError
from protocols.bits import Cursor, bit_set
from protocols.codecs.gatt_values import LocalTime, Number, date_time, float32, sfloat

HEART_RATE: Final = 0x2A37
BLOOD_PRESSURE: Final = 0x2A35
INTERMEDIATE_CUFF: Final = 0x2A36
TEMPERATURE: Final = 0x2A1C
INTERMEDIATE_TEMPERATURE: Final = 0x2A1E
OXIMETER_SPOT: Final = 0x2A5E
OXIMETER_CONTINUOUS: Final = 0x2A5F
GLUCOSE: Final = 0x2A18
GLUCOSE_CONTEXT: Final = 0x2A34
RECORD_ACCESS: Final = 0x2A52
WEIGHT: Final = 0x2A9D
BATTERY: Final = 0x2A19
CURRENT_TIME: Final = 0x2A2B
DATE_TIME: Final = 0x2A08

_QUALITY_FAULTS: Final = MappingProxyType(
    {
        "nres": "not at this resolution",
        "+inf": "above what the device can measure",
        "-inf": "below what the device can measure",
        "reserved": "a reserved value",
    }
)
"""A value that was not measured (NaN) is no fault: devices send it for what they do not have."""

_SITES: Final = MappingProxyType(
    {1: "armpit", 2: "body", 3: "ear", 4: "finger", 5: "gastrointestinal", 6: "mouth", 7: "rectum", 8: "toe",
     9: "tympanum"}
)  # fmt: skip
_PRESSURE_STATUS: Final = MappingProxyType(
    {0: "body_movement", 1: "cuff_loose", 2: "irregular_pulse", 5: "improper_position"}
)
_MEASUREMENT_STATUS: Final = MappingProxyType(
    {5: "ongoing", 6: "early_estimate", 7: "validated", 8: "fully_qualified", 9: "from_storage", 10: "demonstration",
     11: "test", 12: "calibration", 13: "unavailable", 14: "questionable", 15: "invalid"}
)  # fmt: skip
_SENSOR_STATUS: Final = MappingProxyType(
    {0: "display_update", 1: "malfunction", 2: "irregularity", 3: "inadequate_signal", 4: "poor_signal",
     5: "low_perfusion", 6: "erratic_signal", 7: "non_pulsatile", 8: "questionable_pulse", 9: "analysis_ongoing",
     10: "interference", 11: "not_on_user", 12: "unknown_sensor", 13: "displaced", 14: "sensor_malfunction",
     15: "disconnected"}
)  # fmt: skip
_NO_READING: Final = frozenset(
    {"demonstration", "test", "calibration", "unavailable", "questionable", "invalid", "malfunction",
     "inadequate_signal", "non_pulsatile", "not_on_user", "displaced", "sensor_malfunction", "disconnected"}
)  # fmt: skip
"""What makes numbers of an oximeter useless, for alarms and for the record of health alike."""
_NOT_FINAL: Final = frozenset({"ongoing", "early_estimate"})
_FINAL: Final = frozenset({"validated", "fully_qualified", "from_storage"})
_GLUCOSE_STATUS: Final = MappingProxyType(
    {0: "battery_low", 1: "malfunction", 2: "sample_insufficient", 3: "strip_insertion", 4: "strip_type",
     5: "result_too_high", 6: "result_too_low", 7: "temperature_too_high", 8: "temperature_too_low",
     9: "strip_pulled", 10: "general_fault", 11: "time_fault"}
)  # fmt: skip
_GLUCOSE_NO_READING: Final = frozenset(
    {"malfunction", "sample_insufficient", "strip_insertion", "strip_type", "strip_pulled", "general_fault",
     "result_too_high", "result_too_low"}
)  # fmt: skip
CONTROL_SOLUTION: Final = 10
_MEALS: Final = MappingProxyType({1: "before", 2: "after", 3: "fasting", 4: "casual", 5: "bedtime"})


class Said:
    """What one characteristic said so far."""

    __slots__ = ("faults", "fields", "sequence", "stored", "time", "zone")

    def __init__(self, zone: tzinfo) -> None:
        self.zone = zone
        self.fields: dict[str, Any] = {}
        self.faults: list[str] = []
        self.time: LocalTime | None = None
        self.stored = False
        self.sequence = -1

    def number(self, name: str, number: Number) -> None:
        """A value; a special one only as its quality."""
        if number.value is not None:
            self.fields[name] = number.value
            return
        self.fields.setdefault("quality", {})[name] = number.quality
        if number.quality in _QUALITY_FAULTS:
            self.faults.append(f"{name}: {_QUALITY_FAULTS[number.quality]}")

    def set_aside(self, names: tuple[str, ...], why: list[str]) -> None:
        """Keep these values where no metric looks for them."""
        taken = {name: self.fields.pop(name) for name in names if name in self.fields}
        if taken:
            self.fields["unusable"] = {**taken, "why": why}


def _sfloat(cursor: Cursor) -> Number:
    return sfloat(cursor.uint_le(2))


def _heart_rate(cursor: Cursor, said: Said) -> None:
    flags = cursor.u8()
    rate = cursor.uint_le(2) if flags & 1 else cursor.u8()
    if flags & 0b100:
        said.fields["contact"] = bool(flags & 0b10)
    if rate:
        said.fields["heart_rate"] = rate
    if flags & 0b100 and not flags & 0b10:
        said.set_aside(("heart_rate",), ["no_contact"])
    if flags & 0b1000:
        said.fields["energy_kj"] = cursor.uint_le(2)
    if flags & 0b10000:
        said.fields["rr_ms"] = [round(cursor.uint_le(2) * 1000 / 1024, 1) for _ in range(cursor.left // 2)]


def _blood_pressure(cursor: Cursor, said: Said) -> None:
    flags = cursor.u8()
    said.fields["pressure_unit"] = "kPa" if flags & 1 else "mmHg"
    for name in ("systolic", "diastolic", "mean_arterial"):
        said.number(name, _sfloat(cursor))
    if flags & 2:
        said.time = date_time(cursor, said.zone)
    if flags & 4:
        said.number("pulse", _sfloat(cursor))
    if flags & 8:
        user = cursor.u8()
        if user != 0xFF:
            said.fields["user"] = user
    if flags & 16:
        status = cursor.uint_le(2)
        for bit, name in _PRESSURE_STATUS.items():
            said.fields[name] = bool(status >> bit & 1)
        said.fields["pulse_range"] = ("within", "above", "below", "reserved")[status >> 3 & 3]


def _temperature(cursor: Cursor, said: Said) -> None:
    flags = cursor.u8()
    said.fields["temperature_unit"] = "degF" if flags & 1 else "Cel"
    said.number("temperature", float32(cursor.uint_le(4)))
    if flags & 2:
        said.time = date_time(cursor, said.zone)
    if flags & 4:
        site = cursor.u8()
        said.fields["site"] = _SITES.get(site, f"{site:#04x}")


def _oximeter_spot(cursor: Cursor, said: Said) -> None:
    flags = cursor.u8()
    said.number("spo2", _sfloat(cursor))
    said.number("pulse_rate", _sfloat(cursor))
    if flags & 1:
        said.time = date_time(cursor, said.zone)
        if flags & 16:
            said.fields["clock_not_set"] = True
            said.time = LocalTime(said.time.text)
    _oximeter_status(cursor, said, measurement=bool(flags & 2), device=bool(flags & 4))
    if flags & 8:
        said.number("pulse_amplitude_index", _sfloat(cursor))


def _oximeter_continuous(cursor: Cursor, said: Said) -> None:
    flags = cursor.u8()
    said.number("spo2", _sfloat(cursor))
    said.number("pulse_rate", _sfloat(cursor))
    for bit, name in ((1, "fast"), (2, "slow")):
        if flags & bit:
            said.number(f"spo2_{name}", _sfloat(cursor))
            said.number(f"pulse_rate_{name}", _sfloat(cursor))
    _oximeter_status(cursor, said, measurement=bool(flags & 4), device=bool(flags & 8))
    if flags & 16:
        said.number("pulse_amplitude_index", _sfloat(cursor))


def _oximeter_status(cursor: Cursor, said: Said, *, measurement: bool, device: bool) -> None:
    told = bit_set(cursor.uint_le(2), _MEASUREMENT_STATUS) if measurement else []
    sensor = bit_set(cursor.uint_le(3), _SENSOR_STATUS) if device else []
    said.stored = "from_storage" in told
    if told:
        said.fields["measurement_status"] = told
    if sensor:
        said.fields["sensor_status"] = sensor
    if device:
        said.fields["malfunction"] = "malfunction" in sensor or "sensor_malfunction" in sensor
    why = [name for name in (*told, *sensor) if name in _NO_READING]
    if not why and not _FINAL.intersection(told):
        why = [name for name in told if name in _NOT_FINAL]
    if why:
        said.set_aside(("spo2", "pulse_rate", "spo2_fast", "pulse_rate_fast", "spo2_slow", "pulse_rate_slow"), why)


def _glucose(cursor: Cursor, said: Said) -> None:
    flags = cursor.u8()
    said.sequence = said.fields["sequence"] = cursor.uint_le(2)
    base = cursor.take(7)
    offset_min = cursor.sint_le(2) if flags & 1 else 0
    said.time = date_time(Cursor(base), said.zone, offset_min)
    said.stored = not said.time.at_us  # a meter speaks of its memory: without a time nobody knows how old it is
    sample = 0
    if flags & 2:
        said.fields["glucose_unit"] = "mol/L" if flags & 4 else "kg/L"
        said.number("glucose", _sfloat(cursor))
        sample = cursor.u8()
        said.fields["sample_type"], said.fields["sample_location"] = sample & 0xF, sample >> 4
    told = bit_set(cursor.uint_le(2), _GLUCOSE_STATUS) if flags & 8 else []
    if flags & 8:
        said.fields["battery_low"] = "battery_low" in told
        said.fields["malfunction"] = "malfunction" in told or "general_fault" in told
        said.fields["sensor_status"] = told
        for name in ("result_too_high", "result_too_low"):
            if name in told:
                said.fields[name] = True
                said.faults.append(f"glucose: {name.replace('_', ' ')} for the meter")
    why = [name for name in told if name in _GLUCOSE_NO_READING]
    if sample & 0xF == CONTROL_SOLUTION:
        why.append("control_solution")
    if why:
        said.set_aside(("glucose",), why)


def _glucose_context(cursor: Cursor, said: Said) -> None:
    flags = cursor.u8()
    said.sequence = cursor.uint_le(2)
    if flags & 0x80:
        cursor.u8()  # extended flags, all reserved
    if flags & 1:
        said.fields["carbohydrate_id"] = cursor.u8()
        said.number("carbohydrate_kg", _sfloat(cursor))
    if flags & 2:
        meal = cursor.u8()
        said.fields["meal"] = _MEALS.get(meal, f"{meal:#04x}")
    if flags & 4:
        tester = cursor.u8()
        said.fields["tester"], said.fields["health"] = tester & 0xF, tester >> 4
    if flags & 8:
        said.fields["exercise_s"], said.fields["exercise_percent"] = cursor.uint_le(2), cursor.u8()
    if flags & 16:
        said.fields["medication_id"] = cursor.u8()
        said.number("medication_l" if flags & 32 else "medication_kg", _sfloat(cursor))
    if flags & 64:
        said.number("hba1c_percent", _sfloat(cursor))


def _weight(cursor: Cursor, said: Said) -> None:
    flags = cursor.u8()
    raw = cursor.uint_le(2)
    said.fields["weight_unit"] = "lb" if flags & 1 else "kg"
    if raw == 0xFFFF:
        said.fields["quality"] = {"weight": "unsuccessful"}
        said.faults.append("weight: the measurement was not successful")
    else:
        said.fields["weight"] = raw / 100 if flags & 1 else raw / 200
    if flags & 2:
        said.time = date_time(cursor, said.zone)
    if flags & 4:
        user = cursor.u8()
        if user != 0xFF:
            said.fields["user"] = user
    if flags & 8:
        said.fields["bmi"] = cursor.uint_le(2) / 10
        height = cursor.uint_le(2)
        said.fields["height_m"] = round(height / 10 * 0.0254, 4) if flags & 1 else height / 1000


def _battery(cursor: Cursor, said: Said) -> None:
    said.fields["battery"] = cursor.u8()


def _current_time(cursor: Cursor, said: Said) -> None:
    shown = date_time(cursor, said.zone)
    cursor.skip(3)  # day of the week, 1/256 s, why it was set
    said.fields["clock"] = shown.text
    said.fields["clock_at_us"] = shown.at_us


PARSERS: Final[Mapping[int, Callable[[Cursor, Said], None]]] = MappingProxyType(
    {
        HEART_RATE: _heart_rate,
        BLOOD_PRESSURE: _blood_pressure,
        TEMPERATURE: _temperature,
        OXIMETER_SPOT: _oximeter_spot,
        OXIMETER_CONTINUOUS: _oximeter_continuous,
        GLUCOSE: _glucose,
        GLUCOSE_CONTEXT: _glucose_context,
        WEIGHT: _weight,
        BATTERY: _battery,
        CURRENT_TIME: _current_time,
    }
)


def parse(uuid: int, value: bytes, zone: tzinfo) -> Said:
    """What this value says. Bytes behind what the flags announce are kept as ``rest``. Raises ParseError."""
    parser = PARSERS.get(uuid)
    if parser is None:
        raise ParseError(f"characteristic {uuid:#06x} is not known")
    cursor, said = Cursor(value), Said(zone)
    parser(cursor, said)
    if cursor.left:
        said.fields["rest"] = cursor.rest().hex()
    return said
