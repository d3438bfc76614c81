"""A conference over HTTP, against the simulated carrier: legs by role, the call log, and who wanted what."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import apsw
import pytest

from alerts.channels.twilio_conference import TwilioConference
from alerts.conference_desk import Conferences
from alerts.desk import Desk
from alerts.policy import Policy
from gateway.api.app import build_app
from gateway.metrics import Metrics
from gateway.notifying import RegistryNotices
from gateway.registry.contacts import add_contact
from gateway.registry.persons import update_person
from gateway.storage import calls
from simulators import people
from simulators.carrier import NUMBER
from simulators.people import Behaviour, People
from tests.call_log import ACTOR, add_alert
from tests.factory import T0_US
from tests.live.api_harness import Site
from tests.live.http_harness import run, serving, until
from tests.live.test_http_api import assert_problem
from tests.live.twilio_harness import twilio_harness

pytestmark = pytest.mark.live
ELDER, DAUGHTER, DOCTOR = "+8613800000001", "+8613800000002", "+8613800000003"


def furnish(connection: apsw.Connection) -> tuple[str, str]:
    alert_id = add_alert(connection)
    update_person(connection, "P-0001", {"phone": ELDER}, at_us=T0_US, actor=ACTOR)
    contact = {"person_id": "P-0001", "name": "李梅", "phone": DAUGHTER, "relation": "daughter"}
    add_contact(connection, "C-0001", contact, at_us=T0_US, actor=ACTOR)
    row = connection.execute("SELECT id FROM contact").fetchone()
    assert row is not None
    return alert_id, str(row[0])


def test_an_operator_brings_everybody_to_one_line(tmp_path: Path) -> None:
    async def main() -> None:
        present = People(Behaviour(answers_after_s=1.0))
        present.set(DOCTOR, people.BUSY)
        it = Site(tmp_path)
        async with twilio_harness("voice", present, speed=50.0) as harness:
            conferences = Conferences(
                lambda alert_id: TwilioConference(harness.provider, alert_id, caller=NUMBER),
                provider="twilio", caller=NUMBER, source=RegistryNotices(), store=it.store, clock=it.clock,
            )  # fmt: skip
            desk = Desk(it.store, it.clock, Policy(), wake=lambda: None)
            services = dataclasses.replace(it.services, desk=desk, conferences=conferences)
            alert_id, contact_id = await it.store.write(furnish)
            url = f"/api/v1/alerts/{alert_id}/conference"
            async with serving(build_app(services)) as it.server, it.as_role("operator") as client:
                assert (await client.get(url)).json() == []
                parties = [{"role": "family", "contact_id": contact_id}, {"role": "social_worker"}, {"role": "person"}]
                gathered = await client.post(url, json={"parties": parties})
                assert gathered.status_code == 201, gathered.text
                assert [leg["role"] for leg in gathered.json()["legs"]] == ["person", "family"]
                (why,) = gathered.json()["failed"]
                assert (why["role"], "whom to call as social_worker" in why["detail"]) == ("social_worker", True)
                await client.post(f"{url}/legs", json={"role": "doctor", "to": DOCTOR})
                called = {str(call.to) for call in harness.carrier.calls}
                assert called == {ELDER, DAUGHTER, DOCTOR}

                def on_the_line() -> set[tuple[str, str]]:
                    (room,) = harness.carrier.conferences
                    return {(str(e.label).partition("-")[0], e.status) for e in room.participants.values()}

                # A browser that got no answer sends it again: nobody is called twice, one attempt is in the log.
                known = {leg["attempt_id"] for leg in gathered.json()["legs"]}
                async with asyncio.TaskGroup() as group:
                    family = {"role": "family", "contact_id": contact_id}
                    twice = [group.create_task(client.post(f"{url}/legs", json=family)) for _ in range(2)]
                twice_told = [task.result().json()["attempt_id"] for task in twice]
                assert twice_told[0] == twice_told[1]
                assert twice_told[0] in known
                assert len(harness.carrier.calls) == 3

                # Both have picked up, and the doctor's number was busy.
                await until(lambda: on_the_line() == {("person", "connected"), ("family", "connected")})
                muted = (await client.post(f"{url}/family/mute")).json()
                assert [(leg["role"], leg["muted"]) for leg in muted] == [("person", False), ("family", True)]
                held = (await client.post(f"{url}/person/hold")).json()
                assert [(leg["role"], leg["on_hold"]) for leg in held] == [("person", True), ("family", False)]
                assert not any(leg["on_hold"] for leg in (await client.post(f"{url}/person/unhold")).json())
                assert_problem(await client.delete(f"{url}/person"), 422, "kept")
                assert [leg["role"] for leg in (await client.delete(f"{url}/family")).json()] == ["person"]
                await until(lambda: on_the_line() == {("person", "connected")})
                assert (
                    await client.post(f"{url}/legs", json={"role": "ems120", "to": "+8612000000"})
                ).status_code == 201
                assert (await client.delete(url)).json() == {"ended": True}
                ended = 2
                async with asyncio.timeout(60):  # the carrier ends it a moment later
                    while (await client.delete(url)).json() == {"ended": True}:
                        ended += 1
                        await asyncio.sleep(0.05)

                found: list[dict[str, Any]] = await it.store.read(lambda c: calls.search(c, calls.Question()))
                assert {(view["role"], view["callee"]) for view in found if view["role"] != "conference"} == {
                    ("person", ELDER), ("family", DAUGHTER), ("doctor", DOCTOR), ("ems120", "+8612000000"),
                }  # fmt: skip
                rows = await it.store.read(
                    lambda c: c.execute("SELECT json_extract(body, '$.action') FROM audit ORDER BY seq").fetchall()
                )
                assert [action for (action,) in rows if str(action).startswith("conference.")] == [
                    "conference.add", "conference.add", "conference.add", "conference.mute", "conference.hold",
                    "conference.unhold", "conference.drop",
                    "conference.drop", "conference.add", *["conference.end"] * ended,
                ]  # fmt: skip
        it.store.connection.close()

    run(main())


def test_what_cannot_be_called_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        it = Site(tmp_path)
        desk = Desk(it.store, it.clock, Policy(), wake=lambda: None)
        alert_id, _ = await it.store.write(furnish)
        url = f"/api/v1/alerts/{alert_id}/conference"
        without = dataclasses.replace(it.services, desk=desk)
        async with serving(build_app(without)) as it.server, it.as_role("operator") as client:
            assert_problem(await client.get(url), 404, "no provider")
        async with twilio_harness("voice") as harness:
            conferences = Conferences(
                lambda alert_id: TwilioConference(harness.provider, alert_id, caller=NUMBER),
                provider="twilio", caller=NUMBER, source=RegistryNotices(), store=it.store, clock=it.clock,
            )  # fmt: skip
            services = dataclasses.replace(without, conferences=conferences, metrics=Metrics("0.1.0"))
            async with serving(build_app(services)) as it.server, it.as_role("operator") as client:
                legs = f"{url}/legs"
                assert_problem(await client.post(legs, json={"role": "doctor"}), 422, "whom to call as doctor")
                assert_problem(await client.post(legs, json={"role": "neighbour"}), 422, "body.role")
                assert_problem(await client.post(legs, json={"role": "family", "contact_id": "C-9"}), 404, "C-9")
                assert_problem(await client.post(legs, json={"role": "doctor", "to": "12345"}), 422, "international")
                assert_problem(await client.get("/api/v1/alerts/9-9/conference"), 404, "no alert")
                await harness.be_down()
                assert_problem(await client.post(legs, json={"role": "person"}), 502)
                async with it.as_role("family", person_id="P-0001") as relative:
                    assert_problem(await relative.get(url), 403)
        it.store.connection.close()

    run(main())
