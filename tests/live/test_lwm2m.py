"""The LwM2M server with independent clients (npm coap-node and lwm2m-node-lib) and our own of LwM2M 1.1."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import apsw
import pytest

from gateway.clock import SystemClock
from gateway.model import DeviceBinding
from gateway.storage.database import FILE_NAME, open_database
from protocols.registry import CODECS
from protocols.transports.coap.endpoint import CoapEndpoint, CoapOptions
from protocols.transports.lwm2m.asking import Asking, Order
from protocols.transports.lwm2m.server import Lwm2mOptions, Lwm2mServer
from simulators import coap_wire as wire
from simulators.devices import NotAcknowledgedError
from simulators.lwm2m import Lwm2mButton
from tests.daemon import Daemon, carebell, carebell_json, provision
from tests.live.coap_harness import CountingIngest, Devices
from tests.npm_packages import npm_packages

PACKAGES = ("coap-node@0.2.5", "smartobject@1.5.3", "lwm2m-node-lib@1.4.0")
PROFILE = "oma.push_button"
T = TypeVar("T")


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """A directory outside the repository where the clients are installed."""
    return npm_packages("lwm2m-clients", *PACKAGES) / "node_modules"


def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not come to that in time"
        time.sleep(0.1)


def observed(data_dir: Path) -> list[dict[str, Any]]:
    records = carebell_json("journal", "list", "--device", "D-1", data_dir=data_dir)
    return [observation for record in records for observation in record["observations"]]


def presses(data_dir: Path) -> int:
    return sum(one.get("signal") == "sos" and one["active"] for one in observed(data_dir))


def of(data_dir: Path, metric: str) -> list[float]:
    return [one["value"] for one in observed(data_dir) if one.get("metric") == metric]


def command_state(data_dir: Path) -> list[str]:
    return [row["state"] for row in carebell_json("commands", "list", data_dir=data_dir)]


class Client:
    """A client of LwM2M in Node, by its words."""

    def __init__(self, script: str, node_modules: Path, port: int, endpoint: str, log: Path) -> None:
        self._log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                ["node", str(Path(__file__).with_name(script)), str(port), endpoint],
                stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, text=True,
                env={**os.environ, "NODE_PATH": str(node_modules), "NODE_NO_WARNINGS": "1"},
            )  # fmt: skip

    def say(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def wait_for(self, word: str) -> None:
        until(lambda: word in self._log.read_text())

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


@pytest.mark.live
def test_coap_node_registers_notifies_and_outlives_a_restart(tmp_path: Path, node_modules: Path) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    token = provision(data_dir, 1, profile=PROFILE)["D-1"]
    with Daemon(data_dir) as daemon:
        client = Client("lwm2m_coap_node.cjs", node_modules, daemon.coap_port, f"D-1:{token}", tmp_path / "client.log")
        try:
            client.wait_for("answer 2.01")
            until(lambda: set(of(data_dir, "temperature_celsius")) == {21.5})
            until(lambda: any(one["kind"] == "signal" and one["signal"] == "sos" for one in observed(data_dir)))
            assert presses(data_dir) == 0
            client.say("press")
            until(lambda: presses(data_dir) >= 1)
            client.say("release")
            client.wait_for("released")
            before = presses(data_dir)
            daemon.kill()
            daemon.start()
            client.say("press")
            until(lambda: presses(data_dir) > before)
            client.say("end")
            client.wait_for("deregistered")
            places = [one for one in observed(data_dir) if one["kind"] == "position"]
            assert places[0]["latitude"] == 39.1235
            alerts = carebell_json("alerts", "list", data_dir=data_dir)
            assert [alert["kind"] for alert in alerts if alert["kind"] == "sos"] == ["sos"]
        finally:
            client.end()


class Buttons(Devices):
    """D-1 with a token as carebell makes them: a client in the endpoint's name says it."""

    SECRET = "s" * 43

    async def authenticate(self, device_id: str, token: bytes) -> DeviceBinding | None:
        return self.devices.get(device_id) if token == self.SECRET.encode() else None


class FileStore:
    """``ports.Store`` on a file of its own, on the loop."""

    def __init__(self, path: Path) -> None:
        self._connection = open_database(path)

    async def write(self, fn: Callable[[apsw.Connection], T]) -> T:
        with contextlib.ExitStack() as transaction:
            transaction.enter_context(self._connection)
            return fn(self._connection)

    async def read(self, fn: Callable[[apsw.Connection], T]) -> T:
        return fn(self._connection)

    def close(self) -> None:
        self._connection.close()


@asynccontextmanager
async def impatient_server(tmp_path: Path) -> AsyncIterator[tuple[Lwm2mServer, CountingIngest, int]]:
    """A server in this process that does not wait long for clients that say nothing to a format; its port."""
    ingest, devices, clock = CountingIngest(), Buttons(), SystemClock()
    coap = CoapEndpoint(
        CoapOptions("127.0.0.1:0", "", ""), ingest=ingest, credentials=devices, directory=devices, clock=clock,
        state_dir=tmp_path,
    )  # fmt: skip
    store = FileStore(tmp_path / FILE_NAME)
    options = Lwm2mOptions(observe=("/3/0", "/3303", "/3347"))
    server = Lwm2mServer(
        options, coap=coap, ingest=ingest, credentials=devices, directory=devices, store=store, clock=clock,
        asking=Asking(answer_s=30.0, silent_s=0.7),
    )  # fmt: skip
    await server.load()
    await coap.start()
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(coap.run()), group.create_task(server.run())]
        try:
            yield server, ingest, int(coap.addresses["coap"].rpartition(":")[2])
        finally:
            for task in running:
                task.cancel()
    store.close()


def said(ingest: CountingIngest) -> dict[str, Any]:
    """The newest value of each resource that came, as the codec reads the frames."""
    found: dict[str, Any] = {}
    for frame in ingest.frames:
        for report in CODECS["lwm2m"].parse(frame):
            found |= report.fields or {}
            found |= {} if report.reading is None else report.reading.measurements
    return found


@pytest.mark.live
def test_lwm2m_node_lib_registers_notifies_and_answers(tmp_path: Path, node_modules: Path) -> None:
    """It says nothing at all to a request for TLV or JSON, and observes no whole instances."""

    async def until_said(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.02)

    async def main() -> None:
        log = tmp_path / "client.log"
        async with impatient_server(tmp_path) as (server, ingest, port):
            client = Client("lwm2m_node_lib.cjs", node_modules, port, f"D-1:{Buttons.SECRET}", log)
            try:
                await until_said(lambda: said(ingest).get("battery_percent") == 81)
                await until_said(lambda: said(ingest).get("temperature_celsius") == 36.6)
                await until_said(lambda: said(ingest).get("/3347/0/pressed") is False)
                known = server.known.by_device["D-1"]
                assert await server.carry_out(known, Order("read", "/3303/0/5700")) == "2.05"
                assert log.read_text().count("read 3303/0/5700") >= 2, "observed, then read"
                client.say("press")
                await until_said(lambda: said(ingest).get("/3347/0/pressed") is True)
                client.say("update")
                await until_said(lambda: "update done" in log.read_text())
                client.say("end")
                await until_said(lambda: not server.known.by_id)
            finally:
                await asyncio.to_thread(client.end)

    asyncio.run(main())


@pytest.mark.live
@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("CAREBELL_CHAOS") != "long", reason="set CAREBELL_CHAOS=long: about a minute")
def test_lwm2m_node_lib_falls_back_to_text_and_resources(tmp_path: Path, node_modules: Path) -> None:
    """It says nothing at all to a request for TLV or JSON, and observes no whole instances."""
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    token = provision(data_dir, 1, profile=PROFILE)["D-1"]
    with Daemon(data_dir) as daemon:
        client = Client("lwm2m_node_lib.cjs", node_modules, daemon.coap_port, f"D-1:{token}", tmp_path / "client.log")
        try:
            client.wait_for("answer registered")
            until(lambda: of(data_dir, "battery_percent") != [], 60)
            until(lambda: of(data_dir, "temperature_celsius") != [], 30)
            client.say("update")
            client.wait_for("update done")
            client.say("press")
            until(lambda: presses(data_dir) >= 1, 60)
            client.say("end")
            client.wait_for("unregistered")
        finally:
            client.end()


@pytest.mark.live
def test_lwm2m_1_1(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    token = provision(data_dir, 1, profile=PROFILE)["D-1"]

    async def talk(daemon: Daemon) -> None:
        for endpoint, secret in (("D-1", "wrong"), ("D-9", token)):
            with pytest.raises(NotAcknowledgedError, match=r"answered 4\.03"):
                await Lwm2mButton("127.0.0.1", daemon.coap_port, endpoint, secret).start()
        button = Lwm2mButton("127.0.0.1", daemon.coap_port, "D-1", token, lifetime_s=600)
        await button.start()
        assert button.peer is not None
        async with asyncio.timeout(60):
            while len(button.attributes) < 3:
                await asyncio.sleep(0.05)
            assert button.attributes["/3347/0"] == "pmax=3600"
            while not await asyncio.to_thread(of, data_dir, "battery_percent"):
                await asyncio.sleep(0.1)
        await button.press()
        assert await asyncio.to_thread(presses, data_dir) == 1, "acknowledged, so it is in the journal"
        assert await button.update() == wire.CHANGED
        button.values["/3/0/9"] = 15
        assert await button.send(battery="/3/0/9", sos="/3347/0/5500") == wire.CHANGED
        assert await asyncio.to_thread(of, data_dir, "battery_percent") == [90, 15]
        stranger = Lwm2mButton("127.0.0.1", daemon.coap_port, "D-1", token)
        stranger.peer = await type(button.peer).connect("127.0.0.1", daemon.coap_port)
        assert await stranger.send(sos="/3347/0/5500") == wire.NOT_FOUND
        brief = Lwm2mButton("127.0.0.1", daemon.coap_port, "D-1", token, lifetime_s=2)
        await brief.start()
        assert await button.update() == wire.NOT_FOUND, "a new registration takes the place of the old one"
        await asyncio.to_thread(
            until, lambda: any(one.get("signal") == "connection_lost" and one["active"] for one in observed(data_dir))
        )  # its lifetime ended
        assert await brief.update() == wire.NOT_FOUND
        for client in (button, stranger, brief):
            client.close()
        await asyncio.sleep(0)

    with Daemon(data_dir) as daemon:
        asyncio.run(talk(daemon))


@pytest.mark.live
def test_commands_reach_a_client(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    token = provision(data_dir, 1, profile=PROFILE)["D-1"]

    async def talk(daemon: Daemon) -> None:
        button = Lwm2mButton("127.0.0.1", daemon.coap_port, "D-1", token)
        await button.start()
        await asyncio.to_thread(carebell, "devices", "command", "D-1", "restart", data_dir=data_dir)
        async with asyncio.timeout(60):
            while button.executed != ["/3/0/4"]:
                await asyncio.sleep(0.05)
        await asyncio.to_thread(until, lambda: command_state(data_dir) == ["confirmed"])
        assert await button.end() == wire.DELETED
        button.close()
        await asyncio.sleep(0)

    with Daemon(data_dir) as daemon:
        asyncio.run(talk(daemon))
