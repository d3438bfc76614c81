"""Plays a scenario against a gateway, and checks what comes of it through the gateway's own API and events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from collections.abc import Callable
from typing import Any, Final

import httpx2
from msgspec import Struct, field

from simulators.client import ApiError, GatewayApi, UnreachableError
from simulators.commands import Obedience
from simulators.devices import Gateway, HttpLink, MqttLink, NotAcknowledgedError, http_client
from simulators.payloads import utc_now, write
from simulators.scenario import ORDER_STATES, Expect, Scenario, Step

REGISTRY_SETTLES_S: Final = 1.0  # the rules look at the registry a few times a second
POLL_S: Final = 0.2
_ORDER_RANK: Final = {state: rank for rank, state in enumerate(ORDER_STATES)} | {"followed_up": len(ORDER_STATES)}


class Outcome(Struct):
    """What a play came to. ``failures`` are lines; ``unchecked`` counts expectations that were left out."""

    steps: int = 0
    sent: int = 0
    met: int = 0
    unchecked: int = 0
    failures: list[str] = field(default_factory=list)


class _Device(Struct):
    """A device on stage."""

    device_id: str
    person_id: str
    profile: str
    link: MqttLink | HttpLink
    keeper: asyncio.Task[None]
    number: int = 0


class Player:
    """``play`` registers the cast anew under ids of this run, tells the story, checks, and sends the cast home.

    ``check_orders`` False leaves out what is expected of orders: for a gateway without a platform.
    """

    def __init__(
        self,
        scenario: Scenario,
        api: GatewayApi,
        gateway: Gateway,
        *,
        speed: float | None = None,
        check_orders: bool = True,
        keep: bool = False,
        say: Callable[[str], None] = print,
    ) -> None:
        self._scenario = scenario
        self._api = api
        self._gateway = gateway
        self._speed = speed or scenario.speed
        self._check_orders = check_orders
        self._keep = keep
        self._say = say
        self._run = secrets.token_hex(3)
        self._boot = int(time.time())
        self._devices: dict[str, _Device] = {}
        self._signals: set[tuple[str, str, bool]] = set()
        self._stage: asyncio.TaskGroup | None = None
        self.outcome = Outcome()

    async def play(self) -> Outcome:
        """Raises ApiError and UnreachableError when the cast cannot be registered."""
        self._say(f"《{self._scenario.title.zh}》 {self._scenario.title.en}")
        if self._scenario.about is not None:
            self._say(f"  {self._scenario.about}")
        async with http_client() as client, asyncio.TaskGroup() as stage:
            self._stage = stage
            listener = stage.create_task(self._listen())
            try:
                await self._enter(stage, client)
                await asyncio.sleep(REGISTRY_SETTLES_S)
                began_s = asyncio.get_running_loop().time()
                await self._tell(began_s)
            finally:
                listener.cancel()
                for device in self._devices.values():
                    device.keeper.cancel()
                if not self._keep:
                    with contextlib.suppress(ApiError):
                        await self._leave()
        return self.outcome

    # ---- the cast ----------------------------------------------------------------------------------------------------

    def _person_id(self, name: str) -> str:
        return f"sim-{self._run}-{name}"

    async def _enter(self, stage: asyncio.TaskGroup, client: httpx2.AsyncClient) -> None:
        for name, person in self._scenario.persons.items():
            fields: dict[str, Any] = {"name": person.name, "note": "模拟人员 simulated"}
            known = {"phone": person.phone, "birth_year": person.birth_year}
            fields |= {key: value for key, value in known.items() if value}
            if person.conditions:
                fields["conditions"] = list(person.conditions)
            home = person.home
            if home is not None and home.address:
                fields["address"] = home.address
            await self._api.add_person(self._person_id(name), **fields)
            if home is not None:
                await self._api.add_home(self._person_id(name), home.latitude, home.longitude, home.radius_m)
            self._say(f"  登场 enter  {person.name}  ({self._person_id(name)})")
        for name, cast in self._scenario.devices.items():
            device_id = f"sim-{self._run}-{name}"
            token = await self._api.add_device(device_id, cast.profile, self._person_id(cast.person))
            link: MqttLink | HttpLink
            if cast.transport == "http":
                link = HttpLink(client, self._gateway, device_id, token)
            else:
                obedience = Obedience(lambda: None)  # in a story only the script says where somebody is
                link = MqttLink(self._gateway, device_id, token, on_command=obedience.answer)
            keeper = stage.create_task(link.run())
            self._devices[name] = _Device(device_id, self._person_id(cast.person), cast.profile, link, keeper)

    async def _leave(self) -> None:
        """Close what the story opened, retire its devices and end the service of its persons."""
        for name in self._scenario.persons:
            person_id = self._person_id(name)
            for alert in await self._api.alerts(person_id, open_only=True):
                # Somebody else may be handling it, or it ended by itself meanwhile.
                with contextlib.suppress(ApiError):
                    taken = alert if alert["handling"] != "raised" else await self._api.act(alert, "accept")
                    await self._api.act(taken, "resolve", outcome="test", note="simulated scenario")
            await self._api.patch(f"/api/v1/persons/{person_id}", {"state": "ceased", "reason": "simulated"})

    # ---- the story ---------------------------------------------------------------------------------------------------

    async def _tell(self, began_s: float) -> None:
        """Step by step; the story waits for what it expects, so that it comes out the same at every speed."""
        loop = asyncio.get_running_loop()
        for number, step in enumerate(self._scenario.step, 1):
            wait_s = began_s + step.at_s / self._speed - loop.time()
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self.outcome.steps += 1
            device = self._devices[step.device]
            self._say(f"  {step.at:>8}  {step.say or _describe(step)}")
            try:
                await self._act(device, step)
            except NotAcknowledgedError as error:
                self._fail(number, step, f"没有确认 not acknowledged: {error}")
                continue
            async with asyncio.TaskGroup() as checks:
                for expect in step.expect:
                    if expect.order and not self._check_orders:
                        self.outcome.unchecked += 1
                        self._say("            －  未检查订单 order not checked")
                    else:
                        checks.create_task(self._check(number, step, device, expect))

    async def _act(self, device: _Device, step: Step) -> None:
        if step.silent:
            await device.link.break_off()
            device.keeper.cancel()
            return
        if not step.speaks:
            return
        if device.keeper.done():  # it had fallen silent
            assert self._stage is not None
            device.keeper = self._stage.create_task(device.link.run())
        device.number += 1
        if step.raw is not None:
            payload = json.dumps(dict(step.raw), ensure_ascii=False).encode()
        else:
            statement = self._scenario.statement(step)
            payload = write(device.profile, statement, number=device.number, boot=self._boot, at=utc_now())
        self.outcome.sent += 1
        await device.link.send(payload)

    async def _listen(self) -> None:
        """Remember which signals of the cast the gateway tells in its events."""
        async for event in self._api.events():
            data = event["data"]
            if data.get("kind") == "signal" and str(data.get("device_id")).startswith(f"sim-{self._run}-"):
                self._signals.add((str(data["device_id"]), str(data["signal"]), bool(data["active"])))

    # ---- expectations ------------------------------------------------------------------------------------------------

    async def _check(self, number: int, step: Step, device: _Device, expect: Expect) -> None:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        seen = "nothing"
        while loop.time() < began_s + expect.within_s:
            try:
                found, seen = await self._look(device, expect)
            except UnreachableError as error:
                found, seen = False, str(error)
            except ApiError as error:
                self._fail(number, step, str(error))
                return
            if found:
                if expect.never:
                    self._fail(number, step, f"不应出现 must not come: {_wanted(expect)}; {seen}")
                else:
                    self.outcome.met += 1
                    self._say(f"            ✓  {_wanted(expect)}  {loop.time() - began_s:.2f} s")
                return
            await asyncio.sleep(POLL_S)
        if expect.never:
            self.outcome.met += 1
            self._say(f"            ✓  没有 none: {_wanted(expect)}")
        else:
            within = f"{expect.within_s:g} s"
            self._fail(number, step, f"没有等到 did not come within {within}: {_wanted(expect)}; seen: {seen}")

    async def _look(self, device: _Device, expect: Expect) -> tuple[bool, str]:
        """Whether it is so now, and what is there instead."""
        if expect.signal:
            told = sorted(signal for device_id, signal, active in self._signals if device_id == device.device_id)
            return (device.device_id, expect.signal, expect.active) in self._signals, ", ".join(told) or "no signal"
        alerts = await self._api.alerts(device.person_id)
        shown = [_shown(alert) for alert in alerts]
        return any(_fits(alert, expect) for alert in alerts), "; ".join(shown) or "no alert"

    def _fail(self, number: int, step: Step, text: str) -> None:
        self.outcome.failures.append(f"step {number} (at {step.at}): {text}")
        self._say(f"            ✗  {text}")


def _fits(alert: dict[str, Any], expect: Expect) -> bool:
    order = alert.get("order")
    rank = -1 if order is None else _ORDER_RANK.get(order.get("status") or "requested", 0)
    return (
        alert["kind"] == expect.alert
        and expect.severity in ("", alert["severity"])
        and expect.condition in ("", alert["condition"])
        and alert["occurrences"] >= expect.occurrences
        and (not expect.order or rank >= _ORDER_RANK[expect.order])
    )


def _shown(alert: dict[str, Any]) -> str:
    order = alert.get("order")
    told = "" if order is None else f", order {order.get('status') or 'requested'}"
    return f"{alert['kind']} {alert['severity']} {alert['condition']} x{alert['occurrences']}{told}"


def _wanted(expect: Expect) -> str:
    if expect.signal:
        return f"signal {expect.signal}" + ("" if expect.active else " ended")
    parts = [f"alert {expect.alert}", expect.severity, expect.condition]
    parts += [f"x{expect.occurrences}"] if expect.occurrences else []
    parts += [f"order {expect.order}"] if expect.order else []
    return " ".join(part for part in parts if part)


def _describe(step: Step) -> str:
    if step.silent:
        return f"{step.device}: 不再发声 falls silent"
    said = [*step.signals, *(f"{name} ended" for name in step.cleared)]
    said += [f"{name} {value:g}" for name, value in step.measurements.items()]
    said += ["position"] if step.position else []
    return f"{step.device}: {', '.join(said) or 'raw'}"
