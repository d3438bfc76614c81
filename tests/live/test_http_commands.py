"""Commands over the HTTP API: who may give which, what a bad one is told, and who sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.live.api_harness import site
from tests.live.http_harness import run
from tests.live.test_http_api import assert_problem

pytestmark = pytest.mark.live

RING = {"name": "ring", "parameters": {"seconds": 5}}
URL = "/api/v1/devices/D-1/commands"


async def furnish(client: httpx2.AsyncClient) -> None:
    for person, district in (("P-1", "heping"), ("P-2", "hexi")):
        await client.post("/api/v1/persons", json={"person_id": person, "name": "王秀英", "district": district})
    body = {"device_id": "D-1", "profile": "carebell.native", "person_id": "P-1"}
    assert (await client.post("/api/v1/devices", json=body)).status_code == 201


def test_a_command_from_asking_to_taking_it_back(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            await furnish(client)
            given = await client.post(URL, json={**RING, "expires_s": 60, "reason": "test"})
            assert given.status_code == 202
            view = given.json()
            assert given.headers["location"] == f"/api/v1/commands/{view['id']}"
            assert (view["state"], view["expires_at"]) == ("queued", "2026-11-22T01:03:03.000Z")
            secret = await client.post(URL, json={"name": "call_back", "parameters": {"number": "+8613800001234"}})
            assert secret.json()["parameters"] == {"number": "****34"}
            listed = (await client.get(URL)).json()
            assert [entry["name"] for entry in listed] == ["call_back", "ring"]
            page = await client.get(URL, params={"limit": 1})
            assert "before=2" in page.headers["link"]
            shown = (await client.get(given.headers["location"])).json()
            assert [step["reason"] for step in shown["steps"]] == ["test"]
            taken = await client.post(f"{given.headers['location']}/cancel", json={"reason": "by mistake"})
            assert taken.json()["state"] == "cancelled"
            assert_problem(await client.post(f"{given.headers['location']}/cancel"), 409, "cancelled already")
            assert [entry["name"] for entry in (await client.get(URL, params={"open": "true"})).json()] == ["call_back"]

    run(main())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"name": "rings"}, "did you mean ring"),
    ({"name": "ring", "parameters": {"seconds": 0}}, "seconds: must be a whole number from 1 to 300"),
    ({"name": "ring", "parameters": {"seconds": [1]}}, "whole number"),
    ({"name": "ring", "expires_s": 5}, "body.expires_s"),
    ({"nmae": "ring"}, "body.name"),
    ({}, "body.name"),
]


def test_a_bad_command_is_told_why(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            await furnish(client)
            for body, told in BAD:
                assert_problem(await client.post(URL, json=body), 422, told)
            assert_problem(await client.post("/api/v1/devices/D-9/commands", json=RING), 404, "D-9")
            assert_problem(await client.get("/api/v1/commands/none"), 404, "none")
            assert_problem(await client.get(URL, params={"state": "asleep"}), 422, "none of queued")
            assert (await client.get(URL)).json() == []

    run(main())


def test_dangerous_ones_are_for_few_and_others_districts_are_not_there(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            await furnish(client)
            for role in ("operator", "installer", "backend"):
                async with it.as_role(role) as limited:
                    assert_problem(await limited.post(URL, json={"name": "restart"}), 403, "dangerous")
                    assert (await limited.post(URL, json=RING)).status_code == 202
            async with it.as_role("supervisor") as supervisor:
                given = await supervisor.post(URL, json={"name": "restart"})
                assert given.status_code == 202
                assert_problem(await supervisor.post(URL, json={"name": "power_off"}), 409, "one at a time")
            async with it.as_role("operator", district="hexi") as foreign:
                assert_problem(await foreign.post(URL, json=RING), 404)
                assert_problem(await foreign.get(URL), 404)
                assert_problem(await foreign.get(given.headers["location"]), 404)
                assert_problem(await foreign.post(f"{given.headers['location']}/cancel"), 404)

    run(main())
