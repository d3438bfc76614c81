"""More to read than a turn of the loop has time for: what may be urgent goes first, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from protocols.transports.mqtt_endpoint import connection, turns
from tests.mqtt_wire import DISCONNECT, Client, World, bounds, play, publish_packet, running

UP = "carebell/D-1/up"
MARK = b'"signals"'
PRESS = b'{"signals":["sos"]}'
CLIENTS = 4


def telemetry(client: int, number: int) -> bytes:
    return b'{"seq":%d,"client":%d}' % (number, client)


async def clients_of(world: World, version: int = 4) -> list[Client]:
    return [await world.connect(client_id=f"c-{number}", version=version) for number in range(CLIENTS)]


def payloads(world: World) -> list[bytes]:
    return [frame.payload for frame in world.ingest.frames]


def of_client(seen: Sequence[bytes], client: int) -> list[bytes]:
    return [payload for payload in seen if payload.endswith(b'"client":%d}' % client)]


@pytest.mark.parametrize("version", [4, 5])
def test_a_press_overtakes_what_waits_and_nothing_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    monkeypatch.setattr(turns, "TURN_BYTES", 1)

    async def main() -> None:
        async with running(tmp_path, urgent_marks=lambda _binding: (MARK,)) as world:
            clients = await clients_of(world, version)
            for number in range(1, 51):
                for place, client in enumerate(clients[:-1]):
                    client.send(publish_packet(UP, telemetry(place, number), packet_id=number, version=version))
                if number == 10:
                    clients[-1].send(publish_packet(UP, PRESS, packet_id=1, version=version))
                await asyncio.sleep(0)
            await world.until(lambda: len(world.ingest.frames) == 50 * (CLIENTS - 1) + 1)
            seen = payloads(world)
            for place in range(CLIENTS - 1):
                assert of_client(seen, place) == [telemetry(place, number) for number in range(1, 51)]
            assert world.endpoint.counters()["waited_total"] > 0
            assert world.endpoint.counters()["waiting_bytes"] == 0
            for client in clients[:-1]:
                for number in range(1, 51):
                    answer = await client.receive()
                    assert answer is not None
                    assert answer[1][:2] == number.to_bytes(2, "big")

    play(main())


def test_a_press_of_a_connection_that_waits_takes_along_what_came_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running(tmp_path, urgent_marks=lambda _binding: (MARK,)) as world:
            await clients_of(world)
            first, second, *_ = world.endpoint._listener.connections
            monkeypatch.setattr(turns, "TURN_BYTES", 1)
            world.endpoint._listener.turns._left = 0  # as in a turn that has no time any more
            world.endpoint._listener.turns._scheduled = True
            for place, link in ((1, second), (0, first)):
                link.data_received(publish_packet(UP, telemetry(place, 1), packet_id=1))
            half = publish_packet(UP, telemetry(0, 2), packet_id=2)
            first.data_received(half[:9])
            assert payloads(world) == []
            first.data_received(half[9:] + publish_packet(UP, PRESS, packet_id=3))
            assert payloads(world) == [telemetry(0, 1), telemetry(0, 2), PRESS]
            world.endpoint._listener.turns._next()
            assert payloads(world)[3:] == [telemetry(1, 1)]

    play(main())


@pytest.mark.parametrize("how", ["lost", "disconnect", "stop", "takeover"])
def test_what_waits_is_offered_however_the_connection_ends(tmp_path: Path, how: str) -> None:
    async def main() -> None:
        async with running(tmp_path, urgent_marks=lambda _binding: ()) as world:
            client = await world.connect(client_id="c-0")
            (link,) = world.endpoint._listener.connections
            world.endpoint._listener.turns._left = 0
            world.endpoint._listener.turns._scheduled = True
            link.data_received(publish_packet(UP, telemetry(0, 1), packet_id=1))
            assert payloads(world) == []
            if how == "disconnect":
                link.data_received(DISCONNECT)
                link.close(0x8B, "the gateway stops")
            elif how == "lost":
                await client.close()
            elif how == "takeover":
                await world.connect(client_id="c-0")
            if how != "stop":
                await world.until(lambda: len(world.ingest.frames) == 1)
        assert payloads(world) == [telemetry(0, 1)]
        assert world.endpoint.counters()["waiting_bytes"] == 0

    play(main())


def test_what_waits_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(), urgent_marks=lambda _binding: ()) as world:
            await world.connect(client_id="c-0")
            await world.connect(client_id="c-1")
            one, other = world.endpoint._listener.connections
            shared = world.endpoint._listener.turns
            shared._left, shared._scheduled = 0, True
            monkeypatch.setattr(connection, "WAITING_BYTES", 1000)
            sent = 0
            while not world.ingest.frames:
                sent += 1
                one.data_received(publish_packet(UP, b"x" * 100, packet_id=sent))
                assert shared.waiting_bytes <= 1200
            assert len(world.ingest.frames) == sent
            monkeypatch.setattr(turns, "WAITING_BYTES", 0)
            other.data_received(publish_packet(UP, b"y", packet_id=1))
            assert payloads(world)[-1] == b"y"

    play(main())
