"""Values of health devices, read by us and by ``labmcp-ble-health``, a decoder of another author: they say the same.

Its framework for instruments is not installed: what it imports of that is stood in for.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from datetime import UTC
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.codecs import gatt_characteristics as ours

if importlib.util.find_spec("labmcp_ble_health") is None:
    pytest.skip("needs labmcp-ble-health: pip install --no-deps labmcp-ble-health", allow_module_level=True)

MORE = 100 if os.environ.get("CAREBELL_CHAOS") == "long" else 1


def judge() -> Any:
    if "labmcp" not in sys.modules and importlib.util.find_spec("labmcp") is None:
        framework = ModuleType("labmcp")
        for name in ("Error", "ConnectionError", "ProtocolError", "Timeout"):
            setattr(framework, f"Instrument{name}", type(f"Instrument{name}", (Exception,), {}))
        sys.modules["labmcp"] = framework
    return importlib.import_module("labmcp_ble_health.driver")


JUDGE = judge()


def said(uuid: int, value: bytes) -> dict[str, Any]:
    """Our fields, with those that were set aside where they would stand otherwise."""
    fields = dict(ours.parse(uuid, value, UTC).fields)
    fields |= fields.pop("unusable", {})
    return fields


def number(fields: dict[str, Any], name: str, theirs: Any) -> None:
    """``theirs``: None where the flags announce no such field; its value is None for what is no number."""
    if theirs is None:
        assert name not in fields
    elif theirs.value is None:
        assert name not in fields
        assert fields["quality"][name]
    else:
        assert fields[name] == pytest.approx(theirs.value, rel=1e-9)


def heart_rate(value: bytes) -> None:
    fields, theirs = said(ours.HEART_RATE, value), JUDGE.parse_heart_rate_measurement(value)
    assert fields.get("heart_rate", 0) == theirs.bpm
    assert fields.get("contact") == theirs.sensor_contact
    assert fields.get("energy_kj") == theirs.energy_expended_kj
    assert fields.get("rr_ms", []) == pytest.approx([seconds * 1000 for seconds in theirs.rr_intervals_s], abs=0.06)


def blood_pressure(value: bytes) -> None:
    fields, theirs = said(ours.BLOOD_PRESSURE, value), JUDGE.parse_blood_pressure_measurement(value)
    assert fields["pressure_unit"] == theirs.unit
    for name, other in (
        ("systolic", theirs.systolic), ("diastolic", theirs.diastolic), ("mean_arterial", theirs.mean_arterial),
        ("pulse", theirs.pulse_rate_bpm),
    ):  # fmt: skip
        number(fields, name, other)
    assert fields.get("user", 0xFF) == (0xFF if theirs.user_id is None else theirs.user_id)
    irregular = "irregular_pulse_detected" in theirs.status
    assert bool(fields.get("irregular_pulse")) == irregular


def temperature(value: bytes) -> None:
    fields, theirs = said(ours.TEMPERATURE, value), JUDGE.parse_temperature_measurement(value)
    assert fields["temperature_unit"] == {"C": "Cel", "F": "degF"}[theirs.unit]
    number(fields, "temperature", theirs.value)
    assert ("site" in fields) == (theirs.temperature_type is not None)


def oximeter_spot(value: bytes) -> None:
    oximeter(said(ours.OXIMETER_SPOT, value), JUDGE.parse_plx_spot_check(value))


def oximeter_continuous(value: bytes) -> None:
    fields, theirs = said(ours.OXIMETER_CONTINUOUS, value), JUDGE.parse_plx_continuous(value)
    oximeter(fields, theirs)
    number(fields, "spo2_fast", theirs.spo2_fast_pct)
    number(fields, "pulse_rate_slow", theirs.pulse_rate_slow_bpm)


def oximeter(fields: dict[str, Any], theirs: Any) -> None:
    number(fields, "spo2", theirs.spo2_pct)
    number(fields, "pulse_rate", theirs.pulse_rate_bpm)
    number(fields, "pulse_amplitude_index", theirs.pulse_amplitude_index_pct)
    assert len(fields.get("measurement_status", [])) == len(theirs.measurement_status)
    assert len(fields.get("sensor_status", [])) == len(theirs.device_sensor_status)


def weight(value: bytes) -> None:
    fields, theirs = said(ours.WEIGHT, value), JUDGE.parse_weight_measurement(value)
    assert fields["weight_unit"] == theirs.unit
    assert fields.get("weight") == (None if theirs.weight is None else pytest.approx(theirs.weight, abs=0.001))
    assert fields.get("bmi") == (None if theirs.bmi_kg_m2 is None else pytest.approx(theirs.bmi_kg_m2, abs=0.051))


@pytest.mark.parametrize(
    "compare", [heart_rate, blood_pressure, temperature, oximeter_spot, oximeter_continuous, weight]
)
@settings(max_examples=80 * MORE, deadline=None)
@given(value=st.binary(min_size=40, max_size=40))
def test_any_value_means_the_same_to_both(compare: Callable[[bytes], None], value: bytes) -> None:
    compare(value)
