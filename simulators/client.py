"""The gateway's HTTP API as simulators use it: to register a cast, to look at alerts, to follow events."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, Final, Self
from urllib.parse import quote

import httpx2

RECONNECT_S: Final = 0.5


class ApiError(Exception):
    """The gateway did not do what it was asked. Handler: the command, which prints it and ends."""


class UnreachableError(ApiError):
    """There was no answer at all. Handler: as ApiError, with another exit code."""


class GatewayApi:
    """``async with GatewayApi(url, key) as api``."""

    def __init__(self, url: str, key: str) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._client = httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=15.0, trust_env=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.aclose()

    async def get(self, path: str, **query: Any) -> Any:
        return await self._call("GET", path, params=query)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        return await self._call("POST", path, json=body)

    async def patch(self, path: str, body: dict[str, Any]) -> Any:
        return await self._call("PATCH", path, json=body)

    async def ready(self) -> bool:
        """Whether it answers and can commit."""
        try:
            return (await self._client.get("/readyz")).status_code == 200
        except httpx2.HTTPError:
            return False

    async def add_person(self, person_id: str, **fields: Any) -> None:
        await self.post("/api/v1/persons", {"person_id": person_id, **fields})

    async def add_home(self, person_id: str, latitude: float, longitude: float, radius_m: float) -> None:
        """A circle that the person is to stay in, with consent."""
        await self.post(
            "/api/v1/places",
            {
                "place_id": f"{person_id}-home",
                "person_id": person_id,
                "kind": "home",
                "name": "家 home",
                "geometry": {"type": "Point", "coordinates": [longitude, latitude]},
                "radius_m": radius_m,
                "settings": {"consent": True, "consent_by": person_id},
            },
        )

    async def add_contact(self, person_id: str, name: str, relation: str, phone: str) -> None:
        """Behind those whom the person has already."""
        fields = {"person_id": person_id, "name": name, "relation": relation, "phone": phone}
        await self.post("/api/v1/contacts", fields)

    async def add_device(self, device_id: str, profile: str, person_id: str) -> str:
        """Returns the device's token."""
        told = await self.post("/api/v1/devices", {"device_id": device_id, "profile": profile, "person_id": person_id})
        return str(told["token"])

    async def alerts(self, person_id: str = "", *, open_only: bool = False, limit: int = 200) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = await self.get("/api/v1/alerts", person_id=person_id, open=open_only, limit=limit)
        return found

    async def act(self, alert: dict[str, Any], action: str, **members: Any) -> dict[str, Any]:
        """Do something with an alert as it was seen."""
        path = f"/api/v1/alerts/{quote(alert['id'], safe='')}/{action}"
        done: dict[str, Any] = await self.post(path, {"version": alert["version"], **members})
        return done

    async def events(self, after: str = "") -> AsyncIterator[dict[str, Any]]:
        """Events as they are committed, without an end; a broken stream goes on behind the last one that was seen."""
        last = after
        while True:
            headers = {"last-event-id": last} if last else {}
            timeout = httpx2.Timeout(15.0, read=30.0)
            try:
                async with self._client.stream("GET", "/api/v1/events", headers=headers, timeout=timeout) as response:
                    if response.status_code != 200:
                        await response.aread()
                        raise _refused("GET", "/api/v1/events", response)
                    async for line in response.aiter_lines():
                        if line.startswith("data:"):
                            event: dict[str, Any] = json.loads(line[5:])
                            last = str(event["id"])
                            yield event
            except httpx2.HTTPError:
                pass  # it comes back, or the reader is cancelled
            await asyncio.sleep(RECONNECT_S)

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = await self._client.request(method, path, **options)
        except httpx2.HTTPError as error:
            raise UnreachableError(f"{method} {self.url}{path}: {type(error).__name__} {error}") from error
        if response.status_code >= 400:
            raise _refused(method, path, response)
        return response.json() if response.content else None


def _refused(method: str, path: str, response: httpx2.Response) -> ApiError:
    return ApiError(f"{method} {path}: {response.status_code} {response.text[:300]}")
