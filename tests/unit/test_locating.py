"""Places from cells and access points: behind the record, never before it, within bounds."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import VirtualClock
from gateway.errors import ConfigError
from gateway.model import Committed, Frame, Position, Reading, Record, Verdict
from protocols.locating import MAX_WAITING, CsvResolver, HttpResolver, Locator

CELL = {"mcc": 460, "mnc": 0, "lac": 10365, "cid": 8050, "rssi": -70}
WIFI = {"bssid": "aa:bb:cc:dd:ee:ff", "rssi": -60}
TABLE = (
    "mcc,mnc,lac,cid,bssid,lat,lon,accuracy_m\n"
    "460,0,10365,8050,,39.12,117.20,\n"
    ",,,,AA-BB-CC-DD-EE-FF,39.1235,117.2011,40\n"
)


def table(tmp_path: Path, text: str = TABLE) -> CsvResolver:
    path = tmp_path / "cells.csv"
    path.write_text(text, encoding="utf-8")
    return CsvResolver.load(path)


def test_the_most_exact_of_what_is_known(tmp_path: Path) -> None:
    resolver = table(tmp_path)
    assert asyncio.run(resolver.locate([CELL])) == Position(39.12, 117.2, 0, 1500.0, "cell")
    assert asyncio.run(resolver.locate([CELL, WIFI])) == Position(39.1235, 117.2011, 0, 40.0, "wifi")
    assert asyncio.run(resolver.locate([{"mcc": 1, "mnc": 1, "lac": 1, "cid": 1}, {"odd": 1}])) is None


@pytest.mark.parametrize("row", ["460,0,x,1,,39,117,", "460,0,1,1,,95,117,", "460,0,1,1,,39,,"])
def test_a_bad_row_is_named(tmp_path: Path, row: str) -> None:
    with pytest.raises(ConfigError, match=r"cells\.csv: row 2"):
        table(tmp_path, f"mcc,mnc,lac,cid,bssid,lat,lon,accuracy_m\n{row}\n")
    with pytest.raises(ConfigError, match="cannot read"):
        CsvResolver.load(tmp_path / "none.csv")


class Service(BaseHTTPRequestHandler):
    asked: list[Any] = []  # noqa: RUF012 - one server a test
    answer: tuple[int, bytes] = (200, b"")

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        status, body = Service.answer
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - its name there
        pass


@pytest.fixture
def service() -> Iterator[str]:
    Service.asked.clear()
    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/geolocate"
    server.shutdown()
    thread.join()
    server.server_close()


ANSWERS: list[tuple[int, bytes, Position | None]] = [
    (200, b'{"location": {"lat": 39.1, "lng": 117.2}, "accuracy": 25}', Position(39.1, 117.2, 0, 25.0, "wifi")),
    (200, b'{"location": {"lat": 39.1, "lng": 117.2}}', Position(39.1, 117.2, 0, None, "wifi")),
    (200, b'{"location": {"lat": 139.1, "lng": 117.2}}', None),
    (200, b"[]", None),
    (200, b"{", None),
    (404, b'{"error": {"code": 404}}', None),
    (500, b"", None),
]


def test_a_service(service: str) -> None:
    async def ask() -> None:
        resolver = HttpResolver(service, 60.0)
        for status, body, expected in ANSWERS:
            Service.answer = (status, body)
            assert await resolver.locate([CELL, WIFI, WIFI]) == expected
        assert await resolver.locate([{"odd": 1}]) is None

    asyncio.run(ask())
    assert len(Service.asked) == len(ANSWERS)
    asked = Service.asked[0]
    assert asked["cellTowers"] == [
        {"mobileCountryCode": 460, "mobileNetworkCode": 0, "locationAreaCode": 10365, "cellId": 8050,
         "signalStrength": -70}
    ]  # fmt: skip
    assert asked["wifiAccessPoints"][0] == {"macAddress": "aa:bb:cc:dd:ee:ff", "signalStrength": -60}


class Slow:
    """A resolver that answers when it is told to."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.asked = 0

    async def locate(self, network: Sequence[Mapping[str, Any]]) -> Position | None:
        self.asked += 1
        await self.go.wait()
        return Position(39.1, 117.2, 0, 30.0, "wifi") if network else None


class Taken:
    """``ports.Ingest`` that keeps what it gets."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []

    def offer(self, frames: Sequence[Frame]) -> asyncio.Future[Verdict]:
        raise NotImplementedError

    async def deliver(self, frames: Sequence[Frame]) -> Verdict:
        self.frames.extend(frames)
        return Verdict.ACCEPTED


def record(
    device_id: str, *, signals: dict[str, bool] | None = None, fix: bool = False, verified: bool = True
) -> Record:
    position = Position(39.0, 117.0, 5, None, "gnss", fix)
    reading = Reading(7_000_000, {}, signals or {}, position, {"network": [WIFI]})
    return Record(9, "tcp", "gt06", "x", b"", device_id, "k", "", "p", verified, 0, "", reading)


def test_places_come_behind_and_emergencies_first() -> None:
    async def main() -> None:
        resolver, ingest = Slow(), Taken()
        locator = Locator(resolver, ingest, VirtualClock(datetime(2026, 11, 22, tzinfo=UTC)))
        records = [record("T-1"), record("T-2", fix=True), record("T-3", verified=False)]
        records.append(record("T-4", signals={"sos": True}))
        locator(Committed(1, records))
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(locator.run())
            while not resolver.asked:
                await asyncio.sleep(0.001)
            assert ingest.frames == []
            resolver.go.set()
            while len(ingest.frames) < 2:
                await asyncio.sleep(0.001)
            running.cancel()
        assert [frame.device_key for frame in ingest.frames] == ["T-4", "T-1"]
        reports = ingest.frames[0].reports
        assert reports is not None
        reading = reports[0].reading
        assert reading is not None
        assert reading.position == Position(39.1, 117.2, 7_000_000, 30.0, "wifi")
        assert not reading.signals

    asyncio.run(main())


def test_what_waits_is_bounded() -> None:
    async def main() -> None:
        resolver = Slow()
        locator = Locator(resolver, Taken(), VirtualClock(datetime(2026, 11, 22, tzinfo=UTC)))
        locator(Committed(1, [record("T-1", signals={"sos": True})]))
        locator(Committed(2, [record("T-2")] * (MAX_WAITING * 2)))
        assert (len(locator._urgent), len(locator._routine)) == (1, MAX_WAITING)

    asyncio.run(main())
