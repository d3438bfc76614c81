"""The newest readings of each person, in memory: what an order says of somebody's state without asking a database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.clock import US_PER_S, Clock
from gateway.model import Committed

FRESH_US: Final = 3600 * US_PER_S
VITALS: Final = frozenset(
    {
        "heart_rate_bpm", "spo2_percent", "systolic_mmhg", "diastolic_mmhg", "body_temperature_celsius",
        "blood_glucose_mmol_per_l", "respiratory_rate_per_min",
    }
)  # fmt: skip


class LiveReadings:
    """``observe`` is a listener of ingest. ``readings`` may be called from any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._persons: dict[str, tuple[dict[str, float], dict[str, int]]] = {}  # by metric: values, and when they came

    def observe(self, committed: Committed) -> None:
        persons = self._persons
        for record in committed.records:
            reading = record.reading
            if reading is None or not record.person_id or not reading.measurements or reading.stored:
                continue
            newest = persons.get(record.person_id)
            if newest is None:
                newest = persons[record.person_id] = ({}, {})
            values, times_us = newest
            values.update(reading.measurements)
            times_us.update(dict.fromkeys(reading.measurements, record.received_at_us))

    def readings(self, person_id: str, device_id: str) -> Mapping[str, float]:
        """Vital signs that were received within the last hour, by metric."""
        del device_id
        oldest_us = self._clock.now_us() - FRESH_US
        values, times_us = self._persons.get(person_id, ({}, {}))
        return {
            metric: value for metric, value in values.copy().items()
            if metric in VITALS and times_us.get(metric, 0) >= oldest_us
        }  # fmt: skip
