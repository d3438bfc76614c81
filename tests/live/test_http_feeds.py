"""WebSocket, FHIR and CSV over a real socket, judged by other people's libraries."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.capabilitystatement import CapabilityStatement
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from gateway.api.routes import events, events_ws, exports
from gateway.clock import iso
from tests.live.api_harness import Site, add_persons, site
from tests.live.http_harness import run, until

pytestmark = pytest.mark.live

HEART = {"kind": "measurement", "metric": "heart_rate_bpm", "value": 72, "device_id": "D-1", "person_id": "P-1"}
SOS = {"kind": "signal", "signal": "sos", "active": True, "device_id": "D-2", "person_id": "P-2"}


@asynccontextmanager
async def socket(it: Site, key: str | None, query: str = "") -> AsyncIterator[ClientConnection]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    url = f"ws://127.0.0.1:{it.server.address[1]}/api/v1/events/ws{query}"
    async with connect(url, additional_headers=headers, proxy=None, open_timeout=60) as client:
        yield client


async def ids(client: ClientConnection, count: int) -> list[str]:
    async with asyncio.timeout(60):
        return [json.loads(await client.recv())["id"] for _ in range(count)]


async def forever(client: ClientConnection) -> AsyncIterator[object]:
    while True:
        yield await client.recv()


async def end_of(client: ClientConnection) -> int:
    async with asyncio.timeout(60):
        with pytest.raises(ConnectionClosed) as ended:
            [_ async for _ in forever(client)]
    assert ended.value.rcvd is not None
    return ended.value.rcvd.code


def fill(it: Site) -> None:
    it.feed.put(1, HEART, HEART)
    it.feed.put(3, SOS)


def test_a_socket_resumes_filters_and_follows(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it:
            fill(it)
            key = await it.key("operator")
            async with socket(it, key, "?after=1-0") as client:
                assert await ids(client, 2) == ["1-1", "3-0"]
                it.feed.put(5, HEART)
                assert await ids(client, 1) == ["5-0"]
            async with socket(it, None) as client:  # as a browser: the key in the first message
                await client.send(json.dumps({"authorization": key, "after": "0", "kind": "sos"}))
                assert await ids(client, 1) == ["3-0"]
            await until(lambda: it.server.limits.open == 0)

    run(main())


def test_a_socket_sees_what_its_key_sees(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as admin:
            await add_persons(admin, "P-1", "P-2")
            fill(it)
            async with socket(it, await it.key("family", person_id="P-1"), "?after=0") as client:
                it.feed.put(4, SOS)
                it.feed.put(5, HEART)
                assert await ids(client, 3) == ["1-0", "1-1", "5-0"]

    run(main())


def test_close_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "REAUTHORIZE_S", 0.05)
    monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
    monkeypatch.setattr(events_ws, "FIRST_MESSAGE_S", 60.0)

    async def main() -> None:
        async with site(tmp_path) as it:
            for key, query, code in (
                ("carebell_no_such", "", 4401),
                (await it.key("installer"), "", 4403),
                (await it.key("operator"), "?after=x", 4422),
            ):
                async with socket(it, key, query) as client:
                    assert await end_of(client) == code
            for message, code in (("[]", 4422), ('{"authorization": "x"}', 4401), ('{"surprise": "x"}', 4422)):
                async with socket(it, None) as client:
                    await client.send(message)
                    assert await end_of(client) == code
            monkeypatch.setattr(events_ws, "FIRST_MESSAGE_S", 0.1)
            async with socket(it, None) as client:  # says nothing
                assert await end_of(client) == 4401
            monkeypatch.setattr(events, "MAX_STREAMS", 0)
            async with socket(it, await it.key("operator")) as client:
                assert await end_of(client) == 4429
            monkeypatch.undo()
            monkeypatch.setattr(events, "HEARTBEAT_S", 0.05)
            async with socket(it, await it.key("operator")) as client:
                async with asyncio.timeout(60):
                    assert json.loads(await client.recv()) == {"heartbeat": "0"}
                it.services.closing.set()
                assert await end_of(client) == 1001

    run(main())


def test_a_slow_consumer_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_ws, "SEND_S", 0.2)

    async def main() -> None:
        async with site(tmp_path) as it:
            big = {**HEART, "note": "x" * 100_000}
            it.feed.put(1, HEART)
            async with socket(it, await it.key("operator"), "?after=0") as client:
                assert await ids(client, 1) == ["1-0"]
                client.transport.pause_reading()
                for number in range(2, 200):
                    it.feed.put(number, big)
                await until(lambda: it.services.metrics.render()[0].find(b"carebell_event_streams 0.0") > 0)
                client.transport.resume_reading()
                assert await end_of(client) == 4408

    run(main())


# ---- FHIR ------------------------------------------------------------------------------------------------------------


class Points:
    """A history with a point a minute of each metric that is given."""

    def __init__(self, it: Site, metrics: dict[str, float], count: int) -> None:
        self.start_us = it.clock.now_us() - count * 60_000_000
        self.metrics, self.count, self.asked = metrics, count, 0

    async def series(
        self, person_id: str, metric: str, from_us: int, to_us: int, bucket_s: int | None, limit: int
    ) -> list[dict[str, Any]]:
        self.asked += 1
        times = [self.start_us + number * 60_000_000 for number in range(self.count)]
        if metric not in self.metrics:
            return []
        return [
            {"at": iso(at), "value": self.metrics[metric] + number, "device_id": "=D-1"}
            for number, at in enumerate(times)
            if from_us <= at < to_us
        ][:limit]


def with_points(it: Site, count: int, **metrics: float) -> Points:
    points = Points(it, metrics, count)
    it.history.series = points.series  # type: ignore[method-assign]
    return points


def test_fhir_resources_are_what_fhir_says(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            await add_persons(client, "P-1")
            with_points(it, 2, heart_rate_bpm=70, systolic_mmhg=128, diastolic_mmhg=79, spo2_percent=96, steps=10)
            answer = await client.get("/api/v1/fhir/Observation", params={"patient": "Patient/P-1"})
            assert answer.headers["content-type"].startswith("application/fhir+json")
            bundle = answer.json()
            Bundle.model_validate(bundle)
            assert bundle["total"] == 8
            found = [entry["resource"] for entry in bundle["entry"]]
            panels = [each for each in found if each["code"]["coding"][0]["code"] == "85354-9"]
            assert len(panels) == 2
            assert "valueQuantity" not in panels[0]
            assert [c["code"]["coding"][0]["code"] for c in panels[0]["component"]] == ["8480-6", "8462-4"]
            assert panels[0]["component"][0]["valueQuantity"] == {
                "value": 129, "unit": "mm[Hg]", "system": "http://unitsofmeasure.org", "code": "mm[Hg]",
            }  # fmt: skip
            again = (await client.get("/api/v1/fhir/Observation", params={"patient": "P-1"})).json()
            assert [e["resource"]["id"] for e in again["entry"]] == [each["id"] for each in found]
            metadata = (await client.get("/api/v1/fhir/metadata")).json()
            CapabilityStatement.model_validate(metadata)

    run(main())


def test_fhir_search_parameters(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            await add_persons(client, "P-1")
            points = with_points(it, 30, heart_rate_bpm=70, systolic_mmhg=128, steps=1)

            async def ask(**parameters: Any) -> Any:
                return await client.get("/api/v1/fhir/Observation", params={"patient": "P-1", **parameters})

            assert (await ask(code="http://loinc.org|8867-4")).json()["total"] == 30
            assert (await ask(code="8480-6,8867-4")).json()["total"] == 60
            assert (await ask(code="http://snomed.info/sct|8867-4")).json()["total"] == 0
            assert (await ask(category="activity")).json()["total"] == 30
            assert (await ask(code="8867-4", date="lt2020")).json()["total"] == 0
            middle = iso(points.start_us + 10 * 60_000_000)
            assert (await ask(code="8867-4", date=[f"ge{middle}", "le2026-11-22"])).json()["total"] == 20
            assert (await ask(code="8867-4", date=f"gt{middle}")).json()["total"] == 19
            assert (await ask(date=["ge2026-11-23", "lt2026-11-22"])).status_code == 422
            assert (await ask(date="ge2026-13-01")).status_code == 422
            async with it.as_role("family", person_id="P-1") as family:
                assert (await family.get("/api/v1/fhir/Observation", params={"patient": "P-9"})).status_code == 404
            seen: list[str] = []
            url = "/api/v1/fhir/Observation?patient=P-1&_count=7"
            while url:
                page = (await client.get(url)).json()
                seen += [entry["resource"]["id"] for entry in page.get("entry", [])]
                url = next((link["url"] for link in page["link"] if link["relation"] == "next"), "")
            assert len(seen) == len(set(seen)) == 90

    run(main())


# ---- CSV -------------------------------------------------------------------------------------------------------------


def test_csv_of_observations_is_whole_and_no_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "PAGE", 7)

    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            await add_persons(client, "P-1")
            with_points(it, 60, heart_rate_bpm=70, steps=1)
            answer = await client.get("/api/v1/export/observations.csv", params={"person_id": "P-1"})
            assert answer.headers["content-type"] == "text/csv; charset=utf-8"
            rows = list(csv.DictReader(io.StringIO(answer.text.removeprefix("\ufeff"))))
            assert len(rows) == 120
            assert len({(row["metric"], row["at"]) for row in rows}) == 120
            assert rows[0]["device_id"] == "'=D-1"
            assert rows[0] | {"at": ""} == {
                "person_id": "P-1", "metric": "heart_rate_bpm", "unit": "/min", "loinc": "8867-4", "at": "",
                "value": "70", "device_id": "'=D-1",
            }  # fmt: skip
            it.history.series = type(it.history).series.__get__(it.history)  # type: ignore[method-assign]
            it.history.away = True
            away = await client.get("/api/v1/export/observations.csv", params={"person_id": "P-1"})
            assert away.status_code == 503

    run(main())


def test_csv_of_alerts_keeps_to_the_keys_scope(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exports, "ALERTS_PAGE", 2)

    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as admin:
            await add_persons(admin, "P-1", "P-2")
            text = (await admin.get("/api/v1/export/alerts.csv")).text
            assert [row["id"] for row in csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))] == [
                "a-3",
                "a-2",
                "a-1",
            ]
            async with it.as_role("family", person_id="P-1") as family:
                text = (await family.get("/api/v1/export/alerts.csv")).text
                assert [line.split(",")[0] for line in text.splitlines()[1:]] == ["a-3"]

    run(main())
