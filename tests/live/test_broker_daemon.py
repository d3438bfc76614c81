"""Broker mode of the daemon: from the press to the alert, a session that was lost, kill -9 under load."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import aiomqtt
import pytest

from gateway.registry.devices import add_device
from gateway.registry.persons import add_person
from gateway.storage.database import FILE_NAME, open_database
from simulators.broker_sites import SITES, LoraSite, SitePlan, ZigbeeSite, play
from tests.broker_world import Mosquitto, numbers, presses
from tests.daemon import ACTOR, Daemon, carebell, carebell_json

pytestmark = pytest.mark.live

LONG = os.environ.get("CAREBELL_CHAOS") == "long"


def provision(data_dir: Path, sites: dict[str, ZigbeeSite | LoraSite], count: int) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        for kind, site in sites.items():
            for number in range(count):
                person_id = f"P-{kind}-{number}"
                add_person(connection, person_id, {"name": f"测试{number}"}, at_us=1, actor=ACTOR)
                values = {"profile": site.profile, "person_id": person_id, site.key: site.identity(number)}
                known = [site.profile]
                add_device(connection, f"{kind}-{number}", values, known_profiles=known, at_us=1, actor=ACTOR)
    connection.close()


def daemon_on(data_dir: Path, broker: Mosquitto, *codecs: str) -> Daemon:
    section = [{"url": f"mqtt://127.0.0.1:{broker.port}", "client_id": "carebell-1", "codecs": codecs}]
    return Daemon(data_dir, CAREBELL_BROKER=json.dumps(section))


class House(NamedTuple):
    broker: Mosquitto
    daemon: Daemon
    sites: dict[str, ZigbeeSite | LoraSite]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A broker that forgets when it is restarted, and a gateway on it with devices of both programs."""
    folder = tmp_path_factory.mktemp("broker-house")
    sites = {kind: make(4) for kind, make in SITES.items()}
    provision(folder / "var", sites, 4)
    with Mosquitto(folder / "broker", persistence=False) as broker, daemon_on(folder / "var", broker, *SITES) as daemon:
        yield House(broker, daemon, sites)


def subscribed(daemon: Daemon) -> None:
    """Return when the daemon has its session: what is published before that, nobody keeps."""
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        with urllib.request.urlopen(f"{daemon.url}/readyz", timeout=60) as answer:
            parts = {part["name"]: part["ok"] for part in json.load(answer)["parts"]}
        if parts["brokers"]:
            return
        time.sleep(0.02)
    raise AssertionError("it does not come to the broker")


@pytest.mark.parametrize("kind", ["zigbee2mqtt", "chirpstack"], ids=["ZigBee", "LoRa"])
def test_conformance(house: House, kind: str) -> None:
    """DB15 4.2.4: from the press to the alert, through the program that owns the radio; LoRa: and a command back."""
    data_dir, site = house.daemon.data_dir, house.sites[kind]
    assert f"broker   127.0.0.1:{house.broker.port} as carebell-1" in house.daemon.output
    subscribed(house.daemon)
    if kind == "chirpstack":
        carebell("devices", "command", f"{kind}-1", "confirm", data_dir=data_dir)
    url = f"mqtt://127.0.0.1:{house.broker.port}"

    async def main() -> dict[str, Any]:
        enough = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            playing = group.create_task(play(site, 4, url, SitePlan(80, 0.5, 5, linger_s=60), enough=enough))
            if kind == "chirpstack":
                while not site.commands:
                    await asyncio.sleep(0.02)
                while (await asyncio.to_thread(carebell_json, "commands", "list", data_dir=data_dir))[0][
                    "state"
                ] != "confirmed":
                    await asyncio.sleep(0.2)
            enough.set()
        return playing.result()

    result = asyncio.run(main())
    assert result["presses"] == 8
    pressed: list[dict[str, Any]] = []
    until_s = time.monotonic() + 60
    while len(pressed) < 8 and time.monotonic() < until_s:  # the broker took them; the gateway is a moment behind
        records = [row for row in carebell_json("journal", "list", data_dir=data_dir) if row["codec"] == kind]
        pressed = [row for row in records if any(seen.get("signal") == "sos" for seen in row["observations"])]
    assert len(pressed) == 8
    assert all(row["device_id"] and row["person_id"] and row["fault"] is None for row in pressed)
    persons = {row["person_id"] for row in pressed}
    alerts: list[dict[str, Any]] = []
    until_s = time.monotonic() + 60
    while {alert["person_id"] for alert in alerts} != persons and time.monotonic() < until_s:
        opened = carebell_json("alerts", "list", "--open", data_dir=data_dir)
        alerts = [one for one in opened if one["person_id"] in persons]
    assert {alert["person_id"] for alert in alerts} == persons
    assert all(alert["kind"] == "sos" and alert["severity"] == "P1" for alert in alerts)
    if kind == "chirpstack":
        assert json.loads(site.commands[0][1])["devEui"] == site.identity(1)
        sent = carebell_json("commands", "list", data_dir=data_dir)
        assert [(one["device_id"], one["state"]) for one in sent] == [("chirpstack-1", "confirmed")]


def test_a_lost_session_is_an_alert_of_the_site(house: House) -> None:
    subscribed(house.daemon)
    house.broker.end()
    house.broker.start()
    kinds: set[object] = set()
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        kinds = {alert["kind"] for alert in carebell_json("alerts", "list", "--open", data_dir=house.daemon.data_dir)}
        if "broker_session_lost" in kinds:
            break
    assert "broker_session_lost" in kinds


async def hammer(port: int, taken: set[int], stop: asyncio.Event) -> None:
    """Press until told to stop; ``taken`` is what the broker took."""
    async with aiomqtt.Client("127.0.0.1", port, timeout=60) as client:
        number = 0
        while not stop.is_set():
            topic, payload = presses(number, 1)[0]
            await client.publish(topic, payload, qos=1)
            taken.add(number)
            number += 1
            await asyncio.sleep(0.003)


def test_kill_nine_of_the_gateway_under_load(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    with Mosquitto(tmp_path / "broker") as broker:
        daemon = daemon_on(data_dir, broker, "zigbee2mqtt")

        async def main() -> set[int]:
            taken: set[int] = set()
            await asyncio.to_thread(daemon.start)
            await asyncio.to_thread(subscribed, daemon)
            stop = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(hammer(broker.port, taken, stop))
                for _ in range(20 if LONG else 1):
                    await more(taken, 60)
                    await asyncio.to_thread(daemon.kill)
                    await asyncio.to_thread(daemon.start)
                await more(taken, 60)
                stop.set()
            return taken

        taken = asyncio.run(main())
        kept: set[int] = set()
        until_s = time.monotonic() + 60
        # What the broker sends again is there twice: only the presses themselves say whether all are there.
        while not taken <= kept and time.monotonic() < until_s:
            kept = journalled(carebell_json("journal", "list", "--payload", data_dir=data_dir))
        assert daemon.stop() == 0
    assert taken <= kept, "a press that the broker took is not in the journal"


async def more(taken: set[int], count: int) -> None:
    """Return when so many more were taken."""
    enough = len(taken) + count
    async with asyncio.timeout(60):
        while len(taken) < enough:
            await asyncio.sleep(0.01)


def journalled(rows: list[dict[str, object]]) -> set[int]:
    payloads = [base64.b64decode(str(row["payload"])) for row in rows if row["payload"]]
    return set(numbers([payload for payload in payloads if b'"n"' in payload]))
