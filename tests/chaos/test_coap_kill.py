"""kill -9 under load over CoAP: what was answered with 2.04 is in the journal, once, and every press is an alert."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections import Counter
from pathlib import Path

import pytest

from gateway import crashpoints
from simulators.coap import CoapLink
from simulators.devices import NotAcknowledgedError
from tests.daemon import Daemon, carebell, carebell_json, provision

LONG = os.environ.get("CAREBELL_CHAOS") == "long"
DEVICES = 8
ENOUGH = 80
KILLS = 40


class Sender:
    """A device that sends the same message until it is acknowledged, whatever happens."""

    def __init__(self, port: int, device_id: str, token: str, seed: int) -> None:
        self.device_id = device_id
        self.acknowledged: set[int] = set()
        self.presses: set[int] = set()
        self._link = CoapLink("127.0.0.1", port, device_id, token, ack_timeout_s=0.1)
        self._rng = random.Random(f"{seed}{device_id}")

    async def run(self, stop: asyncio.Event) -> None:
        seq = 0
        while not stop.is_set():
            seq += 1
            body: dict[str, object] = {"seq": seq, "measurements": {"heart_rate_bpm": self._rng.randrange(60, 90)}}
            if self._rng.random() < 0.04:
                self.presses.add(seq)
                body["signals"] = ["sos"]
            payload = json.dumps(body).encode()
            while seq not in self.acknowledged:
                try:
                    await self._link.send(payload)
                    self.acknowledged.add(seq)
                except NotAcknowledgedError:
                    await asyncio.sleep(0.05)
            await asyncio.sleep(self._rng.random() * 0.02)
        await self._link.break_off()
        await asyncio.sleep(0)


async def survive(tmp_path: Path, deaths: list[dict[str, str]]) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    tokens = provision(data_dir, DEVICES)
    daemon = Daemon(data_dir)
    senders = [Sender(daemon.coap_port, name, token, 3) for name, token in tokens.items()]
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for sender in senders:
            group.create_task(sender.run(stop))
        for death in deaths:
            await asyncio.to_thread(daemon.start, death)
            if death:
                assert await asyncio.to_thread(daemon.wait) == -9
            else:
                await asyncio.sleep(random.Random(len(deaths)).random() + 0.2)
                await asyncio.to_thread(daemon.kill)
        await asyncio.to_thread(daemon.start)
        async with asyncio.timeout(60):
            while sum(len(sender.acknowledged) for sender in senders) < ENOUGH:
                await asyncio.sleep(0.1)
        stop.set()
    assert await asyncio.to_thread(daemon.stop) == 0
    judge(data_dir, senders)


def judge(data_dir: Path, senders: list[Sender]) -> None:
    records = carebell_json("journal", "list", data_dir=data_dir)
    seen = Counter((row["device_id"], int(row["dedup_key"])) for row in records)
    acknowledged = {(sender.device_id, seq) for sender in senders for seq in sender.acknowledged}
    assert len(acknowledged) >= ENOUGH
    assert acknowledged <= set(seen), "an acknowledged message is not in the journal"
    assert [key for key, count in seen.items() if count > 1] == [], "a message is in the journal twice"
    pressed = {f"P-{sender.device_id[2:]}" for sender in senders if sender.presses}
    alerts = [alert for alert in carebell_json("alerts", "list", data_dir=data_dir) if alert["kind"] == "sos"]
    assert {alert["person_id"] for alert in alerts} == pressed
    carebell("audit", "verify", data_dir=data_dir)


@pytest.mark.live
def test_death_before_and_after_the_commit(tmp_path: Path) -> None:
    points = (crashpoints.BEFORE_COMMIT, crashpoints.AFTER_COMMIT)
    asyncio.run(survive(tmp_path, [{"CAREBELL_CRASH": f"{point}:20"} for point in points]))


@pytest.mark.skipif(not LONG, reason="the places around the commit are above; any moment: make chaos")
@pytest.mark.live
@pytest.mark.timeout(1800 if LONG else 300)
def test_death_at_any_moment(tmp_path: Path) -> None:
    asyncio.run(survive(tmp_path, [{}] * KILLS))
