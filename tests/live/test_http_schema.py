"""/openapi.json against the implementation, judged by schemathesis: statuses, types and bodies are as documented."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable

from alerts.desk import Desk
from alerts.policy import Policy
from gateway.api.app import build_app
from gateway.api.server import ApiServer
from tests.call_log import add_alert
from tests.live.api_harness import Site

schemathesis = pytest.importorskip("schemathesis", reason="judges /openapi.json: install the test extra")
pytestmark = pytest.mark.live
ENDLESS: Final = frozenset({"/api/v1/events"})
EXAMPLES: Final = 2
"""Of each operation and kind: things that are there, things that are made up, and what does not fit the schema."""
Seen = set[tuple[str, int]]


class Api:
    """Where it is, a key by role, and ids of what is there by the name of their parameter."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: dict[str, str] = {}
        self.known: dict[str, str] = {}
        self.ready = threading.Event()
        self.loop = asyncio.new_event_loop()
        self.server: ApiServer

    async def run(self, folder: Path) -> None:
        it = Site(folder)
        desk = Desk(it.store, it.clock, Policy(), wake=lambda: None)
        self.known = {"person_id": "P-0001", "alert_id": await it.store.write(add_alert), "name": "carebell.native"}
        self.server = it.server = ApiServer(build_app(dataclasses.replace(it.services, desk=desk)), port=0)
        async with asyncio.TaskGroup() as group:
            group.create_task(it.server.run())
            await it.server.started.wait()
            self.url = f"http://127.0.0.1:{it.server.address[1]}"
            self.keys = {role: await it.key(role) for role in ("admin", "backend")}
            contact = {"person_id": "P-0001", "contact_id": "C-1", "name": "李梅", "phone": "13800000002"}
            device = {"device_id": "D-1", "profile": "carebell.native", "person_id": "P-0001"}
            async with it.client(self.keys["admin"]) as client:
                for path, body in (("contacts", contact), ("devices", device)):
                    answer = await client.post(f"/api/v1/{path}", json=body)
                    assert answer.status_code == 201, answer.text
                    self.known[f"{path[:-1]}_id"] = body[f"{path[:-1]}_id"]
            self.ready.set()
        it.store.connection.close()


@contextmanager
def serving(folder: Path) -> Iterator[Api]:
    """The API in a thread of its own."""
    api = Api()
    thread = threading.Thread(target=lambda: api.loop.run_until_complete(api.run(folder)), daemon=True)
    thread.start()
    try:
        assert api.ready.wait(60), "the API did not start"
        yield api
    finally:
        api.loop.call_soon_threadsafe(api.server.close)
        thread.join(60)
        api.loop.close()


def test_the_document_is_kept(tmp_path: Path) -> None:
    from schemathesis import GenerationMode

    found: list[str] = []
    seen: Seen = set()
    with serving(tmp_path) as api:
        document = httpx2.get(f"{api.url}/openapi.json", trust_env=False, timeout=60).json()
        content = document["paths"]["/api/v1/positions"]["get"]["responses"]["200"]["content"]
        assert content.keys() == {"application/geo+json"}
        for result in schemathesis.openapi.from_dict(document).get_all_operations():
            operation = result.ok()
            if operation.path not in ENDLESS:
                judge(operation, GenerationMode.POSITIVE, api, api.known, found, seen)
                judge(operation, GenerationMode.POSITIVE, api, {}, found, seen)
                judge(operation, GenerationMode.NEGATIVE, api, {}, found, seen)
    assert found == [], "\n\n".join(found)
    operations = {label for label, _ in seen}
    assert len(operations) > 60
    # Not only refusals were compared with the document.
    assert len({label for label, status in seen if status < 300}) > len(operations) // 3


def judge(operation: Any, mode: Any, api: Api, known: dict[str, str], found: list[str], seen: Seen) -> None:
    from schemathesis.checks import not_a_server_error
    from schemathesis.core.failures import FailureGroup
    from schemathesis.specs.openapi import checks as openapi

    checks = [
        openapi.status_code_conformance, openapi.content_type_conformance, openapi.response_schema_conformance,
        openapi.response_headers_conformance, not_a_server_error,
    ]  # fmt: skip
    key = api.keys["backend" if operation.path.startswith("/api/v1/orders/") else "admin"]

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(case=operation.as_strategy(generation_mode=mode))
    def run(case: Any) -> None:
        for place in (case.path_parameters, case.query):
            if place:
                place.update({name: known[name] for name in place if name in known})
        response = case.call(base_url=api.url, headers={"authorization": f"Bearer {key}"}, timeout=60)
        seen.add((operation.label, response.status_code))
        try:
            case.validate_response(response, checks=checks)
        except FailureGroup as failures:
            found.append(f"{operation.label} {mode.value}: " + " / ".join(str(each) for each in failures.exceptions))

    with suppress(Unsatisfiable):  # without parameters nothing can be wrong
        run()
