"""The call log over HTTP: who sees which calls, and how much of them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import apsw

from gateway.registry.persons import update_person
from tests.call_log import ACTOR, NUMBER, add_alert, begin, tell
from tests.factory import T0_US
from tests.live.api_harness import Site, site
from tests.live.http_harness import run


async def fill(it: Site) -> None:
    def write(connection: apsw.Connection) -> None:
        first, second = add_alert(connection), add_alert(connection, "P-0002", 2)
        update_person(connection, "P-0002", {"district": "河西区"}, at_us=T0_US, actor=ACTOR)
        begin(connection, "a1", first)
        begin(connection, "a2", second, person_id="P-0002", medium="sms", at_us=T0_US + 1)
        begin(connection, "a3", first, at_us=T0_US + 2)
        tell(connection, "a1", "answered", T0_US, digits="1", recording="RE1", detail={"recording_uri": "https://r/1"})

    await it.store.write(write)


def test_each_role_sees_its_share(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it:
            await fill(it)
            for role in ("supervisor", "auditor", "admin"):
                async with it.as_role(role) as client:
                    found = (await client.get("/api/v1/calls")).json()
                    assert [view["attempt_id"] for view in found] == ["a3", "a2", "a1"]
                    assert {view["callee"] for view in found} == {NUMBER}
                    assert found[2]["recordings"][0]["uri"] == "https://r/1"
            async with it.as_role("operator") as client:
                for path in ("/api/v1/calls", "/api/v1/calls/1", "/api/v1/calls.csv"):
                    answer = await client.get(path)
                    assert answer.status_code == 200, answer.text
                    assert NUMBER not in answer.text
                    assert "+86139****0001" in answer.text
                    assert "https://r/1" not in answer.text
            for role in ("backend", "family", "installer"):
                async with it.as_role(role, **({"person_id": "P-0001"} if role == "family" else {})) as client:
                    assert (await client.get("/api/v1/calls")).status_code == 403
            async with it.as_role("supervisor", district="和平区") as client:
                found = (await client.get("/api/v1/calls")).json()
                assert [view["attempt_id"] for view in found] == ["a3", "a1"]
                assert (await client.get(f"/api/v1/calls/{found[0]['id']}")).status_code == 200
                assert (await client.get("/api/v1/calls/2")).status_code == 404
                assert "a2" not in (await client.get("/api/v1/calls.csv")).text

    run(main())


def test_questions_pages_and_csv(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("auditor") as client:
            await fill(it)

            async def found(**query: str) -> list[str]:
                answer = await client.get("/api/v1/calls", params=query)
                assert answer.status_code == 200, answer.text
                return [view["attempt_id"] for view in answer.json()]

            assert await found(number="139 0000 0001", medium="voice") == ["a3", "a1"]
            assert await found(person_id="P-0002") == ["a2"]
            assert await found(state="answered") == ["a1"]
            assert await found(**{"from": "2026-01-01T00:00:00Z", "to": "2026-01-02T00:00:00Z"}) == []
            first = await client.get("/api/v1/calls", params={"limit": "2"})
            assert 'rel="next"' in first.headers["link"]
            rest = await client.get(first.headers["link"].partition("<")[2].partition(">")[0])
            assert [view["attempt_id"] for view in rest.json()] == ["a1"]
            assert (await client.get("/api/v1/calls", params={"medium": "fax"})).status_code == 422
            assert (await client.get("/api/v1/calls", params={"from": "yesterday"})).status_code == 422
            export = await client.get("/api/v1/calls.csv", params={"limit": "2"})
            assert export.headers["content-type"] == "text/csv; charset=utf-8"
            assert 'filename="calls.csv"' in export.headers["content-disposition"]
            assert 'rel="next"' in export.headers["link"]
            rows = list(csv.DictReader(io.StringIO(export.text, newline="")))
            assert [row["attempt_id"] for row in rows] == ["a3", "a2"]
            told = (await client.get("/api/v1/calls/1")).json()["told"]
            assert [each["digits"] for each in told] == ["1"]
            audited = (await client.get("/api/v1/audit", params={"subject": "calls"})).json()
            assert [row["after"]["count"] for row in audited] == [2]
            assert audited[0]["actor"]["role"] == "auditor"

    run(main())
