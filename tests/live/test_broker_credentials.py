"""Credentials that brokers take: Mosquitto with its dynamic-security plugin, EMQX's questions, EMQX's own table."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import aiomqtt
import httpx2
import pytest

from tests.daemon import Daemon, carebell, free_port, provision

pytestmark = pytest.mark.live


def plugin() -> Path:
    """The plugin's file; skips the test where there is none."""
    found = [each for lib in ("*/", "") for each in Path("/usr/lib").glob(f"{lib}mosquitto_dynamic_security.so")]
    if not found or shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin") is None:
        pytest.skip("no broker: install the Debian package mosquitto")
    return found[0]


@contextmanager
def mosquitto(folder: Path, security: Path) -> Iterator[int]:
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\nper_listener_settings false\nuser root\n"
        f"plugin {plugin()}\nplugin_opt_config_file {security}\n",
        encoding="utf-8",
    )
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert program is not None
    with (folder / "mosquitto.log").open("w") as log:
        process = subprocess.Popen([program, "-c", str(config)], stdout=log, stderr=log)
        try:
            ends = time.monotonic() + 60
            while True:
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert time.monotonic() < ends
                time.sleep(0.02)
            yield port
        finally:
            process.terminate()
            process.wait(60)


class Listener:
    """Somebody who has asked for a topic; the broker may have refused it."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @asynccontextmanager
    async def on(self, port: int, name: str, password: str, topic: str) -> AsyncIterator[None]:
        async with (
            aiomqtt.Client("127.0.0.1", port, username=name, password=password, timeout=60) as client,
            asyncio.TaskGroup() as group,
        ):
            await client.subscribe(topic, qos=1)
            listening = group.create_task(self._listen(client))
            yield
            listening.cancel()

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            self.heard.append(f"{message.topic} {bytes(message.payload).decode()}")


async def says(port: int, name: str, password: str, topic: str) -> None:
    """Try to say one's name there; whoever is refused has to do without."""
    with suppress(aiomqtt.MqttError):
        async with aiomqtt.Client("127.0.0.1", port, username=name, password=password, timeout=60) as client:
            await client.publish(topic, name, qos=1)


async def conversation(port: int, token: str) -> list[list[str]]:
    """What the gateway, and what D-1 with three topics, came to hear of five messages."""
    gateway, spy, mine, other = (Listener() for _ in range(4))
    async with (
        gateway.on(port, "carebell", "gateway-secret", "carebell/+/up"),
        spy.on(port, "D-1", token, "carebell/+/up"),
        mine.on(port, "D-1", token, "carebell/D-1/down"),
        other.on(port, "D-1", token, "carebell/D-2/down"),
    ):
        for name, password, topic in (
            ("D-1", token, "carebell/D-1/up"), ("D-1", token, "carebell/D-2/up"), ("D-2", token, "carebell/D-2/up"),
            ("carebell", "gateway-secret", "carebell/D-1/down"), ("carebell", "gateway-secret", "carebell/D-2/down"),
        ):  # fmt: skip
            await says(port, name, password, topic)
        async with asyncio.timeout(60):
            while not (gateway.heard and mine.heard):
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
    return [each.heard for each in (gateway, spy, mine, other)]


def test_mosquitto_lets_each_device_be_itself_alone(tmp_path: Path) -> None:
    plugin()
    data_dir, tokens_file, out = tmp_path / "d", tmp_path / "tokens.csv", tmp_path / "security.json"
    tokens = provision(data_dir, 2)
    tokens_file.write_text("device_id,token\n" + "".join(f"{name},{token}\n" for name, token in tokens.items()))
    (tmp_path / "gateway.password").write_text("gateway-secret")
    carebell(
        "devices", "brokers", "--for", "mosquitto", "--tokens", str(tokens_file), "--gateway-password-file",
        str(tmp_path / "gateway.password"), "--out", str(out), data_dir=data_dir,
    )  # fmt: skip
    assert out.stat().st_mode & 0o777 == 0o600
    assert all(token not in out.read_text() for token in tokens.values())
    with mosquitto(tmp_path, out) as port:
        heard = asyncio.run(conversation(port, tokens["D-1"]))
    assert heard == [["carebell/D-1/up D-1"], [], ["carebell/D-1/down carebell"], []]


def test_a_token_that_is_not_in_force_is_not_exported(tmp_path: Path) -> None:
    data_dir, tokens_file, out = tmp_path / "d", tmp_path / "tokens.csv", tmp_path / "out.csv"
    tokens = provision(data_dir, 2)
    tokens_file.write_text(f"device_id,token\nD-1,{tokens['D-1']}\nD-2,{tokens['D-1']}\n")
    command = (
        "devices",
        "brokers",
        "--for",
        "gateway",
        "--tokens",
        str(tokens_file),
        "--host",
        "h:1",
        "-o",
        str(out),
    )
    carebell(*command, data_dir=data_dir, check=False)
    assert not out.exists()
    tokens_file.write_text(f"device_id,token\nD-1,{tokens['D-1']}\n")
    carebell(*command, data_dir=data_dir)
    assert f"D-1,h:1,D-1,{tokens['D-1']},carebell/D-1/up,carebell/D-1/down" in out.read_text()
    carebell("devices", "brokers", "--for", "emqx", "-o", str(out), data_dir=data_dir)
    with out.open(newline="") as file:
        rows = {row["user_id"]: row for row in csv.DictReader(file)}
    assert rows["D-2"]["password_hash"] == hashlib.sha256(tokens["D-2"].encode()).hexdigest()
    assert rows["D-2"]["salt"] == ""


def test_emqx_asks_who_may_connect_and_where(tmp_path: Path) -> None:
    tokens = provision(tmp_path / "d", 2)
    (tmp_path / "emqx.secret").write_text("emqx-secret\n")
    environment = {"CAREBELL_EMQX__SECRET_FILE": str(tmp_path / "emqx.secret"), "CAREBELL_COAP__LISTEN": ""}
    with Daemon(tmp_path / "d", **environment) as daemon:
        headers = {"authorization": "Bearer emqx-secret"}
        with httpx2.Client(base_url=f"{daemon.url}/api/v1/emqx", headers=headers, trust_env=False, timeout=60) as emqx:

            def auth(username: str, password: str, **more: str) -> str:
                body = {"username": username, "password": password, "clientid": "x", **more}
                answer = emqx.post("/auth", json=body)
                assert answer.status_code == 200, answer.text
                assert answer.json()["is_superuser"] is False
                return str(answer.json()["result"])

            def acl(username: str, action: str, topic: str) -> str:
                return str(
                    emqx.post("/acl", json={"username": username, "action": action, "topic": topic}).json()["result"]
                )

            assert auth("D-1", tokens["D-1"]) == "allow"
            assert auth("D-1", tokens["D-2"]) == auth("D-1", "") == "deny"
            assert auth("carebell", "x") == auth("", "") == "ignore", "for EMQX's next authenticator"
            assert acl("D-1", "publish", "carebell/D-1/up") == "allow"
            assert acl("D-1", "subscribe", "carebell/D-1/down") == "allow"
            for action, topic in (
                ("publish", "carebell/D-2/up"), ("publish", "carebell/D-1/down"), ("subscribe", "carebell/#"),
                ("subscribe", "carebell/D-1/up"), ("subscribe", "#"), ("", "carebell/D-1/up"),
            ):  # fmt: skip
                assert acl("D-1", action, topic) == "deny"
            assert acl("carebell", "subscribe", "carebell/+/up") == "ignore"
            for wrong in ("Bearer emqx", "Basic emqx-secret", ""):
                assert emqx.post("/auth", json={}, headers={"authorization": wrong}).status_code == 401
            carebell("devices", "suspend", "D-1", data_dir=tmp_path / "d")
            ends = time.monotonic() + 60
            while auth("D-1", tokens["D-1"]) == "allow":  # until the daemon has looked at the registry again
                assert time.monotonic() < ends
                time.sleep(0.05)
