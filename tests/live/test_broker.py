"""Broker mode against a real Mosquitto: restarts, kill -9, lost sessions, black holes."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import UTC, datetime
from pathlib import Path

import aiomqtt
import pytest

from gateway.model import Committed, Record
from protocols.transports.mqtt_broker import inbox, link
from protocols.transports.mqtt_broker.topics import TopicRule
from simulators.broker_sites import ZigbeeSite
from tests.broker_world import BUTTON, FaultProxy, Mosquitto, SlowIngest, World, numbers, presses, publish

pytestmark = pytest.mark.live

PRESSES = 1000
PENDANT = "application/1/device/24e124535d012345/event/up"
HOUSE = (TopicRule("house/{device}/panic", down="house/{device}/do"),)


@pytest.mark.parametrize(
    ("version", "codec", "topic"),
    [(4, "zigbee2mqtt", BUTTON), (5, "chirpstack", PENDANT), (5, "the_things_stack", "v3/care@ttn/devices/p-1/up")],
    ids=["ZigBee", "LoRa-ChirpStack", "LoRa-TheThingsStack"],
)
def test_a_thousand_presses_with_reconnects_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, codec: str, topic: str
) -> None:
    monkeypatch.setattr(link, "LAST_PAUSE_S", 0.15)

    async def main() -> None:
        with Mosquitto(tmp_path) as broker:
            async with FaultProxy(broker.port) as proxy:
                world = World(proxy.port, codecs=(codec,), version=version)
                async with world.running(), asyncio.TaskGroup() as group:
                    for first in range(0, PRESSES, 200):
                        pressing = group.create_task(publish(broker.port, presses(first, 200, topic)))
                        enough = len(world.ingest.offered) + 50
                        await world.until(lambda enough=enough: len(world.ingest.offered) > enough)
                        proxy.cut()
                        await pressing
                    await world.until(lambda: len(set(numbers(world.ingest.payloads()))) == PRESSES)
                    await world.until(lambda: world.link.state()[1].endswith(" 0 unacknowledged"))
                assert world.link.totals["connections"] > 4
                assert world.lost == []
                found = numbers(world.ingest.payloads())
                assert set(found) == set(range(PRESSES))

    asyncio.run(main())


def test_the_order_of_a_device_is_kept(tmp_path: Path) -> None:
    async def main() -> None:
        with Mosquitto(tmp_path) as broker:
            world = World(broker.port, topics=HOUSE)
            async with world.running():
                await publish(broker.port, [("house/D-1/panic", json.dumps({"n": n})) for n in range(300)])
                await world.until(lambda: len(world.ingest.kept) == 300)
            assert numbers([frame.payload for frame in world.ingest.offered]) == list(range(300))
            assert {frame.device_key for frame in world.ingest.kept} == {"D-1"}

    asyncio.run(main())


def test_nothing_is_acknowledged_before_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was not committed when the gateway died comes again; what was acknowledged does not."""
    monkeypatch.setattr(link, "DRAIN_S", 0.05)

    async def main() -> None:
        with Mosquitto(tmp_path) as broker:
            world = World(broker.port, codecs=("zigbee2mqtt",))
            async with world.running():
                await publish(broker.port, presses(0, 5))
                await world.until(lambda: len(world.ingest.kept) == 5)
                await world.until(lambda: world.link.state()[1].endswith(" 0 unacknowledged"))
                world.ingest.hold = True
                await publish(broker.port, presses(5, 5))
                await world.until(lambda: world.link.state()[1].endswith(" 5 unacknowledged"))
                await publish(broker.port, [("zigbee2mqtt/bridge/info", "{}")])
                await asyncio.sleep(0.2)
                assert world.link.counters()["acknowledged_total"] == 5, "acknowledged out of order"
                world.link._inbox.close()  # type: ignore[union-attr]  # as death would: nothing more is said
                world.link._known.forget()
            world.ingest = SlowIngest()
            world.make()
            async with world.running():
                await world.until(lambda: len(world.ingest.kept) == 5)
            assert numbers(world.ingest.payloads()) == [5, 6, 7, 8, 9]

    asyncio.run(main())


def test_what_was_stored_before_the_connection_ended_is_not_taken_twice(tmp_path: Path) -> None:
    async def main() -> None:
        with Mosquitto(tmp_path) as broker:
            async with FaultProxy(broker.port) as proxy:
                world = World(proxy.port, codecs=("zigbee2mqtt",))
                async with world.running():
                    world.ingest.hold = True
                    await publish(broker.port, presses(0, 20))
                    await world.until(lambda: world.link.state()[1].endswith(" 20 unacknowledged"))
                    proxy.shut = True
                    proxy.cut()
                    await world.until(lambda: not world.link.connected)
                    world.ingest.hold = False
                    await world.until(lambda: len(world.ingest.kept) == 20)
                    proxy.shut = False
                    await world.until(lambda: world.link.connected)
                    await publish(broker.port, presses(20, 1))
                    await world.until(lambda: 20 in numbers(world.ingest.payloads()))
                    await world.until(lambda: world.link.counters()["duplicates_total"] == 20)
                assert sorted(numbers(world.ingest.payloads())) == list(range(21))
                assert world.link.counters()["duplicates_total"] == 20

    asyncio.run(main())


def test_a_commit_that_failed_ends_the_connection_and_the_broker_sends_again(tmp_path: Path) -> None:
    async def main() -> None:
        with Mosquitto(tmp_path) as broker:
            world = World(broker.port, codecs=("zigbee2mqtt",))
            async with world.running():
                world.ingest.refuse = 1
                await publish(broker.port, presses(0, 3))
                await world.until(lambda: set(numbers(world.ingest.payloads())) == {0, 1, 2})
            assert world.link.totals["connections"] == 2

    asyncio.run(main())


def test_a_link_that_is_stopped_stops_though_the_connection_is_reset(tmp_path: Path) -> None:
    async def main() -> None:
        with Mosquitto(tmp_path) as broker:
            for held in (False, True):
                async with FaultProxy(broker.port) as proxy:
                    world = World(proxy.port, codecs=("zigbee2mqtt",))
                    world.ingest.hold = held
                    async with asyncio.TaskGroup() as group:
                        running = group.create_task(world.link.run())
                        await world.until(lambda: world.link.connected)  # noqa: B023 - of this round
                        if held:
                            await publish(broker.port, presses(0, 5))
                            await world.until(lambda: bool(world.ingest.offered))  # noqa: B023 - of this round
                        running.cancel()
                        proxy.cut(reset=True)
                        await world.until(running.done)
                        assert running.cancelled()
                    world.ingest.hold = False

    asyncio.run(main())


def test_what_is_being_committed_at_the_end_is_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "DRAIN_S", 60.0)

    async def main() -> None:
        with Mosquitto(tmp_path) as broker:
            world = World(broker.port, codecs=("zigbee2mqtt",))
            async with world.running():
                world.ingest.hold = True
                await publish(broker.port, presses(0, 5))
                await world.until(lambda: world.link.state()[1].endswith(" 5 unacknowledged"))
                asyncio.get_running_loop().call_later(0.1, setattr, world.ingest, "hold", False)
            assert world.link.counters()["acknowledged_total"] == 5
            world.make()
            async with world.running():
                await publish(broker.port, presses(5, 1))
                await world.until(lambda: 5 in numbers(world.ingest.payloads()))
            assert sorted(numbers(world.ingest.payloads())) == [0, 1, 2, 3, 4, 5]

    asyncio.run(main())


def test_the_broker_is_restarted_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        broker = Mosquitto(tmp_path)
        broker.start()
        world = World(broker.port, codecs=("zigbee2mqtt",))
        async with world.running():
            await publish(broker.port, presses(0, 10))
            await world.until(lambda: len(world.ingest.kept) == 10)
            broker.end()
            await world.until(lambda: not world.link.connected)
            assert world.link.state()[0] is False
            broker.start()
            await world.until(lambda: world.link.connected)
            await publish(broker.port, presses(10, 10))
            # A PUBACK that the broker did not read before its end: it sends that message again.
            await world.until(lambda: set(numbers(world.ingest.payloads())) == set(range(20)))
        broker.end()
        assert world.lost == []

    asyncio.run(main())


def test_a_session_that_the_broker_lost_is_told(tmp_path: Path) -> None:
    """kill -9 of a Mosquitto that saves rarely: it comes back without the session."""

    async def main() -> None:
        broker = Mosquitto(tmp_path)
        broker.start()
        world = World(broker.port, codecs=("zigbee2mqtt",))
        async with world.running():
            assert world.lost == [], "there was none to lose"
            await world.until(lambda: bool(world.memory.value))
            broker.end(signal.SIGKILL)
            await world.until(lambda: not world.link.connected)
            broker.start()
            await world.until(lambda: world.link.connected)
            assert world.lost == ["carebell-test"]
            await publish(broker.port, presses(0, 3))
            await world.until(lambda: len(world.ingest.kept) == 3)
        broker.end(signal.SIGKILL)
        broker.start()
        world.make()  # the gateway, too, was restarted: it still knows that there was a session
        async with world.running():
            pass
        broker.end()
        assert world.lost == ["carebell-test"] * 2

    asyncio.run(main())


def test_a_connection_that_died_in_silence_is_noticed(tmp_path: Path) -> None:
    async def main() -> None:
        with Mosquitto(tmp_path) as broker:
            async with FaultProxy(broker.port) as proxy:
                world = World(proxy.port, codecs=("zigbee2mqtt",), keepalive_s=1)
                async with world.running():
                    proxy.hole = True
                    await publish(broker.port, presses(0, 3))
                    await world.until(lambda: not world.link.connected)
                    assert world.ingest.kept == []
                    proxy.hole = False
                    await world.until(lambda: set(numbers(world.ingest.payloads())) == {0, 1, 2})

    asyncio.run(main())


def test_retained_presses_and_names_that_outlive_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        site = ZigbeeSite(2)
        with Mosquitto(tmp_path) as broker:
            await publish(broker.port, [(said.topic, said.payload) for said in site.opening()], retain=True)
            await publish(broker.port, presses(0, 1), retain=True)
            await publish(broker.port, [("house/D-1/panic", '{"n": 1}')], retain=True)
            world = World(broker.port, codecs=("zigbee2mqtt",), topics=HOUSE)
            async with world.running():
                await world.until(lambda: len(world.ingest.kept) == 3)
                await world.until(lambda: len(world.memory.value.get("names", {})) == 2)
            kept = [payload for payload in world.ingest.payloads() if BUTTON.encode() in payload]
            assert len(kept) == 1
            assert kept[0].startswith(b"%retained "), "a retained press must not look like a new one"
            assert not [frame for frame in world.ingest.kept if frame.codec == "json"]
            world.ingest.kept.clear()
            world.make()
            async with world.running():
                press = site.press(0, datetime.now(UTC))
                await publish(broker.port, [(press.topic, press.payload)])
                await world.until(lambda: len(world.ingest.kept) == 1)
            context = world.ingest.kept[0].context
            assert context is not None
            assert context["names"][site.name(0)] == site.identity(0)

    asyncio.run(main())


@pytest.mark.parametrize("qos", [0, 1])
def test_a_flood_is_read_as_fast_as_it_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qos: int) -> None:
    """No receive maximum protects the gateway here: reading pauses until there is room, and nothing is lost."""
    monkeypatch.setattr(inbox, "FULL", 100)
    monkeypatch.setattr(inbox, "ROOM_AGAIN", 50)
    monkeypatch.setattr(link, "STUCK_S", 300.0)

    async def main() -> None:
        with Mosquitto(tmp_path, extra="max_inflight_messages 0\n") as broker:
            world = World(broker.port, topics=HOUSE, version=4, keepalive_s=300)  # it does not hear pings meanwhile
            async with world.running():
                world.ingest.hold = True
                await publish(
                    broker.port,
                    [("house/D-1/panic", json.dumps({"n": n, "x": "x" * 2000})) for n in range(1000)],
                    qos=qos,
                )
                await asyncio.sleep(0.3)
                assert len(world.ingest.offered) < 300
                world.ingest.hold = False
                await world.until(lambda: len(set(numbers(world.ingest.payloads()))) == 1000)

    asyncio.run(main())


def test_commands_reach_devices_under_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Zigbee device before it has ever spoken, any other on the topic that belongs to the one it spoke on."""
    monkeypatch.setattr(link, "PUBLISH_S", 60.0)

    async def main() -> None:
        site = ZigbeeSite(2)
        heard: list[tuple[str, object]] = []
        with Mosquitto(tmp_path) as broker:
            await publish(broker.port, [(said.topic, said.payload) for said in site.opening()], retain=True)
            world = World(broker.port, codecs=("zigbee2mqtt",), topics=HOUSE)
            world.book.keys = {site.identity(1): "Z-1"}
            async with world.running(), aiomqtt.Client("127.0.0.1", broker.port, timeout=60) as other:
                await other.subscribe([(site.listens_to, 1), ("zigbee2mqtt/+/+/set", 1), ("house/+/do", 1)])
                await world.until(lambda: world.link.counters()["zigbee_names"] == 2)
                assert await world.link.send("Z-1", b'{"warning": {}}')
                assert not await world.link.send("H-1", b"ring"), "nobody knows where it is"
                source = "carebell-test house/panel 7/panic"
                record = Record(1, "broker", "json", source, b"", "H-1", "panel 7", "", "", True, 0, "")
                world.link.observe(Committed(1, [record]))
                assert await world.link.send("H-1", b"ring")
                async with asyncio.timeout(60):
                    async for message in other.messages:
                        heard.append((str(message.topic), message.payload))
                        if len(heard) == 2:
                            break
            assert not await world.link.send("Z-1", b"{}"), "there is no connection"
        assert heard == [(f"zigbee2mqtt/{site.name(1)}/set", b'{"warning": {}}'), ("house/panel 7/do", b"ring")]

    asyncio.run(main())


def test_two_gateways_of_a_shared_group_divide_the_messages(tmp_path: Path) -> None:
    async def main() -> None:
        with Mosquitto(tmp_path) as broker:
            one = World(broker.port, topics=HOUSE, share_group="bulk")
            two = World(broker.port, topics=HOUSE, share_group="bulk")
            two.options = type(two.options)(
                "127.0.0.1", broker.port, "carebell-other", topics=HOUSE, share_group="bulk"
            )  # fmt: skip
            two.make()
            async with one.running(), two.running():
                await publish(broker.port, [("house/D-1/panic", json.dumps({"n": n})) for n in range(50)])
                await one.until(lambda: len(one.ingest.kept) + len(two.ingest.kept) == 50)
            both = [*numbers(one.ingest.payloads()), *numbers(two.ingest.payloads())]
            assert sorted(both) == list(range(50))
            assert one.ingest.kept
            assert two.ingest.kept

    asyncio.run(main())


def test_who_is_refused_says_so(tmp_path: Path) -> None:
    async def main() -> None:
        secret = tmp_path / "passwords"
        secret.write_text("", encoding="utf-8")
        broker = Mosquitto(tmp_path, extra=f"password_file {secret}\n")
        config = tmp_path / "mosquitto.conf"
        config.write_text(config.read_text(encoding="utf-8").replace("allow_anonymous true", "allow_anonymous false"))
        with broker:
            world = World(broker.port, codecs=("zigbee2mqtt",), username="carebell", password="wrong")
            async with asyncio.TaskGroup() as group:
                task = group.create_task(world._keep())
                await world.until(lambda: bool(world.failures))
                ok, text = world.link.state()
                task.cancel()
            assert "authorized" in world.failures[0].lower()
            assert not ok
            assert "authorized" in text.lower()
            assert "wrong" not in text

    asyncio.run(main())
