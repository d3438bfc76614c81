"""A daemon whose alerts reach people: the simulated carrier and platform, contacts, and ladders that take seconds."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import httpx2

from gateway.model import Actor
from gateway.registry.contacts import add_contact
from gateway.registry.keys import issue_api_key
from gateway.storage.database import FILE_NAME, open_database
from simulators.carrier import ACCOUNT_SID, AUTH_TOKEN, NUMBER, SimulatedCarrier
from simulators.people import IGNORES, People
from simulators.platform import SimulatedPlatform
from tests.daemon import Daemon, provision
from tests.mqtt_wire import Client, puback, publish_packet

ACTOR: Final = Actor("system", "test")
DUTY: Final = "+862288880001"
SPEED: Final = 20.0
"""Of the carrier: a phone rings 1.25 s."""
POLICY: Final = """
version = "test"
[center.city]
city = true
[staff.duty]
voice = "+862288880001"
[[policy]]
id = "default"
family_hold_s = 60
[[policy.ladder]]
name = "operator"
severities = ["P1"]
every_s = 30
slower = 1.0
longest_s = 30
[[policy.ladder.step]]
at_s = 3.5
tell = "staff"
who = ["duty"]
media = ["voice"]
[[policy.ladder]]
name = "family"
severities = ["P1"]
every_s = 30
slower = 1.0
longest_s = 30
[[policy.ladder.step]]
at_s = 0
tell = "contacts"
media = ["sms"]
[[policy.ladder.step]]
at_s = 0.5
tell = "next_contact"
media = ["voice"]
[[policy.ladder.step]]
at_s = 2
tell = "next_contact"
media = ["voice"]
"""


def contact_number(person: int, place: int) -> str:
    return f"+86139{person:04d}000{place}"


class Town:
    """The daemon with so many persons, each with one device and two contacts, and everybody around it."""

    def __init__(self, folder: Path, people: People, carrier: SimulatedCarrier, platform: SimulatedPlatform) -> None:
        self.folder = folder
        self.people = people
        self.carrier = carrier
        self.platform = platform
        self.data_dir = folder / "var"
        self.tokens: dict[str, str] = {}
        self.operator = ""
        self.daemon = Daemon(self.data_dir)

    def settle_in(self, persons: int, policy: str) -> None:
        """Registry, policy and configuration."""
        self.tokens = provision(self.data_dir, persons)
        connection = open_database(self.data_dir / FILE_NAME)
        now_us = time.time_ns() // 1000
        with connection:
            for person in range(1, persons + 1):
                for place in (1, 2):
                    values = {
                        "person_id": f"P-{person}", "name": f"联系人{place}", "phone": contact_number(person, place),
                        "position": str(place), "channels": ["voice", "sms"], "severities": ["P1", "P2"],
                    }  # fmt: skip
                    add_contact(connection, f"P-{person}.{place}", values, at_us=now_us, actor=ACTOR)
            values = {"role": "operator", "label": "test"}
            self.operator = issue_api_key(connection, values, at_us=now_us, actor=ACTOR)[1]
        connection.close()
        (self.folder / "policies.d").mkdir()
        (self.folder / "policies.d" / "site.toml").write_text(policy, encoding="utf-8")
        (self.folder / "twilio.token").write_text(AUTH_TOKEN)
        (self.folder / "orders.token").write_text("order-token")
        self.daemon.environment |= {
            "CAREBELL_POLICIES_DIR": str(self.folder / "policies.d"),
            "CAREBELL_NOTIFY__TWILIO__ACCOUNT_SID": ACCOUNT_SID,
            "CAREBELL_NOTIFY__TWILIO__AUTH_TOKEN_FILE": str(self.folder / "twilio.token"),
            "CAREBELL_NOTIFY__TWILIO__FROM_NUMBER": NUMBER,
            "CAREBELL_NOTIFY__TWILIO__BASE_URL": self.carrier.url,
            "CAREBELL_NOTIFY__TWILIO__PUBLIC_URL": self.daemon.url,
            "CAREBELL_ORDER_API__BASE_URL": self.platform.url,
            "CAREBELL_ORDER_API__TOKEN_FILE": str(self.folder / "orders.token"),
        }

    async def press(self, person: int, seq: int = 1) -> bool:
        """Connect, press; whether that was acknowledged."""
        device_id = f"D-{person}"
        try:
            client = await Client.open(self.daemon.mqtt_port)
            await client.connect(device_id=device_id, token=self.tokens[device_id].encode(), client_id=device_id)
            client.send(publish_packet(f"carebell/{device_id}/up", b'{"seq":%d,"signals":["sos"]}' % seq))
            acknowledged = await client.receive() == (0x40, puback(1)[2:])
            await client.close()
        except OSError:
            return False
        return acknowledged

    async def get(self, path: str) -> Any:
        async with httpx2.AsyncClient(base_url=self.daemon.url, trust_env=False, timeout=60) as client:
            answer = await client.get(path, headers={"authorization": f"Bearer {self.operator}"})
            assert answer.status_code == 200, answer.text
            return answer.json()

    async def post(self, path: str, body: dict[str, Any], key: str = "") -> httpx2.Response:
        async with httpx2.AsyncClient(base_url=self.daemon.url, trust_env=False, timeout=60) as client:
            return await client.post(path, json=body, headers={"authorization": f"Bearer {key or self.operator}"})

    async def alert(self, person: int) -> dict[str, Any]:
        """The newest alert of a person, whole."""
        found = await self.get(f"/api/v1/alerts?person_id=P-{person}")
        assert found, "no alert"
        whole: dict[str, Any] = await self.get(f"/api/v1/alerts/{found[0]['id']}")
        return whole

    async def until(self, person: int, condition: Callable[[dict[str, Any]], bool], seconds: float = 60) -> Any:
        """The person's alert once the condition holds for it."""
        alert: dict[str, Any] = {}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while True:
                    with contextlib.suppress(AssertionError, httpx2.HTTPError):
                        alert = await self.alert(person)
                        if condition(alert):
                            return alert
                    await asyncio.sleep(0.1)
        raise AssertionError(f"it did not come to that: {alert}")

    def numbers_called(self) -> list[str]:
        return [call.to for call in self.carrier.calls]


def by(alert: dict[str, Any], action: str) -> list[dict[str, Any]]:
    """Its transitions of this kind."""
    return [each for each in alert["transitions"] if each["action"] == action]


@contextlib.asynccontextmanager
async def town(folder: Path, *, persons: int = 1, policy: str = POLICY, speed: float = SPEED) -> AsyncIterator[Town]:
    """Nobody answers unless a test says so. The daemon is not started yet."""
    people = People(IGNORES)
    async with (
        SimulatedPlatform(token="order-token", say=lambda _line: None) as platform,
        SimulatedCarrier(people, speed=speed, say=lambda _line: None) as carrier,
    ):
        place = Town(folder, people, carrier, platform)
        place.settle_in(persons, policy)
        try:
            yield place
        finally:
            await carrier.hush()
            if place.daemon.running():
                await asyncio.to_thread(place.daemon.stop)
