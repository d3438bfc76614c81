"""sd_notify over real datagram sockets."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from gateway.notify_systemd import Notifier, watch


@pytest.mark.parametrize("abstract", [False, True])
def test_messages_reach_the_socket(tmp_path: Path, abstract: bool) -> None:
    name = f"@carebell-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind("\0" + name[1:] if abstract else name)
        systemd.settimeout(5)
        notifier = Notifier({"NOTIFY_SOCKET": name})
        assert notifier.ready("listening\non 127.0.0.1:1883")
        assert systemd.recv(4096) == b"READY=1\nSTATUS=listening on 127.0.0.1:1883"
        assert notifier.status("fine")
        assert systemd.recv(4096) == b"STATUS=fine"
        assert notifier.stopping()
        assert systemd.recv(4096).startswith(b"STOPPING=1\n")


def test_without_a_socket_nothing_happens(tmp_path: Path) -> None:
    assert not Notifier({}).ready("x")
    assert not Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready("x")


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "20000000"}, 20),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}, 20),
        ({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}, 0),
        ({"WATCHDOG_USEC": "soon"}, 0),
    ],
)
def test_watchdog_interval(environment: dict[str, str], seconds: float) -> None:
    assert Notifier(environment).watchdog_s == seconds


def test_watchdog_pings_only_while_everything_makes_progress(tmp_path: Path) -> None:
    path = str(tmp_path / "notify")
    commit = timers = ""
    probes = 0

    async def probe() -> str:
        nonlocal probes
        probes += 1
        return commit

    async def main() -> None:
        nonlocal commit, timers
        loop = asyncio.get_running_loop()

        async def heard(wanted: bytes) -> list[bytes]:
            """What comes before this message."""
            before = []
            async with asyncio.timeout(60):
                while (message := await loop.sock_recv(systemd, 4096)) != wanted:
                    before.append(message)
            return before

        async def silent() -> None:
            """For several intervals it asks, and says nothing."""
            asked = probes
            async with asyncio.timeout(60):
                while probes < asked + 5:
                    await asyncio.sleep(0.005)
            with pytest.raises(BlockingIOError):
                systemd.recv(4096)

        async with asyncio.TaskGroup() as group:
            notifier = Notifier({"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "60000"})
            watching = group.create_task(watch(notifier, probe, [lambda: timers]))
            for _ in range(3):
                assert await heard(b"WATCHDOG=1") == []
            commit = "the disk is full"
            await heard(b"STATUS=the disk is full")
            await silent()
            commit, timers = "", "timers stand still"
            assert await heard(b"STATUS=timers stand still") == []
            await silent()
            timers = ""
            assert await heard(b"WATCHDOG=1") == []
            assert await heard(b"STATUS=running") == []
            assert await heard(b"WATCHDOG=1") == []
            watching.cancel()

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(path)
        systemd.setblocking(False)
        asyncio.run(main())
