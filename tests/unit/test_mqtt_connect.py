"""Who gets in, what the others are told, and who is put out again."""

from __future__ import annotations

import asyncio
import struct
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import VirtualClock
from tests.mqtt_wire import (
    DISCONNECT,
    PINGREQ,
    TOKEN,
    Client,
    bounds,
    connect_packet,
    packet,
    play,
    publish_packet,
    running,
    text,
)

UP = "carebell/D-1/up"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)

REFUSED: list[tuple[str, dict[str, Any], int]] = [
    ("wrong token", {"token": b"wrong"}, 4),
    ("no password", {"token": None}, 5),
    ("nobody", {"device_id": None, "token": None}, 5),
    ("nobody's session", {"client_id": "", "clean": False}, 2),
    ("long client id", {"client_id": "c" * 257}, 2),
    ("wrong token", {"version": 5, "token": b"wrong"}, 0x86),
    ("no password", {"version": 5, "token": None}, 0x87),
    ("password alone", {"version": 5, "device_id": None}, 0x87),
    ("long client id", {"version": 5, "client_id": "c" * 257}, 0x85),
    ("authentication method", {"version": 5, "properties": b"\x15" + text("SCRAM-SHA-1")}, 0x8C),
    ("will retained", {"version": 5, "will": (UP, b""), "will_flags": 0x20}, 0x9A),
    ("property of another packet", {"version": 5, "properties": b"\x23\x00\x01"}, 0x81),
    ("property twice", {"version": 5, "properties": b"\x21\x00\x01\x21\x00\x01"}, 0x82),
    ("receive maximum 0", {"version": 5, "properties": b"\x21\x00\x00"}, 0x82),
    ("maximum packet size 0", {"version": 5, "properties": b"\x27\x00\x00\x00\x00"}, 0x82),
    ("authentication data alone", {"version": 5, "properties": b"\x16\x00\x01x"}, 0x82),
    ("wildcard in the will's topic", {"version": 5, "will": ("carebell/#", b"")}, 0x90),
    ("MQTT 6", {"version": 6}, 0x84),
]


@pytest.mark.parametrize(
    ("how", "code"), [row[1:] for row in REFUSED], ids=[f"{row[0]} {row[1].get('version', 4)}" for row in REFUSED]
)
def test_refused_connects_are_told_why(tmp_path: Path, how: dict[str, Any], code: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await world.connect(**how)
            assert client.connack[:2] == bytes([0, code])
            assert await client.ended()
            assert sum(count for name, count in world.endpoint.counters().items() if name.startswith("refused_")) == 1

    play(main())


def test_reason_strings_fit_the_client(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await world.connect(version=5, token=b"wrong")
            assert b"credentials" in client.connack
            client = await world.connect(version=5, token=b"wrong", properties=b"\x27\x00\x00\x00\x10")
            assert client.connack == b"\x00\x86\x00"
            client = await world.connect(version=5, properties=b"\x17\x00")  # no problem information
            client.send(publish_packet("carebell/D-2/up", b"", version=5))
            assert await client.receive() == (0x40, b"\x00\x01\x87")

    play(main())


CLOSED: dict[str, bytes] = {
    "not CONNECT": PINGREQ,
    "PUBLISH first": publish_packet(UP, b"x"),
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "another protocol": packet(0x10, text("MQTS") + b"\x04\x02\x00\x00" + text("c")),
    "reserved connect flag": packet(0x10, text("MQTT") + b"\x04\x03\x00\x00" + text("c")),
    "will QoS without a will": packet(0x10, text("MQTT") + b"\x04\x0a\x00\x00" + text("c")),
    "password without a user name": packet(0x10, text("MQTT") + b"\x04\x42\x00\x00" + text("c") + text("p")),
    "cut short": packet(0x10, text("MQTT") + b"\x04\xc2\x00\x00" + text("c") + text("u")),
    "too much": packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text("c") + b"x"),
    "client id is not UTF-8": packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text(b"\xff\xfe")),
    "client id has U+0000": packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text("a\0b")),
    "client id has a surrogate": packet(0x10, text("MQTT") + b"\x04\x02\x00\x00" + text(b"\xed\xa0\x80")),
    "wrong flags": b"\x11\x00",
    "endless length": b"\x10\xff\xff\xff\xff\x01",
    "long length": b"\x10\x80\x00",
    "too long": b"\x10\xff\xff\x7f",
}


@pytest.mark.parametrize("data", CLOSED.values(), ids=CLOSED.keys())
def test_what_is_no_connect_is_closed(tmp_path: Path, data: bytes) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await Client.open(world.port)
            client.send(data)
            assert await client.ended()

    play(main())


def test_mqtt_31_is_told_that_it_is_too_old(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await Client.open(world.port)
            client.send(packet(0x10, text("MQIsdp") + b"\x03\x02\x00\x00" + text("c")))
            assert await client.receive() == (0x20, b"\x00\x01")
            assert await client.ended()

    play(main())


def malformed_cases() -> dict[str, tuple[bytes, int]]:
    return {
        "second CONNECT": (connect_packet(version=5), 0x82),
        "AUTH": (b"\xf0\x00", 0x82),
        "type 0": (b"\x00\x00", 0x81),
        "CONNACK": (b"\x20\x00", 0x82),
        "flags of PINGREQ": (b"\xc1\x00", 0x81),
        "flags of SUBSCRIBE": (packet(0x80, b"\x00\x01\x00" + text(UP) + b"\x01"), 0x81),
        "body of PINGREQ": (b"\xc0\x01x", 0x81),
        "QoS 3": (packet(0x36, text(UP) + b"\x00\x01\x00"), 0x81),
        "DUP at QoS 0": (packet(0x38, text(UP) + b"\x00"), 0x81),
        "packet identifier 0": (publish_packet(UP, b"x", packet_id=0, version=5), 0x82),
        "no topic": (publish_packet("", b"x", version=5), 0x82),
        "wildcard": (publish_packet("carebell/D-1/+", b"x", version=5), 0x90),
        "topic is not UTF-8": (packet(0x30, text(b"\xc3\x28") + b"\x00"), 0x81),
        "topic cut short": (packet(0x32, b"\x00\x0f" + UP.encode()), 0x81),
        "topic longer than the packet": (packet(0x32, b"\x00\x0f" + UP.encode()[:5]) + b"\xc0\x00" * 10, 0x81),
        "properties cut short": (packet(0x32, text(UP) + b"\x00\x01\x05"), 0x81),
        "unknown property": (publish_packet(UP, b"", version=5, properties=b"\x7f\x00"), 0x81),
        "subscription identifier": (publish_packet(UP, b"", version=5, properties=b"\x0b\x01"), 0x82),
        "payload format 2": (publish_packet(UP, b"", version=5, properties=b"\x01\x02"), 0x82),
        "SUBSCRIBE without a filter": (packet(0x82, b"\x00\x01\x00"), 0x82),
        "UNSUBSCRIBE without a filter": (packet(0xA2, b"\x00\x01\x00"), 0x82),
        "subscription options": (packet(0x82, b"\x00\x01\x00" + text(UP) + b"\x41"), 0x81),
        "subscription QoS 3": (packet(0x82, b"\x00\x01\x00" + text(UP) + b"\x03"), 0x81),
        "retain handling 3": (packet(0x82, b"\x00\x01\x00" + text(UP) + b"\x31"), 0x82),
        "No Local with $share": (packet(0x82, b"\x00\x01\x00" + text("$share/g/x") + b"\x05"), 0x82),
        "PUBREC for nothing": (packet(0x50, b"\x00\x01"), 0x82),
        "session expiry out of nothing": (packet(0xE0, b"\x00\x05\x11\x00\x00\x00\x09"), 0x82),
        "a long length": (b"\xc0\x80\x00", 0x81),
        "an endless length": (b"\x32\xff\xff\xff\xff\x7f", 0x81),
        "a huge SUBSCRIBE": (b"\x82\xff\xff\x7f", 0x95),
    }


@pytest.mark.parametrize(("data", "code"), malformed_cases().values(), ids=malformed_cases().keys())
def test_malformed_packets_end_the_connection_with_a_reason(tmp_path: Path, data: bytes, code: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            neighbour = await world.connect(device_id="D-2")
            client = await world.connect(version=5)
            client.send(publish_packet(UP, b"before", version=5))
            assert await client.receive() == (0x40, b"\x00\x01")
            client.send(data)
            answer = await client.receive()
            assert answer is not None
            assert answer[0] == 0xE0
            assert answer[1][0] == code
            assert len(answer[1]) > 5, "a reason in words"
            assert await client.ended()
            await neighbour.roundtrip()

    play(main())


def test_malformed_packets_of_311_only_close(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            for data in (b"\xf0\x00", b"\xc1\x00", publish_packet("carebell/+/up", b""), packet(0x82, b"\x00\x01")):
                client = await world.connect()
                client.send(data)
                assert await client.ended()

    play(main())


def test_what_comes_behind_connect_is_kept_in_order(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.registry.delay_s = 0.1
            client = await Client.open(world.port)
            stream = connect_packet() + b"".join(publish_packet(UP, b"%d" % n, packet_id=n) for n in range(1, 4))
            for start in range(0, len(stream), 50):
                client.send(stream[start : start + 50])
                await asyncio.sleep(0.01)
            client.send(PINGREQ)
            assert await client.receive() == (0x20, b"\x00\x00")
            answers = [await client.receive() for _ in range(4)]
            assert [answer for answer in answers if answer and answer[0] == 0x40] == [
                (0x40, bytes([0, number])) for number in range(1, 4)
            ]
            assert [frame.payload for frame in world.ingest.frames] == [b"1", b"2", b"3"]

    play(main())


def test_byte_by_byte(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await Client.open(world.port)
            for byte in connect_packet(version=5) + publish_packet(UP, b"x" * 200, version=5) + DISCONNECT:
                client.send(bytes([byte]))
                await client.writer.drain()
                await asyncio.sleep(0)
            answer = await client.receive()
            assert answer is not None
            assert answer[0] == 0x20
            assert await client.receive() in {(0x40, b"\x00\x01"), None}
            assert [frame.payload for frame in world.ingest.frames] == [b"x" * 200]

    play(main())


def test_an_unreadable_registry_says_try_again(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.registry.broken = True
            assert (await world.connect()).connack == b"\x00\x03"
            assert (await world.connect(version=5)).connack[1] == 0x88

    play(main())


def test_an_assigned_client_id_and_a_server_keep_alive(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(keep_alive_s=120)) as world:
            client = await world.connect(version=5, client_id="", keep_alive=0)
            assert b"\x12\x00\x15auto-" in client.connack
            assert b"\x13\x00\x78" in client.connack
            assert (await world.connect(client_id="")).connack == b"\x00\x00"

    play(main())


def test_a_silent_client_is_closed_after_one_and_a_half_keep_alives(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock(NOON)
        async with running(tmp_path, clock=clock) as world:
            client = await world.connect(version=5, keep_alive=100)
            patient = await world.connect(device_id="D-2", keep_alive=0)
            for _ in range(3):
                clock.advance(48)
                await asyncio.sleep(0.12)
            await client.roundtrip()  # 144 s
            for _ in range(4):
                clock.advance(40)
                await asyncio.sleep(0.12)
            answer = await client.receive()
            assert answer is not None
            assert (answer[0], answer[1][0]) == (0xE0, 0x8D)
            assert await client.ended()
            await patient.roundtrip()
            assert world.endpoint.counters()["closed_keep_alive_total"] == 1

    play(main())


def test_slow_clients_are_shed(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock(NOON)
        async with running(tmp_path, bounds(packet_s=20), clock=clock) as world:
            idle = await Client.open(world.port)
            half = await Client.open(world.port)
            half.send(connect_packet()[:9])
            dripping = await world.connect()
            dripping.send(publish_packet(UP, b"x" * 100)[:50])
            await asyncio.sleep(0.1)
            clock.advance(12)
            assert await idle.ended()
            assert await half.ended()
            dripping.send(b"x")
            await asyncio.sleep(0.1)
            clock.advance(12)
            assert await dripping.ended()
            counters = world.endpoint.counters()
            assert (counters["closed_handshake_timeout_total"], counters["closed_partial_total"]) == (2, 1)

    play(main())


def test_a_slow_registry_does_not_hold_a_connection_for_ever(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(handshake_s=0.2)) as world:
            world.registry.delay_s = 30
            client = await world.connect()
            assert client.connack == b"\x00\x03"

    play(main())


def test_unauthenticated_connections_per_address_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(unauthenticated_per_address=3)) as world:
            for number in range(5):
                await world.connect(device_id=f"D-{number}")  # these do not count
            waiting = [await Client.open(world.port) for _ in range(3)]
            await asyncio.sleep(0.05)
            assert await (await Client.open(world.port)).ended()
            await waiting[0].close()
            await asyncio.sleep(0.05)
            await world.connect(device_id="D-9")
            assert world.endpoint.counters()["refused_address_total"] == 1

    play(main())


def test_a_full_listener_displaces_who_is_not_authenticated(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(connections=3)) as world:
            first = await Client.open(world.port)
            await asyncio.sleep(0.05)
            devices = [await world.connect(device_id=f"D-{number}") for number in range(3)]
            assert await first.ended()
            assert await (await Client.open(world.port)).ended()
            for device in devices:
                await device.roundtrip()
            counters = world.endpoint.counters()
            assert (counters["closed_displaced_total"], counters["refused_connections_total"]) == (1, 1)

    play(main())


def test_who_does_not_read_is_paused_and_then_shed(tmp_path: Path) -> None:
    async def main() -> None:
        clock = VirtualClock(NOON)
        async with running(tmp_path, bounds(write_stall_s=20), clock=clock) as world:
            client = await world.connect(version=5)
            client.reader._transport.pause_reading()  # type: ignore[attr-defined]
            foreign = publish_packet("carebell/D-2/up", b"", version=5) * 500
            for _ in range(1000):
                client.send(foreign)  # each is answered at once, with a reason
                await asyncio.sleep(0)
                if client.writer.transport.get_write_buffer_size() > 500_000:
                    break
            await asyncio.sleep(0.2)
            assert client.writer.transport.get_write_buffer_size() > 0, "the endpoint stopped reading"
            clock.advance(25)
            await world.until(lambda: world.endpoint.counters().get("closed_unread_total") == 1)
            clock.advance(10)
            await world.nobody_left()

    play(main())


def test_too_much_behind_a_connect_is_not_buffered(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.registry.gate = asyncio.Event()
            client = await Client.open(world.port)
            client.send(connect_packet())
            await asyncio.sleep(0.1)
            client.send(publish_packet(UP, b"x" * 60_000, qos=0) * 200)
            await asyncio.sleep(0.1)
            assert client.writer.transport.get_write_buffer_size() > 0, "it waits in the sockets"
            world.registry.gate.set()
            answer = await client.receive()
            assert answer == (0x20, b"\x00\x00")
            await world.until(lambda: len(world.ingest.frames) == 200)

    play(main())


def test_keep_alive_is_what_was_asked_for(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await world.connect(version=5, keep_alive=60)
            assert b"\x13" + struct.pack(">H", 60) not in client.connack
            assert client.connack[:2] == b"\x00\x00"
            assert TOKEN not in client.connack

    play(main())
