"""Codes of GT06 and the common names of what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

ALARM_CODES: Final[Mapping[int, str]] = MappingProxyType(
    {
        0x01: "sos",
        0x02: "power_cut",
        0x03: "vibration",
        0x04: "fence_enter",
        0x05: "fence_exit",
        0x06: "overspeed",
        0x09: "vibration",
        0x0C: "tamper",
        0x0E: "low_power",
        0x0F: "low_battery",
        0x11: "power_off",
        0x13: "tamper",
        0x14: "door",
        0x18: "removed",
        0x19: "low_battery",
        0x1A: "braking",
        0x1B: "cornering",
        0x23: "fall",
        0x25: "tamper",
        0x26: "acceleration",
        0x27: "braking",
        0x28: "braking",
        0x29: "acceleration",
        0x2A: "cornering",
        0x2B: "cornering",
        0x2C: "accident",
        0x2E: "cornering",
        0x30: "jamming",
        0x32: "tamper",
        0x33: "lock",
        0x34: "unlock",
        0x53: "fuel",
        0x5B: "temperature",
        0x5C: "temperature",
        0xC9: "idle",
        0xF0: "acceleration",
        0xF1: "braking",
        0xF2: "accident",
        0x107: "jamming",
        0x10B: "jamming",
    }
)
"""The alarm byte of alarm packets; its high byte, where there is one, comes from the language byte."""

CAMERA_EVENTS: Final[Mapping[int, str]] = MappingProxyType(
    {
        0x80: "vibration",
        0x87: "overspeed",
        0x90: "acceleration",
        0x91: "braking",
        0x92: "cornering",
        0x93: "accident",
    }
)
"""Type 95; 01 is an SOS where a fix stands before it."""

MODULE_ALARMS: Final[Mapping[int, str]] = MappingProxyType(
    {0x11: "low_battery", 0x12: "low_power", 0x13: "power_cut", 0x14: "removed"}
)
"""Module 2B."""

EVENT_CODES: Final[Mapping[int, str]] = MappingProxyType({0x12: "removed"})
"""Module 34: these, then the codes of the alarm byte."""

STATUS_ALARMS: Final[Mapping[int, str]] = MappingProxyType(
    {1: "vibration", 2: "power_cut", 3: "low_battery", 4: "sos", 6: "fence", 7: "removed"}
)
"""Bits 3 to 5 of the status byte."""

_LEVELS: Final = (0, 16, 33, 50, 66, 83, 100)


def battery_percent(level: int) -> int | None:
    """A voltage level of 0 to 6, or percent from 7 on; None above 100."""
    if level < len(_LEVELS):
        return _LEVELS[level]
    return level if level <= 100 else None
