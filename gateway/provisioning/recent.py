"""The newest frames of each device, in memory: what an installer watches while standing beside it."""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from gateway.clock import iso
from gateway.model import Committed, Position, Record

FRAMES: Final = 6
WATCHED: Final = 500
METRICS: Final = ("battery_percent", "battery_volts", "rssi_dbm")


class Heard:
    """What is kept of one device: when it was heard, and the newest value of each of METRICS with its time."""

    __slots__ = ("frames", "heard_us", "position", "values")

    def __init__(self) -> None:
        self.heard_us = 0
        self.values: dict[str, tuple[float, int]] = {}
        self.position: tuple[Position, int] | None = None
        self.frames: deque[Record] | None = None


class RecentFrames:
    """``observe`` is a listener of ingest. Frames are kept only of the ``WATCHED`` devices asked for last."""

    def __init__(self) -> None:
        self._devices: dict[str, Heard] = {}
        self._watched: dict[str, None] = {}

    def observe(self, committed: Committed) -> None:
        devices = self._devices
        for record in committed.records:
            if not record.device_id:
                continue
            heard = devices.get(record.device_id)
            if heard is None:
                heard = devices[record.device_id] = Heard()
            heard.heard_us = record.received_at_us
            if heard.frames is not None:
                heard.frames.append(record)
            reading = record.reading
            if reading is None or reading.stored:
                continue
            for metric in METRICS:
                if metric in reading.measurements:
                    heard.values[metric] = (reading.measurements[metric], record.received_at_us)
            if reading.position is not None and reading.position.valid:
                heard.position = (reading.position, record.received_at_us)

    def of(self, device_id: str) -> dict[str, Any]:
        """JSON-ready: ``heard_at`` (None: not since this process started), ``values`` and the last ``frames``."""
        heard = self._devices.setdefault(device_id, Heard())
        if heard.frames is None:
            heard.frames = deque(maxlen=FRAMES)
        self._watched.pop(device_id, None)
        self._watched[device_id] = None
        if len(self._watched) > WATCHED:
            oldest = next(iter(self._watched))
            del self._watched[oldest]
            self._devices[oldest].frames = None
        return {
            "heard_at": iso(heard.heard_us) if heard.heard_us else None,
            "values": {name: {"value": value, "at": iso(at_us)} for name, (value, at_us) in heard.values.items()},
            "position": _place(heard.position),
            "frames": [_view(record) for record in reversed(heard.frames)],
        }


def _place(found: tuple[Position, int] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    position, at_us = found
    return {
        "latitude": position.latitude,
        "longitude": position.longitude,
        "accuracy_m": position.accuracy_m,
        "source": position.source,
        "at": iso(at_us),
    }


def _view(record: Record) -> dict[str, Any]:
    """Of a person's vital signs only that there were some: the installer needs no more."""
    reading = record.reading
    return {
        "at": iso(record.received_at_us),
        "transport": record.transport,
        "signals": sorted(name for name, active in reading.signals.items() if active) if reading else [],
        "measurements": sorted(reading.measurements) if reading else [],
        "fault": record.fault is not None,
    }
