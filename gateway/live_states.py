"""The live state of devices and persons: last contact, battery, last readings, last place. In memory, bounded by the
registry; the event bus copies it to Redis where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import apsw
import msgspec
from msgspec import Struct, field

from gateway.clock import US_PER_S, Clock, iso
from gateway.model import METRICS, Committed, Position
from gateway.storage.journal import last_seq, read_after

SILENT_FACTOR: Final = 3  # as the rules' [silence]
"""A device is offline when it was silent for so many heartbeats."""

WARM_NUMBERS: Final = 20_000  # of the journal's end are read at start
DIRTY_AT_ONCE: Final = 2000

FRESH_US: Final = 3600 * US_PER_S
VITALS: Final = frozenset(
    {
        "heart_rate_bpm", "spo2_percent", "systolic_mmhg", "diastolic_mmhg", "body_temperature_celsius",
        "blood_glucose_mmol_per_l", "respiratory_rate_per_min",
    }
)  # fmt: skip
"""What an order says of somebody's state."""

_DEVICE_FACTS: Final = {"battery_percent", "rssi_dbm"}


class _Live(Struct):
    """Of a device or of a person. ``readings``: metric to value, time and device."""

    last_contact_us: int = 0
    last_seq: int = 0
    device_id: str = ""
    transport: str = ""
    person_id: str = ""
    readings: dict[str, tuple[float, int, str]] = field(default_factory=dict)
    signals: dict[str, tuple[bool, int, str]] = field(default_factory=dict)
    position: Position | None = None


class LiveStates:
    """``observe`` is a listener of ingest: about a microsecond a record, everything else is made when asked for."""

    def __init__(self, clock: Clock, heartbeat_s: Callable[[str], float | None]) -> None:
        """``heartbeat_s``: how often a device (by id) speaks when all is well, None when nobody knows."""
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._devices: dict[str, _Live] = {}
        self._persons: dict[str, _Live] = {}
        self._dirty_devices: set[str] = set()
        self._dirty_persons: set[str] = set()

    def observe(self, committed: Committed) -> None:
        """One loop without calls: it runs for every record."""
        devices, persons = self._devices, self._persons
        seq = committed.first_seq - 1
        for record in committed.records:
            seq += 1
            device_id, person_id = record.device_id, record.person_id
            if not device_id or not record.verified:
                continue
            device = devices.get(device_id)
            if device is None:
                device = devices[device_id] = _Live(device_id=device_id)
            device.transport, device.person_id = record.transport, person_id
            self._dirty_devices.add(device_id)
            lives: tuple[_Live, ...] = (device,)
            if person_id:
                person = persons.get(person_id)
                if person is None:
                    person = persons[person_id] = _Live(person_id=person_id)
                self._dirty_persons.add(person_id)
                person.device_id = device_id
                lives = (device, person)
            reading, at_us = record.reading, record.received_at_us
            said = None if reading is None or reading.stored else reading
            told = (
                {} if said is None else {name: (value, at_us, device_id) for name, value in said.measurements.items()}
            )
            for live in lives:
                if said is None and reading is not None and at_us < live.last_contact_us:
                    continue  # a replay tells anew what came then (gateway.replaying): it is no contact now
                live.last_contact_us, live.last_seq = at_us, seq
                if said is None:
                    continue
                live.readings.update(told)
                for signal, active in said.signals.items():
                    live.signals[signal] = (active, at_us, device_id)
                place = said.position
                if place is not None and (place.latitude or place.longitude or live.position is None):
                    live.position = place  # 0/0 is what a receiver says that knows nothing: the last place stays

    def recover(self, connection: apsw.Connection) -> None:
        """Read the journal's end."""
        seq = max(0, last_seq(connection) - WARM_NUMBERS)
        while parts := list(read_after(connection, seq)):
            for part in parts:
                if isinstance(part, Committed):
                    self.observe(part)
                seq = part.last_seq

    # ---- asked ------------------------------------------------------------------------------------------------------

    def device(self, device_id: str) -> dict[str, Any]:
        """JSON-ready. ``online`` is null for a device of which nobody knows how often it speaks, and that is silent."""
        live = self._devices.get(device_id) or _Live(device_id=device_id)
        heartbeat_s = self._heartbeat_s(device_id)
        facts = {name: live.readings[name][0] if name in live.readings else None for name in sorted(_DEVICE_FACTS)}
        return {
            "device_id": device_id,
            "online": self._online(live, heartbeat_s),
            "heartbeat_s": heartbeat_s,
            "last_contact": iso(live.last_contact_us) if live.last_contact_us else None,
            "last_seq": live.last_seq or None,
            "transport": live.transport or None,
            "person_id": live.person_id or None,
            **facts,
            **_shown(live),
        }

    def person(self, person_id: str) -> dict[str, Any]:
        """JSON-ready: the newest of each metric, the signals in force and the newest place, over all devices."""
        live = self._persons.get(person_id) or _Live(person_id=person_id)
        return {
            "person_id": person_id,
            "last_contact": iso(live.last_contact_us) if live.last_contact_us else None,
            "last_seq": live.last_seq or None,
            "device_id": live.device_id or None,
            **_shown(live),
        }

    def vitals(self, person_id: str, device_id: str) -> Mapping[str, float]:
        """Vital signs that were received within the last hour, by metric. May be called from any thread."""
        del device_id
        live = self._persons.get(person_id)
        if live is None:
            return {}
        oldest_us = self._clock.now_us() - FRESH_US
        return {
            metric: value
            for metric, (value, at_us, _) in live.readings.copy().items()
            if metric in VITALS and at_us >= oldest_us
        }

    def brief(self, device_id: str) -> dict[str, Any]:
        """What a list of devices shows of it."""
        live = self._devices.get(device_id)
        return {
            "online": None if live is None else self._online(live, self._heartbeat_s(device_id)),
            "last_contact": iso(live.last_contact_us) if live is not None else None,
        }

    def counts(self) -> dict[str, int]:
        """Devices by whether they are online."""
        found = {"online": 0, "offline": 0, "unknown": 0}
        for device_id, live in self._devices.items():
            online = self._online(live, self._heartbeat_s(device_id))
            found["unknown" if online is None else "online" if online else "offline"] += 1
        return found

    def _online(self, live: _Live, heartbeat_s: float | None) -> bool | None:
        if not live.last_contact_us:
            return None if heartbeat_s is None else False
        if heartbeat_s is None:
            return None
        return self._clock.now_us() - live.last_contact_us <= heartbeat_s * SILENT_FACTOR * US_PER_S

    # ---- for the bus ------------------------------------------------------------------------------------------------

    def take_dirty(self) -> tuple[dict[str, bytes], dict[str, bytes]]:
        """What changed, encoded, at most ``DIRTY_AT_ONCE`` of each."""
        devices = {name: msgspec.json.encode(self._devices[name]) for name in _some(self._dirty_devices)}
        persons = {name: msgspec.json.encode(self._persons[name]) for name in _some(self._dirty_persons)}
        return devices, persons

    def keep_dirty(self, devices: Mapping[str, bytes], persons: Mapping[str, bytes]) -> None:
        self._dirty_devices.update(devices)
        self._dirty_persons.update(persons)

    def all_dirty(self) -> None:
        self._dirty_devices.update(self._devices)
        self._dirty_persons.update(self._persons)

    def adopt(self, devices: Mapping[str, bytes], persons: Mapping[str, bytes]) -> None:
        """Take what Redis remembers of those that the journal's end says nothing about."""
        for known, told in ((self._devices, devices), (self._persons, persons)):
            for name, body in told.items():
                if name in known:
                    continue
                try:
                    known[name] = msgspec.json.decode(body, type=_Live)
                except msgspec.DecodeError:
                    continue  # of another version; the next report replaces it


def _shown(live: _Live) -> dict[str, Any]:
    position = live.position
    return {
        "readings": {
            metric: {
                "value": value,
                "unit": METRICS[metric].ucum if metric in METRICS else None,
                "at": iso(at_us),
                "device_id": device_id,
            }
            for metric, (value, at_us, device_id) in sorted(live.readings.items())
        },
        "signals": {
            signal: {"active": active, "at": iso(at_us), "device_id": device_id}
            for signal, (active, at_us, device_id) in sorted(live.signals.items())
        },
        "position": None
        if position is None
        else {
            "latitude": position.latitude,
            "longitude": position.longitude,
            "accuracy_m": position.accuracy_m,
            "source": position.source,
            "valid": position.valid,
            "at": iso(position.observed_at_us),
        },
    }


def _some(names: set[str]) -> list[str]:
    return [names.pop() for _ in range(min(len(names), DIRTY_AT_ONCE))]
