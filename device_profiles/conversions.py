"""Units as devices send them, and the way from each to the canonical one: a table, so that a profile names a row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple


class Linear(NamedTuple):
    """canonical = value * factor + offset."""

    factor: float
    offset: float = 0.0


CONVERSIONS: Final[Mapping[str, Linear]] = MappingProxyType(
    {
        "none": Linear(1.0),
        "fahrenheit_to_celsius": Linear(5 / 9, -160 / 9),
        "kelvin_to_celsius": Linear(1.0, -273.15),
        "kpa_to_mmhg": Linear(1 / 0.133322387415),  # BIPM brochure: 1 mmHg = 133.322387415 Pa
        "mg_per_dl_to_mmol_per_l": Linear(10 / 180.156),  # glucose, 180.156 g/mol
        "kg_per_l_to_mmol_per_l": Linear(1e6 / 180.156),
        "mol_per_l_to_mmol_per_l": Linear(1000.0),
        "knots_to_m_per_s": Linear(1852 / 3600),
        "km_per_h_to_m_per_s": Linear(1 / 3.6),
        "miles_per_h_to_m_per_s": Linear(0.44704),
        "km_to_m": Linear(1000.0),
        "feet_to_m": Linear(0.3048),
        "millivolts_to_volts": Linear(0.001),
        "grams_to_kg": Linear(0.001),
        "pounds_to_kg": Linear(0.45359237),
        "jin_to_kg": Linear(0.5),  # the Chinese market pound
        "ratio_to_percent": Linear(100.0),
        "seconds_to_minutes": Linear(1 / 60),
        "hours_to_minutes": Linear(60.0),
    }
)
