"""The demo's players: the neighbourhood's devices, an operator, the platform, and who watches the gateway's events.

The gateway itself is a process of its own; here it is known only by its addresses and keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

import httpx2
from msgspec import Struct

from gateway.events import ALERT
from simulators.board import STATUS_ZH, Board
from simulators.carrier import SimulatedCarrier
from simulators.client import ApiError, GatewayApi
from simulators.commands import Obedience
from simulators.day import DAWN_S, DUSK_S, Moment, clock, plan
from simulators.devices import Gateway, HttpLink, MqttLink, Tally, http_client
from simulators.neighbourhood import HOME_RADIUS_M, Resident, residents
from simulators.payloads import utc_now, write
from simulators.people import IGNORES, People, presses
from simulators.platform import Loop, SimulatedPlatform

USUAL_MINUTES: Final = 3.0
OPERATOR_TRIES: Final = 8
SETTLE_S: Final = 5.0
_ORDER: Final = re.compile(r"工单 order (?P<id>O-\d+): (?P<status>[a-z_]+)(?P<rest>.*)")
FAMILY_S: Final = 20.0
STORY: Final = "P-0002"
"""Whose press no operator is free for: the carrier calls the daughter, who does not answer, then the son."""
OUTCOMES: Final[Mapping[str, str]] = {"fall": "emergency", "smoke": "assistance"}


class Keys(Struct, frozen=True):
    """API keys of the demo's gateway by role."""

    admin: str
    operator: str
    backend: str


class _Actor(Struct):
    """A device in the demo."""

    profile: str
    link: MqttLink | HttpLink
    keeper: asyncio.Task[None]
    number: int = 0


def loop_for(minutes: float) -> Loop:
    """The platform's pace, so that a case of the day is closed well before its end."""
    scale = minutes / USUAL_MINUTES
    return Loop(0.6 * scale, 2.0 * scale, 5.0 * scale, 6.0 * scale, 6.0 * scale)


def relatives_for(people: list[Resident]) -> People:
    """How the relatives take calls: most as people do; those of the story as it wants them."""
    found = People(seed=11)
    daughter, son = next(person for person in people if person.person_id == STORY).relatives()
    found.set(daughter.phone, IGNORES)
    found.set(son.phone, presses("1"))
    return found


def policy_for(minutes: float) -> str:
    """Escalation in the time of the demo: a message at once, a call when no operator was quick, then the next one."""
    scale = minutes / USUAL_MINUTES
    steps = (("contacts", "sms", 0.0), ("next_contact", "voice", 3.5), ("next_contact", "voice", 7.5))
    ladder = "".join(
        f'[[policy.ladder.step]]\nat_s = {at_s * scale:g}\ntell = "{tell}"\nmedia = ["{medium}"]\n'
        for tell, medium, at_s in steps
    )
    head = "every_s = 180\nslower = 1.5\nlongest_s = 900\n"
    return (
        'version = "demo"\n[[quota]]\nmedium = "voice"\nper_hour = 60\n[[policy]]\nid = "default"\n'
        f'[[policy.ladder]]\nname = "operator"\nseverities = ["P1"]\n{head}'
        '[[policy.ladder.step]]\nat_s = 60\ntell = "console"\nwho = ["shift"]\n'
        f'[[policy.ladder]]\nname = "family"\nseverities = ["P1"]\n{head}{ladder}'
    )


async def register(api: GatewayApi, people: list[Resident]) -> dict[str, str]:
    """Enter persons, homes and devices through the API; returns device tokens. Raises ApiError."""
    tokens: dict[str, str] = {}
    for person in people:
        await api.add_person(
            person.person_id,
            name=person.name,
            phone=person.phone,
            address=person.address,
            birth_year=person.birth_year,
            conditions=list(person.conditions),
            district="和平区",
            community="和平里",
            note="模拟人员 simulated",
        )
        await api.add_home(person.person_id, person.home.latitude, person.home.longitude, HOME_RADIUS_M)
        for relative in person.relatives():
            await api.add_contact(person.person_id, relative.name, relative.relation, relative.phone)
        for device in person.devices:
            tokens[device.device_id] = await api.add_device(device.device_id, device.profile, person.person_id)
    return tokens


class Demo:
    """One day. ``play`` returns when it is over and its cases are closed, or as far as they came."""

    def __init__(
        self,
        gateway: Gateway,
        keys: Keys,
        platform: SimulatedPlatform,
        carrier: SimulatedCarrier | None = None,
        *,
        minutes: float,
        quiet: bool = False,
    ) -> None:
        """``carrier`` None: nobody is called, and the gateway has no provider."""
        self.people = residents()
        self.tally = Tally()
        self.taken_by_family: list[str] = []
        self._gateway = gateway
        self._keys = keys
        self._platform = platform
        self._carrier = carrier
        self._relatives = {
            relative.phone: f"{relative.name} ({person.name} {relative.relation})"
            for person in self.people
            for relative in person.relatives()
        }
        self._minutes = minutes
        self._seconds_per_second = (DUSK_S - DAWN_S) / (minutes * 60)
        self._began_s: float | None = None
        self._over = False
        self._actors: dict[str, _Actor] = {}
        self._taken: set[str] = set()
        self._boot = int(time.time())
        self.board = Board({p.person_id: p.name for p in self.people}, self.story_time, quiet=quiet)
        self.board.status = self._status

    def story_time(self) -> str:
        if self._began_s is None:
            return clock(DAWN_S)
        if self._over:
            return clock(DUSK_S)
        elapsed_s = asyncio.get_running_loop().time() - self._began_s
        return clock(min(DUSK_S, DAWN_S + elapsed_s * self._seconds_per_second))

    def hear_platform(self, line: str) -> None:
        """A line of the simulated platform's log; its own time is left out, the story has another."""
        told = line.partition(" ")[2]
        found = _ORDER.fullmatch(told)
        order = self._platform.orders.get(found["id"]) if found is not None else None
        if found is not None and order is not None:
            name = (order.body.get("person") or {}).get("name") or "?"
            status = f"{STATUS_ZH.get(found['status'], '')} {found['status']}"
            told = f"{name} 工单 order {found['id']} {status}{found['rest']}"
            if found["status"] == "arrived":
                told += ",服务码核对无误 with the right service code"
        self.board.line("平台 platform", told, "magenta")

    def hear_carrier(self, line: str) -> None:
        """A line of the simulated carrier's log."""
        medium, _, rest = line.partition(" +")
        number, _, told = rest.partition(": ")
        self.board.line("电信 carrier", f"{medium} {self._relatives.get('+' + number, number)}: {told}", "blue")

    async def play(self, tokens: Mapping[str, str]) -> None:
        """Raises ApiError when the gateway refuses what the demo needs."""
        async with (
            http_client() as client,
            GatewayApi(self._gateway.http_url, self._keys.operator) as desk,
            asyncio.TaskGroup() as stage,
        ):
            watcher = stage.create_task(self._watch(desk))
            self._enter(stage, client, tokens)
            try:
                await asyncio.sleep(1.0)  # the gateway's rules look at the registry a few times a second
                await self._pass_the_day(stage)
                await self._close_cases(desk)
            finally:
                watcher.cancel()
                for actor in self._actors.values():
                    actor.keeper.cancel()

    async def watch(self) -> None:
        """Show what else happens, until cancelled."""
        async with GatewayApi(self._gateway.http_url, self._keys.operator) as desk:
            await self._watch(desk)

    # ---- devices -----------------------------------------------------------------------------------------------------

    def _enter(self, stage: asyncio.TaskGroup, client: httpx2.AsyncClient, tokens: Mapping[str, str]) -> None:
        for person in self.people:
            for device in person.devices:
                link: MqttLink | HttpLink
                if device.transport == "http":
                    link = HttpLink(client, self._gateway, device.device_id, tokens[device.device_id])
                else:
                    obedience = Obedience(lambda: None)  # in a story only the script says where somebody is
                    link = MqttLink(
                        self._gateway, device.device_id, tokens[device.device_id], on_command=obedience.answer
                    )
                keeper = stage.create_task(link.run())
                self._actors[device.device_id] = _Actor(device.profile, link, keeper)

    async def _pass_the_day(self, stage: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        self._began_s = loop.time()
        senders: list[asyncio.Task[None]] = []
        for moment in plan(self.people):
            wait_s = self._began_s + (moment.at_s - DAWN_S) / self._seconds_per_second - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            senders.append(stage.create_task(self._happen(moment)))
            senders = [task for task in senders if not task.done()]
        rest_s = self._began_s + self._minutes * 60 - loop.time()
        await asyncio.sleep(max(0.0, rest_s))
        if senders:
            await asyncio.wait(senders)
        self._over = True

    async def _happen(self, moment: Moment) -> None:
        actor = self._actors[moment.device_id]
        if moment.note:
            self.board.line("设备 device", moment.note, "bold")
        if moment.breaks_off:
            await actor.link.break_off()  # it connects again by itself
            return
        actor.number += 1
        payload = write(actor.profile, moment.statement, number=actor.number, boot=self._boot, at=utc_now())
        emergency = bool({"sos", "fall", "smoke"} & set(moment.statement.signals))
        if not await self.tally.send(actor.link, payload, emergency=emergency):
            self.board.line("设备 device", f"没有确认 not acknowledged: {self.tally.errors[-1]}", "bold red")

    # ---- people ------------------------------------------------------------------------------------------------------

    async def _watch(self, desk: GatewayApi) -> None:
        """Follow the gateway's events; an operator takes what is urgent and ends it when help has been given."""
        async with asyncio.TaskGroup() as shift:
            async for event in desk.events():
                self.board.take(event)
                data = event["data"]
                if data.get("action") == "family_accept":
                    self.taken_by_family.append(str(data["actor"]["id"]))
                if event["type"] == ALERT and data["severity"] in ("P1", "P2") and data["id"] not in self._taken:
                    self._taken.add(data["id"])
                    shift.create_task(self._operate(desk, str(data["id"])))

    async def _operate(self, desk: GatewayApi, alert_id: str) -> None:
        """Accept after a moment; resolve when the order is completed."""
        scale = self._minutes / USUAL_MINUTES
        alert = self.board.rows[alert_id].alert
        if self._carrier is not None and (alert["person_id"], alert["kind"]) == (STORY, "sos"):
            self.board.line("值班 operator", "都在忙,由家属阶梯通知 all are busy: the family's ladder goes on", "bold")
            await self._until_family_has_it(desk, alert_id, FAMILY_S * scale + SETTLE_S)
        await asyncio.sleep(2.0 * scale)
        if not await self._act(desk, alert_id, "accept"):
            return
        row = self.board.rows[alert_id]
        while (row.alert.get("order") or {}).get("status") not in ("completed", "followed_up", "cancelled"):
            await asyncio.sleep(0.1)
        cancelled = row.alert["kind"] == "sos" and row.alert["condition"] == "cleared"
        outcome = "false_press" if cancelled else OUTCOMES.get(row.alert["kind"], "assistance")
        await self._act(desk, alert_id, "resolve", outcome=outcome, note="演示 demonstration")

    async def _until_family_has_it(self, desk: GatewayApi, alert_id: str, at_most_s: float) -> None:
        deadline_s = asyncio.get_running_loop().time() + at_most_s
        while asyncio.get_running_loop().time() < deadline_s:
            with contextlib.suppress(ApiError):
                alert = await desk.get(f"/api/v1/alerts/{alert_id}")
                if alert["escalation"]["ladders"]["family"]["taken_by"]:
                    return
            await asyncio.sleep(0.1)

    async def _act(self, desk: GatewayApi, alert_id: str, action: str, **members: Any) -> bool:
        """Again when the alert changed between seeing and doing; False when it can no longer be done."""
        for _ in range(OPERATOR_TRIES):
            try:
                alert = await desk.get(f"/api/v1/alerts/{alert_id}")
                if alert["handling"] in ("resolved", "closed"):
                    return False
                await desk.act(alert, action, **members)
            except ApiError:
                await asyncio.sleep(0.1)
            else:
                return True
        return False

    async def _close_cases(self, desk: GatewayApi) -> None:
        """Wait until every urgent alert was resolved, at most as long as a case usually takes."""
        scale = self._minutes / USUAL_MINUTES
        deadline_s = asyncio.get_running_loop().time() + 20.0 * scale + SETTLE_S
        while asyncio.get_running_loop().time() < deadline_s:
            open_alerts = await desk.alerts(open_only=True)
            if not any(alert["severity"] in ("P1", "P2") for alert in open_alerts):
                return
            await asyncio.sleep(0.25)

    # ---- what came of it ---------------------------------------------------------------------------------------------

    def _status(self) -> str:
        tally = self.tally
        return (
            f"{len(self.people)} 人 persons  {len(self._actors)} 台 devices"
            f"  已发 sent {tally.sent}  已确认 acked {tally.acked}  工单 orders {len(self._platform.orders)}"
        )

    async def summary(self) -> dict[str, Any]:
        """Counted from the gateway's API and the platform's own books. Raises ApiError."""
        async with GatewayApi(self._gateway.http_url, self._keys.operator) as desk:
            alerts = await desk.alerts(limit=1000)
        orders = self._platform.orders.values()
        with_order = {str(order.body["external_ref"]) for order in orders}
        return {
            "persons": len(self.people),
            "devices": len(self._actors),
            "sent": self.tally.sent,
            "acknowledged": self.tally.acked,
            "ack_ms": self.tally.latencies.shown_ms(),
            "emergency_ack_ms": self.tally.emergency_latencies.shown_ms(),
            "alerts": dict(Counter(f"{alert['kind']} {alert['severity']}" for alert in alerts)),
            "open": sum(alert["handling"] in ("raised", "accepted", "in_progress") for alert in alerts),
            "orders": dict(Counter(order.status for order in orders)),
            "urgent_without_order": sorted(
                alert["id"] for alert in alerts if alert["severity"] in ("P1", "P2") and alert["id"] not in with_order
            ),
            "calls": dict(Counter(call.status for call in self._carrier.calls)) if self._carrier is not None else {},
            "messages": len(self._carrier.messages) if self._carrier is not None else 0,
            "taken_by_family": self.taken_by_family,
            "callbacks_refused": [list(refused) for refused in self._platform.refused_callbacks],
        }
