"""A daemon and a platform as processes of their own, as somebody who tries carebell out starts them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from tests.daemon import free_port

PROGRAM = (sys.executable, "-c", "from gateway.cli.main import main; main()")


def carebell(*arguments: str, timeout_s: float = 180) -> subprocess.CompletedProcess[str]:
    """Run a command of ours to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False, env=environment()
    )


def rows(*arguments: str) -> list[dict[str, Any]]:
    """What a command prints with --json, one object a line."""
    run = carebell(*arguments, "--json")
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("CAREBELL_")}


@dataclass(frozen=True)
class Daemon:
    folder: Path
    mqtt_port: int
    http: str
    platform: str

    @property
    def options(self) -> tuple[str, ...]:
        """What tells a command of ``carebell simulate`` where this daemon is."""
        return ("-c", str(self.folder / "carebell.toml"), "--port", str(self.mqtt_port), "--http", self.http)


@contextlib.contextmanager
def daemon(folder: Path) -> Iterator[Daemon]:
    """The gateway without history, and the simulated platform that it sends its orders to."""
    mqtt_port, http_port, platform_port = free_port(), free_port(), free_port()
    found = Daemon(folder, mqtt_port, f"http://127.0.0.1:{http_port}", f"http://127.0.0.1:{platform_port}")
    (folder / "token").write_text("a-token")
    (folder / "carebell.toml").write_text(
        f'data_dir = "data"\n[mqtt]\nlisten = "127.0.0.1:{mqtt_port}"\n[http]\nlisten = "127.0.0.1:{http_port}"\n'
        f'[history]\ndsn = ""\n[order_api]\nbase_url = "{found.platform}"\ntoken_file = "{folder / "token"}"\n'
    )
    made = carebell("keys", "add", "--role", "backend", "-c", str(folder / "carebell.toml"))
    assert made.returncode == 0, made.stderr
    (folder / "backend.key").write_text(made.stdout)
    platform = (
        "simulate", "platform", "--listen", f"127.0.0.1:{platform_port}", "--token-file", str(folder / "token"),
        "--gateway", found.http, "--gateway-key-file", str(folder / "backend.key"), "--speed", "600",
    )  # fmt: skip
    with (
        running(platform, folder / "platform.log", f"{found.platform}/"),
        running(("run", "-c", str(folder / "carebell.toml")), folder / "gateway.log", f"{found.http}/readyz"),
    ):
        yield found


@contextlib.contextmanager
def running(arguments: tuple[str, ...], log: Path, ready_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A command of ours until the block ends, then SIGTERM; it must end with 0."""
    with log.open("wb") as output:
        process = subprocess.Popen([*PROGRAM, *arguments], stdout=output, stderr=output, env=environment())
    try:
        deadline_s = time.monotonic() + 60
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline_s, log.read_text()
            with contextlib.suppress(httpx2.HTTPError):
                if httpx2.get(ready_url, trust_env=False, timeout=180).status_code == 200:
                    break
            time.sleep(0.05)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(90) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def processes_with(text: str) -> list[str]:
    """Command lines of this machine's living processes that contain a text."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if text in line:
                    found.append(f"{entry.name} {line}")
    return found
