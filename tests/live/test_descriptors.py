"""Devices that take every socket they can get leave the gateway what it needs itself."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest

from gateway import descriptors
from gateway.storage.database import FILE_NAME, open_database
from gateway.storage.many import ROWS
from tests.daemon import Daemon, provision
from tests.mqtt_wire import Client, play, publish_packet

FILES = 400
STATES = """
import resource, sys
from gateway.storage.database import open_database
from gateway.storage.many import upsert
connection = open_database(__import__("pathlib").Path(sys.argv[1]))
rows = [("rule", f"person/{n}", b"x" * 200) for n in range(int(sys.argv[2]))]
with connection:
    upsert(connection, "rule_state", ("rule_id", "subject"), "state", rows)
taken = open("/dev/null").fileno()
resource.setrlimit(resource.RLIMIT_NOFILE, (taken, taken))
with connection, connection:
    upsert(connection, "rule_state", ("rule_id", "subject"), "state", [(*row[:2], b"y" * 300) for row in rows])
print(connection.execute("SELECT count(*) FROM rule_state WHERE length(state) = 300").fetchone()[0])
"""


def test_states_are_saved_when_no_file_can_be_opened(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    open_database(path).close()
    run = subprocess.run(
        [sys.executable, "-c", STATES, str(path), str(20 * ROWS)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.stdout.strip() == str(20 * ROWS), run.stderr


@pytest.mark.parametrize(("most", "left"), [(100, 50), (20_000, 19_744), (resource.RLIM_INFINITY, 30_000)])
def test_the_last_ones_are_kept_back(monkeypatch: pytest.MonkeyPatch, most: int, left: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _what: (most, most))
    sockets = descriptors.Sockets()
    assert not any(sockets.opened() for _ in range(left))
    assert sockets.opened() is (most != resource.RLIM_INFINITY)
    sockets.closed()
    sockets.closed()
    assert not sockets.opened()


@pytest.mark.live
def test_a_daemon_without_sockets_left_takes_an_emergency(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path / "var", CAREBELL_MQTT__MAX_UNAUTHENTICATED_PER_ADDRESS="100000")
    token = provision(daemon.data_dir, 1)["D-1"]
    daemon.start(prefix=("prlimit", f"--nofile={FILES}:{FILES}"))
    opened: list[socket.socket] = []

    async def press() -> None:
        client = await Client.open(daemon.mqtt_port)
        await client.connect(device_id="D-1", token=token.encode())
        client.send(publish_packet("carebell/D-1/up", b'{"signals":["sos"]}', packet_id=7))
        assert await client.receive() == (0x40, b"\x00\x07")
        await client.close()

    try:
        opened += [socket.create_connection(("127.0.0.1", daemon.mqtt_port), timeout=60) for _ in range(FILES + 100)]
        play(press())
        assert httpx2.get(f"{daemon.url}/readyz", timeout=60).status_code == 200
        assert daemon.running()
    finally:
        for each in opened:
            each.close()
        daemon.stop()
