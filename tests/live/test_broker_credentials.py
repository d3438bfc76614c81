"""Credentials that brokers take: Mosquitto with its dynamic-security plugin, EMQX's questions, EMQX's own table."""

from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
            time.sleep(0.3)
            yield port
        finally:
            process.terminate()
            process.wait(10)


def hears(port: int, name: str, password: str, topic: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["mosquitto_sub", "-h", "127.0.0.1", "-p", str(port), "-u", name, "-P", password, "-t", topic, "-W", "2", "-v"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def says(port: int, name: str, password: str, topic: str) -> None:
    subprocess.run(
        ["mosquitto_pub", "-h", "127.0.0.1", "-p", str(port), "-u", name, "-P", password, "-q", "1", "-t", topic,
         "-m", name],
        check=False, timeout=60, capture_output=True,
    )  # fmt: skip


def test_mosquitto_lets_each_device_be_itself_alone(tmp_path: Path) -> None:
    plugin()
    if shutil.which("mosquitto_sub") is None:
        pytest.skip("install the Debian package mosquitto-clients")
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
        gateway = hears(port, "carebell", "gateway-secret", "carebell/+/up")
        spy = hears(port, "D-1", tokens["D-1"], "carebell/+/up")
        mine = hears(port, "D-1", tokens["D-1"], "carebell/D-1/down")
        other = hears(port, "D-1", tokens["D-1"], "carebell/D-2/down")
        time.sleep(0.4)
        says(port, "D-1", tokens["D-1"], "carebell/D-1/up")
        says(port, "D-1", tokens["D-1"], "carebell/D-2/up")
        says(port, "D-2", tokens["D-1"], "carebell/D-2/up")
        says(port, "carebell", "gateway-secret", "carebell/D-1/down")
        says(port, "carebell", "gateway-secret", "carebell/D-2/down")
        heard = [each.communicate(timeout=60)[0].splitlines() for each in (gateway, spy, mine, other)]
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
        with httpx2.Client(base_url=f"{daemon.url}/api/v1/emqx", headers=headers, trust_env=False) as emqx:

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
