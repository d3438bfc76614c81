"""docs/asyncapi.yaml describes what is really published: every event of a daemon that worked a little is checked."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.api.routes.asyncapi import DOCUMENT
from gateway.events import of_record
from gateway.model import METRICS, POSITION_SOURCES, SIGNALS, Position, Reading
from gateway.storage.database import FILE_NAME, open_database
from gateway.storage.feed import events_after
from tests.daemon import Daemon, carebell, carebell_json, provision
from tests.factory import T0_US, record

TEXT = DOCUMENT.read_text(encoding="utf-8")
ASYNCAPI: dict[str, Any] = yaml.safe_load(TEXT)
VALIDATORS = {
    message["name"]: jsonschema.Draft202012Validator(
        {"$ref": message["payload"]["$ref"], "components": ASYNCAPI["components"]}
    )
    for message in ASYNCAPI["components"]["messages"].values()
}


def check(event: dict[str, Any]) -> None:
    VALIDATORS[event["type"]].validate(json.loads(json.dumps(event)))


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        mine = [value["$ref"]] if "$ref" in value else []
        return mine + [ref for each in value.values() for ref in references(each)]
    return [ref for each in value for ref in references(each)] if isinstance(value, list) else []


def test_the_document_is_sound() -> None:
    assert ASYNCAPI["asyncapi"] == "3.0.0"
    assert {"stream", "websocket", "sse", "webhook"} == set(ASYNCAPI["channels"])
    for schema in ASYNCAPI["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)
    for ref in references(ASYNCAPI):
        found: Any = ASYNCAPI
        for part in ref.removeprefix("#/").split("/"):
            found = found[part]


numbers = st.floats(-1e6, 1e6, allow_nan=False)
readings = st.builds(
    Reading,
    observed_at_us=st.integers(T0_US, T0_US + 10**15),
    measurements=st.dictionaries(st.sampled_from([*METRICS, "x_own"]), numbers, max_size=4),
    signals=st.dictionaries(st.sampled_from(sorted(SIGNALS)), st.booleans(), max_size=4),
    position=st.none() | st.builds(
        Position, st.floats(-90, 90), st.floats(-180, 180), st.integers(T0_US, T0_US + 10**15),
        st.none() | st.floats(0, 1e5), st.sampled_from(sorted(POSITION_SOURCES)), st.booleans(),
    ),
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(readings, st.sampled_from(["D-1", ""]), st.sampled_from(["P-1", ""]))
def test_every_observation_is_as_described(reading: Reading, device_id: str, person_id: str) -> None:
    each = record(1)
    each.reading, each.device_id, each.person_id = reading, device_id, person_id
    for event in of_record("default", 7, each):
        check(event)


@pytest.mark.live
def test_every_event_of_a_daemon_is_as_described(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    tokens = provision(data_dir, 2)
    daemon = Daemon(data_dir)
    daemon.start()
    try:
        with httpx2.Client(base_url=daemon.url, trust_env=False, timeout=60) as client:
            for number, body in enumerate(
                [
                    {"signals": ["sos"], "measurements": {"heart_rate_bpm": 130}},
                    {"measurements": {"battery_percent": 5}},
                ]
            ):
                device = f"D-{number + 1}"
                answer = client.post(
                    f"/ingest/v1/{device}", json=body, headers={"authorization": f"Bearer {tokens[device]}"}
                )
                assert answer.status_code == 202
            served = client.get("/asyncapi.yaml")
            assert (served.status_code, served.text) == (200, TEXT)
        deadline_s = time.monotonic() + 60
        while not (found := [
            alert["id"] for alert in carebell_json("alerts", "list", data_dir=data_dir) if alert["kind"] == "sos"
        ]):  # fmt: skip
            assert time.monotonic() < deadline_s
        (sos,) = found
        carebell("alerts", "accept", sos, data_dir=data_dir)
        carebell("alerts", "resolve", sos, "--outcome", "false_press", data_dir=data_dir)
        carebell("devices", "suspend", "D-2", data_dir=data_dir)
    finally:
        daemon.kill()
    connection = open_database(data_dir / FILE_NAME)
    seq, kinds = 0, set()
    while True:
        events, reached = events_after(connection, "default", seq, 100)
        for event in events:
            check(event)
            kinds.add(event["type"])
        if reached == seq:
            break
        seq = reached
    connection.close()
    assert {"org.carebell.observation.v1", "org.carebell.alert.v1", "org.carebell.device.v1"} <= kinds
