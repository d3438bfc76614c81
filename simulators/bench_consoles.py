"""The benchmark of the call center: a thousand screens and five hundred operators while the devices speak."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import math
import random
import re
import time
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from gateway.access import sessions
from gateway.access.users import add_user
from gateway.registry.contacts import add_contact
from gateway.registry.keys import issue_api_key
from gateway.registry.persons import update_person
from gateway.storage.database import FILE_NAME, open_database
from simulators.bench import ACTOR, Bench, order_latency
from simulators.console_clients import Line, Screen, SocketFeed, Told, plain
from simulators.latency import Latencies

DISTRICTS: Final = ("和平区", "河西区", "南开区", "红桥区")
OF_A_DISTRICT: Final = 10  # one screen of so many sees one district alone
OPERATORS_SHARE: Final = 2  # one screen of so many belongs to somebody who works
FEEDS: Final = 20
THINK_S: Final = 5.0
PRESENT_S: Final = 3.0  # as in console.js
CONNECT_AT_ONCE: Final = 50
_VERSION: Final = re.compile(rb'data-version="(\d+)"')
_NOTE: Final = "note=%E5%A5%B3%E5%84%BF%E5%8D%81%E5%88%86%E9%92%9F%E5%88%B0"


class ConsoleBench(Bench):
    """Persons with an address and a contact, of four districts; users who are signed in; a key for the feeds."""

    screens = 1000

    def __init__(self, folder: Path, devices: int) -> None:
        super().__init__(folder, devices)
        self.cookies: list[str] = []
        self.tokens: list[str] = []
        connection = open_database(self.data_dir / FILE_NAME)
        now_us = time.time_ns() // 1000
        with connection:
            for number in range(devices):
                person_id = f"P-{number:05d}"
                values = {
                    "address": f"和平里 {number % 30 + 1}-1-402", "birth_year": 1941, "conditions": ["高血压"],
                    "district": DISTRICTS[number % len(DISTRICTS)],
                }  # fmt: skip
                update_person(connection, person_id, values, at_us=now_us, actor=ACTOR)
                contact = {"person_id": person_id, "name": "李梅", "phone": f"+86138{number:08d}"}
                add_contact(connection, "", contact, at_us=now_us, actor=ACTOR)
            for number in range(self.screens):
                district = district_of(number)
                user = add_user(
                    connection, f"desk{number}", name=f"坐席{number}", role="operator", password_hash="-",  # noqa: S106
                    at_us=now_us, actor=ACTOR, district=district,
                )  # fmt: skip
                self.tokens.append(sessions.begin(connection, user["user_id"], now_us, "in"))
            self.key = issue_api_key(connection, {"role": "backend", "label": "bench"}, at_us=now_us, actor=ACTOR)[1]
        connection.close()
        self.cookies = [f"carebell_session={token}" for token in self.tokens]

    def line(self, number: int) -> Line:
        """A connection of the browser of this user."""
        csrf = hmac.new(self.tokens[number].encode(), b"csrf", hashlib.sha256).hexdigest()
        headers = (
            f"cookie: {self.cookies[number]}\r\nx-csrf-token: {csrf}\r\nhx-request: true\r\naccept-encoding: gzip\r\n"
        )
        return Line(self.http_port, number, headers)

    def raised(self) -> dict[str, str]:
        """Device by alert, of the presses."""
        connection = open_database(self.data_dir / FILE_NAME, read_only=True)
        rows = connection.execute("SELECT id, device_id FROM alert WHERE kind = 'sos'").fetchall()
        connection.close()
        return {str(alert_id): str(device_id) for alert_id, device_id in rows}


def district_of(screen: int) -> str:
    return DISTRICTS[screen // OF_A_DISTRICT % len(DISTRICTS)] if screen % OF_A_DISTRICT == OF_A_DISTRICT - 1 else ""


class Room:
    """Everybody who looks at the gateway: screens, feeds, and the people who work."""

    def __init__(self, bench: ConsoleBench) -> None:
        self._bench = bench
        self.screens = [Screen(number, self._told) for number in range(bench.screens)]
        self.feeds = [SocketFeed(self._fed) for _ in range(FEEDS)]
        self.painted: list[dict[str, float]] = [{} for _ in self.screens]
        self.fed: list[tuple[str, float]] = []
        self.waiting: deque[str] = deque()
        self.open: dict[str, None] = {}
        self._rng = random.Random(7)
        self._unpresented: dict[str, list[float]] = {}
        self.done: dict[str, Latencies] = {}
        self.refused: dict[str, int] = {}
        self.whole = Latencies()
        self.receipts = 0
        self.think_s = THINK_S
        self.stopping = False

    async def enter(self) -> None:
        """Everybody is connected. Raises ConnectionError when somebody is refused."""
        for start in range(0, len(self.screens), CONNECT_AT_ONCE):
            async with asyncio.TaskGroup() as group:
                for screen in self.screens[start : start + CONNECT_AT_ONCE]:
                    group.create_task(screen.open(self._bench.http_port, self._bench.cookies[screen.number]))
        for feed in self.feeds:
            await feed.open(self._bench.http_port, self._bench.key)

    def leave(self) -> None:
        for screen in self.screens:
            screen.close()
        for feed in self.feeds:
            feed.close()

    # ---- what they are told ------------------------------------------------------------------------------------------

    def _told(self, screen: Screen, told: Told, now_s: float) -> None:
        painted = self.painted[screen.number]
        for alert_id, row in told.rows:
            if alert_id not in painted:
                painted[alert_id] = now_s
            if screen.number == 0:
                self._note(alert_id, row)

    def _note(self, alert_id: str, row: str) -> None:
        """What one screen that sees everything knows is what the operators choose from."""
        if alert_id not in self.open:
            self.open[alert_id] = None
            if 'data-severity="1"' in row:
                self.waiting.append(alert_id)
                spread = math.e ** (math.log(len(self.screens)) + 1)
                self._unpresented[alert_id] = sorted(
                    PRESENT_S * math.log1p(self._rng.random() * (spread - 1)) / math.log(spread) + time.perf_counter()
                    for _ in self.screens
                )
        if 'data-presented="1"' in row:
            self._unpresented.pop(alert_id, None)

    def _fed(self, event: dict[str, Any], now_s: float) -> None:
        if event["data"].get("action") == "raise":
            self.fed.append((event["source"].rpartition("/")[2], now_s))

    # ---- what they do ------------------------------------------------------------------------------------------------

    async def presenting(self) -> None:
        """Receipts that an alert is on a screen: of all screens those that are due before they hear of another's."""
        lines = [self._bench.line(number) for number in range(16) if not district_of(number)]
        turn = 0

        async def send(line: Line, alert_id: str) -> None:
            self.receipts += 1
            with contextlib.suppress(ConnectionError, TimeoutError):
                await line.ask("POST", "/console/presented", f"alerts={alert_id}")

        async with asyncio.TaskGroup() as group:
            busy: dict[Line, asyncio.Task[None]] = {}
            while not self.stopping:
                now_s = time.perf_counter()
                for alert_id, due in list(self._unpresented.items()):
                    while due and due[0] <= now_s:
                        line = lines[turn % len(lines)]
                        if line in busy and not busy[line].done():
                            break
                        turn += 1
                        due.pop(0)
                        busy[line] = group.create_task(send(line, alert_id))
                await asyncio.sleep(0.01)
        for line in lines:
            line.close()

    async def operator(self, number: int) -> None:
        """Look, take what nobody has, carry it to its end; and look things up between."""
        line = self._bench.line(number)
        await asyncio.sleep(self._rng.random() * THINK_S)
        sees_all = not district_of(number)
        while not self.stopping:
            await self._do(line, "queue", "GET", "/console/queue")
            if self.waiting and sees_all:
                await self._carry(line, self.waiting.popleft())
            elif self.open and sees_all:
                await self._do(line, "alert", "GET", f"/console/alerts/{self._rng.choice(list(self.open))}")
            name = self._rng.choice(("home", "persons", "statistics", "devices"))
            await self._do(line, name, "GET", "/console" if name == "home" else f"/console/{name}")
        line.close()

    async def _carry(self, line: Line, alert_id: str) -> None:
        path = f"/console/alerts/{alert_id}"
        body = await self._do(line, "alert", "GET", path)
        for name, form in (
            ("accept", ""),
            ("progress", "&progress=talking"),
            ("note", f"&{_NOTE}"),
            ("resolve", "&outcome=assistance"),
        ):
            version = _VERSION.search(plain(body))
            if version is None or self.stopping:
                return
            body = await self._do(line, name, "POST", f"{path}/{name}", f"version={int(version[1])}{form}")

    async def _do(self, line: Line, name: str, method: str, path: str, form: str = "") -> bytes:
        if self.stopping:
            return b""
        begun_s = time.perf_counter()
        try:
            status, body = await line.ask(method, path, form)
        except (ConnectionError, TimeoutError) as error:
            status, body = 0, b""
            name = f"{name} {type(error).__name__}"
        taken_s = time.perf_counter() - begun_s
        if status == 200:
            self.done.setdefault(name, Latencies()).add(taken_s)
            self.whole.add(taken_s)
        else:
            self.refused[f"{name} {status}"] = self.refused.get(f"{name} {status}", 0) + 1
        if self.think_s:
            await asyncio.sleep(self._rng.expovariate(1 / self.think_s))
        return body

    def take(self) -> dict[str, Any]:
        """What was done since the last time."""
        found = {
            "operations": self.whole.summary(),
            "by_operation": {
                name: {key: value for key, value in each.summary().items() if key != "p999_ms"}
                for name, each in sorted(self.done.items())
            },
            "refused": dict(self.refused),
        }
        self.whole, self.done, self.refused = Latencies(), {}, {}
        return found


async def consoles(bench: ConsoleBench, seconds: float, rush_s: float, rate: float, presses: float) -> dict[str, Any]:
    """Open loop of messages with presses in it; then the same with every operator in a hurry, and no pause.

    What is measured begins when everybody has been at work for ``THINK_S``.
    """
    generator = bench.generator(1000)
    room = Room(bench)
    await room.enter()
    lag = Latencies()
    found: dict[str, Any] = {"screens": len(room.screens), "feeds": FEEDS, "operators": 0, "think_s": THINK_S}
    async with _working(room, lag) as operators:
        found["operators"] = operators
        async with asyncio.TaskGroup() as group:
            running = group.create_task(generator.open_loop(THINK_S + seconds + rush_s, rate, presses))
            await asyncio.sleep(THINK_S)
            room.take()
            begun_s, cpu_s = time.perf_counter(), bench.cpu_seconds()
            await asyncio.sleep(seconds)
            found |= room.take()
            found["generator_late"] = lag.summary()
            rushing_s = time.perf_counter()
            found["gateway_cpu_share"] = round((bench.cpu_seconds() - cpu_s) / (rushing_s - begun_s), 2)
            room.think_s = 0.0
            ran = await running
        found["without_a_pause"] = room.take()
    await asyncio.sleep(2.0)
    ended = sum(screen.ended for screen in room.screens) + sum(feed.ended for feed in room.feeds)
    room.leave()
    steady = {name: due_s for name, due_s in ran.press_due_s.items() if begun_s <= due_s < rushing_s - 1.0}
    rushed = {name: due_s for name, due_s in ran.press_due_s.items() if due_s >= rushing_s}
    return found | {
        "rate_per_s": rate, "sent": ran.sent, "unacked": ran.sent - ran.acked, "generator": ran.generator,
        "telemetry_ack": ran.telemetry, "sos_ack": ran.sos, "sos_order": order_latency(steady, bench.orders),
        "presses": len(ran.press_due_s), "receipts": room.receipts,
        "alert_on_screen": on_screens(room, bench.raised(), steady),
        "alert_on_screen_without_a_pause": on_screens(room, bench.raised(), rushed),
        "streams_ended": ended,
        "repeated": sum(screen.repeats for screen in room.screens),
        "out_of_order": sum(screen.disorders for screen in room.screens),
    }  # fmt: skip


@contextlib.asynccontextmanager
async def _working(room: Room, lag: Latencies) -> AsyncIterator[int]:
    """The operators work until the block ends; ``lag`` gets how late this program itself is."""
    numbers = range(0, len(room.screens), OPERATORS_SHARE)

    async def watch() -> None:
        while not room.stopping:
            due_s = time.perf_counter() + 0.01
            await asyncio.sleep(0.01)
            lag.add(time.perf_counter() - due_s)

    async with asyncio.TaskGroup() as group:
        for number in numbers:
            group.create_task(room.operator(number))
        group.create_task(room.presenting())
        group.create_task(watch())
        try:
            yield len(numbers)
        finally:
            room.stopping = True


def on_screens(room: Room, raised: dict[str, str], due_s: dict[str, float]) -> dict[str, Any]:
    """From the moment a press was due to its row at every screen that sees its person; and to the feeds."""
    latencies, feeds = Latencies(), Latencies()
    missing = late = 0
    alerts = {alert_id: device for alert_id, device in raised.items() if device in due_s}
    for number, painted in enumerate(room.painted):
        mine = district_of(number)
        for alert_id, device in alerts.items():
            if mine and DISTRICTS[int(device[2:]) % len(DISTRICTS)] != mine:
                continue
            if alert_id not in painted:
                missing += 1
                continue
            latencies.add(painted[alert_id] - due_s[device])
            late += painted[alert_id] - due_s[device] > 1.0
    for alert_id, at_s in room.fed:
        if alert_id in alerts:
            feeds.add(at_s - due_s[alerts[alert_id]])
    return latencies.summary() | {
        "missing": missing, "later_than_1_s": late, "feeds_p99_ms": feeds.summary()["p99_ms"],
        "feeds_missing": len(alerts) * len(room.feeds) - feeds.count,
    }  # fmt: skip
