"""Care over HTTP: schedules, opt-outs, answers; who may, whose they are, and what the audit says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import apsw
import pytest

from alerts import care_rows, rows
from gateway.registry.contacts import add_contact
from tests.live.api_harness import TESTER, Site, add_persons, site
from tests.live.http_harness import run
from tests.live.test_http_api import assert_problem

pytestmark = pytest.mark.live

SCHEDULES = "/api/v1/care/schedules"
CHECK = {"person_id": "P-1", "kind": "check", "at": "09:00"}


async def audited(it: Site) -> list[tuple[str, str]]:
    """Action and subject of what was done in care."""

    def read(connection: apsw.Connection) -> list[Any]:
        return connection.execute(
            "SELECT body ->> 'action', subject FROM audit WHERE subject GLOB 'care/*' ORDER BY seq"
        ).fetchall()

    return await it.store.read(read)


async def furnish(it: Site) -> None:
    async with it.as_role("admin") as admin:
        await add_persons(admin, "P-1", district="heping")
        await add_persons(admin, "P-2", district="nankai")
    contact = {"person_id": "P-1", "name": "李梅", "phone": "+8613900000001"}
    await it.store.write(lambda c: add_contact(c, "C-1", contact, at_us=it.clock.now_us(), actor=TESTER))


def test_schedules_are_added_changed_and_stopped(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it:
            await furnish(it)
            async with it.as_role("supervisor") as client:
                added = await client.post(SCHEDULES, json=CHECK)
                assert added.status_code == 201, added.text
                assert added.json()["id"] == "P-1-check-0900"
                assert added.json()["next_at"] == "2026-11-23T01:00:00.000Z", "nine in Shanghai, tomorrow"
                assert_problem(await client.post(SCHEDULES, json=CHECK), 409, "P-1-check-0900")
                url = f"{SCHEDULES}/P-1-check-0900"
                changed = await client.patch(url, json={"at": "10:30", "words": " 多穿衣 ", "days": "53"})
                assert changed.status_code == 200, changed.text
                assert [changed.json()[name] for name in ("at", "words", "days")] == ["10:30", "多穿衣", "35"]
                assert changed.json()["next_at"] == "2026-11-25T02:30:00.000Z"
                assert (await client.get(url)).json() == changed.json()
                for wrong in ({"at": "23:00"}, {"at": "9:00"}, {"since": "11:00"}, {"person_id": "P-2"}, {"days": "8"}):
                    assert_problem(await client.patch(url, json=wrong), 422)
                message = {"person_id": "P-1", "contact_id": "C-1", "kind": "message", "medium": "sms", "at": "18:00"}
                assert (await client.post(SCHEDULES, json=message)).json()["contact_id"] == "C-1"
                bad: list[dict[str, Any]] = [message | {"kind": "check"}, message | {"at": "06:59"}]
                for body in (*bad, CHECK | {"tries": 9}):
                    assert_problem(await client.post(SCHEDULES, json=body), 422)
                for nobody in (CHECK | {"person_id": "P-9"}, message | {"contact_id": "C-9"},
                               message | {"person_id": "P-2"}):  # fmt: skip
                    assert_problem(await client.post(SCHEDULES, json=nobody), 404)
                assert len((await client.get(SCHEDULES, params={"person_id": "P-1"})).json()) == 2
                assert (await client.get(SCHEDULES, params={"limit": 1})).json()[0]["id"] == "P-1-C-1-message-1800"
                assert (await client.delete(url)).status_code == 204
                for method in ("GET", "PATCH", "DELETE"):
                    assert_problem(await client.request(method, url, json={} if method == "PATCH" else None), 404)
            assert await audited(it) == [
                ("care_added", "care/P-1-check-0900"), ("care_changed", "care/P-1-check-0900"),
                ("care_added", "care/P-1-C-1-message-1800"), ("care_removed", "care/P-1-check-0900"),
            ]  # fmt: skip
            bodies = await it.store.read(lambda c: c.execute("SELECT body FROM audit").fetchall())
            assert "多穿衣" not in str(bodies), "words may name somebody"

    run(main())


def test_opt_outs_of_a_person_and_of_a_contact(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it:
            await furnish(it)
            url = "/api/v1/care/persons/P-1/opt-outs"
            async with it.as_role("operator") as client:
                for _ in range(2):
                    answer = await client.post(url, json={"medium": "sms"})
                    assert answer.status_code == 200, answer.text
                assert [(each["contact_id"], each["medium"]) for each in answer.json()] == [(None, "sms")]
                assert len((await client.post(url, json={"contact_id": "C-1"})).json()) == 2
                assert_problem(await client.post(url, json={"contact_id": "C-9"}), 404)
                assert_problem(await client.post(url, json={"medium": "fax"}), 422)
                assert_problem(await client.post(url.replace("P-1", "P-9"), json={}), 404)
                listed = (await client.get("/api/v1/care/opt-outs", params={"person_id": "P-1"})).json()
                assert [each["contact_id"] for each in listed] == [None, "C-1"]
                assert (await client.delete(url)).status_code == 204
                assert_problem(await client.delete(url), 404)
                assert (await client.delete(url, params={"contact_id": "C-1"})).status_code == 204
                assert (await client.get("/api/v1/care/opt-outs")).json() == []
            actions = [action for action, _ in await audited(it)]
            assert actions == ["care_opted_out"] * 2 + ["care_opted_in"] * 2

    run(main())


def test_what_somebody_was_told_answers_a_check(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it:
            await furnish(it)
            async with it.as_role("supervisor") as client:
                assert (await client.post(SCHEDULES, json=CHECK)).status_code == 201

                def ask(connection: apsw.Connection, day: str) -> None:
                    schedule = care_rows.get(connection, "P-1-check-0900")
                    asked = care_rows.begin(connection, schedule, day, it.clock.now_us())
                    assert asked is not None
                    care_rows.asked(connection, asked.id, it.clock.now_us() + 900_000_000)

                url = "/api/v1/care/persons/P-1/answer"
                await it.store.write(lambda c: ask(c, "2026-11-23"))
                (occasion,) = (await client.post(url, json={"answer": "well"})).json()
                assert (occasion["state"], occasion["alert_id"]) == ("answered", None)
                await it.store.write(lambda c: ask(c, "2026-11-24"))
                (occasion, _) = (await client.post(url, json={"answer": "help"})).json()
                assert occasion["state"] == "help"
                (alert,) = await it.store.read(lambda c: rows.list_alerts(c, open_only=True))
                assert (alert["kind"], alert["severity"], alert["id"]) == ("sos", "P1", occasion["alert_id"])
                assert_problem(await client.post(url, json={"answer": "maybe"}), 422)
                assert_problem(await client.post(url.replace("P-1", "P-9"), json={"answer": "well"}), 404)
                shown = (await client.get("/api/v1/care/occasions", params={"person_id": "P-1"})).json()
                assert [each["state"] for each in shown] == ["help", "answered"]
            assert [action for action, _ in await audited(it)].count("care_answered") == 2

    run(main())


def test_everybody_sees_their_own(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it:
            await furnish(it)
            async with it.as_role("admin") as admin:
                for person in ("P-1", "P-2"):
                    assert (await admin.post(SCHEDULES, json=CHECK | {"person_id": person})).status_code == 201
                    opted = await admin.post(f"/api/v1/care/persons/{person}/opt-outs", json={})
                    assert opted.status_code == 200
            async with it.as_role("family", person_id="P-1") as family:
                for path in ("schedules", "opt-outs"):
                    (own,) = (await family.get(f"/api/v1/care/{path}")).json()
                    assert own["person_id"] == "P-1"
                assert (await family.get(f"{SCHEDULES}?person_id=P-2")).json() == []
                assert_problem(await family.get(f"{SCHEDULES}/P-2-check-0900"), 404)
                assert_problem(await family.post("/api/v1/care/persons/P-1/opt-outs", json={}), 403)
            async with it.as_role("supervisor", district="heping") as client:
                assert len((await client.get(SCHEDULES)).json()) == 1
                assert_problem(await client.patch(f"{SCHEDULES}/P-2-check-0900", json={"at": "10:00"}), 404)
                assert_problem(await client.post(SCHEDULES, json=CHECK | {"person_id": "P-2"}), 404)
                assert_problem(await client.delete("/api/v1/care/persons/P-2/opt-outs"), 404)
                assert_problem(await client.post("/api/v1/care/persons/P-2/answer", json={"answer": "well"}), 404)

    run(main())
