"""BTHome v2: every object with its length, name and factor; facts of the format's published table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from msgspec import Struct


class Thing(Struct, frozen=True, gc=False):
    """One kind of object. ``size`` bytes; 0: a length byte stands in front. ``kind``: number, flag, or as its name."""

    name: str
    size: int = 1
    divisor: float = 1
    signed: bool = False
    kind: str = "number"


def _flags(first: int, *names: str) -> dict[int, Thing]:
    return {first + number: Thing(name, kind="flag") for number, name in enumerate(names)}


OBJECTS: Final[Mapping[int, Thing]] = MappingProxyType(
    {
        0x00: Thing("packet_id"),
        0x01: Thing("battery"),
        0x02: Thing("temperature", 2, 100, signed=True),
        0x03: Thing("humidity", 2, 100),
        0x04: Thing("pressure_hpa", 3, 100),
        0x05: Thing("illuminance_lux", 3, 100),
        0x06: Thing("mass_kg", 2, 100),
        0x07: Thing("mass_lb", 2, 100),
        0x08: Thing("dew_point", 2, 100, signed=True),
        0x09: Thing("count"),
        0x0A: Thing("energy_kwh", 3, 1000),
        0x0B: Thing("power_w", 3, 100),
        0x0C: Thing("voltage", 2, 1000),
        0x0D: Thing("pm25", 2),
        0x0E: Thing("pm10", 2),
        **_flags(0x0F, "generic", "power_on", "opening"),
        0x12: Thing("carbon_dioxide_ppm", 2),
        0x13: Thing("tvoc", 2),
        0x14: Thing("moisture_percent", 2, 100),
        **_flags(
            0x15, "battery_low", "battery_charging", "carbon_monoxide", "cold", "connected", "door", "garage_door",
            "gas", "heat", "light", "unlocked", "moisture", "motion", "moving", "occupancy", "plug", "presence",
            "problem", "running", "safe", "smoke", "sound", "tamper", "vibration", "window",
        ),
        0x2E: Thing("humidity"),
        0x2F: Thing("moisture_percent"),
        0x3A: Thing("button", kind="button"),
        0x3B: Thing("command", 0, kind="command"),
        0x3C: Thing("dimmer", 2, kind="dimmer"),
        0x3D: Thing("count", 2),
        0x3E: Thing("count", 4),
        0x3F: Thing("rotation", 2, 10, signed=True),
        0x40: Thing("distance_mm", 2),
        0x41: Thing("distance_m", 2, 10),
        0x42: Thing("duration_s", 3, 1000),
        0x43: Thing("current_a", 2, 1000),
        0x44: Thing("speed_m_per_s", 2, 100),
        0x45: Thing("temperature", 2, 10, signed=True),
        0x46: Thing("uv_index", 1, 10),
        0x47: Thing("volume_l", 2, 10),
        0x48: Thing("volume_ml", 2),
        0x49: Thing("flow_m3_per_h", 2, 1000),
        0x4A: Thing("voltage", 2, 10),
        0x4B: Thing("gas_m3", 3, 1000),
        0x4C: Thing("gas_m3", 4, 1000),
        0x4D: Thing("energy_kwh", 4, 1000),
        0x4E: Thing("volume_l", 4, 1000),
        0x4F: Thing("water_l", 4, 1000),
        0x50: Thing("timestamp", 4),
        0x51: Thing("acceleration", 2, 1000),
        0x52: Thing("gyroscope", 2, 1000),
        0x53: Thing("text", 0, kind="text"),
        0x54: Thing("raw", 0, kind="raw"),
        0x55: Thing("stored_volume_l", 4, 1000),
        0x56: Thing("conductivity", 2),
        0x57: Thing("temperature", 1, signed=True),
        0x58: Thing("temperature", 1, 1 / 0.35, signed=True),
        0x59: Thing("count", 1, signed=True),
        0x5A: Thing("count", 2, signed=True),
        0x5B: Thing("count", 4, signed=True),
        0x5C: Thing("power_w", 4, 100, signed=True),
        0x5D: Thing("current_a", 2, 1000, signed=True),
        0x5E: Thing("direction", 2, 100),
        0x5F: Thing("precipitation_mm", 2, 10),
        0x60: Thing("channel"),
        0x61: Thing("rotational_speed", 2),
        0x62: Thing("speed_m_per_s", 4, 1_000_000, signed=True),
        0x63: Thing("acceleration", 4, 1_000_000, signed=True),
        0x64: Thing("light_level"),
        0x65: Thing("settings_revision"),
        0xF0: Thing("device_type", 2),
        0xF1: Thing("firmware", 4, kind="version"),
        0xF2: Thing("firmware", 3, kind="version"),
    }
)  # fmt: skip

BUTTON_EVENTS: Final = MappingProxyType(
    {0x00: "none", 0x01: "press", 0x02: "double_press", 0x03: "triple_press", 0x04: "long_press",
     0x05: "long_double_press", 0x06: "long_triple_press", 0x80: "hold_press", 0x81: "hold_release"}
)  # fmt: skip
DIMMER_EVENTS: Final = MappingProxyType({0x00: "none", 0x01: "rotate_left", 0x02: "rotate_right"})
ALARMING: Final = frozenset({"button", "smoke", "gas", "carbon_monoxide", "heat", "tamper"})
"""What somebody may have to hear of at once: looked for behind what cannot be read."""
