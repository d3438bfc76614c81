"""Commands through a running gateway to a real MQTT client (paho), over restarts; and credentials that end."""

from __future__ import annotations

import asyncio
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from device_profiles.loader import load_profiles
from gateway.clock import US_PER_S, SystemClock
from gateway.commands import ledger
from gateway.downlink import ProfileCommands
from gateway.model import Actor
from gateway.storage.database import FILE_NAME, open_database
from protocols.registry import CODECS
from simulators.devices import Gateway
from simulators.fleet import Fleet, FleetPlan
from simulators.terminals.base import Terminal
from simulators.terminals.gt06 import Gt06Script
from tests.daemon import Daemon, carebell, free_port, provision

pytestmark = pytest.mark.live

UNTIL_S = 60.0
IMEI = "490154203237518"


def until(condition: Callable[[], bool], what: str) -> None:
    deadline_s = time.monotonic() + UNTIL_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not in time: {what}"
        time.sleep(0.05)


class Device:
    """A device with a persistent session."""

    def __init__(self, daemon: Daemon, device_id: str, token: str) -> None:
        self.device_id = device_id
        self.got: queue.Queue[dict[str, Any]] = queue.Queue()
        self.gone = threading.Event()
        self._token = token
        self._daemon = daemon

    @contextmanager
    def awake(self) -> Iterator[paho.Client]:
        ready = threading.Event()
        self.gone.clear()
        client = paho.Client(
            CallbackAPIVersion.VERSION2, client_id=self.device_id, clean_session=False, protocol=paho.MQTTv311
        )

        def connected(*_: Any) -> None:
            client.subscribe(f"carebell/{self.device_id}/down", qos=1)

        client.username_pw_set(self.device_id, self._token)
        client.on_connect = connected
        client.on_subscribe = lambda *_: ready.set()
        client.on_disconnect = lambda *_: self.gone.set()
        client.on_message = lambda _client, _data, message: self.got.put(json.loads(message.payload))
        client.connect("127.0.0.1", self._daemon.mqtt_port)
        client.loop_start()
        try:
            assert ready.wait(UNTIL_S)
            yield client
        finally:
            client.disconnect()
            client.loop_stop()

    def command(self) -> dict[str, Any]:
        return self.got.get(timeout=UNTIL_S)

    def say(self, client: paho.Client, **message: Any) -> None:
        client.publish(f"carebell/{self.device_id}/up", json.dumps(message), qos=1).wait_for_publish(UNTIL_S)


class Book:
    """The ledger, as another process sees it."""

    def __init__(self, data_dir: Path) -> None:
        self._connection = open_database(data_dir / FILE_NAME)
        self._catalog = ProfileCommands(load_profiles(), CODECS)

    def ask(self, name: str, *, device_id: str = "D-1", age_s: int = 0, **parameters: Any) -> str:
        """Give a command; with ``age_s`` so long ago, and it expires 10 s after that."""
        self._connection.execute("BEGIN IMMEDIATE")
        command = ledger.request(
            self._connection, self._catalog, device_id, name, parameters, expires_s=10 if age_s else None,
            now_us=SystemClock().now_us() - age_s * US_PER_S, actor=Actor("operator", "test"),
        )  # fmt: skip
        self._connection.execute("COMMIT")
        return command.id

    def state(self, command_id: str) -> str:
        found = ledger.get(self._connection, command_id)
        return f"{found.state} {found.result}".strip()

    def becomes(self, command_id: str, state: str) -> None:
        until(lambda: self.state(command_id) == state, f"{state}; it is {self.state(command_id)}")

    def close(self) -> None:
        self._connection.close()


def test_commands_reach_sleeping_devices_and_survive_restarts(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    token = provision(data_dir, 1)["D-1"]
    book = Book(data_dir)
    ring = book.ask("ring", seconds=7)  # while the gateway is not even running
    late = book.ask("call_back", number="+8613800001234", age_s=9)
    daemon = Daemon(data_dir)
    daemon.start()
    try:
        book.becomes(late, "expired")
        device = Device(daemon, "D-1", token)
        with device.awake():
            first = device.command()
            assert (first["command"], first["name"], first["parameters"]) == (ring, "ring", {"seconds": 7})
            book.becomes(ring, "acknowledged")
            headers = {"authorization": f"Bearer {daemon.admin_key}"}
            with httpx2.Client(base_url=daemon.url, headers=headers, trust_env=False, timeout=60) as api:
                given = api.post("/api/v1/devices/D-1/commands", json={"name": "restart", "reason": "it hangs"})
                assert given.status_code == 202
                assert api.get(given.headers["location"]).json()["requested_by"]["channel"] == "api"
            restart = given.json()["id"]
            assert device.command()["command"] == restart
        daemon.kill()
        daemon.start()
        with device.awake() as client:
            device.say(client, command=ring, result="done")
            book.becomes(ring, "confirmed done")
            device.say(client, signals=["sos"])
            assert device.command()["name"] == "locate"  # it did not say where; and the restart came no second time
            device.say(client, command=restart, result="refused")
            book.becomes(restart, "failed refused")
            assert device.got.empty()
            words = ["devices", "command", "D-1", "volume", "--param", "percent=50", "--wait"]
            waiting = subprocess.Popen([sys.executable, "-m", "gateway.cli", *words, "--data-dir", str(data_dir)])
            device.say(client, command=device.command()["command"], result="done")
            assert waiting.wait(UNTIL_S) == 0
    finally:
        daemon.stop()
        book.close()
    told = carebell("tail", "--no-follow", "--from", "1", "--kind", "device", "--device", "D-1", data_dir=data_dir)
    events = [json.loads(line) for line in told.splitlines()]
    assert [event["data"]["state"] for event in events if event["data"].get("command_id") == ring] == [
        "queued", "sent", "acknowledged", "confirmed",
    ]  # fmt: skip
    assert {event["data"]["actor"]["type"] for event in events} == {"operator", "system", "device"}
    assert "13800001234" not in told
    carebell("audit", "verify", data_dir=data_dir)


def test_a_replaced_token_ends_the_connection_that_it_opened_and_simulated_devices_obey(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    tokens = provision(data_dir, 2)
    words = ("add", "--id", "T-1", "--profile", "trackers.gt06", "--imei", IMEI, "--json")
    carebell("devices", *words, data_dir=data_dir)
    port = free_port()
    with Daemon(data_dir, CAREBELL_TRACKERS__GT06=f"127.0.0.1:{port}") as daemon:
        rotated, other = Device(daemon, "D-1", tokens["D-1"]), Device(daemon, "D-2", tokens["D-2"])
        with rotated.awake() as client, other.awake() as witness:
            carebell("devices", "credentials", "D-1", data_dir=data_dir)
            assert rotated.gone.wait(UNTIL_S), "it is still connected"
            client.loop_stop()
            other.say(witness, seq=1, signals=["test"])
            assert not other.gone.is_set()
        token = new_token(data_dir)
        book = Book(data_dir)
        commands = [book.ask("locate"), book.ask("restart")]
        fleet = Fleet(
            Gateway("127.0.0.1", daemon.mqtt_port, daemon.url), [("D-1", token)], FleetPlan(1.0, duration_s=30.0)
        )
        asyncio.run(obey(fleet, lambda: all(book.state(command) == "confirmed done" for command in commands)))
        assert fleet.commands_done == 2
        asyncio.run(terminal_obeys(book, port))
        book.close()


async def terminal_obeys(book: Book, port: int) -> None:
    """A pendant over TCP, which knows no ids: one command after the other, and the dangerous one once."""
    commands = [book.ask("interval", device_id="T-1", seconds=30), book.ask("restart", device_id="T-1")]
    terminal = Terminal(Gt06Script(IMEI), "127.0.0.1", port)
    async with asyncio.timeout(UNTIL_S), asyncio.TaskGroup() as group:
        running = group.create_task(terminal.run())
        while not all(book.state(command) == "confirmed done" for command in commands):
            await asyncio.sleep(0.05)
        running.cancel()
    assert len(terminal.commands) == 2


def new_token(data_dir: Path) -> str:
    told = carebell("devices", "credentials", "D-1", "--json", data_dir=data_dir)
    return str(json.loads(told)["token"])


async def obey(fleet: Fleet, done: Callable[[], bool]) -> None:
    """Let the fleet run until this is so."""
    async with asyncio.timeout(UNTIL_S), asyncio.TaskGroup() as group:
        group.create_task(fleet.run())
        while not done():
            await asyncio.sleep(0.05)
        fleet.stop()
