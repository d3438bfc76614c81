"""Sessions that outlive connections and the process, messages for devices."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.clock import US_PER_S, SystemClock, VirtualClock
from gateway.errors import ConflictError, StorageError, UsageError
from protocols.transports.mqtt_endpoint import queue
from protocols.transports.mqtt_endpoint.limits import Limits
from protocols.transports.mqtt_endpoint.server import MqttEndpoint
from tests.mqtt_wire import (
    DISCONNECT,
    Client,
    World,
    bounds,
    packet,
    play,
    puback,
    publish_packet,
    running,
    subscribe_packet,
    text,
)

DOWN = "carebell/D-1/down"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
EXPIRY_100 = b"\x11\x00\x00\x00\x64"


async def subscribed(world: World, version: int = 4, **kwargs: object) -> Client:
    client = await world.connect(version=version, **kwargs)
    client.send(subscribe_packet(f"{DOWN}/#", version=version))
    answer = await client.receive()
    assert answer is not None
    assert answer[0] == 0x90
    assert answer[1][-1] == 1
    return client


def down(
    payload: bytes, packet_id: int, *, dup: bool = False, topic: str = DOWN, version: int = 4
) -> tuple[int, bytes]:
    return 0x32 | dup << 3, text(topic) + packet_id.to_bytes(2, "big") + (b"\x00" if version == 5 else b"") + payload


@pytest.mark.parametrize("version", [4, 5])
def test_a_message_reaches_its_device_and_its_ack_comes_back(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await subscribed(world, version)
            told: list[str] = []
            await world.endpoint.send_down("D-1", b"ring", topic_suffix="bell", on_ack=told.append)
            assert await client.receive() == down(b"ring", 1, topic=f"{DOWN}/bell", version=version)
            assert told == []
            client.send(puback(1))
            await client.roundtrip()
            assert told == ["acknowledged"]
            await world.endpoint.sessions.flush()
            assert await world.store.read(lambda connection: queue.load_downs(connection, 0)) == []

    play(main())


def test_a_message_waits_for_its_device_whatever_kind_of_session_it_has(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            await world.endpoint.send_down("D-1", b"1")
            await world.endpoint.send_down("D-2", b"not yours")
            client = await subscribed(world)
            assert await client.receive() == down(b"1", 1)

    play(main())


def test_messages_survive_reconnects_and_restarts_and_come_again_with_dup(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(drain_s=60.0)) as world:
            client = await subscribed(world, clean=False)
            await world.endpoint.send_down("D-1", b"1")
            await world.endpoint.send_down("D-1", b"2")
            assert await client.receive() == down(b"1", 1)
            assert await client.receive() == down(b"2", 2)
            await client.close()
            client = await world.connect(clean=False)
            assert client.connack == b"\x01\x00"
            assert await client.receive() == down(b"1", 1, dup=True)
            assert await client.receive() == down(b"2", 2, dup=True)
            client.send(puback(1))
            await client.roundtrip()
        async with running(tmp_path, bounds(drain_s=60.0)) as world:
            client = await world.connect(clean=False)
            assert client.connack == b"\x01\x00"
            assert await client.receive() == down(b"2", 2, dup=True)
            client.send(puback(2))
            await client.roundtrip()
            await world.endpoint.send_down("D-1", b"3")
            assert await client.receive() == down(b"3", 1)  # the identifiers before it are free again
        async with running(tmp_path, bounds(drain_s=60.0)) as world:
            client = await world.connect(clean=True)
            assert client.connack == b"\x00\x00"
            assert await client.silent()
            client.send(subscribe_packet(DOWN))
            assert await client.receive() == (0x90, b"\x00\x0a\x01")
            answer = await client.receive()
            assert answer is not None
            assert answer[1].endswith(b"3")

    play(main())


def test_the_receive_maximum_of_the_client_is_respected(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            for number in range(5):
                await world.endpoint.send_down("D-1", b"%d" % number)
            client = await subscribed(world, 5, properties=b"\x21\x00\x02")
            assert await client.receive() == down(b"0", 1, version=5)
            assert await client.receive() == down(b"1", 2, version=5)
            assert await client.silent()
            client.send(puback(2))
            assert await client.receive() == down(b"2", 3, version=5)
            assert await client.silent()

    play(main())


def test_what_the_client_cannot_take_is_not_sent(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            told: list[str] = []
            client = await subscribed(world, 5, properties=b"\x27\x00\x00\x00\x64")
            await world.endpoint.send_down("D-1", b"x" * 200, on_ack=told.append)
            await world.endpoint.send_down("D-1", b"ok")
            assert await client.receive() == down(b"ok", 2, version=5)
            assert told == ["too_large"]
            client.send(packet(0x40, b"\x00\x02\x83"))
            await client.roundtrip()
            assert world.endpoint.counters()["down_refused_total"] == 1

    play(main())


def test_messages_expire(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock(NOON)
        async with running(tmp_path, clock=clock) as world:
            told: list[str] = []
            await world.endpoint.send_down(
                "D-1", b"unlock", expires_at_us=clock.now_us() + 60 * US_PER_S, on_ack=told.append
            )
            client = await subscribed(world, 5, properties=EXPIRY_100, clean=False)
            assert await client.receive() == (
                0x32, text(DOWN) + b"\x00\x01" + b"\x05\x02\x00\x00\x00\x3c" + b"unlock",
            )  # fmt: skip
            clock.advance(10)
            await client.close()
            await world.nobody_left()
            client = await world.connect(version=5, properties=EXPIRY_100, clean=False)
            assert await client.receive() == (
                0x3A, text(DOWN) + b"\x00\x01" + b"\x05\x02\x00\x00\x00\x32" + b"unlock",
            )  # fmt: skip
            await client.close()
            await world.nobody_left()
            clock.advance(51)
            client = await world.connect(version=5, properties=EXPIRY_100, clean=False)
            assert await client.silent()
            await world.until(lambda: told == ["expired"])
            await world.endpoint.sessions.flush()
            assert await world.store.read(lambda connection: queue.load_downs(connection, 0)) == []

    play(main())


def test_another_process_may_queue_messages(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await subscribed(world)
            now_us = world.clock.now_us()
            await world.store.write(
                lambda connection: queue.add_down(connection, "D-1", b"from the shell", created_at_us=now_us)
            )
            assert await client.receive() == down(b"from the shell", 1)

    play(main())


def test_queues_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(down_per_device=2, down_total_bytes=100)) as world:
            send = world.endpoint.send_down
            await send("D-1", b"1")
            await send("D-1", b"2")
            with pytest.raises(ConflictError, match="D-1"):
                await send("D-1", b"3")
            with pytest.raises(ConflictError, match="bytes"):
                await send("D-2", b"x" * 99)
            with pytest.raises(UsageError):
                await send("D-2", b"x" * 70_000)
            for suffix in ("#", "a/+", "a\0", "x" * 2000):
                with pytest.raises(UsageError):
                    await send("D-2", b"", topic_suffix=suffix)
            world.store.broken = True
            with pytest.raises(StorageError):
                await send("D-2", b"4")

    play(main())


def test_qos_0_subscriptions(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await world.connect(version=5)
            client.send(subscribe_packet(DOWN, options=0, version=5, properties=b"\x0b\x81\x01"))
            assert await client.receive() == (0x90, b"\x00\x0a\x00\x00")
            told: list[str] = []
            await world.endpoint.send_down("D-1", b"x", on_ack=told.append)
            assert await client.receive() == (0x30, text(DOWN) + b"\x03\x0b\x81\x01" + b"x")
            assert told == ["sent"]

    play(main())


@pytest.mark.parametrize("version", [4, 5])
def test_a_device_subscribes_to_its_own_only(tmp_path: Path, version: int) -> None:
    expected = {
        DOWN: 1,
        f"{DOWN}/#": 1,
        f"{DOWN}/+/x": 1,
        "carebell/D-2/down": 0x87,
        "carebell/+/down": 0x87,
        "carebell/D-11/down": 0x87,
        "#": 0x87,
        "$SYS/#": 0x87,
        "carebell/D-1/down/#/x": 0x8F,
        "carebell/D-1/down+": 0x8F,
        "$share/g/carebell/D-1/down": 0x9E,
    }

    async def main() -> None:
        async with running(tmp_path) as world:
            client = await world.connect(version=version)
            client.send(subscribe_packet(*expected, options=2, version=version))
            answer = await client.receive()
            assert answer is not None
            assert list(answer[1][-len(expected) :]) == [
                min(code, 0x80 if version == 4 else 255) for code in expected.values()
            ]
            if version == 5:
                assert b"own prefix" in answer[1]
            client.send(packet(0xA2, b"\x00\x0b" + (b"\x00" if version == 5 else b"") + text(DOWN) + text("x")))
            assert await client.receive() == (0xB0, b"\x00\x0b" + (b"\x00\x00\x11" if version == 5 else b""))

    play(main())


def test_subscriptions_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(subscriptions=2)) as world:
            client = await world.connect(version=5)
            client.send(subscribe_packet(DOWN, f"{DOWN}/a", f"{DOWN}/b", DOWN, version=5))
            answer = await client.receive()
            assert answer is not None
            assert list(answer[1][-4:]) == [1, 1, 0x97, 1]

    play(main())


def test_a_suback_waits_until_the_subscription_is_stored(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.store.broken = True
            client = await world.connect(clean=False)
            client.send(subscribe_packet(DOWN))
            assert await client.silent(0.3)
            world.store.broken = False
            assert await client.receive() == (0x90, b"\x00\x0a\x01")
            await client.roundtrip()
            rows = await world.store.read(queue.load_sessions)
            assert [(row.device_id, row.subscriptions) for row in rows] == [("D-1", {DOWN: (1, 0)})]

    play(main())


def test_clean_sessions_leave_nothing_behind(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await subscribed(world)
            client.send(DISCONNECT)
            assert await client.ended()
            client = await subscribed(world, clean=False)
            client.send(DISCONNECT)
            assert await client.ended()
            assert len(await world.store.read(queue.load_sessions)) == 1
            client = await world.connect(clean=True)
            assert client.connack == b"\x00\x00"
            await world.endpoint.sessions.flush()
            assert await world.store.read(queue.load_sessions) == []

    play(main())


def test_sessions_expire(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock(NOON)
        async with running(tmp_path, clock=clock) as world:
            for seconds, present in ((99, 1), (101, 0)):
                client = await world.connect(version=5, clean=False, properties=EXPIRY_100)
                client.send(DISCONNECT)
                assert await client.ended()
                clock.advance(seconds)
                client = await world.connect(version=5, clean=False, properties=EXPIRY_100)
                assert client.connack[0] == present
                client.send(packet(0xE0, b"\x00\x05\x11\x00\x00\x00\x00"))  # and now without expiry
                assert await client.ended()
            client = await world.connect(version=5, clean=False, properties=EXPIRY_100)
            assert client.connack[0] == 0
            await client.close()
            await world.nobody_left()
            clock.advance(101)
            async with asyncio.timeout(60):
                while await world.store.read(queue.load_sessions):
                    await asyncio.sleep(0.01)

    play(main())


def test_a_longer_expiry_than_allowed_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(session_expiry_s=50)) as world:
            client = await world.connect(version=5, clean=False, properties=b"\x11\xff\xff\xff\xff")
            assert b"\x11\x00\x00\x00\x32" in client.connack

    play(main())


def test_takeover(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            first = await subscribed(world, 5, properties=EXPIRY_100)
            other = await world.connect(version=5, client_id="another")
            second = await world.connect(version=5, clean=False, properties=EXPIRY_100)
            assert second.connack[0] == 1
            answer = await first.receive()
            assert answer is not None
            assert (answer[0], answer[1][0]) == (0xE0, 0x8E)
            assert await first.ended()
            await world.endpoint.send_down("D-1", b"x")
            assert await second.receive() == down(b"x", 1, version=5)
            await other.roundtrip()
            assert world.endpoint.counters()["takeovers_total"] == 1

    play(main())


def test_takeover_across_listeners(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            second = MqttEndpoint(
                listen="127.0.0.1:0",
                ingest=world.ingest,
                credentials=world.registry,
                directory=world.registry,
                store=world.store,
                clock=world.clock,
                limits=bounds(),
                sessions=world.endpoint.sessions,
            )
            await second.start()
            async with asyncio.TaskGroup() as group:
                task = group.create_task(second.run())
                first = await world.connect(clean=False)
                other = await Client.open(int(second.address.rpartition(":")[2]))
                await other.connect(clean=False)
                assert other.connack == b"\x01\x00"
                assert await first.ended()
                await world.endpoint.send_down("D-1", b"x")
                other.send(subscribe_packet(DOWN))
                assert await other.receive() == (0x90, b"\x00\x0a\x01")
                assert await other.receive() == down(b"x", 1)
                task.cancel()

    play(main())


def test_sessions_of_one_device_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(sessions_per_device=2)) as world:
            gone = await world.connect(client_id="1", clean=False)
            gone.send(DISCONNECT)
            assert await gone.ended()
            second = await world.connect(client_id="2", version=5)
            third = await world.connect(client_id="3")
            await second.roundtrip()  # a session without a connection makes room first
            fourth = await world.connect(client_id="4")
            answer = await second.receive()
            assert answer is not None
            assert (answer[0], answer[1][0]) == (0xE0, 0x97)
            await third.roundtrip()
            await fourth.roundtrip()

    play(main())


def test_one_session_a_device_is_enough(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(sessions_per_device=1)) as world:
            first = await world.connect(client_id="1", clean=False)
            second = await subscribed(world, client_id="2")
            assert await first.ended()
            await world.endpoint.send_down("D-1", b"x")
            assert await second.receive() == down(b"x", 1)

    play(main())


def test_the_endpoint_can_be_started_again(tmp_path: Path) -> None:
    async def main() -> None:
        world = World(tmp_path, limits=bounds(), clock=SystemClock())
        for _ in range(2):
            await world.endpoint.start()
            async with asyncio.TaskGroup() as group:
                task = group.create_task(world.endpoint.run())
                client = await world.connect()
                await client.roundtrip()
                task.cancel()
            assert await client.ended()
        world.store.close()

    play(main())


def test_default_limits_leave_room_for_the_largest_payload() -> None:
    limits = Limits()
    assert len(publish_packet("carebell/" + "d" * 64 + "/up", b"x" * 65_536, version=5)) < limits.packet_bytes
