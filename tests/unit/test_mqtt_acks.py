"""No acknowledgement before its commit; none at all without one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.model import Verdict
from tests.mqtt_wire import DISCONNECT, PINGREQ, bounds, packet, play, puback, publish_packet, running, varint

UP = "carebell/D-1/up"
both_versions = pytest.mark.parametrize("version", [4, 5])


@both_versions
def test_a_puback_waits_for_its_commit(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.ingest.verdict = None
            client = await world.connect(version=version)
            client.send(publish_packet(UP, b"{}", packet_id=7, version=version))
            assert await client.silent()
            assert [frame.payload for frame in world.ingest.frames] == [b"{}"]
            world.ingest.commit()
            assert await client.receive() == (0x40, b"\x00\x07")
            assert world.endpoint.counters()["acked_total"] == 1

    play(main())


@both_versions
def test_retry_closes_without_an_acknowledgement(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.ingest.verdict = None
            client = await world.connect(version=version)
            client.send(publish_packet(UP, b"1", packet_id=1, version=version))
            await client.roundtrip()
            world.ingest.commit()
            client.send(publish_packet(UP, b"2", packet_id=2, version=version))
            assert await client.receive() == (0x40, b"\x00\x01")  # what was earned before still goes out
            while len(world.ingest.frames) < 2:
                await asyncio.sleep(0.01)
            world.ingest.commit(Verdict.RETRY)
            if version == 5:
                answer = await client.receive()
                assert answer is not None
                assert (answer[0], answer[1][0]) == (0xE0, 0x83)
            assert await client.ended()
            assert world.endpoint.counters()["acked_total"] == 1

    play(main())


def test_nothing_behind_a_retry_is_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.ingest.verdict = None
            client = await world.connect()
            client.send(publish_packet(UP, b"1", packet_id=1))
            await client.roundtrip()
            first, world.ingest.open = world.ingest.open, None
            client.send(publish_packet(UP, b"2", packet_id=2))
            await client.roundtrip()
            assert first is not None
            first.set_result(Verdict.RETRY)
            world.ingest.commit()
            assert await client.ended()

    play(main())


def test_one_read_is_one_offer_and_one_commit_is_one_write(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(frames_per_offer=200)) as world:
            world.ingest.verdict = None
            client = await world.connect()
            stream = b"".join(publish_packet(UP, b"%d" % number, packet_id=number) for number in range(1, 101))
            client.send(stream)
            while len(world.ingest.frames) < 100:
                await asyncio.sleep(0.01)
            assert world.ingest.offers == 1
            world.ingest.commit()
            async with asyncio.timeout(60):
                answer = await client.reader.read(65_536)
            assert answer == b"".join(puback(number) for number in range(1, 101))

    play(main())


def test_offers_are_sliced(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(frames_per_offer=10)) as world:
            client = await world.connect()
            client.send(b"".join(publish_packet(UP, b"x", packet_id=number) for number in range(1, 36)))
            for number in range(1, 36):
                assert await client.receive() == (0x40, number.to_bytes(2, "big"))
            assert world.ingest.offers >= 4

    play(main())


def test_frames_say_where_they_came_from(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, codec="button_json") as world:
            client = await world.connect()
            client.send(publish_packet(UP, b"a", qos=0) + publish_packet(UP, b"b", dup=True, packet_id=9))
            client.send(publish_packet("carebell/D-1/state", b"c", packet_id=10))
            assert await client.receive() == (0x40, b"\x00\x09")
            assert await client.receive() == (0x40, b"\x00\x0a")
            frames = world.ingest.frames
            assert [(frame.payload, frame.redelivered) for frame in frames] == [
                (b"a", False),
                (b"b", True),
                (b"c", False),
            ]
            for frame in frames:
                assert (frame.transport, frame.codec, frame.device_key, frame.verified) == (
                    "mqtt", "button_json", "D-1", True,
                )  # fmt: skip
                host, port = client.writer.get_extra_info("sockname")
                assert frame.source == f"{host}:{port}"

    play(main())


@both_versions
def test_qos_2_is_offered_once_and_received_after_the_commit(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.ingest.verdict = None
            client = await world.connect(version=version)
            client.send(publish_packet(UP, b"x", qos=2, packet_id=5, version=version))
            client.send(publish_packet(UP, b"x", qos=2, packet_id=5, dup=True, version=version))
            await client.roundtrip()
            assert len(world.ingest.frames) == 1
            world.ingest.commit()
            assert await client.receive() == (0x50, b"\x00\x05")
            client.send(publish_packet(UP, b"x", qos=2, packet_id=5, dup=True, version=version))
            assert await client.receive() == (0x50, b"\x00\x05")
            client.send(packet(0x62, b"\x00\x05"))
            assert await client.receive() == (0x70, b"\x00\x05")
            client.send(packet(0x62, b"\x00\x05"))  # a PUBREL of what is not known
            assert await client.receive() == (0x70, b"\x00\x05" + (b"\x92" if version == 5 else b""))
            client.send(publish_packet(UP, b"y", qos=2, packet_id=5, version=version))
            await client.roundtrip()
            assert [frame.payload for frame in world.ingest.frames] == [b"x", b"y"]

    play(main())


def test_qos_2_that_was_not_stored_is_offered_again_after_a_reconnect(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.ingest.verdict = None
            client = await world.connect(clean=False)
            client.send(publish_packet(UP, b"x", qos=2, packet_id=5))
            await client.roundtrip()
            world.ingest.commit(Verdict.RETRY)
            assert await client.ended()
            client = await world.connect(clean=False)
            client.send(publish_packet(UP, b"x", qos=2, packet_id=5, dup=True))
            await client.roundtrip()
            assert [frame.redelivered for frame in world.ingest.frames] == [False, True]
            world.ingest.commit()
            assert await client.receive() == (0x50, b"\x00\x05")
            client.send(DISCONNECT)
            again = await world.connect(clean=False)  # the identifier outlives the connection
            again.send(publish_packet(UP, b"x", qos=2, packet_id=5, dup=True))
            assert await again.receive() == (0x50, b"\x00\x05")
            assert len(world.ingest.frames) == 2

    play(main())


def test_a_refusal_waits_behind_the_acknowledgements_before_it(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.ingest.verdict = None
            client = await world.connect(version=5)
            client.send(publish_packet(UP, b"x", packet_id=1, version=5))
            await client.roundtrip()
            client.send(publish_packet("carebell/D-2/up", b"x", packet_id=2, version=5))
            assert await client.silent()
            world.ingest.commit()
            assert await client.receive() == (0x40, b"\x00\x01")
            answer = await client.receive()
            assert answer is not None
            assert (answer[0], answer[1][:3]) == (0x40, b"\x00\x02\x87")
            assert b"own prefix" in answer[1]
            client.send(publish_packet("carebell/D-2/up", b"x", packet_id=3, version=5))
            answer = await client.receive()  # nothing to wait for
            assert answer is not None
            assert answer[1][:3] == b"\x00\x03\x87"
            assert len(world.ingest.frames) == 1

    play(main())


def test_receive_maximum_is_kept_by_the_sender_or_the_connection_ends(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(inflight=5)) as world:
            world.ingest.verdict = None
            client = await world.connect(version=5)
            assert b"\x21\x00\x05" in client.connack
            client.send(b"".join(publish_packet(UP, b"x", packet_id=n, version=5) for n in range(1, 7)))
            answer = await client.receive()
            assert answer is not None
            assert (answer[0], answer[1][0]) == (0xE0, 0x93)
            assert len(world.ingest.frames) == 6  # kept, whatever the sender did wrong

    play(main())


def test_reading_pauses_at_the_bound_and_goes_on_after_the_commit(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(inflight=20)) as world:
            world.ingest.verdict = None
            client = await world.connect()
            sent = 0
            for _ in range(50):
                client.send(b"".join(publish_packet(UP, b"x" * 1000, packet_id=sent + n) for n in range(1, 21)))
                sent += 20
                await asyncio.sleep(0)
            await asyncio.sleep(0.2)
            first = len(world.ingest.frames)
            assert first < sent  # the rest waits in the sockets
            world.ingest.verdict = Verdict.ACCEPTED
            world.ingest.commit()
            for number in range(1, sent + 1):
                assert await client.receive() == (0x40, number.to_bytes(2, "big"))
            assert len(world.ingest.frames) == sent
            assert world.endpoint.counters()["pending"] == 0

    play(main())


def test_a_quiet_device_is_heard_while_the_others_fill_the_bound(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(inflight=100, pending=50)) as world:
            world.ingest.verdict = None
            loud = await world.connect(device_id="D-2")
            loud.send(b"".join(publish_packet("carebell/D-2/up", b"x", packet_id=n) for n in range(1, 61)))
            await world.until(lambda: len(world.ingest.frames) == 60)
            quiet = await world.connect()
            quiet.send(publish_packet(UP, b"sos", packet_id=1))
            await quiet.roundtrip()
            loud.send(PINGREQ)
            assert await loud.silent()
            assert world.ingest.frames[-1].payload == b"sos"
            world.ingest.commit()
            assert await quiet.receive() == (0x40, b"\x00\x01")
            assert await loud.receive() == (0x40, b"\x00\x01")

    play(main())


def test_stopping_acknowledges_what_was_on_its_way(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(drain_s=60.0)) as world:
            world.ingest.verdict = None
            client = await world.connect(version=5, will=("carebell/D-1/up", b"bye"))
            client.send(publish_packet(UP, b"x", version=5))
            await client.roundtrip()
            asyncio.get_running_loop().call_later(0.1, world.ingest.commit)
        assert await client.receive() == (0x40, b"\x00\x01")
        answer = await client.receive()
        assert answer is not None
        assert (answer[0], answer[1][0]) == (0xE0, 0x8B)
        assert await client.ended()
        assert [frame.payload for frame in world.ingest.frames] == [b"x"]  # a gateway that stops publishes no wills

    play(main())


def test_topic_aliases(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await world.connect(version=5)
            alias = b"\x23\x00\x02"
            client.send(publish_packet(UP, b"1", packet_id=1, version=5, properties=alias))
            client.send(
                publish_packet("", b"2", packet_id=2, version=5, properties=alias + b"\x26" + b"\x00\x01a\x00\x01b")
            )
            assert await client.receive() == (0x40, b"\x00\x01")
            assert await client.receive() == (0x40, b"\x00\x02")
            assert [frame.payload for frame in world.ingest.frames] == [b"1", b"2"]
            client.send(publish_packet("carebell/D-2/up", b"3", packet_id=3, version=5, properties=alias))
            answer = await client.receive()
            assert answer is not None
            assert answer[1][2] == 0x87
            client.send(publish_packet("", b"4", packet_id=4, version=5, properties=alias))
            answer = await client.receive()
            assert answer is not None
            assert answer[1][2] == 0x87

    play(main())


@pytest.mark.parametrize(
    ("alias", "topic", "code"), [(0, UP, 0x82), (17, UP, 0x94), (3, "", 0x82)], ids=["zero", "beyond", "unknown"]
)
def test_topic_aliases_that_are_not_valid(tmp_path: Path, alias: int, topic: str, code: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await world.connect(version=5)
            client.send(publish_packet(topic, b"x", version=5, properties=b"\x23" + alias.to_bytes(2, "big")))
            answer = await client.receive()
            assert answer is not None
            assert (answer[0], answer[1][0]) in {(0xE0, code), (0xE0, 0x94)}
            assert await client.ended()

    play(main())


def oversized(version: int) -> bytes:
    body = b"\x00\x0f" + UP.encode() + b"\x00\x03" + (b"\x00" if version == 5 else b"") + b"z" * 200_000
    return b"\x32" + varint(len(body)) + body


def test_an_oversized_publish_of_311_is_kept_acknowledged_and_skipped(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await world.connect()
            client.send(oversized(4) + publish_packet(UP, b"behind", packet_id=4))
            assert await client.receive() == (0x40, b"\x00\x03")
            assert await client.receive() == (0x40, b"\x00\x04")
            head, behind = world.ingest.frames
            assert len(head.payload) > 65_536  # so long that every codec says what is wrong with it
            assert behind.payload == b"behind"
            assert world.endpoint.counters()["refused_too_large_total"] == 1

    play(main())


def test_an_oversized_publish_of_5_is_kept_and_ends_the_connection(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await world.connect(version=5)
            client.send(oversized(5))
            answer = await client.receive()
            assert answer is not None
            assert (answer[0], answer[1][0]) == (0xE0, 0x95)
            assert await client.ended()
            assert len(world.ingest.frames) == 1

    play(main())


def test_foreign_topics_end_a_311_connection(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            for topic in ("carebell/D-2/up", "carebell/D-1", "carebell/D-11/up", "$SYS/x", "up"):
                client = await world.connect()
                client.send(publish_packet(UP, b"before", packet_id=1) + publish_packet(topic, b"x", packet_id=2))
                assert await client.ended()
            assert {frame.payload for frame in world.ingest.frames} == {b"before"}
            assert world.endpoint.counters()["refused_topic_total"] == 5

    play(main())


def test_a_device_that_is_retired_meanwhile_is_put_off(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await world.connect(version=5)
            world.registry.gone.add("D-1")
            client.send(publish_packet(UP, b"x", version=5))
            answer = await client.receive()
            assert answer is not None
            assert (answer[0], answer[1][0]) == (0xE0, 0x98)
            assert await client.ended()
            assert world.ingest.frames == []

    play(main())


def test_the_retain_flag(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await world.connect()
            client.send(publish_packet(UP, b"x", retain=True))
            assert await client.receive() == (0x40, b"\x00\x01")
            client = await world.connect(version=5)
            assert b"\x25\x00" in client.connack  # Retain Available: 0
            client.send(publish_packet(UP, b"y", retain=True, version=5))
            answer = await client.receive()
            assert answer is not None
            assert (answer[0], answer[1][0]) == (0xE0, 0x9A)
            assert [frame.payload for frame in world.ingest.frames] == [b"x", b"y"]

    play(main())
