"""The benchmark of broker mode: a Mosquitto between the generator and the gateway, all on this machine."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import httpx2

from simulators.bench import CONNECTIONS, DRAIN_LIMIT_S, WINDOW, Bench
from simulators.generator import Generator

START_S: Final = 10.0
PLACES: Final = "/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin"


class BrokerBench(Bench):
    """The gateway on a Mosquitto with persistence, as docs/protocols/broker-mode.md configures it."""

    def __init__(self, folder: Path, devices: int) -> None:
        super().__init__(folder, devices)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.broker_port: int = probe.getsockname()[1]
        self._broker: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        section = {
            "url": f"mqtt://127.0.0.1:{self.broker_port}",
            "client_id": "carebell-bench",
            "codecs": [],
            "topics": [{"topic": "carebell/{device}/up", "codec": "native"}],
        }
        return {**super().environment(), "CAREBELL_BROKER": json.dumps([section])}

    async def start_sinks(self) -> None:
        await super().start_sinks()
        program = shutil.which("mosquitto", path=PLACES)
        if program is None:
            raise RuntimeError("needs mosquitto: apt-get install mosquitto")
        folder = self.data_dir.parent / "broker"
        folder.mkdir()
        folder.chmod(0o777)  # Mosquitto gives root's rights away when it has them
        config = folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.broker_port} 127.0.0.1\nallow_anonymous true\npersistence true\n"
            f"persistence_location {folder}/\nautosave_interval 1\nmax_queued_messages 0\n",
            encoding="utf-8",
        )
        self._broker = subprocess.Popen(  # noqa: ASYNC220, S603 - before anything is measured
            [program, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        async with asyncio.timeout(START_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.broker_port)
                    writer.close()
                    return
                await asyncio.sleep(0.05)

    async def stop_sinks(self) -> None:
        if self._broker is not None:
            self._broker.terminate()
            await asyncio.to_thread(self._broker.wait)
        await super().stop_sinks()

    async def subscribed(self) -> None:
        """Return when the gateway has its session: nobody keeps what is published before."""
        async with httpx2.AsyncClient() as client, asyncio.timeout(START_S):
            while True:
                answer = await client.get(f"http://127.0.0.1:{self.http_port}/readyz")
                if any(part["name"] == "brokers" and part["ok"] for part in answer.json()["parts"]):
                    return
                await asyncio.sleep(0.05)


async def through_broker(bench: BrokerBench, seconds: float) -> dict[str, Any]:
    """QoS 1 in and out of the broker, closed loop: until the last message that the broker took is in the journal."""
    await bench.subscribed()
    before = bench.stat()["records"]
    cpu_s = bench.cpu_seconds()
    begun_s = time.perf_counter()
    ran = await Generator(bench.data_dir.parent, bench.broker_port, bench.credentials[:CONNECTIONS]).closed_loop(
        seconds, WINDOW
    )
    published_s = time.perf_counter() - begun_s
    stored = 0
    while stored < ran.acked and time.perf_counter() - begun_s < published_s + DRAIN_LIMIT_S:
        await asyncio.sleep(0.05)
        stored = bench.stat()["records"] - before
    durable_s = time.perf_counter() - begun_s
    return {
        "durable_messages_per_s": round(min(stored, ran.acked) / durable_s),
        "taken_by_the_broker": ran.acked,
        "in_the_journal": stored,
        "published_s": round(published_s, 1),
        "durable_s": round(durable_s, 1),
        "gateway_cpu_us_per_message": round((bench.cpu_seconds() - cpu_s) / max(1, stored) * 1e6, 1),
        "generator": ran.generator,
    }
