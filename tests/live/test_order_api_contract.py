"""The order API's contract: valid OpenAPI, and what each side sends fits it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import jsonschema
import msgspec
import pytest
import yaml
from openapi_spec_validator import validate

from alerts import order_requests
from alerts.channels.order_api import order_body
from alerts.lifecycle import apply_effects
from alerts.orders import STATUSES
from alerts.policy import Policy
from gateway.clock import SystemClock
from gateway.model import Position, Severity
from simulators.platform import CONTRACT, SimulatedPlatform
from tests.alerts_support import Details, FileStore, sos
from tests.factory import T0_US

POLICY = Policy(readings=lambda person_id, device_id: {"heart_rate_bpm": 131.0})


@pytest.fixture(scope="module")
def contract() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(CONTRACT.read_text(encoding="utf-8"))
    return loaded


def fits(contract: dict[str, Any], name: str, value: Any) -> None:
    schema = {"$ref": f"#/components/schemas/{name}", "components": contract["components"]}
    jsonschema.validate(value, schema, cls=jsonschema.Draft202012Validator)


def test_the_contract_is_valid_openapi(contract: dict[str, Any]) -> None:
    validate(contract)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"person_id": ""},
        {"person_id": "", "device_id": ""},
        {"verified": False, "severity": Severity.P2, "late": True},
        {"kind": "service_call", "severity": Severity.P3},
        {"kind": "device_fault", "severity": Severity.P4},
        {"kind": "x_never_heard_of", "severity": Severity.P2},
        {"position": Position(39.1, 117.2, T0_US, 12.0)},
        {"position": Position(-39.1, -117.2, T0_US, None, "cell", valid=False)},
    ],
)
def test_every_order_fits_the_contract(tmp_path: Path, contract: dict[str, Any], members: dict[str, Any]) -> None:
    store = FileStore(tmp_path)
    with store.connection:
        (alert_id,) = apply_effects(store.connection, [sos(**members)], T0_US, POLICY).raised
    body = order_body(store.connection, alert_id, 1, Details())
    fits(contract, "OrderRequest", msgspec.json.decode(msgspec.json.encode(body)))
    assert body["readings"] == {"heart_rate_bpm": 131.0}
    order = order_requests.get(store.connection, alert_id, 1)
    assert order is not None
    assert body["service_code"] == order.service_code
    assert order_body(store.connection, alert_id, 1, Details()) == body  # a resend says the same
    assert "王秀英" not in str(list[Any](store.connection.execute("SELECT payload FROM outbox")))
    store.close()


def test_the_statuses_are_those_of_the_contract(contract: dict[str, Any]) -> None:
    assert contract["components"]["schemas"]["Status"]["enum"] == list(STATUSES)
    fits(contract, "OrderStatus", {"status": "arrived", "service_code": "00000018"})
    with pytest.raises(jsonschema.ValidationError):
        fits(contract, "OrderStatus", {"status": "arrived"})


def test_the_simulated_platform_keeps_the_contract(tmp_path: Path, contract: dict[str, Any]) -> None:
    """Its answers, its handling of keys (409 is in the delivery tests), its page and its copy of the contract."""

    async def main() -> None:
        said: list[str] = []
        store = FileStore(tmp_path)
        with store.connection:
            (alert_id,) = apply_effects(store.connection, [sos()], SystemClock().now_us(), POLICY).raised
        body = order_body(store.connection, alert_id, 1, Details())
        store.close()
        key = {"Idempotency-Key": '"3b0c6a52-6f0f-5a39-8f0e-2f1b6c8e7d11"', "Authorization": "Bearer t"}
        async with (
            SimulatedPlatform(token="t", say=said.append) as platform,
            httpx2.AsyncClient(base_url=platform.url, trust_env=False, timeout=60) as client,
        ):
            made = await client.post("/orders", json=body, headers=key)
            assert made.status_code == 201
            fits(contract, "Order", made.json())
            again = await client.post("/orders", json=body, headers=key)
            assert (again.status_code, again.json()) == (200, made.json())
            other = await client.post("/orders", json=body | {"title": "else"}, headers=key)
            assert other.status_code == 422
            found = await client.get("/orders", params={"external_ref": alert_id}, headers=key)
            assert found.json() == [made.json()]
            assert (await client.get("/orders", params={"external_ref": "x"}, headers=key)).json() == []
            wrong = [
                (await client.post("/orders", json=body)).status_code,
                (await client.post("/orders", json=body, headers={"Authorization": "Bearer t"})).status_code,
                (await client.post("/orders", json=[], headers=key)).status_code,
                (await client.post("/orders", content=b"{", headers=key)).status_code,
                (await client.post("/orders", json=body | {"category": "x"}, headers=key)).status_code,
                (await client.get("/orders", headers=key)).status_code,
                (await client.post("/faults", json={"fault": "x"})).status_code,
            ]
            assert wrong == [401, 400, 400, 400, 400, 400, 400]
            await client.post("/orders", json=body | {"title": "<script>"}, headers=key | {"Idempotency-Key": '"k2"'})
            page = await client.get("/")
            assert made.json()["order_id"] in page.text
            assert "<script>" not in page.text
            served = await client.get("/openapi.yaml")
            assert yaml.safe_load(served.text) == contract
        assert len(said) == 2
        assert alert_id in said[0]

    asyncio.run(main())
