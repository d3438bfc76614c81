"""The API with a real registry in a real file, and in-memory stand-ins for the parts that have tests of their own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import apsw
import httpx2

from alerts.care_desk import CareDesk
from alerts.order_desk import OrderDesk
from alerts.policy import Policy
from device_profiles.loader import load_profiles
from gateway.api.app import build_app
from gateway.api.server import ApiServer
from gateway.api.services import Services
from gateway.clock import SystemClock, VirtualClock, iso
from gateway.commands.desk import CommandDesk
from gateway.downlink import ProfileCommands
from gateway.errors import ConflictError, NotFoundError, StorageError, UsageError
from gateway.health import Health
from gateway.metrics import Metrics
from gateway.model import Actor
from gateway.registry.directory import Registry
from gateway.registry.keys import issue_api_key
from gateway.storage.database import FILE_NAME
from protocols.registry import CODECS
from protocols.transports.http_ingest import HttpIngest
from tests.live.http_harness import FakeIngest, OneDevice, serving
from tests.quick_file import quick_database

T = TypeVar("T")
START = datetime(2026, 11, 22, 1, 2, 3, tzinfo=UTC)
TESTER = Actor("system", "test")


class FileStore:
    """ports.Store over one connection, one thread at a time. ``broken`` makes it fail as a full disk would."""

    def __init__(self, folder: Path) -> None:
        self.connection = quick_database(folder / FILE_NAME)
        self._lock = asyncio.Lock()
        self.broken = False
        self.writes = 0

    async def write(self, fn: Callable[[apsw.Connection], T]) -> T:
        def run() -> T:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                result = fn(self.connection)
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")
            return result

        self.writes += 1
        return await self._run(run)

    async def read(self, fn: Callable[[apsw.Connection], T]) -> T:
        return await self._run(lambda: fn(self.connection))

    glance = read

    async def _run(self, fn: Callable[[], T]) -> T:
        if self.broken:
            raise StorageError("the disk is full")
        async with self._lock:
            return await asyncio.to_thread(fn)


class FakeDesk:
    """One alert of each of two persons, one without a person; the rules of ports.AlertDesk."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {
            name: {
                "id": name, "version": 1, "kind": "sos", "severity": "P1", "condition": "active", "handling": "raised",
                "owner": "", "person_id": person, "device_id": "D-1", "occurrences": 1,
                "raised_at": "2026-11-22T01:02:03.000Z", "order": order,
            }
            for name, person, order in (
                ("a-3", "P-1", {"order_id": "O-1", "status": "accepted"}), ("a-2", "P-2", None), ("a-1", None, None),
            )
        }  # fmt: skip
        self.acted: list[tuple[str, str, Actor]] = []
        self.statuses: list[tuple[str, Mapping[str, Any], Actor]] = []
        self.suppressed: list[dict[str, Any]] = []
        self.explode = False

    async def alerts(
        self, *, open_only: bool = False, person_id: str = "", kind: str = "", limit: int = 100, before_id: str = ""
    ) -> list[dict[str, Any]]:
        if self.explode:
            raise RuntimeError("王秀英 +8613800000001")
        found = [row for row in self.rows.values() if not before_id or row["id"] < before_id]
        return [row for row in found if not person_id or row["person_id"] == person_id][:limit]

    async def alert(self, alert_id: str) -> dict[str, Any]:
        if alert_id not in self.rows:
            raise NotFoundError(f"there is no alert {alert_id}")
        return self.rows[alert_id]

    async def act(
        self,
        alert_id: str,
        action: str,
        *,
        actor: Actor,
        version: int | None,
        outcome: str = "",
        note: str = "",
        detail: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        row = await self.alert(alert_id)
        if action == "resolve" and outcome not in ("helped", "false_alarm"):
            raise UsageError(f"outcome: {outcome!r} is not one of helped, false_alarm")
        if version is not None and version != row["version"]:
            raise ConflictError(f"{row['owner']} has it")
        self.acted.append((alert_id, action, actor))
        row |= {"version": row["version"] + 1, "handling": "accepted", "owner": actor.id}
        return row

    async def order_status(self, order_id: str, status: Mapping[str, Any], *, actor: Actor) -> dict[str, Any]:
        if order_id != "O-1":
            raise NotFoundError(f"there is no order {order_id}")
        if status["status"] == "arrived" and status.get("service_code") != "4711":
            raise ConflictError("service_code: this is not the code of the order")
        self.statuses.append((order_id, status, actor))
        return {"order_id": order_id, **status}

    async def suppressions(self) -> list[dict[str, Any]]:
        return self.suppressed

    async def suppress(
        self, kind: Literal["test", "maintenance"], subject: str, until_us: int, *, actor: Actor, reason: str
    ) -> dict[str, Any]:
        if kind == "test" and subject.startswith("site/"):
            raise UsageError("test is for device/<id> or person/<id>")
        begun = {
            "id": len(self.suppressed) + 1, "kind": kind, "subject": subject, "until": iso(until_us),
            "actor": actor.id, "reason": reason,
        }  # fmt: skip
        self.suppressed.append(begun)
        return begun

    async def end_suppression(self, number: int, *, actor: Actor) -> None:
        if not any(each["id"] == number for each in self.suppressed):
            raise NotFoundError(f"there is no test mode or maintenance {number} in force")
        self.suppressed = [each for each in self.suppressed if each["id"] != number]

    async def outbox(self, *, state: str = "", limit: int = 100) -> list[dict[str, Any]]:
        return [{"id": 1, "state": "dead"}][:limit]

    async def outbox_act(self, dispatch_id: int, action: str, *, actor: Actor, reason: str) -> dict[str, Any]:
        if dispatch_id != 1:
            raise NotFoundError(f"there is no dispatch {dispatch_id}")
        return {"id": 1, "state": "pending" if action == "retry" else "discarded", "reason": reason}


class FakeHistory:
    """Says what it was asked."""

    def __init__(self) -> None:
        self.asked: tuple[Any, ...] = ()
        self.away = False

    def _ask(self, *question: Any) -> None:
        self.asked = question
        if self.away:
            raise StorageError("PostgreSQL is away")

    async def latest(self, person_id: str) -> dict[str, Any]:
        self._ask(person_id)
        return {"person_id": person_id, "measurements": {}}

    async def series(
        self, person_id: str, metric: str, from_us: int, to_us: int, bucket_s: int | None, limit: int
    ) -> list[dict[str, Any]]:
        self._ask(person_id, metric, from_us, to_us, bucket_s, limit)
        return [{"at": "2026-11-22T01:00:00.000Z", "value": 72.0, "device_id": "D-1"}]

    async def positions(self, person_id: str, from_us: int, to_us: int, limit: int) -> dict[str, Any]:
        self._ask(person_id, from_us, to_us, limit)
        return {"type": "FeatureCollection", "features": []}


class FakeFeed:
    """Events by number; numbers without events are allowed."""

    def __init__(self) -> None:
        self.events: dict[int, list[dict[str, Any]]] = {}
        self._last = 0
        self._changed = asyncio.Event()

    def put(self, seq: int, *datas: dict[str, Any], kind: str = "observation") -> None:
        self.events[seq] = [
            {
                "specversion": "1.0",
                "id": f"{seq}-{number}",
                "type": f"org.carebell.{kind}.v1",
                "subject": f"person/{data['person_id']}" if data.get("person_id") else "",
                "data": data,
            }
            for number, data in enumerate(datas)
        ]
        self._last = max(self._last, seq)
        self._changed.set()
        self._changed = asyncio.Event()

    async def after(self, seq: int, limit: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for number in sorted(self.events):
            if number > seq and len(found) < limit:
                found.extend(self.events[number])
        return found

    async def transitions(self, seq: int, limit: int) -> list[dict[str, Any]]:
        return [event for event in await self.after(seq, limit) if "observation" not in event["type"]]

    async def wait(self, seq: int) -> None:
        while self._last <= seq:
            await self._changed.wait()

    def last_seq(self) -> int:
        return self._last


class OneProfile:
    def list(self) -> list[dict[str, Any]]:
        return [{"name": "carebell.native", "title": "carebell"}]

    def show(self, name: str) -> dict[str, Any] | None:
        return self.list()[0] if name == "carebell.native" else None


class Site:
    """Everything behind one API, and clients with keys of any role."""

    def __init__(self, folder: Path) -> None:
        self.clock = VirtualClock(START)
        self.store = FileStore(folder)
        self.desk = FakeDesk()
        self.history = FakeHistory()
        self.feed = FakeFeed()
        self.ingest = FakeIngest()
        self.health = Health(store=self.store, clock=SystemClock())
        self.metrics = Metrics("0.1.0")
        self.registry = Registry(self.store, codec_of=lambda _profile: "native", clock=self.clock)
        self.catalog = ProfileCommands(load_profiles(), CODECS)
        devices = OneDevice()
        self.services = Services(
            store=self.store,
            keys=self.registry,
            desk=self.desk,
            history=self.history,
            feed=self.feed,
            clock=self.clock,
            health=self.health,
            metrics=self.metrics,
            profiles=OneProfile(),
            commands=CommandDesk(self.store, self.clock, self.catalog, lambda: None),
            ingest=HttpIngest(ingest=self.ingest, credentials=devices, directory=devices, clock=SystemClock()),
            orders=OrderDesk(self.store, self.clock, Policy(), wake=lambda: None),
            care=CareDesk(self.store, self.clock, Policy(), wake=lambda: None),
            versions={"carebell": "0.1.0"},
        )
        self.server: ApiServer

    async def key(self, role: str, **values: Any) -> str:
        """A new API key."""
        at_us = self.clock.now_us()
        values = {"role": role, "label": "test", **values}
        _, key = await self.store.write(lambda c: issue_api_key(c, values, at_us=at_us, actor=TESTER))
        return key

    @asynccontextmanager
    async def client(self, key: str | None) -> AsyncIterator[httpx2.AsyncClient]:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        url = f"http://127.0.0.1:{self.server.address[1]}"
        async with httpx2.AsyncClient(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
            yield client

    @asynccontextmanager
    async def as_role(self, role: str, **values: Any) -> AsyncIterator[httpx2.AsyncClient]:
        async with self.client(await self.key(role, **values)) as client:
            yield client


@asynccontextmanager
async def site(folder: Path) -> AsyncIterator[Site]:
    """A running API."""
    it = Site(folder)
    try:
        async with serving(build_app(it.services), on_drain=it.services.closing.set) as it.server:
            yield it
    finally:
        it.store.connection.close()


async def add_persons(client: httpx2.AsyncClient, *ids: str, **more: Any) -> None:
    for person_id in ids:
        body = {"person_id": person_id, "name": f"人{person_id}", "phone": "13800000001", **more}
        answer = await client.post("/api/v1/persons", json=body)
        assert answer.status_code == 201, answer.text
