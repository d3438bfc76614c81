"""``carebell orders`` and ``carebell alerts redispatch`` as scripts call them, and the cases over HTTP."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import httpx2
import pytest
import typer
from typer.testing import CliRunner, Result

from alerts import outbox_rows
from alerts.channel import Receipt
from alerts.lifecycle import apply_effects
from alerts.order_desk import OrderDesk
from alerts.orders import OrderHandler
from alerts.policy import Policy
from gateway.api.app import build_app
from gateway.cli.main import build
from gateway.clock import SystemClock
from gateway.metrics import Metrics
from gateway.storage.database import FILE_NAME, open_database
from tests.alerts_support import sos
from tests.live.api_harness import add_persons, site

Carebell = Callable[..., Result]


@pytest.fixture
def carebell(tmp_path: Path) -> Carebell:
    runner = CliRunner()

    def run(*arguments: str, code: int = 0) -> Result:
        result = runner.invoke(build(arguments[0]), [*arguments, "--data-dir", str(tmp_path)])
        assert result.exit_code == code, (arguments, result.stdout, result.stderr, result.exception)
        return result

    return run


@pytest.fixture
def file(tmp_path: Path) -> Iterator[apsw.Connection]:
    connection = open_database(tmp_path / FILE_NAME)
    yield connection
    connection.close()


def deliver(connection: apsw.Connection) -> None:
    """The platform takes what waits."""
    now_us = SystemClock().now_us()
    with connection:
        for dispatch in outbox_rows.claim(connection, "order_api", 10, now_us):
            outbox_rows.finish_done(connection, dispatch.id, now_us)
            receipt = Receipt(f"O-{dispatch.id}", {"status": "accepted"})
            OrderHandler(Policy()).delivered(connection, dispatch, receipt, now_us)


def press(connection: apsw.Connection) -> str:
    now_us = SystemClock().now_us()
    with connection:
        (alert_id,) = apply_effects(connection, [sos(1, at_us=now_us)], now_us, Policy()).raised
    deliver(connection)
    return alert_id


def one(result: Result) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(result.stdout)
    return shown


def test_every_command_has_an_example() -> None:
    root: Any = typer.main.get_command(build("orders"))
    for name, command in root.commands["orders"].commands.items():
        assert f"Example: carebell orders {name}" in (command.help or "").replace("`", ""), name


def test_the_life_of_a_case(carebell: Carebell, file: apsw.Connection) -> None:
    alert_id = press(file)
    case = one(carebell("orders", "list", "--open", "--json"))
    assert (case["alert_id"], case["category"], case["order"]["order_id"]) == (alert_id, "emergency", "O-1")
    again = one(carebell("alerts", "redispatch", alert_id, "--note", "nobody came", "--as", "li.na", "--json"))
    assert again["order"]["number"] == 2
    assert "not sent yet" in carebell("orders", "redispatch", alert_id, "--note", "x", code=1).stderr
    deliver(file)
    assert one(carebell("orders", "redispatch", "O-2", "--note", "nor now", "--json"))["order"]["number"] == 3
    carebell("orders", "supervise", "O-1", code=2)
    assert one(carebell("orders", "supervise", "O-1", "--note", "look", "--json"))["supervised"] == ["asked"]
    carebell("orders", "supervise", "O-1", "--note", "look", code=1)
    carebell("orders", "complaint", "O-1", "--note", "too late")
    assert "supervised: asked, complaint" in carebell("orders", "list", "--supervised").stdout
    shown = one(carebell("orders", "followup", "O-1", "--satisfied", "--json"))
    assert shown["supervised"] == []
    kinds = [each["kind"] for each in one(carebell("orders", "show", alert_id))["records"]]
    assert kinds == ["redispatch", "redispatch", "supervision", "complaint", "supervision", "follow_up"]
    carebell("orders", "show", "O-99", code=1)
    carebell("orders", "list", "--category", "tea", code=2)


def test_a_case_that_somebody_asks_for(carebell: Carebell) -> None:
    carebell("orders", "request", "consultation", "which pills?", "--person", "P-1", code=1)
    carebell("persons", "add", "--id", "P-1", "--name", "王秀英", "--phone", "+8613800000001")
    carebell("devices", "add", "--id", "D-1", "--profile", "carebell.native", "--person", "P-1")
    case = one(carebell("orders", "request", "consultation", "which pills?", "--person", "P-1", "--json"))
    assert (case["kind"], case["category"], case["person_id"]) == ("consultation", "consultation", "P-1")
    repair = one(carebell("orders", "request", "maintenance", "torn", "--device", "D-1", "--json"))
    assert (repair["category"], repair["device_id"], repair["person_id"]) == ("maintenance", "D-1", "P-1")
    carebell("orders", "request", "tea", "x", "--person", "P-1", code=2)


def test_cases_over_http(tmp_path: Path) -> None:
    async def main() -> None:
        async with site(tmp_path) as it, it.as_role("admin") as admin:
            await add_persons(admin, "P-1", "P-0001")
            alert_id = press(it.store.connection)
            orders = OrderDesk(it.store, SystemClock(), Policy(), wake=lambda: None)
            app: Any = build_app(dataclasses.replace(it.services, orders=orders, metrics=Metrics("0")))
            keys = {role: await it.key(role) for role in ("operator", "installer", "auditor")}

            async def ask(role: str, method: str, path: str, **body: Any) -> tuple[int, Any]:
                transport = httpx2.ASGITransport(app=app)
                async with httpx2.AsyncClient(transport=transport, base_url="http://gateway") as client:
                    answer = await client.request(
                        method, f"/api/v1/orders/cases{path}", headers={"Authorization": f"Bearer {keys[role]}"},
                        json=body or None,
                    )  # fmt: skip
                return answer.status_code, answer.json()

            status, cases = await ask("auditor", "GET", "?open=true&category=emergency")
            assert (status, [case["alert_id"] for case in cases]) == (200, [alert_id])
            assert (await ask("installer", "GET", ""))[0] == 403
            assert (await ask("operator", "POST", f"/{alert_id}/redispatch"))[0] == 422
            status, case = await ask("operator", "POST", f"/{alert_id}/redispatch", note="nobody came")
            assert (status, case["order"]["number"]) == (200, 2)
            assert (await ask("operator", "POST", f"/{alert_id}/redispatch", note="again"))[0] == 409
            assert (await ask("auditor", "POST", f"/{alert_id}/supervise", note="x"))[0] == 403
            assert (await ask("operator", "GET", "/nothing"))[0] == 404
            nobody = {"intent": "life_help", "person_id": "P-9", "text": "x"}
            assert (await ask("operator", "POST", "", **nobody))[0] == 404
            body = {"intent": "life_help", "person_id": "P-1", "text": "help with the window"}
            status, case = await ask("operator", "POST", "", **body)
            assert (status, case["category"]) == (201, "service")

    asyncio.run(main())
