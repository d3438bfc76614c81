"""Active, suspended, ceased (R36): an SOS alarms until the change is verified; after a death the service ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.daemon import Daemon, carebell, carebell_json, provision

pytestmark = pytest.mark.live


def until(found: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + 60
    while not (result := found()):
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    return result


def test_the_life_of_a_person(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    token = provision(data_dir, 1)["D-1"]
    daemon = Daemon(data_dir)
    daemon.start()

    def press(seq: int) -> int:
        headers = {"authorization": f"Bearer {token}"}
        body = {"seq": seq, "signals": ["sos"]}
        return httpx2.post(
            f"{daemon.url}/ingest/v1/D-1", json=body, headers=headers, trust_env=False, timeout=60
        ).status_code

    def alerts() -> list[dict[str, Any]]:
        return [a for a in carebell_json("alerts", "list", data_dir=data_dir) if a["kind"] == "sos"]

    try:
        carebell("persons", "update", "P-1", "--state", "suspended", data_dir=data_dir)
        assert press(1) == 202
        (first,) = until(alerts)
        assert (first["person_id"], first["severity"]) == ("P-1", "P1")
        headers = {"authorization": f"Bearer {daemon.admin_key}"}
        with httpx2.Client(base_url=daemon.url, headers=headers, trust_env=False, timeout=60) as client:
            state = client.get("/api/v1/devices/D-1/state").json()
            assert state["signals"]["sos"]["active"] is True
            assert client.get("/api/v1/devices/D-1").json()["last_contact"] == state["last_contact"] is not None
            assert client.get("/api/v1/persons/P-1/state").json()["last_contact"] == state["last_contact"]
            carebell("persons", "update", "P-1", "--state", "ceased", "--reason", "verified", data_dir=data_dir)
            numbers = iter(range(2, 9_000))
            until(lambda: press(next(numbers)) == 401)  # its credential is revoked; the press is kept as unverified
            second = until(lambda: [a for a in alerts() if a["id"] != first["id"]])[0]
            assert not second["person_id"], "kept apart from the person"
            device = client.get("/api/v1/devices/D-1").json()
            assert (device["state"], device["person_id"]) == ("retired", None)
            assert device["dispose_requested_at"] is not None
            state = client.get("/api/v1/devices/D-1/state").json()
            assert press(10_000) == 401
            assert client.get("/api/v1/devices/D-1/state").json() == state, "what proves nothing is no contact"
    finally:
        daemon.kill()
