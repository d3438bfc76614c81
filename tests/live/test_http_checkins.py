"""Check-in at the door over HTTP: by the backend's key, by a terminal's own token, and by nobody else."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import apsw
import pytest

from alerts import order_requests
from alerts.lifecycle import apply_effects
from alerts.policy import Policy
from gateway.api.app import build_app
from gateway.metrics import Metrics
from gateway.registry.credentials import issue_token
from gateway.registry.devices import add_device
from gateway.registry.persons import add_person
from tests.alerts_support import sos
from tests.factory import T0_US
from tests.live.api_harness import TESTER, Site
from tests.live.http_harness import run, serving
from tests.live.test_http_api import assert_problem

pytestmark = pytest.mark.live
URL = "/api/v1/orders/checkins"


def furnish(connection: apsw.Connection) -> tuple[list[str], str]:
    """The service codes of two orders; the token of a terminal."""
    add_person(connection, "P-1", {"name": "王秀英", "phone": "+8613800000001"}, at_us=T0_US, actor=TESTER)
    effects = [sos(number, person_id=f"P-{number}", at_us=T0_US) for number in (1, 2)]
    raised = apply_effects(connection, effects, T0_US, Policy()).raised
    orders = [order_requests.get(connection, alert_id, 1) for alert_id in raised]
    values = {"profile": "carebell.native"}
    add_device(connection, "D-9", values, known_profiles=["carebell.native"], at_us=T0_US, actor=TESTER)
    token = issue_token(connection, "D-9", at_us=T0_US, actor=TESTER)
    return [order.service_code for order in orders if order is not None], token


def test_who_may_check_in_and_what_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        it = Site(tmp_path)
        services = dataclasses.replace(it.services, credentials=it.registry, metrics=Metrics("0"))
        (first, second), token = await it.store.write(furnish)
        async with serving(build_app(services)) as it.server:
            body = {"service_code": first, "staff_id": "S-1", "method": "qr"}
            async with it.client(None) as nobody:
                assert_problem(await nobody.post(URL, json=body), 401)
                assert_problem(await nobody.post(URL, json=body | {"device_id": "D-9"}), 401)
            for role in ("family", "auditor", "installer"):
                person = {"person_id": "P-1"} if role == "family" else {}
                async with it.as_role(role, **person) as client:
                    assert_problem(await client.post(URL, json=body), 403, role)
            async with it.as_role("backend") as backend:
                visit = await backend.post(URL, json=body)
                assert visit.status_code == 200, visit.text
                assert (visit.json()["staff_id"], visit.json()["in_method"]) == ("S-1", "qr")
                assert_problem(await backend.post(URL, json=body | {"staff_id": "S-2"}), 409, "used before")
                assert_problem(await backend.post(URL, json=body | {"service_code": "00000000"}), 404)
                for wrong in ({"method": "fax"}, {"direction": "up"}, {"at": "noon"}, {"x": 1}):
                    assert_problem(await backend.post(URL, json=body | wrong), 422)
                assert (await backend.post(URL, json=body | {"direction": "out"})).json()["out_at"] is not None
            async with it.client(token) as terminal:
                read = {"service_code": second, "staff_id": "S-2", "device_id": "D-9", "method": "nfc"}
                assert_problem(await terminal.post(URL, json=read | {"device_id": "D-8"}), 401)
                visit = await terminal.post(URL, json=read)
                assert visit.status_code == 200, visit.text
                assert visit.json()["in_device_id"] == "D-9"

            def actors(connection: apsw.Connection) -> list[str]:
                rows = connection.execute(
                    "SELECT body ->> '$.actor.type' FROM audit WHERE body ->> 'action' = 'service_checkin' ORDER BY seq"
                )
                return [str(actor) for (actor,) in rows]

            assert await it.store.read(actors) == ["platform", "device"]
        it.store.connection.close()

    run(main())
