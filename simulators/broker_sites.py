"""Programs that sit on a broker, simulated: a Zigbee2MQTT and a ChirpStack with their devices. They know no gateway.

What is said and how is from those programs' own documentation. A site is sans-IO; ``play`` connects one to a broker.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import random
import socket
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import aiomqtt
from msgspec import Struct

from simulators.latency import Latencies

TICK_S: Final = 0.01


class Said(Struct, frozen=True):
    """One message."""

    topic: str
    payload: str
    retain: bool = False


class Site(Protocol):
    """A program with its devices, which are counted from 0."""

    profile: str
    """What its devices are registered as."""

    key: str
    """The field of the registry that knows them: mac or deveui."""

    listens_to: str

    def __init__(self, count: int) -> None: ...

    def identity(self, number: int) -> str: ...

    def opening(self) -> Sequence[Said]:
        """What it says when it comes up."""
        ...

    def press(self, number: int, at: datetime) -> Said: ...

    def report(self, number: int, at: datetime) -> Said:
        """Something ordinary."""
        ...

    def hear(self, topic: str, payload: bytes, at: datetime) -> Sequence[Said]:
        """What it answers to a command."""
        ...


class ZigbeeSite:
    """A Zigbee2MQTT with panic buttons under names of the site's own."""

    profile = "zigbee.sos_button"
    key = "mac"
    listens_to = "zigbee2mqtt/+/set"

    def __init__(self, count: int) -> None:
        self.count = count
        self.commands: list[tuple[str, bytes]] = []

    def identity(self, number: int) -> str:
        return f"00158d00{number + 1:08x}"

    def name(self, number: int) -> str:
        return f"床头 {number + 1}" if number % 2 == 0 else f"floor1/button {number + 1}"

    def opening(self) -> Sequence[Said]:
        listed: list[dict[str, Any]] = [
            {"ieee_address": "0x00124b0000000001", "type": "Coordinator", "friendly_name": "Coordinator"}
        ]
        listed += [
            {
                "ieee_address": f"0x{self.identity(number)}",
                "type": "EndDevice",
                "network_address": 1000 + number,
                "supported": True,
                "friendly_name": self.name(number),
                "power_source": "Battery",
                "interview_state": "SUCCESSFUL",
                "definition": {"model": "SIM-SOS", "vendor": "Simulated", "exposes": []},
            }
            for number in range(self.count)
        ]
        return [
            Said("zigbee2mqtt/bridge/state", '{"state":"online"}', retain=True),
            Said("zigbee2mqtt/bridge/info", json.dumps({"version": "2.5.0", "config": {}}), retain=True),
            Said("zigbee2mqtt/bridge/devices", json.dumps(listed, ensure_ascii=False), retain=True),
        ]

    def press(self, number: int, at: datetime) -> Said:
        return self._state(number, at, action="emergency")

    def report(self, number: int, at: datetime) -> Said:
        return self._state(number, at)

    def _state(self, number: int, at: datetime, **more: Any) -> Said:
        state = {"battery": 90 - number % 40, "linkquality": 120, "last_seen": _written(at), **more}
        return Said(f"zigbee2mqtt/{self.name(number)}", json.dumps(state))

    def hear(self, topic: str, payload: bytes, at: datetime) -> Sequence[Said]:
        """The next state is all that Zigbee2MQTT answers."""
        self.commands.append((topic, payload))
        name = topic.removeprefix("zigbee2mqtt/").removesuffix("/set")
        numbers = [number for number in range(self.count) if self.name(number) == name]
        return [self.report(number, at) for number in numbers]


class LoraSite:
    """A ChirpStack with pendants whose bytes a codec in ChirpStack decodes for every second device."""

    profile = "lorawan.sos_button"
    key = "deveui"
    listens_to = "application/+/device/+/command/down"
    application = "2b0c1d6e-58c2-4d7c-8c3e-7c1f4f6f0a11"

    def __init__(self, count: int) -> None:
        self.count = count
        self._uplinks = 0
        self.commands: list[tuple[str, bytes]] = []

    def identity(self, number: int) -> str:
        return f"24e12453{number + 1:08x}"

    def opening(self) -> Sequence[Said]:
        return [self._event(number, "join", datetime.now(UTC), devAddr=f"{number:08x}") for number in range(self.count)]

    def press(self, number: int, at: datetime) -> Said:
        return self._up(number, at, 1)

    def report(self, number: int, at: datetime) -> Said:
        return self._up(number, at, 0)

    def _up(self, number: int, at: datetime, button: int) -> Said:
        self._uplinks += 1
        battery = 90 - number % 40
        said: dict[str, Any] = {"data": base64.b64encode(bytes([button, battery, 0])).decode()}
        if number % 2 == 0:
            said["object"] = {"button": "sos", "battery": battery} if button else {"heartbeat": True}
        heard = [{"gatewayId": "0016c001f153a14c", "uplinkId": self._uplinks, "rssi": -97, "snr": 8.5}]
        return self._event(
            number, "up", at, fCnt=self._uplinks, fPort=85, dr=5, adr=True, confirmed=True, rxInfo=heard, **said
        )  # fmt: skip

    def _event(self, number: int, event: str, at: datetime, **members: Any) -> Said:
        eui = self.identity(number)
        info = {
            "tenantId": "52f14cd4-c6f1-4fbd-8f87-4025e1d49242", "applicationId": self.application,
            "deviceProfileName": "Simulated pendant", "deviceName": f"pendant-{number + 1}", "devEui": eui,
        }  # fmt: skip
        self._uplinks += 1
        made = {"deduplicationId": f"sim-{random.getrandbits(64):016x}-{self._uplinks}", "time": _written(at)}
        text = json.dumps({**made, "deviceInfo": info, **members})
        return Said(f"application/{self.application}/device/{eui}/event/{event}", text)

    def hear(self, topic: str, payload: bytes, at: datetime) -> Sequence[Said]:
        """A gateway sends it, the device confirms. A devEui that is not the topic's is dropped, as ChirpStack does."""
        self.commands.append((topic, payload))
        eui = topic.split("/")[3]
        asked = json.loads(payload)
        numbers = [number for number in range(self.count) if self.identity(number) == eui]
        if asked.get("devEui") != eui or not numbers or not 0 < asked.get("fPort", 0) <= 223:
            return []
        known = {"queueItemId": asked.get("id", "")}
        return [
            self._event(numbers[0], "txack", at, **known, downlinkId=1, gatewayId="0016c001f153a14c"),
            self._event(numbers[0], "ack", at, **known, acknowledged=True, fCntDown=1),
        ]


SITES: Final[Mapping[str, type[ZigbeeSite | LoraSite]]] = MappingProxyType(
    {"zigbee2mqtt": ZigbeeSite, "chirpstack": LoraSite}
)


class SitePlan(Struct, frozen=True):
    """``press_every``: each so many-th message is a press, 0 for none."""

    rate_per_s: float
    duration_s: float
    press_every: int = 0
    linger_s: float = 0.0


async def play(
    site: Site, devices: int, url: str, plan: SitePlan, *, client_id: str = "", enough: asyncio.Event | None = None
) -> dict[str, Any]:
    """Open, say what the plan says at QoS 1, answer commands. What it came to; JSON-ready. Raises ConnectionError.

    ``enough`` ends the time that it lingers.
    """
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    taken = Latencies()
    counts = {"sent": 0, "presses": 0, "commands": 0}
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
    try:
        async with aiomqtt.Client(
            parts.hostname or "127.0.0.1", parts.port or 1883, identifier=client_id or None, socket_options=options
        ) as client:
            await client.subscribe(site.listens_to, qos=1)
            for said in site.opening():
                await client.publish(said.topic, said.payload, qos=1, retain=said.retain)

            async def answer() -> None:
                async for message in client.messages:
                    counts["commands"] += 1
                    for said in site.hear(str(message.topic), _bytes(message.payload), datetime.now(UTC)):
                        await client.publish(said.topic, said.payload, qos=1, timeout=math.inf)  # heeds its end

            begun_s = loop.time()
            async with asyncio.TaskGroup() as group:
                answering = group.create_task(answer())
                elapsed_s = 0.0
                while elapsed_s < plan.duration_s:
                    await asyncio.sleep(TICK_S)
                    elapsed_s = min(loop.time() - begun_s, plan.duration_s)  # what is planned is sent, however late
                    while counts["sent"] < elapsed_s * plan.rate_per_s:
                        number = counts["sent"] % devices
                        counts["sent"] += 1
                        pressed = plan.press_every > 0 and counts["sent"] % plan.press_every == 0
                        counts["presses"] += pressed
                        said = (site.press if pressed else site.report)(number, datetime.now(UTC))
                        sent_s = loop.time()
                        await client.publish(said.topic, said.payload, qos=1)
                        taken.add(loop.time() - sent_s)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(plan.linger_s):
                        await (enough or asyncio.Event()).wait()
                answering.cancel()
    except aiomqtt.MqttError as error:
        raise ConnectionError(str(error)) from error
    return {**counts, "devices": devices, "broker_ack_ms": taken.shown_ms()}


def _bytes(payload: object) -> bytes:
    return payload if isinstance(payload, bytes) else str(payload).encode()


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
