"""The API over a real socket (contracts, section 6)."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx2
import jsonschema
import pytest
from openapi_spec_validator import validate

from gateway.api.auth import MAY
from gateway.security import ROLES
from tests.live.api_harness import Site, add_persons, site
from tests.live.http_harness import run

PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "minLength": 1},
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "minLength": 1},
    },
}


def assert_problem(answer: httpx2.Response, status: int, *words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    jsonschema.validate(answer.json(), PROBLEM)
    assert answer.json()["status"] == status
    for word in words:
        assert word in answer.json()["detail"]


def test_registry_from_person_to_token(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            body = {"person_id": "P-0001", "name": "王秀英", "phone": "+8613800000001", "birth_year": 1941}
            added = await client.post("/api/v1/persons", json=body)
            assert added.status_code == 201
            assert added.headers["location"] == "/api/v1/persons/P-0001"
            assert added.json()["name"] == "王秀英"
            device = await client.post(
                "/api/v1/devices",
                json={"device_id": "D-0001", "profile": "carebell.native", "person_id": "P-0001", "serial": "SN1"},
            )
            assert device.status_code == 201
            token = device.json()["token"]
            assert len(token) == 43
            assert await it.registry.authenticate("D-0001", token.encode()) is not None
            rotated = await client.post("/api/v1/devices/D-0001/credentials")
            assert rotated.status_code == 201
            assert rotated.json().keys() == {"device_id", "token"}
            assert rotated.json()["token"] != token
            shown = (await client.get("/api/v1/devices/D-0001")).json()
            assert "token" not in shown
            assert shown["person_id"] == "P-0001"
            contact = await client.post(
                "/api/v1/contacts", json={"person_id": "P-0001", "name": "李明", "phone": "13900000002"}
            )
            assert contact.status_code == 201
            place = await client.post(
                "/api/v1/places",
                json={
                    "place_id": "home-1",
                    "person_id": "P-0001",
                    "kind": "home",
                    "geometry": {"type": "Point", "coordinates": [117.2, 39.1]},
                    "radius_m": 200,
                },
            )
            assert place.status_code == 201, place.text
            person = (await client.get("/api/v1/persons/P-0001")).json()
            assert person["devices"] == ["D-0001"]
            assert person["contacts"] == [contact.json()["contact_id"]]
            assert person["places"] == ["home-1"]
            for path in ("persons", "devices", "contacts", "places", "profiles", "keys", "audit", "outbox"):
                listed = await client.get(f"/api/v1/{path}")
                assert listed.status_code == 200, path
                assert isinstance(listed.json(), list)
                assert listed.json()
            audit = (await client.get("/api/v1/audit", params={"subject": "person/P-0001"})).json()
            assert audit[0]["action"] == "person.add"
            assert "王秀英" not in json.dumps(audit, ensure_ascii=False)

    run(main())


def test_changes_are_checked_against_the_version_that_was_seen(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            await add_persons(client, "P-1")
            changed = await client.patch("/api/v1/persons/P-1", json={"name": "新名", "version": 1, "reason": "婚后"})
            assert changed.status_code == 200
            assert changed.json()["version"] == 2
            assert_problem(
                await client.patch("/api/v1/persons/P-1", json={"name": "x", "version": 1}), 409, "version 2"
            )
            assert_problem(await client.post("/api/v1/persons", json={"person_id": "P-1", "name": "x"}), 409, "P-1")
            assert_problem(await client.get("/api/v1/persons/P-9"), 404, "P-9")

    run(main())


def test_bad_bodies_name_every_field_and_reason(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            wrong = {"person_id": "P 1", "name": "", "phone": "12", "nmae": "x", "birth_year": "soon"}
            answer = await client.post("/api/v1/persons", json=wrong)
            assert_problem(answer, 422)
            fields = {entry["field"]: entry["reason"] for entry in answer.json()["errors"]}
            assert fields.keys() == {f"body.{name}" for name in wrong}
            assert "did you mean 'name'" in fields["body.nmae"]
            assert_problem(await client.post("/api/v1/persons", content=b"{"), 422, "not JSON")
            for content in (b"[1]", b"null", b"\xff\xfe", b"", b'"x"'):
                answer = await client.post(
                    "/api/v1/persons", content=content, headers={"content-type": "application/json"}
                )
                assert answer.status_code in (400, 422)
                assert_problem(answer, answer.status_code)
            deep = b'{"note":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
            answer = await client.post("/api/v1/persons", content=deep, headers={"content-type": "application/json"})
            assert answer.status_code in (400, 422)
            assert_problem(answer, answer.status_code)
            assert_problem(await client.post("/api/v1/persons", content=b" " * 1_100_000), 413)
            answer = await client.get("/api/v1/alerts", params={"limit": 100_000})
            assert_problem(answer, 422, "query.limit")

    run(main())


def test_every_error_is_a_problem(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client, it.client(None) as stranger:
            assert_problem(await client.get("/nowhere"), 404)
            assert_problem(await client.get("/api/v1/nowhere"), 404)
            answer = await client.delete("/api/v1/persons")
            assert_problem(answer, 405, "DELETE")
            assert "GET" in answer.headers["allow"]
            answer = await stranger.get("/api/v1/persons")
            assert_problem(answer, 401)
            assert answer.headers["www-authenticate"].startswith("Bearer")
            it.history.away = True
            await add_persons(client, "P-1")
            answer = await client.get("/api/v1/persons/P-1/latest")
            assert_problem(answer, 503)
            assert int(answer.headers["retry-after"]) > 0
            it.store.broken = True
            assert_problem(await client.get("/api/v1/persons"), 503)
            assert_problem(await client.post("/api/v1/persons", json={"person_id": "P-2", "name": "x"}), 503)
            it.store.broken = False
            it.desk.explode = True
            answer = await client.get("/api/v1/alerts")
            assert_problem(answer, 500)
            assert "13800000001" not in answer.text

    run(main())


@pytest.mark.parametrize("role", sorted(ROLES))
def test_roles_may_what_the_table_says(tmp_path: Path, role: str) -> None:
    """The table itself is tested here once more, in other words: what each role must not reach."""
    requests = {
        "persons.read": ("GET", "/api/v1/persons"),
        "persons.write": ("POST", "/api/v1/persons"),
        "contacts.read": ("GET", "/api/v1/contacts"),
        "contacts.write": ("POST", "/api/v1/contacts"),
        "devices.read": ("GET", "/api/v1/devices"),
        "devices.write": ("POST", "/api/v1/devices"),
        "devices.command": ("POST", "/api/v1/devices/D-1/commands"),
        "profiles.read": ("GET", "/api/v1/profiles"),
        "observations.read": ("GET", "/api/v1/persons/P-1/latest"),
        "alerts.read": ("GET", "/api/v1/alerts"),
        "alerts.act": ("POST", "/api/v1/alerts/a-3/accept"),
        "alerts.present": ("POST", "/api/v1/alerts/a-3/presented"),
        "alerts.family": ("POST", "/api/v1/alerts/a-3/family_accept"),
        "alerts.note": ("POST", "/api/v1/alerts/a-3/note"),
        "suppressions.read": ("GET", "/api/v1/suppressions"),
        "suppressions.write": ("POST", "/api/v1/suppressions"),
        "orders.read": ("GET", "/api/v1/orders"),
        "orders.callback": ("POST", "/api/v1/orders/O-1/status"),
        "orders.checkin": ("POST", "/api/v1/orders/checkins"),
        "care.read": ("GET", "/api/v1/care/schedules"),
        "care.write": ("POST", "/api/v1/care/schedules"),
        "care.act": ("POST", "/api/v1/care/persons/P-1/answer"),
        "outbox.read": ("GET", "/api/v1/outbox"),
        "outbox.act": ("POST", "/api/v1/outbox/1/retry"),
        "calls.read": ("GET", "/api/v1/calls"),
        "audit.read": ("GET", "/api/v1/audit"),
        "keys.write": ("GET", "/api/v1/keys"),
        "status.read": ("GET", "/api/v1/status"),
    }
    assert requests.keys() | {"events.read"} == MAY.keys()
    never = {
        "installer": {"persons.read", "contacts.read", "observations.read", "alerts.read", "audit.read", "keys.write"},
        "family": {
            "persons.write",
            "devices.read",
            "alerts.act",
            "alerts.present",
            "care.write",
            "care.act",
            "suppressions.write",
            "audit.read",
            "outbox.read",
            "keys.write",
        },
        "auditor": {"care.read", "persons.read", "observations.read", "alerts.act", "devices.write", "keys.write"},
        "backend": {"persons.write", "alerts.act", "devices.write", "audit.read", "keys.write", "calls.read"},
        "operator": {
            "persons.write",
            "devices.write",
            "alerts.family",
            "care.write",
            "suppressions.write",
            "audit.read",
            "keys.write",
            "outbox.act",
        },
        "supervisor": {"devices.write", "audit.read", "keys.write"},
        "admin": set[str](),
    }[role]

    async def main() -> None:
        async with site(tmp_path) as it:
            async with it.as_role("admin") as admin:
                await add_persons(admin, "P-1")
            person = {"person_id": "P-1"} if role == "family" else {}
            async with it.as_role(role, **person) as client:
                for permission, (method, path) in requests.items():
                    answer = await client.request(method, path, json={} if method == "POST" else None)
                    if role in MAY[permission]:
                        assert answer.status_code in (200, 422), (permission, answer.text)
                        assert permission not in never
                    else:
                        assert_problem(answer, 403, role)

    run(main())


def test_keys_end_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as admin:
            made = await admin.post("/api/v1/keys", json={"role": "operator", "label": "desk 1", "valid_days": 1})
            assert made.status_code == 201
            key = made.json()["key"]
            async with it.client(key) as client:
                assert (await client.get("/api/v1/alerts")).status_code == 200
                for other in (key[:-1] + ("A" if key[-1] != "A" else "B"), key + "x", "x", key.replace("_", "-")):
                    assert_problem(
                        await client.get("/api/v1/alerts", headers={"authorization": f"Bearer {other}"}), 401
                    )
                it.clock.advance(86_400)
                assert_problem(await client.get("/api/v1/alerts"), 401)
            async with it.client(await it.key("operator")) as client:
                assert (await client.get("/api/v1/alerts")).status_code == 200
                key_id = (await admin.get("/api/v1/keys")).json()[-1]["key_id"]
                assert (await admin.post(f"/api/v1/keys/{key_id}/revoke")).status_code == 200
                await it.registry.refresh_if_changed()
                assert_problem(await client.get("/api/v1/alerts"), 401)
            assert_problem(await admin.post("/api/v1/keys", json={"role": "king", "label": "x"}), 422, "role")
            assert "digest" not in (await admin.get("/api/v1/keys")).text

    run(main())


def test_rows_outside_of_a_keys_scope_do_not_exist(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as admin:
            await add_persons(admin, "P-1", district="和平")
            await add_persons(admin, "P-2", district="南开")
            for device, person in (("D-1", "P-1"), ("D-2", "P-2")):
                body = {"device_id": device, "profile": "carebell.native", "person_id": person}
                assert (await admin.post("/api/v1/devices", json=body)).status_code == 201
            async with it.as_role("family", person_id="P-1") as family:
                assert [p["person_id"] for p in (await family.get("/api/v1/persons")).json()] == ["P-1"]
                assert (await family.get("/api/v1/persons/P-1/latest")).status_code == 200
                for path in (
                    "persons/P-2",
                    "persons/P-2/latest",
                    "positions?person_id=P-2",
                    "alerts/a-2",
                    "alerts/a-1",
                ):
                    assert_problem(await family.get(f"/api/v1/{path}"), 404)
                assert [a["id"] for a in (await family.get("/api/v1/alerts")).json()] == ["a-3"]
                assert (await family.get("/api/v1/alerts?person_id=P-2")).json() == []
            async with it.as_role("supervisor", district="和平") as local:
                assert [p["person_id"] for p in (await local.get("/api/v1/persons")).json()] == ["P-1"]
                assert [d["device_id"] for d in (await local.get("/api/v1/devices")).json()] == ["D-1"]
                # An alert of nobody known may be anybody's: staff of every district sees it.
                assert [a["id"] for a in (await local.get("/api/v1/alerts")).json()] == ["a-3", "a-1"]
                assert_problem(await local.patch("/api/v1/persons/P-2", json={"name": "x"}), 404)
                assert_problem(await local.post("/api/v1/alerts/a-2/accept", json={"version": 1}), 404)
                assert_problem(await local.patch("/api/v1/persons/P-1", json={"district": "南开"}), 403)
                added = await local.post("/api/v1/persons", json={"person_id": "P-3", "name": "x"})
                assert added.json()["district"] == "和平"

    run(main())


def test_a_lost_race_for_an_alert_names_the_owner(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("operator") as one, it.as_role("operator") as two:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(client.post("/api/v1/alerts/a-3/accept", json={"version": 1}))
                    for client in (one, two)
                ]
            answers = sorted((task.result() for task in tasks), key=lambda answer: answer.status_code)
            assert [answer.status_code for answer in answers] == [200, 409]
            owner = it.desk.acted[0][2]
            assert (owner.type, owner.role, owner.channel) == ("operator", "operator", "api")
            assert_problem(answers[1], 409, owner.id)
            assert answers[1].json()["alert"] == {"id": "a-3", "version": 2, "handling": "accepted", "owner": owner.id}
            assert_problem(await one.post("/api/v1/alerts/a-3/accept", json={}), 422, "version")
            assert_problem(await one.post("/api/v1/alerts/a-3/explode", json={"version": 1}), 422, "action")
            assert_problem(await one.post("/api/v1/alerts/a-9/accept", json={"version": 1}), 404)
            assert_problem(await one.post("/api/v1/alerts/a-3/resolve", json={"version": 2, "outcome": "?"}), 422)
            assert (await one.post("/api/v1/alerts/a-3/note", json={"note": "called back"})).status_code == 200
            assert (await one.post("/api/v1/alerts/a-3/presented", json={})).status_code == 200

    run(main())


def test_order_callbacks(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("backend") as client:
            step = {"status": "dispatched", "at": "2026-11-22T01:02:03+08:00", "worker": "W-1", "later_member": 1}
            assert (await client.post("/api/v1/orders/O-1/status", json=step)).status_code == 200
            order_id, status, actor = it.desk.statuses[0]
            assert (order_id, actor.type, actor.role) == ("O-1", "platform", "backend")
            assert status == {"status": "dispatched", "at": "2026-11-22T01:02:03+08:00", "worker": "W-1"}
            assert_problem(await client.post("/api/v1/orders/O-1/status", json={"status": "arrived"}), 409)
            arrived = {"status": "arrived", "service_code": "4711"}
            assert (await client.post("/api/v1/orders/O-1/status", json=arrived)).status_code == 200
            assert_problem(await client.post("/api/v1/orders/O-9/status", json=step), 404)
            assert_problem(await client.post("/api/v1/orders/O-1/status", json={"status": "lost"}), 422, "body.status")
            naive = {"status": "completed", "at": "2026-11-22T01:02:03"}
            assert_problem(await client.post("/api/v1/orders/O-1/status", json=naive), 422, "body.at")
            assert (await client.get("/api/v1/orders")).json() == [
                {"alert_id": "a-3", "order_id": "O-1", "status": "accepted"}
            ]

    run(main())


def test_observations(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            await add_persons(client, "P-1")
            query = "/api/v1/observations?person_id=P-1&metric=heart_rate_bpm"
            assert (await client.get(query)).json()[0]["value"] == 72.0
            now = it.clock.now_us()
            asked: tuple[object, ...] = it.history.asked
            assert asked == ("P-1", "heart_rate_bpm", now - 86_400_000_000, now, None, 1000)
            times = "&from=2026-11-22T00:00:00Z&to=2026-11-22T09:00:00+08:00&bucket=5m&limit=7"  # the + is a blank
            assert (await client.get(query + times)).status_code == 200
            hour = 3_600_000_000
            midnight = now - now % (24 * hour)
            asked = it.history.asked
            assert asked == ("P-1", "heart_rate_bpm", midnight, midnight + hour, 300, 7)
            for bad in ("&from=yesterday", "&to=2026-11-22", "&bucket=5 weeks", "&bucket=0", "&limit=0", "&limit=x"):
                assert_problem(await client.get(query + bad), 422, "query.")
            assert_problem(await client.get(query + "&from=2026-11-23T00:00:00Z&to=2026-11-22T00:00:00Z"), 422)
            assert_problem(await client.get("/api/v1/observations?person_id=P-1&metric=pulse"), 422, "heart_rate_bpm")
            assert_problem(await client.get("/api/v1/observations?person_id=P-1"), 422, "query.metric")
            positions = await client.get("/api/v1/positions?person_id=P-1")
            assert positions.headers["content-type"] == "application/geo+json"

    run(main())


def test_pages_lead_on(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            await add_persons(client, *(f"P-{number}" for number in range(5)))
            url, seen = "/api/v1/persons?limit=2", []
            while url:
                answer = await client.get(url)
                seen += [person["person_id"] for person in answer.json()]
                url = answer.links["next"]["url"] if "next" in answer.links else ""
            assert seen == [f"P-{number}" for number in range(5)]

    run(main())


def test_openapi_is_valid_and_names_every_route(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.client(None) as client:
            document = (await client.get("/openapi.json")).json()
        validate(document)
        for path in ("/ingest/v1/{device_id}", "/healthz", "/readyz", "/metrics", "/api/v1/alerts/{alert_id}/{action}"):
            assert path in document["paths"]
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                where = f"{method} {path}"
                assert ("security" in operation) == path.startswith(("/api/", "/ingest/")), where
                for status, response in operation["responses"].items():
                    if status >= "400" and path != "/readyz":
                        assert list(response["content"]) == ["application/problem+json"], where

    run(main())


def test_probes_and_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.health.PROBE_TIMEOUT_S", 60.0)

    async def main() -> None:
        async with site(tmp_path) as it, it.client(None) as client, it.as_role("operator") as operator:
            assert (await client.get("/healthz")).status_code == 200
            ready = await client.get("/readyz")
            assert ready.status_code == 200
            assert ready.json()["parts"][0] == {"name": "journal", "ok": True, "text": "commits", "required": True}
            status = (await operator.get("/api/v1/status")).json()
            assert status["versions"] == {"carebell": "0.1.0"}
            page = await client.get("/metrics")
            assert page.headers["content-type"].startswith("text/plain")
            assert "carebell_build_info{" in page.text

    run(main())


async def _fails(it: Site) -> httpx2.Response:
    async with it.client(None) as client:
        return await client.get("/readyz")


def test_readyz_fails_when_the_journal_cannot_commit(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it:
            it.store.broken = True
            answer = await _fails(it)
            assert answer.status_code == 503
            assert answer.json()["parts"][0]["text"] == "the disk is full"
            async with it.client(None) as client:
                assert (await client.get("/healthz")).status_code == 200

    run(main())


def test_logs_hold_no_personal_data(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from gateway.logs import configure_logs

    configure_logs("json")

    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as client:
            await client.post("/api/v1/persons", json={"person_id": "P-1", "name": "王秀英", "phone": "13812345678"})
            await client.get("/api/v1/persons", params={"search": "王秀英"})
            await client.get("/api/v1/persons/王秀英")
            it.desk.explode = True
            await client.get("/api/v1/alerts")

    run(main())
    logged = capfd.readouterr().err
    assert logged.count('"event": "request"') + logged.count('"event":"request"') == 4
    for secret in ("王秀英", "\\u738b", "13812345678", "13800000001", "carebell_"):
        assert secret not in logged
    lines = [json.loads(line) for line in logged.splitlines()]
    assert any(line.get("error") == "RuntimeError" for line in lines)


def test_a_test_mode_is_for_what_is_there_and_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as admin, it.as_role("installer") as installer:
            await add_persons(admin, "P-1")
            body = {"kind": "test", "subject": "person/P-1", "minutes": 10, "reason": "installation"}
            begun = await installer.post("/api/v1/suppressions", json=body)
            assert begun.status_code == 201
            assert begun.json().items() >= {"kind": "test", "subject": "person/P-1", "reason": "installation"}.items()
            assert [each["id"] for each in (await admin.get("/api/v1/suppressions")).json()] == [begun.json()["id"]]
            for wrong, status in (
                ({"subject": "person/P-9"}, 404), ({"subject": "device/D-9"}, 404), ({"subject": "room/1"}, 422),
                ({"subject": "site/default"}, 422), ({"minutes": 0}, 422), ({"reason": ""}, 422),
                ({"kind": "maintenance"}, 403),
            ):  # fmt: skip
                assert_problem(await installer.post("/api/v1/suppressions", json=body | wrong), status)
            assert (await installer.post(f"/api/v1/suppressions/{begun.json()['id']}/end")).status_code == 204
            assert (await admin.get("/api/v1/suppressions")).json() == []
            assert_problem(await installer.post("/api/v1/suppressions/9/end"), 404)

    run(main())
