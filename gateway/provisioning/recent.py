"""The newest frames of the devices that installers stand beside, in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from gateway.clock import iso
from gateway.model import Committed, Record

FRAMES: Final = 6
WATCHED: Final = 500
METRICS: Final = ("battery_percent", "battery_volts", "rssi_dbm")


class RecentFrames:
    """``observe`` is a listener of ingest: nothing for a device that nobody asked for. Frames are kept of the
    ``WATCHED`` devices asked for last; ``live`` tells the rest (gateway.live_states.LiveStates.device).
    """

    def __init__(self, live: Callable[[str], Mapping[str, Any]]) -> None:
        self._live = live
        self._watched: dict[str, deque[Record]] = {}

    def observe(self, committed: Committed) -> None:
        watched = self._watched
        if not watched:
            return
        for record in committed.records:
            frames = watched.get(record.device_id)
            if frames is not None:
                frames.append(record)

    def of(self, device_id: str) -> dict[str, Any]:
        """JSON-ready: ``heard_at`` (None: unknown), ``values`` of METRICS, ``position`` and the last ``frames``."""
        frames = self._watched.pop(device_id, None)
        if frames is None:
            frames = deque(maxlen=FRAMES)
        self._watched[device_id] = frames
        if len(self._watched) > WATCHED:
            del self._watched[next(iter(self._watched))]
        live = self._live(device_id)
        position = live["position"]
        return {
            "heard_at": live["last_contact"],
            "values": {
                name: {"value": told["value"], "at": told["at"]}
                for name, told in live["readings"].items()
                if name in METRICS
            },
            "position": position if position is not None and position["valid"] else None,
            "frames": [_view(record) for record in reversed(frames)],
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
