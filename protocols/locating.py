"""Places from what a terminal hears of the mobile network and of Wi-Fi: an offline table, or a service. Off by default.

Nothing waits for it: a record is committed, judged and acknowledged first; its place comes behind, as a record of its
own.
"""

from __future__ import annotations

import asyncio
import csv
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import structlog
from msgspec import DecodeError
from msgspec.json import decode

from gateway.clock import Clock
from gateway.errors import ConfigError
from gateway.model import EMERGENCY_SIGNALS, Committed, Frame, Position, Reading, Record, Report
from gateway.ports import Ingest, Resolver

MAX_ROWS: Final = 2_000_000
MAX_WAITING: Final = 1000
MAX_ANSWER_BYTES: Final = 65_536
DEFAULT_CELL_M: Final = 1500.0
DEFAULT_WIFI_M: Final = 100.0

log = structlog.get_logger(__name__)

Key = tuple[int, int, int, int] | str
Spot = tuple[float, float, float]


class CsvResolver:
    """``ports.Resolver`` over a table: columns mcc, mnc, lac, cid or bssid, then lat, lon and (optional) accuracy_m."""

    def __init__(self, spots: Mapping[Key, Spot]) -> None:
        self._spots = spots

    @classmethod
    def load(cls, file: str | Path) -> CsvResolver:
        """Raises ConfigError that names the file and the row."""
        spots: dict[Key, Spot] = {}
        try:
            with Path(file).open(encoding="utf-8", newline="") as stream:
                for number, row in enumerate(csv.DictReader(stream), start=2):
                    if number > MAX_ROWS:
                        raise ConfigError(f"{file}: more than {MAX_ROWS} rows; use a service for a table of that size")
                    key, spot = _row(row, f"{file}: row {number}")
                    spots[key] = spot
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise ConfigError(f"trackers.resolver_file: cannot read {file}: {error}") from error
        return cls(spots)

    async def locate(self, network: Sequence[Mapping[str, Any]]) -> Position | None:
        """The most exact spot of all that is seen: access points reach tens of metres, cells kilometres."""
        found: tuple[Spot, str] | None = None
        for seen in network:
            key, source = _key(seen)
            spot = self._spots.get(key) if key is not None else None
            if spot is not None and (found is None or spot[2] < found[0][2]):
                found = spot, source
        if found is None:
            return None
        (latitude, longitude, accuracy_m), source = found
        return Position(latitude, longitude, 0, accuracy_m, source)


def _row(row: Mapping[str, str | None], where: str) -> tuple[Key, Spot]:
    try:
        bssid = (row.get("bssid") or "").strip().lower().replace("-", ":")
        key: Key = bssid or tuple(int(row.get(name) or "") for name in ("mcc", "mnc", "lac", "cid"))  # type: ignore[assignment]  # four of them
        latitude, longitude = float(row.get("lat") or ""), float(row.get("lon") or "")
        accuracy_m = float(row.get("accuracy_m") or (DEFAULT_WIFI_M if bssid else DEFAULT_CELL_M))
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180 and 0 <= accuracy_m <= 1e6):
        raise ConfigError(f"{where}: {latitude}, {longitude} within {accuracy_m} m is no place")
    return key, (latitude, longitude, accuracy_m)


def _key(seen: Mapping[str, Any]) -> tuple[Key | None, str]:
    bssid = seen.get("bssid")
    if isinstance(bssid, str):
        return bssid.lower(), "wifi"
    numbers = tuple(seen.get(name) for name in ("mcc", "mnc", "lac", "cid"))
    if all(isinstance(number, int) for number in numbers):
        return numbers, "cell"  # type: ignore[return-value]  # four whole numbers, as was just asked
    return None, ""


class HttpResolver:
    """``ports.Resolver`` by a service of the common geolocation interface: POST of ``cellTowers`` and
    ``wifiAccessPoints``, answered with ``{"location": {"lat", "lng"}, "accuracy"}``.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        import httpx2  # noqa: PLC0415 - start-up time counts, and most sites need no such service

        self._url = url
        self._errors: tuple[type[Exception], ...] = (httpx2.HTTPError, DecodeError, UnicodeDecodeError)
        self._client = httpx2.AsyncClient(timeout=timeout_s)
        self._failing = False

    async def locate(self, network: Sequence[Mapping[str, Any]]) -> Position | None:
        body = _question(network)
        if body is None:
            return None
        try:
            response = await self._client.post(self._url, json=body)
            answer = decode(response.content[:MAX_ANSWER_BYTES]) if response.status_code == 200 else None
        except self._errors as error:
            self._tell(failing=True, reason=type(error).__name__)
            return None
        if answer is None:
            self._tell(failing=response.status_code != 404, reason=str(response.status_code))  # 404: nobody knows
            return None
        self._tell(failing=False, reason="")
        source = "wifi" if len(body.get("wifiAccessPoints", ())) > 1 else "cell"
        return _answered(answer, source)

    def _tell(self, *, failing: bool, reason: str) -> None:
        if failing != self._failing:
            self._failing = failing
            log.warning("locating_service", works=not failing, reason=reason)


def _question(network: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    cells, points = [], []
    for seen in network:
        key, source = _key(seen)
        rssi = {"signalStrength": seen["rssi"]} if isinstance(seen.get("rssi"), int) and seen["rssi"] < 0 else {}
        if source == "wifi":
            points.append({"macAddress": key, **rssi})
        elif isinstance(key, tuple):
            names = ("mobileCountryCode", "mobileNetworkCode", "locationAreaCode", "cellId")
            cells.append({**dict(zip(names, key, strict=True)), **rssi})
    body: dict[str, Any] = {"considerIp": False}
    if cells:
        body["cellTowers"] = cells
    if points:
        body["wifiAccessPoints"] = points
    return body if cells or points else None


def _answered(answer: Any, source: str) -> Position | None:
    location = answer.get("location") if isinstance(answer, dict) else None
    if not isinstance(location, dict):
        return None
    latitude, longitude, accuracy_m = location.get("lat"), location.get("lng"), answer.get("accuracy")
    if not (isinstance(latitude, int | float) and isinstance(longitude, int | float)):
        return None
    if not (-90 <= latitude <= 90 and -180 <= longitude <= 180):
        return None
    good = isinstance(accuracy_m, int | float) and 0 <= accuracy_m <= 1e6
    return Position(latitude, longitude, 0, float(accuracy_m) if good else None, source)


class Locator:
    """Gives committed records that carry a network and no fix a place, as a record of its own behind them.

    A ``ports.CommittedListener``. At most MAX_WAITING wait; those with an emergency go first and are shed last.
    """

    def __init__(self, resolver: Resolver, ingest: Ingest, clock: Clock) -> None:
        self._resolver = resolver
        self._ingest = ingest
        self._clock = clock
        self._urgent: deque[Record] = deque(maxlen=MAX_WAITING)
        self._routine: deque[Record] = deque(maxlen=MAX_WAITING)
        self._wake = asyncio.Event()
        self.located = 0
        self.not_found = 0

    def __call__(self, committed: Committed) -> None:
        for record in committed.records:
            reading = record.reading
            if reading is None or reading.unknown is None or not record.verified:
                continue
            if "network" not in reading.unknown or (reading.position is not None and reading.position.valid):
                continue
            emergency = any(active and name in EMERGENCY_SIGNALS for name, active in reading.signals.items())
            (self._urgent if emergency else self._routine).append(record)
            self._wake.set()

    async def run(self) -> None:
        """Locate what waits, one after the other, until cancelled."""
        while True:
            await self._wake.wait()
            if not (self._urgent or self._routine):
                self._wake.clear()
                continue
            await self._locate((self._urgent or self._routine).popleft())

    async def _locate(self, record: Record) -> None:
        reading = record.reading
        if reading is None or reading.unknown is None:
            return
        place = await self._resolver.locate(reading.unknown["network"])
        if place is None:
            self.not_found += 1
            return
        at_us = reading.observed_at_us
        position = Position(
            place.latitude, place.longitude, at_us, place.accuracy_m, place.source, place.valid
        )  # fmt: skip
        report = Report(record.device_key, Reading(at_us, {}, {}, position, None, reading.stored), at_us=at_us)
        now_us = self._clock.now_us()
        frame = Frame("locator", record.codec, "locator", b"", now_us, record.device_id, reports=[report])
        self.located += 1
        await self._ingest.deliver([frame])
