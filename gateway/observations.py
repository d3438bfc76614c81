"""A reading as the public surfaces show it: single observations (contracts, section 3). Pure."""

from __future__ import annotations

from typing import Any

from gateway.clock import iso
from gateway.model import Position, Reading


def observations(reading: Reading) -> list[dict[str, Any]]:
    """JSON-ready observations, always in this order: signals, measurements (both as stored), position.

    The place in the list is stable, so that it may number events. Whole values are printed as integers.
    """
    observed_at = iso(reading.observed_at_us)
    shown: list[dict[str, Any]] = [
        {"kind": "signal", "signal": signal, "active": active, "observed_at": observed_at}
        for signal, active in reading.signals.items()
    ]
    shown.extend(
        {"kind": "measurement", "metric": metric, "value": as_number(value), "observed_at": observed_at}
        for metric, value in reading.measurements.items()
    )
    position = reading.position
    if position is not None:
        at_us = position.observed_at_us
        shown.append(_position(position, observed_at if at_us == reading.observed_at_us else iso(at_us)))
    return shown


def as_number(value: float) -> float:
    """72.0 as 72, as people write it; anything else as it is."""
    return int(value) if value == value // 1 else value


def _position(position: Position, observed_at: str) -> dict[str, Any]:
    accuracy_m = position.accuracy_m
    return {
        "kind": "position",
        "latitude": position.latitude,
        "longitude": position.longitude,
        "accuracy_m": None if accuracy_m is None else as_number(accuracy_m),
        "source": position.source,
        "valid": position.valid,
        "observed_at": observed_at,
    }
