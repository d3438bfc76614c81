"""Wills: what is journalled of a device whose connection is lost, and when."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.clock import VirtualClock
from gateway.model import Verdict
from tests.mqtt_wire import DISCONNECT, World, bounds, play, running

UP = "carebell/D-1/up"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
EXPIRY_100 = b"\x11\x00\x00\x00\x64"
LOST = b'{"signals":["connection_lost"]}'


async def wait_for_frames(world: World, count: int) -> list[bytes]:
    async with asyncio.timeout(60):
        while len(world.ingest.frames) < count:
            await asyncio.sleep(0.01)
    return [frame.payload for frame in world.ingest.frames]


@pytest.mark.parametrize(
    ("topic", "payload", "codec", "expected"),
    [
        (UP, b'{"signals": ["power_lost"]}', "native", [("native", b'{"signals": ["power_lost"]}')]),
        (UP, b"offline", "native", [("native", b"offline"), ("native", LOST)]),
        (UP, b'{"a": 1}', "button_json", [("button_json", b'{"a": 1}'), ("native", LOST)]),
        (UP, b"", "native", [("native", LOST)]),
        ("devices/1/status", b"offline", "native", [("native", LOST)]),
        (UP, b"x" * 60_000, "native", [("native", LOST)]),
    ],
    ids=["native", "unreadable", "another codec", "empty", "another topic", "huge"],
)
def test_a_will_is_journalled_when_the_connection_is_lost(
    tmp_path: Path, topic: str, payload: bytes, codec: str, expected: list[tuple[str, bytes]]
) -> None:
    async def main() -> None:
        async with running(tmp_path, codec=codec) as world:
            client = await world.connect(will=(topic, payload), will_flags=0x08)
            await client.close()
            await wait_for_frames(world, len(expected))
            assert [(frame.codec, frame.payload) for frame in world.ingest.frames] == expected
            assert {frame.device_key for frame in world.ingest.frames} == {"D-1"}

    play(main())


def test_who_says_goodbye_leaves_no_will(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            for version, goodbye, count in ((4, DISCONNECT, 0), (5, DISCONNECT, 0), (5, b"\xe0\x01\x04", 1)):
                client = await world.connect(version=version, will=(UP, b"{}"))
                client.send(goodbye)
                assert await client.ended()
                await wait_for_frames(world, count)
                await asyncio.sleep(0.05)  # for one too many
                assert len(world.ingest.frames) == count

    play(main())


def test_a_delayed_will(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock(NOON)
        how = {"version": 5, "clean": False, "properties": EXPIRY_100, "will_properties": b"\x18\x00\x00\x00\x1e"}
        async with running(tmp_path, bounds(drain_s=60.0), clock=clock) as world:
            client = await world.connect(will=(UP, b"{}"), **how)
            await client.close()
            await world.nobody_left()
            clock.advance(20)
            client = await world.connect(will=(UP, b"[]"), **how)  # in time: the will is void
            await client.close()
            await world.nobody_left()
            assert world.ingest.frames == []
            clock.advance(31)
            assert await wait_for_frames(world, 1) == [b"[]"]
            client = await world.connect(will=(UP, b'{"n": 3}'), **how)
            await client.close()
            await world.nobody_left()
            last = await world.connect(version=5, clean=True)  # the session ends, so the will does not wait
            assert await wait_for_frames(world, 2) == [b"[]", b'{"n": 3}']
            await last.close()
            client = await world.connect(device_id="D-2", will=("carebell/D-2/up", b'{"n": 4}'), **how)
            await client.close()
            await world.nobody_left()
        assert world.ingest.frames[-1].payload == b'{"n": 4}'  # not lost with the process

    play(main())


def test_a_will_is_offered_until_it_is_stored(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.ingest.verdict = Verdict.RETRY
            client = await world.connect(will=(UP, b"{}"))
            await client.close()
            await wait_for_frames(world, 1)
            world.ingest.verdict = Verdict.ACCEPTED
            await world.until(lambda: world.endpoint.counters()["wills_total"] == 1)
            tries = [frame.payload for frame in world.ingest.frames]  # how often it was refused varies
            assert len(tries) >= 2
            assert set(tries) == {b"{}"}

    play(main())
