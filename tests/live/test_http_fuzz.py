"""Anything that a client may send to any route of /openapi.json: an answer, and never a fault of ours."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx2
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.api.app import build_app
from gateway.api.server import ApiServer
from tests.live.api_harness import Site, add_persons
from tests.live.http_harness import until

TEXT = st.text(max_size=30)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT
JSON = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
KNOWN = st.sampled_from(
    ["P-1", "a-3", "O-1", "1", "carebell.native", "accept", "retry", "resume", "D-1", "", "..", "%"]
)
HINTS = st.sampled_from(
    ["P-1", "13800000001", "1", "active", "home", "zh", "2026-11-22T00:00:00Z", "2026-11-22", "5m", "heart_rate_bpm",
     "carebell.native", "operator", "12:30", "-1", "99999999999999999999", "\x00", "安", "P1;P2"],
)  # fmt: skip


def bodies(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    names = list(schema.get("properties", {}))
    member = HINTS | SCALAR | JSON
    shaped = st.dictionaries(st.sampled_from(names), member, max_size=len(names)) if names else st.just({})
    return shaped | JSON


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "anyOf" in schema:
        schema = schema["anyOf"][0]
    name = schema.get("$ref", "").rpartition("/")[2]
    return document["components"]["schemas"][name] if name else schema


@st.composite
def requests(draw: st.DrawFn, document: dict[str, Any]) -> tuple[str, str, dict[str, str], bytes | None]:
    operations = [
        (path, method) for path, methods in document["paths"].items() for method in methods if path != "/api/v1/events"
    ]
    path, method = draw(st.sampled_from(operations))
    operation = document["paths"][path][method]
    query = {}
    for parameter in operation.get("parameters", []):
        value = draw(KNOWN | HINTS | TEXT)
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", quote(value, safe=""))
        elif parameter["in"] == "query" and (parameter["required"] or draw(st.booleans())):
            query[parameter["name"]] = value
    body = None
    if "requestBody" in operation:
        schema = resolve(document, operation["requestBody"]["content"]["application/json"]["schema"])
        body = draw(bodies(schema).map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60))
    return method, path, query, body


def test_no_request_is_a_fault_of_ours(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:  # one server for all examples: starting one costs more than fifty requests
        it, stop, serving = runner.run(_start(tmp_path))
        url = f"http://127.0.0.1:{it.server.address[1]}"
        key = runner.run(it.key("admin"))
        backend = runner.run(it.key("backend"))
        client = httpx2.AsyncClient(
            base_url=url, headers={"authorization": f"Bearer {key}"}, trust_env=False, timeout=60
        )
        runner.run(add_persons(client, "P-1"))
        document = runner.run(client.get("/openapi.json")).json()

        @settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
        @given(requests(document))
        def fuzz(request: tuple[str, str, dict[str, str], bytes | None]) -> None:
            method, path, query, body = request
            headers = {"content-type": "application/json"}
            if path.startswith("/api/v1/orders/"):
                headers["authorization"] = f"Bearer {backend}"
            answer = runner.run(client.request(method, path, params=query, content=body, headers=headers))
            assert answer.status_code < 500, (request, answer.text)
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json", request
                assert answer.json()["detail"]

        fuzz()
        runner.run(client.aclose())
        stop()
        runner.run(_join(serving))
        it.store.connection.close()


async def _start(folder: Path) -> tuple[Site, Any, asyncio.Task[None]]:
    it = Site(folder)
    it.server = ApiServer(build_app(it.services), port=0)
    serving = asyncio.get_running_loop().create_task(it.server.run())
    await it.server.started.wait()
    return it, it.server.close, serving


async def _join(serving: asyncio.Task[None]) -> None:
    await until(serving.done)
    serving.result()
