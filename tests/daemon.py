"""``carebell run`` as a child process, and what a test asks of it from outside."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from gateway.model import Actor
from gateway.registry.devices import add_device
from gateway.registry.persons import add_person
from gateway.storage.database import FILE_NAME, open_database

READY_S = 120.0
ACTOR = Actor("system", "test")


def _ports() -> Iterator[int]:
    """Ports below those that the system gives to outgoing connections, others for each worker of pytest-xdist.

    A port that was bound to 0 and let go may belong to somebody else's connection a moment later.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    size = 2500
    first = 11_000 + worker * size
    for number in itertools.count(os.getpid() * 37):
        yield first + number % size


_CANDIDATES = _ports()


def free_port() -> int:
    """A port that nobody uses just now, for TCP or for UDP; never the same one twice soon."""
    for port in _CANDIDATES:
        with socket.socket() as probe, socket.socket(type=socket.SOCK_DGRAM) as datagrams, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            datagrams.bind(("127.0.0.1", port))
            return port
    raise AssertionError("candidates never end")


def carebell(*arguments: str, data_dir: Path, check: bool = True) -> str:
    """The output of a command on this journal."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway.cli", *arguments, "--data-dir", str(data_dir)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert not check or done.returncode == 0, done.stderr
    return done.stdout


def carebell_json(*arguments: str, data_dir: Path) -> list[dict[str, Any]]:
    """The JSON lines that a command prints."""
    return [json.loads(line) for line in carebell(*arguments, "--json", data_dir=data_dir).splitlines()]


def provision(data_dir: Path, devices: int, *, profile: str = "carebell.native") -> dict[str, str]:
    """Register persons P-1... with one device D-1... each; return the tokens by device."""
    connection = open_database(data_dir / FILE_NAME)
    now_us = time.time_ns() // 1000
    tokens = {}
    with connection:
        for number in range(1, devices + 1):
            person = {"name": f"测试{number}", "phone": f"+861380000{number:04d}"}
            add_person(connection, f"P-{number}", person, at_us=now_us, actor=ACTOR)
            device = {"profile": profile, "person_id": f"P-{number}"}
            _, tokens[f"D-{number}"] = add_device(
                connection, f"D-{number}", device, known_profiles=[profile], at_us=now_us, actor=ACTOR
            )
    connection.close()
    return tokens


class Daemon:
    """One data directory, and the process that runs on it (again and again). Its ports stay the same."""

    def __init__(self, data_dir: Path, *, history: str = "", **environment: str) -> None:
        self.data_dir = data_dir
        self.mqtt_port, self.http_port, self.coap_port = free_port(), free_port(), free_port()
        self.environment = {
            "CAREBELL_MQTT__LISTEN": f"127.0.0.1:{self.mqtt_port}",
            "CAREBELL_HTTP__LISTEN": f"127.0.0.1:{self.http_port}",
            "CAREBELL_HISTORY__DSN": history,
            "CAREBELL_COAP__LISTEN": f"127.0.0.1:{self.coap_port}",
            "CAREBELL_TRACKERS__HOST": "",  # only the listeners that a test asks for
            **environment,
        }
        self.process: subprocess.Popen[str] | None = None
        self.output: list[str] = []
        self.admin_key = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def start(self, extra: Mapping[str, str] | None = None, *, prefix: tuple[str, ...] = ()) -> None:
        """Start and wait for ``carebell ready``."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        log = (self.data_dir.parent / f"{self.data_dir.name}.log").open("a")
        self.process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "gateway.cli", "run", "--data-dir", str(self.data_dir)],
            stdout=subprocess.PIPE, stderr=log, text=True, env={**os.environ, **self.environment, **(extra or {})},
        )  # fmt: skip
        log.close()
        for line in self._lines():
            if line == "carebell ready":
                return
        if extra and "CAREBELL_CRASH" in extra:
            return  # the place where it dies may lie in its recovery
        raise AssertionError(f"it ended with {self.process.wait()}:\n" + "\n".join(self.output))

    def _lines(self) -> Iterator[str]:
        assert self.process is not None
        assert self.process.stdout is not None
        started_s = time.monotonic()
        for line in self.process.stdout:
            self.output.append(line.rstrip())
            found = re.search(r"first administrator key.*: (\S+)", line)
            if found:
                self.admin_key = found[1]
            yield line.rstrip()
            assert time.monotonic() - started_s < READY_S, "not ready in time"

    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def kill(self) -> None:
        """As the power would."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to drain; its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(timeout=90)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        return code

    def wait(self, timeout_s: float = 90.0) -> int:
        """For its own end."""
        assert self.process is not None
        code = self.process.wait(timeout=timeout_s)
        if self.process.stdout is not None:
            self.process.stdout.close()
        self.process = None
        return code

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self.running():
            self.stop()
        elif self.process is not None:
            self.wait()
