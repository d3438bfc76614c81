"""kill -9 under pushes of operators' platforms: what got a 200 is in the journal, once; every press is an alert."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import random
import time
from collections import Counter
from pathlib import Path

import httpx2
import pytest

from tests.chaos import kill_rounds
from tests.daemon import Daemon, carebell_json

ONENET_TOKEN = "token-of-onenet"
CTWING_TOKEN = "part-of-the-address"
PROFILES = ("oma.push_button", "nbiot.smoke_detector") * 2


class Platform:
    """One terminal behind an operator's platform, which pushes the same again until it gets a 200."""

    def __init__(self, url: str, imei: str, seed: int) -> None:
        self.imei = imei
        self.acknowledged: set[str] = set()
        self.presses: set[str] = set()
        self._url = url
        self._rng = random.Random(f"{seed}{imei}")
        self._at_ms = time.time_ns() // 1_000_000

    async def run(self, stop: asyncio.Event) -> None:
        async with httpx2.AsyncClient(timeout=5.0) as client:
            while not stop.is_set():
                self._at_ms += 1
                name, path, body = self.message(pressed=self._rng.random() < 0.1)
                while name not in self.acknowledged:
                    try:
                        answer = await client.post(self._url + path, content=body)
                    except httpx2.HTTPError:
                        await asyncio.sleep(0.1)
                        continue
                    if answer.status_code == 200:
                        self.acknowledged.add(name)
                await asyncio.sleep(self._rng.random() * 0.02)

    def message(self, *, pressed: bool) -> tuple[str, str, bytes]:
        """What names it in the journal, where it goes, and the body."""
        raise NotImplementedError


class OneNet(Platform):
    def message(self, *, pressed: bool) -> tuple[str, str, bytes]:
        stream = "3347_0_5500" if pressed else "3303_0_5700"
        value: object = True if pressed else round(20 + self._rng.random(), 4)
        point = {"type": 1, "dev_id": 7, "imei": self.imei, "ds_id": stream, "at": self._at_ms, "value": value}
        text = json.dumps(point)
        digest = hashlib.md5((ONENET_TOKEN + "nonce123" + text).encode()).digest()
        signature = base64.b64encode(digest).decode()
        name = f"{stream}:{self._at_ms}"
        if pressed:
            self.presses.add(name)
        body = {"msg": point, "nonce": "nonce123", "msg_signature": signature}
        return name, "/push/onenet", json.dumps(body).encode()


class Ctwing(Platform):
    def message(self, *, pressed: bool) -> tuple[str, str, bytes]:
        name = f"dataReport:{self._at_ms}"
        if pressed:
            self.presses.add(name)
        payload = {"smoke_state": int(pressed), "battery_value": self._rng.randrange(10, 100)}
        body = {
            "messageType": "dataReport", "IMEI": self.imei, "deviceId": "d7", "timestamp": self._at_ms,
            "payload": payload,
        }  # fmt: skip
        return name, f"/push/ctwing/{CTWING_TOKEN}", json.dumps(body).encode()


def named(row: dict[str, object]) -> str:
    """As the platforms above name a message."""
    content = json.loads(base64.b64decode(str(row["payload"])))
    return f"{content['ds_id']}:{content['at']}" if "ds_id" in content else f"dataReport:{content['timestamp']}"


@pytest.mark.live
@pytest.mark.timeout(1800 if kill_rounds.LONG else 600)
def test_what_got_a_200_is_in_the_journal(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    devices = kill_rounds.provision_by_imei(data_dir, PROFILES)
    secrets = {}
    for name, token in (("ONENET", ONENET_TOKEN), ("CTWING", CTWING_TOKEN)):
        file = tmp_path / f"{name}.token"
        file.write_text(token)
        file.chmod(0o600)
        secrets[f"CAREBELL_PUSH__{name}__TOKEN_FILE"] = str(file)
    daemon = Daemon(data_dir, **secrets)
    senders = [
        (OneNet if profile == "oma.push_button" else Ctwing)(daemon.url, imei, 5)
        for imei, profile in zip(devices, PROFILES, strict=True)
    ]
    asyncio.run(kill_rounds.survive(daemon, senders, kill_rounds.AFTER_COMMIT, 5))
    rows = [row for row in carebell_json("journal", "list", "--payload", data_dir=data_dir) if row["payload"]]
    seen = Counter((row["device_id"], named(row)) for row in rows)
    assert [key for key, count in seen.items() if count > 1] == [], "a push is in the journal twice"
    answered = {(devices[one.imei], name) for one in senders for name in one.acknowledged}
    assert answered <= set(seen), "a push that got a 200 is not in the journal"
    pressed = {devices[one.imei] for one in senders if one.presses}
    assert {alert["device_id"] for alert in carebell_json("alerts", "list", data_dir=data_dir)} >= pressed
