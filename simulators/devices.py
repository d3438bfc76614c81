"""Simulated devices on the real protocols: MQTT (aiomqtt) and HTTP (httpx2).

A device keeps a message until it is acknowledged, and sends the same bytes again after a broken connection, as a real
one would. Nothing here knows the gateway from inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import math
import random
import socket
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import aiomqtt
import httpx2
from msgspec import Struct

from simulators.latency import Latencies

ACK_TIMEOUT_S: Final = 30.0
RETRY_FIRST_S: Final = 0.2
RETRY_LAST_S: Final = 5.0
BREAK_S: Final = 2.0
CALL_S: Final = 10.0
WILL: Final = b'{"signals":["connection_lost"]}'

_quiet = logging.getLogger("carebell.simulators.mqtt")
_quiet.setLevel(logging.CRITICAL)  # aiomqtt warns of more than ten messages in flight, which is what a fleet is for


class Gateway(Struct, frozen=True):
    """Where devices find the gateway."""

    mqtt_host: str = "127.0.0.1"
    mqtt_port: int = 1883
    http_url: str = "http://127.0.0.1:8080"


class NotAcknowledgedError(Exception):
    """A message was not acknowledged in time, or was refused. Handler: whoever sent it counts and tells it."""


class Link(Protocol):
    """A device's way to the gateway. ``run`` keeps it open until cancelled."""

    async def run(self) -> None: ...

    async def send(self, payload: bytes) -> float:
        """Seconds until the acknowledgement. Raises NotAcknowledgedError."""
        ...

    async def break_off(self) -> None:
        """End the connection without a good-bye."""
        ...


def is_loopback(host: str) -> bool:
    """Whether this names the machine itself. A name other than localhost does not count, whatever it resolves to."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return False


def _heed_cancellation() -> None:
    """What aiomqtt raises, or returns, may stand in the place of a cancellation: it waits by ``asyncio.wait_for``, and
    before Python 3.12 that loses one which meets a result.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _within(call: Awaitable[object]) -> None:
    """A call of aiomqtt that has been told to wait for ever, so that it does not lose a cancellation."""
    async with asyncio.timeout(CALL_S):
        await call


class MqttLink:
    """One MQTT 3.1.1 connection with user name = device id; QoS 1. Connects again with growing pauses.

    ``on_command`` gets what arrives on the device's ``down`` topic; what it returns is published as the answer.
    """

    def __init__(
        self,
        gateway: Gateway,
        device_id: str,
        token: str,
        *,
        on_command: Callable[[bytes], bytes | None] = lambda _payload: None,
        ack_timeout_s: float = ACK_TIMEOUT_S,
    ) -> None:
        self._gateway = gateway
        self._device_id = device_id
        self._token = token
        self._on_command = on_command
        self._ack_timeout_s = ack_timeout_s
        self._client: aiomqtt.Client | None = None
        self._changed = asyncio.Event()
        self._waiting: set[asyncio.Timeout] = set()
        self.connections = 0
        self.resent = 0
        self.last_error = ""

    async def run(self) -> None:
        pause_s = RETRY_FIRST_S
        while True:
            try:
                async with self._new_client() as client:
                    _heed_cancellation()
                    await _within(client.subscribe(f"carebell/{self._device_id}/down", qos=1, timeout=math.inf))
                    pause_s = RETRY_FIRST_S
                    self.connections += 1
                    self._client = client
                    self._changed.set()
                    async for message in client.messages:
                        answer = self._on_command(message.payload) if isinstance(message.payload, bytes) else None
                        if answer is not None:
                            up = f"carebell/{self._device_id}/up"
                            await _within(client.publish(up, answer, qos=1, timeout=math.inf))
            except (aiomqtt.MqttError, OSError) as error:
                _heed_cancellation()  # a connection reset while it closes
                self.last_error = str(error)
            finally:
                self._lost()
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(pause_s * 2, RETRY_LAST_S)

    async def send(self, payload: bytes) -> float:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        deadline_s = began_s + self._ack_timeout_s
        tries = 0
        while loop.time() < deadline_s:
            client = await self._connected(deadline_s)
            tries += 1
            self.resent += tries > 1
            try:
                async with asyncio.timeout_at(deadline_s) as scope:
                    self._waiting.add(scope)
                    try:
                        await client.publish(f"carebell/{self._device_id}/up", payload, qos=1, timeout=math.inf)
                        return loop.time() - began_s
                    finally:
                        self._waiting.discard(scope)
            except TimeoutError:
                continue  # the connection broke, or the time is over
            except (aiomqtt.MqttError, OSError) as error:
                _heed_cancellation()
                self.last_error = str(error)
                await asyncio.sleep(0.05)
        raise NotAcknowledgedError(f"{self._device_id}: no PUBACK within {self._ack_timeout_s:g} s; {self.last_error}")

    async def break_off(self) -> None:
        """Vanish without a DISCONNECT, as a device whose power ends does; the gateway then says the will."""
        client = self._client
        if client is None:
            return
        broken = client._client.socket()  # noqa: SLF001 - aiomqtt has no way to end without a good-bye
        if isinstance(broken, socket.socket):
            with contextlib.suppress(OSError, TimeoutError):
                broken.shutdown(socket.SHUT_RDWR)
                async with asyncio.timeout(BREAK_S):
                    while self._client is client:
                        await asyncio.sleep(0.01)

    def _new_client(self) -> aiomqtt.Client:
        return aiomqtt.Client(
            self._gateway.mqtt_host,
            self._gateway.mqtt_port,
            identifier=self._device_id,
            username=self._device_id,
            password=self._token,
            protocol=aiomqtt.ProtocolVersion.V311,
            will=aiomqtt.Will(f"carebell/{self._device_id}/up", WILL, qos=1),
            keepalive=60,
            timeout=CALL_S,
            max_inflight_messages=1000,
            socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
            logger=_quiet,
        )

    async def _connected(self, deadline_s: float) -> aiomqtt.Client:
        while self._client is None:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline_s):
                    await self._changed.wait()
            except TimeoutError:
                raise NotAcknowledgedError(f"{self._device_id}: not connected; {self.last_error}") from None
        return self._client

    def _lost(self) -> None:
        """Let those who wait for a PUBACK of this connection try the next one."""
        self._client = None
        now_s = asyncio.get_running_loop().time()
        for scope in self._waiting:
            scope.reschedule(now_s)


class HttpLink:
    """``POST /ingest/v1/<device_id>`` for each message; 503, 429 and broken connections are tried again."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        gateway: Gateway,
        device_id: str,
        token: str,
        *,
        ack_timeout_s: float = ACK_TIMEOUT_S,
    ) -> None:
        self._client = client
        self._url = f"{gateway.http_url.rstrip('/')}/ingest/v1/{device_id}"
        self._headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self._device_id = device_id
        self._ack_timeout_s = ack_timeout_s
        self.connections = 1
        self.resent = 0
        self.last_error = ""

    async def run(self) -> None:
        """Nothing is to be kept open."""
        await asyncio.Event().wait()

    async def send(self, payload: bytes) -> float:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        pause_s = RETRY_FIRST_S
        tries = 0
        try:
            async with asyncio.timeout(self._ack_timeout_s):
                while True:
                    tries += 1
                    self.resent += tries > 1
                    status = await self._post(payload)
                    if status == 202:
                        return loop.time() - began_s
                    if status and status not in (429, 500, 502, 503, 504):
                        raise NotAcknowledgedError(f"{self._device_id}: refused with {status}; {self.last_error}")
                    await asyncio.sleep(pause_s)
                    pause_s = min(pause_s * 2, RETRY_LAST_S)
        except TimeoutError:
            raise NotAcknowledgedError(
                f"{self._device_id}: no 202 within {self._ack_timeout_s:g} s; {self.last_error}"
            ) from None

    async def break_off(self) -> None:
        """There is no connection that could break."""

    async def _post(self, payload: bytes) -> int:
        """The status, 0 when there was no answer."""
        try:
            response = await self._client.post(self._url, content=payload, headers=self._headers)
        except httpx2.HTTPError as error:
            self.last_error = f"{type(error).__name__} {error}"
            return 0
        if response.status_code != 202:
            self.last_error = response.text[:200]
        return response.status_code


def http_client(connections: int = 100) -> httpx2.AsyncClient:
    """A client for HTTP devices, without proxies of the environment."""
    limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
    return httpx2.AsyncClient(timeout=ACK_TIMEOUT_S, trust_env=False, limits=limits)


class Tally:
    """What a run of devices came to. ``sent`` counts messages, not resends."""

    def __init__(self) -> None:
        self.sent = 0
        self.acked = 0
        self.failed = 0
        self.emergencies = 0
        self.emergencies_acked = 0
        self.latencies = Latencies()
        self.emergency_latencies = Latencies()
        self.errors: list[str] = []

    async def send(self, link: Link, payload: bytes, *, emergency: bool = False) -> bool:
        """Send and count; whether it was acknowledged. Keeps the first twenty reasons."""
        self.sent += 1
        self.emergencies += emergency
        try:
            seconds = await link.send(payload)
        except NotAcknowledgedError as error:
            self.failed += 1
            if len(self.errors) < 20:
                self.errors.append(str(error))
            return False
        self.acked += 1
        self.latencies.add(seconds)
        if emergency:
            self.emergencies_acked += 1
            self.emergency_latencies.add(seconds)
        return True

    @property
    def in_flight(self) -> int:
        return self.sent - self.acked - self.failed

    @property
    def unacknowledged(self) -> int:
        """Sent and not acknowledged: what failed, and what a run that ended early left open."""
        return self.sent - self.acked
