"""kill -9 under load over UDP: a datagram that was answered is in the journal, once, and every press is an alert."""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from protocols.bits import rotating_sum16
from simulators.terminals.base import Facts, Message, Place
from simulators.terminals.eelink import EelinkScript
from tests.chaos import kill_rounds
from tests.daemon import Daemon, carebell_json, free_port

TERMINALS = 10
AGAIN_S = 0.1


class Terminal:
    """An Eelink terminal over UDP: each package in an envelope with the IMEI and a sum."""

    def __init__(self, port: int, imei: str, seed: int) -> None:
        self.imei = imei
        self.acknowledged: set[str] = set()
        self.presses: set[str] = set()
        self._script = EelinkScript(imei)
        self._rng = random.Random(f"{seed}{imei}")
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.connect(("127.0.0.1", port))

    async def run(self, stop: asyncio.Event) -> None:
        with self._socket:
            while not stop.is_set():
                at = datetime.now(UTC).replace(microsecond=0)
                sos = self._rng.random() < 0.05
                message = self._script.report(Facts(at, Place(39.1, 117.2), ("sos",) if sos else ()))
                kind, number = message.payload[2:3], message.payload[5:7]
                name = f"key:{kind.hex()}{number.hex()}-{int(at.timestamp())}"  # as the codec tells resends
                if sos:
                    self.presses.add(name)
                await self._until_answered(message)
                self.acknowledged.add(name)
                await asyncio.sleep(self._rng.random() * 0.02)

    async def _until_answered(self, message: Message) -> None:
        content = bytes.fromhex(self.imei.rjust(16, "0")) + message.payload
        envelope = b"EL" + (len(content) + 2).to_bytes(2, "big") + rotating_sum16(content).to_bytes(2, "big") + content
        loop = asyncio.get_running_loop()
        while True:
            try:
                self._socket.send(envelope)
                async with asyncio.timeout(AGAIN_S):
                    while True:
                        answer = await loop.sock_recv(self._socket, 2048)
                        if answer[14:].startswith(message.expects):
                            return
            except TimeoutError:
                continue
            except ConnectionRefusedError:
                await asyncio.sleep(AGAIN_S)  # nobody listens just now


@pytest.mark.live
@pytest.mark.timeout(1800 if kill_rounds.LONG else 600)
def test_what_was_answered_over_udp_is_in_the_journal(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    devices = kill_rounds.provision_by_imei(data_dir, ["trackers.eelink"] * TERMINALS)
    port = free_port()
    daemon = Daemon(data_dir, CAREBELL_TRACKERS__EELINK=f"127.0.0.1:{port}")
    terminals = [Terminal(port, imei, 4) for imei in devices]
    asyncio.run(kill_rounds.survive(daemon, terminals, kill_rounds.AFTER_COMMIT, 4))
    records = [row for row in carebell_json("journal", "list", data_dir=data_dir) if row["dedup_key"]]
    seen = Counter((row["device_id"], row["dedup_key"]) for row in records)
    assert [key for key, count in seen.items() if count > 1] == [], "a datagram is in the journal twice"
    answered = {(devices[one.imei], name) for one in terminals for name in one.acknowledged}
    assert answered <= set(seen), "an answered datagram is not in the journal"
    alerts = [alert for alert in carebell_json("alerts", "list", data_dir=data_dir) if alert["kind"] == "sos"]
    assert {alert["device_id"] for alert in alerts} == {devices[one.imei] for one in terminals if one.presses}
