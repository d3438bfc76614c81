"""The endpoint as the way back to devices, and connections whose credential ends."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import apsw
import pytest

from gateway.clock import VirtualClock, from_us
from gateway.errors import UsageError
from gateway.model import Actor
from gateway.registry import credentials, devices
from gateway.registry.directory import Registry
from gateway.storage.writer import JournalWriter
from protocols.transports.mqtt_endpoint.limits import Limits
from protocols.transports.mqtt_endpoint.mailbox import Mailbox
from tests.factory import T0_US
from tests.mqtt_wire import TOKEN, Client, World, bounds, play, puback, running, subscribe_packet, text

DOWN = "carebell/D-1/down"
MAXIMUM_PACKET_60 = b"\x27\x00\x00\x00\x3c"
ACTOR = Actor("system", "test")


def mailbox_of(world: World) -> tuple[Mailbox, list[tuple[int, str, bool]]]:
    told: list[tuple[int, str, bool]] = []
    world.endpoint.sessions.on_finished = lambda *what: told.append(what)
    return Mailbox(world.endpoint.sessions, Limits()), told


async def put(world: World, mailbox: Mailbox, payload: bytes, *, lives_us: int = 10**8) -> int:
    now_us = world.clock.now_us()

    def write(connection: apsw.Connection) -> int:
        return mailbox.put(connection, "D-1", payload, now_us=now_us, expires_at_us=now_us + lives_us)

    number = await world.store.write(write)
    await mailbox.deliver()
    return number


async def listening(world: World, **kwargs: object) -> Client:
    version = int(str(kwargs.get("version", 4)))
    client = await world.connect(**kwargs)
    client.send(subscribe_packet(DOWN, version=version))
    assert await client.receive() is not None
    return client


def test_what_is_put_arrives_and_its_fate_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            mailbox, told = mailbox_of(world)
            assert not mailbox.reachable("D-1")
            await world.connect(client_id="deaf")
            assert not mailbox.reachable("D-1")  # it does not listen
            client = await listening(world)
            assert mailbox.reachable("D-1")
            number = await put(world, mailbox, b"ring")
            assert await client.receive() == (0x32, text(DOWN) + b"\x00\x01ring")
            client.send(puback(1))
            await client.roundtrip()
            assert told == [(number, "acknowledged", True)]
            await client.close()
            await world.until(lambda: not mailbox.reachable("D-1"))

    play(main())


def test_a_message_that_nobody_fetched_expired_unsent(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            mailbox, told = mailbox_of(world)
            number = await put(world, mailbox, b"ring", lives_us=1)
            await world.until(lambda: bool(told))
            assert told == [(number, "expired", False)]

    play(main())


def test_after_a_restart_nobody_knows_whether_it_was_fetched(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock(from_us(T0_US))
        async with running(tmp_path, bounds(drain_s=60.0), clock=clock) as world:
            mailbox, _ = mailbox_of(world)
            client = await listening(world)  # a session that ends with its connection leaves no trace
            number = await put(world, mailbox, b"ring", lives_us=6 * 10**5)
            assert await client.receive() is not None
        async with running(tmp_path, bounds(drain_s=60.0), clock=clock) as world:
            _, told = mailbox_of(world)
            clock.advance(1)
            await world.until(lambda: bool(told))
            assert told == [(number, "expired", True)]

    play(main())


def test_once_is_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            mailbox, told = mailbox_of(world)
            assert not await mailbox.send("D-1", b"restart")
            client = await listening(world, clean=False)
            assert await mailbox.send("D-1", b"restart")
            assert await client.receive() == (0x30, text(DOWN) + b"restart")
            await client.close()
            await world.nobody_left()
            again = await listening(world, clean=False)
            assert await again.silent()
            assert told == []

    play(main())


def test_once_is_never_when_it_is_too_long_for_the_device(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            mailbox, _ = mailbox_of(world)
            client = await listening(world, version=5, properties=MAXIMUM_PACKET_60)
            with pytest.raises(UsageError, match="more than device D-1 takes"):
                await mailbox.send("D-1", bytes(60))
            assert await client.silent()

    play(main())


@pytest.mark.parametrize("version", [4, 5])
def test_a_connection_ends_with_its_credential_and_only_that_one(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        asked: list[tuple[str, bytes, str]] = []
        gone: set[str] = set()

        def stands(device_id: str, proof: bytes, common_name: str) -> bool:
            asked.append((device_id, proof, common_name))
            return device_id not in gone

        async with running(tmp_path, stands=stands) as world:
            first = await world.connect(version=version)
            second = await world.connect(device_id="D-2", client_id="d", version=version)
            newcomer = await Client.open(world.port)  # nobody yet
            world.endpoint.recheck()
            await world.until(lambda: len(asked) >= 2)
            assert set(asked) == {(name, hashlib.sha256(TOKEN).digest(), "") for name in ("D-1", "D-2")}
            gone.add("D-1")
            world.endpoint.recheck()
            if version == 5:
                goodbye = await first.receive()
                assert goodbye is not None
                assert (goodbye[0], goodbye[1][0]) == (0xE0, 0x98)
            assert await first.ended()
            await second.roundtrip()
            await newcomer.connect(device_id="D-3")
            assert world.endpoint.counters()["closed_credential_total"] == 1

    play(main())


def test_what_the_registry_says_of_a_credential(tmp_path: Path) -> None:
    async def main() -> None:
        store = JournalWriter(tmp_path, on_broken=lambda _error: None, reserve_bytes=4096)
        clock = VirtualClock(from_us(T0_US))
        registry = Registry(store, codec_of=lambda _profile: "native", clock=clock)

        def add(connection: apsw.Connection) -> str:
            values = {"profile": "p", "certificate": "CN-1"}
            return devices.add_device(connection, "D-1", values, known_profiles=["p"], at_us=T0_US, actor=ACTOR)[1]

        async def stands(token: str) -> bool:
            await registry.refresh_if_changed()
            return registry.stands("D-1", hashlib.sha256(token.encode()).digest(), "")

        try:
            old = await store.write(add)
            assert await stands(old)
            assert not await stands("another")
            new = await store.write(
                lambda c: credentials.issue_token(c, "D-1", at_us=clock.now_us(), actor=ACTOR, grace_s=60)
            )
            assert await stands(old)
            assert await stands(new)
            clock.advance(60)
            assert not await stands(old)
            assert registry.stands("D-1", b"", "CN-1")
            assert not registry.stands("D-1", b"", "CN-2")
            await store.write(lambda c: devices.set_state(c, "D-1", "suspend", at_us=clock.now_us(), actor=ACTOR))
            assert not await stands(new)
            assert not registry.stands("D-1", b"", "CN-1")
        finally:
            await store.close()

    asyncio.run(main())
