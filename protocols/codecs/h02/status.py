"""The status word and the battery of H02. A bit that is 0 tells something; FFFFFFFF tells nothing."""

from __future__ import annotations

from typing import Final

from protocols.codecs.terminal import Draft

ALARM_BITS: Final = (
    (1, "sos"), (18, "sos"), (0, "vibration"), (2, "overspeed"), (4, "fence_enter"), (7, "fence_exit"),
    (19, "power_cut"),
)  # fmt: skip
"""Alarms of bits that are 0."""

_NONE: Final = sum(1 << bit for bit, _ in ALARM_BITS)


def read_status(draft: Draft, text: str) -> None:
    """Eight hexadecimal digits. Every bit is looked at; bit 10 is the ignition (1: on)."""
    text = text.strip()
    try:
        status = int(text, 16) if len(text) == 8 else -1
    except ValueError:
        status = -1
    if status < 0:
        if text:
            draft.fault("status", "not eight hexadecimal digits")
        return
    draft.unknown["status"] = status
    draft.unknown["ignition"] = bool(status & 0x400)
    if status & _NONE != _NONE:
        draft.alarm(*(name for bit, name in ALARM_BITS if not status >> bit & 1))


def battery_percent(level: int) -> int | None:
    """1 to 6 are levels, 7 to 100 percent; None for what is neither."""
    if 1 <= level <= 3:
        return (level - 1) * 10
    if 4 <= level <= 6:
        return (level - 1) * 20
    return level if 7 <= level <= 100 else None
