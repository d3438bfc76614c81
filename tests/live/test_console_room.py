"""A room full of screens: everybody is told of each alert once and in order, also who was cut off for a while."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway.access import sessions
from gateway.access.users import add_user
from gateway.registry.persons import update_person
from gateway.storage.database import FILE_NAME, open_database
from simulators.console_clients import Line, Screen, Told
from tests.daemon import ACTOR, Daemon
from tests.live.console_harness import console_daemon, press

pytestmark = pytest.mark.live
OPERATORS = 20
SCREENS = 50
LIMIT_S = 60.0


def people(data_dir: Path) -> list[str]:
    """Tokens of operators who are signed in; the last of them sees one district alone, where P-3 lives."""
    connection = open_database(data_dir / FILE_NAME)
    connection.transaction_mode = "IMMEDIATE"
    now_us = time.time_ns() // 1000
    tokens = []
    with connection:
        update_person(connection, "P-3", {"district": "河西区"}, at_us=now_us, actor=ACTOR)
        for number in range(OPERATORS):
            district = "河西区" if number == OPERATORS - 1 else ""
            user = add_user(
                connection, f"desk{number}", name=f"坐席{number}", role="operator", password_hash="-", at_us=now_us,
                actor=ACTOR, district=district,
            )  # fmt: skip
            tokens.append(sessions.begin(connection, user["user_id"], now_us, "in"))
    connection.close()
    return tokens


class Room:
    """Screens of these people, and what each was shown, as it came."""

    def __init__(self, daemon: Daemon, tokens: list[str]) -> None:
        self.port = daemon.http_port
        self.tokens = tokens
        self.changed = asyncio.Event()
        self.rows: dict[int, dict[str, int]] = {}
        self.connected: list[Screen | Line] = []

    def screen(self, number: int) -> Screen:
        self.rows.setdefault(number, {})
        return Screen(number, self._told)

    async def open(self, screen: Screen, after: int | None = None) -> Screen:
        cookie = f"carebell_session={self.tokens[screen.number % OPERATORS]}"
        self.connected.append(screen)
        await screen.open(self.port, cookie, "" if after is None else str(after))
        return screen

    def _told(self, screen: Screen, told: Told, _now_s: float) -> None:
        rows = self.rows[screen.number]
        for alert_id, _ in told.rows:
            rows[alert_id] = rows.get(alert_id, 0) + 1
        self.changed.set()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT_S):
            while not done():
                self.changed.clear()
                await self.changed.wait()

    def shows(self, screen: Screen, *alerts: str) -> bool:
        """Whether it was told that these were raised, and has their rows."""
        rows = self.rows[screen.number]
        return all(alert_id in screen.seen and alert_id in rows for alert_id in alerts)

    def leave(self) -> None:
        for each in self.connected:
            each.close()

    def line(self, number: int) -> Line:
        token = self.tokens[number]
        csrf = hmac.new(token.encode(), b"csrf", hashlib.sha256).hexdigest()
        headers = f"cookie: carebell_session={token}\r\nx-csrf-token: {csrf}\r\nhx-request: true\r\n"
        line = Line(self.port, number, headers)
        self.connected.append(line)
        return line


def is_of_a_district(screen: Screen) -> bool:
    return screen.number % OPERATORS == OPERATORS - 1


async def night(daemon: Daemon, devices: dict[str, str]) -> None:
    room = Room(daemon, people(daemon.data_dir))
    try:
        await in_this(room, daemon, devices)
    finally:
        room.leave()
        await asyncio.sleep(0)  # the sockets are closed by the loop


async def pressed(daemon: Daemon, devices: dict[str, str], device: str) -> str:
    """The alert of a press. Others may come with it: of the machine, say."""
    await asyncio.to_thread(press, daemon, devices, device)
    connection = open_database(daemon.data_dir / FILE_NAME, read_only=True)
    async with asyncio.timeout(LIMIT_S):
        while True:
            found = connection.execute(
                "SELECT id FROM alert WHERE kind = 'sos' AND device_id = ?", (device,)
            ).fetchone()
            if found is not None:
                connection.close()
                return str(found[0])
            await asyncio.sleep(0.05)


async def in_this(room: Room, daemon: Daemon, devices: dict[str, str]) -> None:
    screens = [await room.open(room.screen(number)) for number in range(SCREENS)]
    everywhere = [screen for screen in screens if not is_of_a_district(screen)]
    first, second = [await pressed(daemon, devices, device) for device in ("D-1", "D-2")]
    await room.until(lambda: all(room.shows(screen, first, second) for screen in everywhere))

    # All reach for one alert: one has it, the others hear who. It is not of the last one's district.
    *lines, stranger = [room.line(number) for number in range(OPERATORS)]
    _, panel = await lines[0].ask("GET", f"/console/alerts/{first}/panel")
    version = int(panel.partition(b'data-version="')[2].partition(b'"')[0])
    form = f"version={version}"
    async with asyncio.TaskGroup() as group:
        tries = [group.create_task(line.ask("POST", f"/console/alerts/{first}/accept", form)) for line in lines]
    assert sorted(task.result()[0] for task in tries) == [200] + [409] * (OPERATORS - 2)
    assert (await stranger.ask("GET", f"/console/alerts/{first}/panel"))[0] == 404
    await room.until(lambda: all(room.rows[screen.number][first] >= 2 for screen in everywhere))  # its owner

    # Half of the screens are cut off while the third alert comes, and come back.
    cut, kept = screens[1::2], screens[::2]
    for screen in cut:
        screen.close()
    third = await pressed(daemon, devices, "D-3")
    await room.until(lambda: all(third in screen.seen for screen in kept))
    back = [await room.open(room.screen(screen.number), screen.seq) for screen in cut]
    await room.until(lambda: all(third in screen.seen for screen in back))

    presses = {first, second, third}
    for before, after in zip(cut, back, strict=True):
        assert not before.seen.keys() & after.seen.keys()
        told = [each for each in (*before.seen, *after.seen) if each in presses]
        assert told == ([third] if is_of_a_district(before) else [first, second, third])
    for screen in (*kept, *cut, *back):
        assert (screen.repeats, screen.disorders) == (0, 0)
    for screen in kept:
        assert [each for each in screen.seen if each in presses] == [first, second, third]


def test_fifty_screens_and_twenty_operators(tmp_path: Path) -> None:
    with console_daemon(tmp_path / "d") as (daemon, devices):
        asyncio.run(night(daemon, devices))
