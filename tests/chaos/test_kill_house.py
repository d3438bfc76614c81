"""kill -9 of a house's gateway: telecare units over DC-09 and SCAIP, TCP and UDP, and a call host on a serial line.

Each presses until it is answered, whatever happens; what it saw answered is in the journal. (Broker mode has its own:
``tests/live/test_broker_daemon.py``.)
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway import crashpoints
from gateway.clock import SystemClock
from gateway.registry.devices import add_device
from gateway.storage.database import FILE_NAME, open_database
from simulators.serial_lines import TICK_S, CallHost, Port
from simulators.terminals.base import Facts, Terminal
from simulators.terminals.registry import KINDS
from tests.daemon import ACTOR, Daemon, carebell, carebell_json, free_port, provision

LONG = os.environ.get("CAREBELL_CHAOS") == "long"
KILLS = 60 if LONG else 1
ENOUGH = 5  # answers that each unit gets in a life of the gateway, before it dies at any moment
UNITS = {"dc09-tcp": ("dc09", False), "dc09-udp": ("dc09", True), "scaip-tcp": ("scaip", False),
         "scaip-udp": ("scaip", True)}  # fmt: skip
HOST = "call-host"


class Presses:
    """Of one unit: what it has said, and what it saw answered."""

    def __init__(self) -> None:
        self.said: set[bytes] = set()
        self.answered: set[bytes] = set()


class House:
    """Runs until ``finish``; then each unit waits for its last answer."""

    def __init__(self, ports: dict[str, int], line: Port) -> None:
        self.presses = {name: Presses() for name in (*UNITS, HOST)}
        self._finishing = False
        self._ports = ports
        self._line = line

    def finish(self) -> None:
        self._finishing = True

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            keepers = []
            pressing = [group.create_task(self._host(CallHost(self._line, 8)))]
            for name, (protocol, udp) in UNITS.items():
                kind = KINDS[protocol]
                script = kind.udp if udp and kind.udp is not None else kind.script
                terminal = Terminal(script(serial_of(name)), "127.0.0.1", self._ports[protocol])
                keepers.append(group.create_task(terminal.run()))
                pressing.append(group.create_task(self._unit(name, terminal)))
            await asyncio.wait(pressing)
            for keeper in keepers:
                keeper.cancel()

    async def _unit(self, name: str, terminal: Terminal) -> None:
        mine, rng = self.presses[name], random.Random(name)
        while not self._finishing:
            message = terminal.script.report(Facts(datetime.now(UTC), None, ("sos",)))
            mine.said.add(message.payload.strip(b"\r\n"))
            await terminal.send(message)
            mine.answered.add(message.payload.strip(b"\r\n"))
            await asyncio.sleep(rng.random() * 0.03)

    async def _host(self, host: CallHost) -> None:
        mine = self.presses[HOST]

        async def listen() -> None:
            while True:
                host.heard(self._line.read())
                await asyncio.sleep(TICK_S)

        async with asyncio.TaskGroup() as group:
            ear = group.create_task(listen())
            number = 0
            while not self._finishing:
                await host.call(number, datetime.now(UTC), emergency=True)
                mine.answered.add(b"n%d" % number)
                number += 1
                await asyncio.sleep(0.01)
            ear.cancel()


def serial_of(name: str) -> str:
    return KINDS[UNITS[name][0]].identity(list(UNITS).index(name) + 1)


def register(data_dir: Path) -> None:
    provision(data_dir, len(UNITS) + 1)
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        for number, name in enumerate((*UNITS, HOST), 1):
            profile = "generic.call_host" if name == HOST else KINDS[UNITS[name][0]].profile
            values = {"profile": profile, "person_id": f"P-{number}"}
            values |= {} if name == HOST else {"serial": serial_of(name)}
            add_device(
                connection, name, values, known_profiles=[profile], at_us=SystemClock().now_us(), actor=ACTOR
            )  # fmt: skip
    connection.close()


async def survive(tmp_path: Path, deaths: list[dict[str, str]], seed: int) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    register(data_dir)
    rng = random.Random(seed)
    ports = {"dc09": free_port(), "scaip": free_port()}
    with Port(tmp_path / "usb-host") as line:
        section = {"port": str(line.link), "device": HOST, "codec": "callhost", "reply": "\x06"}
        daemon = Daemon(
            data_dir,
            CAREBELL_DC09__LISTEN=f"127.0.0.1:{ports['dc09']}",
            CAREBELL_SCAIP__LISTEN=f"127.0.0.1:{ports['scaip']}",
            CAREBELL_SERIAL=json.dumps([section]),
        )
        house = House(ports, line)
        async with asyncio.TaskGroup() as group:
            group.create_task(house.run())
            for death in deaths:
                before = answered(house)
                await asyncio.to_thread(daemon.start, death)
                if death:
                    assert await asyncio.to_thread(daemon.wait) == -9, "it did not come to the place where it dies"
                else:
                    await until(lambda before=before: all(more(answered(house), before)))  # type: ignore[misc]
                    await asyncio.sleep(rng.random() * 0.3)
                    await asyncio.to_thread(daemon.kill)
            before = answered(house)
            await asyncio.to_thread(daemon.start)
            await until(lambda: all(more(answered(house), before)))
            house.finish()
        assert await asyncio.to_thread(daemon.stop) == 0
    judge(data_dir, house)


def answered(house: House) -> dict[str, int]:
    return {name: len(presses.answered) for name, presses in house.presses.items()}


def more(now: dict[str, int], before: dict[str, int]) -> list[bool]:
    """Whether each has been answered a few times since then."""
    return [now[name] >= before[name] + ENOUGH for name in now]


async def until(condition: Callable[[], bool], limit_s: float = 120.0) -> None:
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.01)


def judge(data_dir: Path, house: House) -> None:
    rows = carebell_json("journal", "list", "--payload", data_dir=data_dir)
    kept: dict[str, Counter[bytes]] = {name: Counter() for name in house.presses}
    for row in rows:
        if row["device_id"] in kept:
            kept[row["device_id"]][base64.b64decode(row["payload"]).strip(b"\r\n")] += 1
    for name, presses in house.presses.items():
        if name == HOST:  # a host says only that it is answered: a line that it repeats is kept again
            numbers = {line.split()[2] for line in kept[name]}
            assert presses.answered <= numbers, f"{name}: an answered press is not in the journal"
            continue
        assert presses.answered <= set(kept[name]), f"{name}: an answered press is not in the journal"
        assert presses.said <= set(kept[name]), f"{name}: a press that was said until it was answered is missing"
        assert [key for key, count in kept[name].items() if count > 1] == [], f"{name}: a press is there twice"
    alerts = carebell_json("alerts", "list", "--open", data_dir=data_dir)
    assert {alert["device_id"] for alert in alerts if alert["kind"] == "sos"} == set(house.presses)
    carebell("audit", "verify", data_dir=data_dir)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units and hosts that come again as soon as they can."""
    for name in ("terminals.base.RETRY_LAST_S", "terminals.base.RESEND_LAST_S", "serial_lines.REPEAT_S"):
        monkeypatch.setattr(f"simulators.{name}", 0.3)


@pytest.mark.live
@pytest.mark.timeout(3600 if LONG else 600)
def test_what_units_and_hosts_saw_answered_survives(tmp_path: Path) -> None:
    """Death right before and right behind a commit, and at any moment."""
    pytest.importorskip("serialx", reason="needs serialx: pip install 'carebell[serial]'")
    points = (crashpoints.BEFORE_COMMIT, crashpoints.AFTER_COMMIT)[: 2 if LONG else 1]
    deaths: list[dict[str, str]] = [{"CAREBELL_CRASH": f"{point}:15"} for point in points]
    asyncio.run(survive(tmp_path, [*deaths, *({} for _ in range(KILLS))], seed=4))
