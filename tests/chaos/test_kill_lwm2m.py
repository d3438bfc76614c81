"""kill -9 under LwM2M: what was acknowledged (Send, notifications) is in the journal; no client registers again."""

from __future__ import annotations

import asyncio
import base64
import random
import re
from pathlib import Path

import pytest

from simulators import coap_wire as wire
from simulators.coap import Peer
from simulators.devices import NotAcknowledgedError
from simulators.lwm2m import Lwm2mButton
from tests.chaos import kill_rounds
from tests.daemon import Daemon, carebell_json, provision

CLIENTS = 8
ACK_TIMEOUT_S = 0.1
OBSERVED = "/3347/0"


class Client:
    """A button that registers once, then sends and notifies values that nobody else has, until each is acknowledged."""

    def __init__(self, port: int, endpoint: str, token: str, seed: int) -> None:
        self.device_id = endpoint
        self.acknowledged: set[str] = set()
        self.registrations = 0
        self._button = Lwm2mButton("127.0.0.1", port, endpoint, token, lifetime_s=600)
        self._rng = random.Random(f"{seed}{endpoint}")
        self._count = 0

    async def run(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if not self.registrations:
                await self._register()
                continue
            self._count += 1
            if self._button.observes(OBSERVED) and self._count % 2:
                await self._notify()
            else:
                await self._send()
            await asyncio.sleep(self._rng.random() * 0.02)
        self._button.close()
        await asyncio.sleep(0)

    async def _register(self) -> None:
        try:
            await self._button.start()
        except NotAcknowledgedError:
            self._button.close()
            await asyncio.sleep(0.1)
        else:
            self.registrations += 1

    async def _send(self) -> None:
        value = self._button.values["/3303/0/5700"] = 20 + self._count / 10_000
        while True:
            try:
                answer = await self._button.send(temperature="/3303/0/5700")
            except NotAcknowledgedError:
                continue
            if answer == wire.CHANGED:
                self.acknowledged.add(f"v={value}")
                return
            assert answer == wire.UNAVAILABLE, f"answered {answer >> 5}.{answer & 31:02}: its registration is lost"
            await asyncio.sleep(0.1)

    async def _notify(self) -> None:
        """A press: the counter is unique. A reset would say that the observation is lost."""
        self._button.values["/3347/0/5501"] = self._count
        while True:
            try:
                await self._button.notify(OBSERVED)
            except NotAcknowledgedError:
                continue
            self.acknowledged.add(f"n={self._count}")
            return


def journalled(data_dir: Path) -> dict[str, set[str]]:
    """The values that stand in the journal's frames, by device."""
    found: dict[str, set[str]] = {}
    for row in carebell_json("journal", "list", "--payload", data_dir=data_dir):
        text = base64.b64decode(row["payload"]).decode("utf-8", "replace")
        values = found.setdefault(row["device_id"], set())
        values |= {f"v={value}" for value in re.findall(r'5700", ?"v": ?([0-9.]+)', text)}
        values |= {f"n={count}" for count in re.findall(r'5501", ?"v": ?(\d+)', text)}
    return found


@pytest.mark.live
@pytest.mark.timeout(1800 if kill_rounds.LONG else 600)
def test_what_was_acknowledged_is_in_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer.__init__, "__kwdefaults__", {"ack_timeout_s": ACK_TIMEOUT_S})
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    tokens = provision(data_dir, CLIENTS, profile="oma.push_button")
    daemon = Daemon(data_dir)
    clients = [Client(daemon.coap_port, name, token, 6) for name, token in tokens.items()]

    def observed() -> bool:  # the gateway asks for it some time after the registration
        return any(name.startswith("n=") for client in clients for name in client.acknowledged)

    asyncio.run(kill_rounds.survive(daemon, clients, kill_rounds.BEFORE_COMMIT, 6, seen=observed))
    seen = journalled(data_dir)
    for client in clients:
        assert client.acknowledged <= seen.get(client.device_id, set()), "acknowledged, but not in the journal"
