"""Any bytes, cut anywhere: no exception escapes, memory stays bounded, at worst the connection is closed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.model import Verdict
from protocols.transports.mqtt_endpoint import packets
from protocols.transports.mqtt_endpoint import properties as p
from protocols.transports.mqtt_endpoint.connection import EARLY_BYTES, Connection
from protocols.transports.mqtt_endpoint.properties import TABLE, Type, encode_properties, read_properties
from protocols.transports.mqtt_endpoint.reader import PacketError, Reader, encode_varint
from tests.mqtt_wire import (
    DISCONNECT,
    PINGREQ,
    World,
    bounds,
    connect_packet,
    packet,
    publish_packet,
    subscribe_packet,
    text,
    varint,
)

UP = "carebell/D-1/up"


class Wire(asyncio.Transport):
    """A transport that keeps what is written, and shouts at what a real one would not allow."""

    def __init__(self) -> None:
        super().__init__({"peername": ("192.0.2.1", 50_000)})
        self.written = bytearray()
        self.closed = False
        self.paused = False

    def write(self, data: Any) -> None:
        assert not self.closed, "written behind the end"
        self.written += data

    def pause_reading(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_reading(self) -> None:
        assert self.paused
        self.paused = False

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


def feed(tmp_path: Path, chunks: list[bytes], verdict: Verdict = Verdict.ACCEPTED) -> tuple[Wire, World]:
    """What an endpoint does with these reads of one connection."""

    async def main() -> tuple[Wire, World]:
        failures: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
        world = World(tmp_path, limits=bounds(packet_bytes=2000))
        world.ingest.verdict = verdict
        connection = Connection(world.endpoint._listener)
        wire = Wire()
        async with asyncio.TaskGroup() as group:
            world.endpoint._group = group
            connection.connection_made(wire)
            for chunk in chunks:
                for _ in range(6):  # a paused transport brings nothing
                    if not wire.paused:
                        break
                    await asyncio.sleep(0)
                    await world.endpoint.sessions.flush()
                if wire.closed or wire.paused:
                    break
                connection.data_received(chunk)
                held = 0 if connection._rest is None else len(connection._rest)
                assert held <= EARLY_BYTES
            for _ in range(6):
                await asyncio.sleep(0)
                await world.endpoint.sessions.flush()
        connection.connection_lost(None)
        await asyncio.sleep(0)
        world.endpoint._group = None
        world.store.close()
        assert failures == []
        assert connection.unacked == 0
        assert world.endpoint.counters()["connections"] == 0
        return wire, world

    return asyncio.run(main())


ids = st.integers(0, 65_535)
topics = st.sampled_from([UP, "carebell/D-1/state", "carebell/D-2/up", "", "carebell/D-1/+", "a\0b"]) | st.text(
    max_size=20
)
filters = st.sampled_from(["carebell/D-1/down/#", "#", "$share/x/y", "carebell/D-1/down"]) | st.text(max_size=20)


def valid_packets(version: int) -> st.SearchStrategy[bytes]:
    none = b"\x00" if version == 5 else b""
    aliases = st.sampled_from([b"", b"\x23\x00\x01", b"\x23\x00\x00", b"\x26\x00\x01a\x00\x01b", b"\x0b\x01"])
    publishes: st.SearchStrategy[bytes] = st.builds(
        lambda topic, payload, qos, number, dup, retain, alias: publish_packet(
            topic, payload, qos=qos, packet_id=number, dup=dup, retain=retain, version=version, properties=alias
        ),
        topics, st.binary(max_size=300), st.integers(0, 3), ids, st.booleans(), st.booleans(),
        aliases if version == 5 else st.just(b""),
    )  # fmt: skip
    acks: st.SearchStrategy[bytes] = st.builds(
        lambda kind, number, tail: packet(kind, number.to_bytes(2, "big") + tail),
        st.sampled_from([0x40, 0x50, 0x62, 0x70]), ids, st.sampled_from([b"", b"\x00", b"\x80\x00"]),
    )  # fmt: skip
    subscribes: st.SearchStrategy[bytes] = st.builds(
        lambda name, number, options: subscribe_packet(name, packet_id=number, options=options, version=version),
        filters, ids, st.integers(0, 255),
    )  # fmt: skip
    unsubscribes = st.builds(
        lambda name, number: packet(0xA2, number.to_bytes(2, "big") + none + text(name)), filters, ids
    )
    huge = st.builds(lambda size: b"\x32" + varint(size) + text(UP) + b"\x00\x01" + b"x" * size, st.integers(0, 40_000))
    others = st.sampled_from([PINGREQ, DISCONNECT, b"\xf0\x00", b"\xe0\x01\x04", connect_packet(version=version)])
    return st.one_of(publishes, publishes, acks, subscribes, unsubscribes, others, huge)


@st.composite
def streams(draw: Callable[..., Any]) -> bytes:
    version = draw(st.sampled_from([4, 5]))
    first = connect_packet(version=version, clean=draw(st.booleans()), will=draw(st.sampled_from([None, (UP, b"{}")])))
    data = bytearray(first + b"".join(draw(st.lists(valid_packets(version), max_size=12))))
    for _ in range(draw(st.integers(0, 3))):  # mutations
        at = draw(st.integers(0, len(data) - 1))
        kind = draw(st.sampled_from(["set", "delete", "insert"]))
        if kind == "set":
            data[at] = draw(st.integers(0, 255))
        elif kind == "delete" and len(data) > 1:
            del data[at : at + draw(st.integers(1, 4))]
        else:
            data[at:at] = draw(st.binary(min_size=1, max_size=4))
        if not data:
            data += b"\x00"
    return bytes(data)


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    chunks = []
    at = turn = 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        chunks.append(data[at : at + size])
        at += size
        turn += 1
    return chunks


chunkings = st.lists(st.integers(1, 5000), min_size=1, max_size=8)
quick = settings(
    max_examples=120,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@quick
@given(data=st.binary(min_size=1, max_size=200), sizes=chunkings)
def test_random_bytes(tmp_path: Path, data: bytes, sizes: list[int]) -> None:
    wire, world = feed(tmp_path, cut(data, sizes))
    assert wire.closed or data[0] == 0x10
    assert world.ingest.frames == []


@quick
@given(data=st.binary(min_size=1, max_size=200), sizes=chunkings, version=st.sampled_from([4, 5]))
def test_random_bytes_of_an_authenticated_device(tmp_path: Path, data: bytes, sizes: list[int], version: int) -> None:
    feed(tmp_path, [connect_packet(version=version), *cut(data, sizes)])


@quick
@given(data=streams(), sizes=chunkings, verdict=st.sampled_from(list(Verdict)))
def test_mutated_streams(tmp_path: Path, data: bytes, sizes: list[int], verdict: Verdict) -> None:
    _, world = feed(tmp_path, cut(data, sizes), verdict)
    if verdict is Verdict.RETRY:
        assert world.endpoint.counters()["acked_total"] == 0
    assert all(frame.device_key == "D-1" for frame in world.ingest.frames)


@quick
@given(data=streams(), sizes=chunkings)
def test_how_a_stream_is_cut_changes_nothing(tmp_path: Path, data: bytes, sizes: list[int]) -> None:
    cut_wire, cut_world = feed(tmp_path, cut(data, sizes))
    whole_wire, whole_world = feed(tmp_path, [data])
    said = [[frame.payload for frame in world.ingest.frames] for world in (cut_world, whole_world)]
    if len(data) < 2000:  # what is in flight when a stream turns out to be wrong may or may not be offered in pieces
        assert said[0] == said[1]
    assert cut_wire.closed == whole_wire.closed


# ---- the codec alone -------------------------------------------------------------------------------------------------


@given(value=st.integers(0, 268_435_455))
def test_varint_round_trip(value: int) -> None:
    encoded = encode_varint(value)
    assert encoded == varint(value)
    assert Reader(encoded, 0, len(encoded)).varint() == value


STRINGS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=30)
VALUES: dict[Type, st.SearchStrategy[Any]] = {
    Type.FLAG: st.integers(0, 1),
    Type.U16: st.integers(1, 0xFFFF),
    Type.U32: st.integers(1, 0xFFFF_FFFF),
    Type.VARINT: st.lists(st.integers(1, 268_435_455), min_size=1, max_size=1),
    Type.STRING: STRINGS,
    Type.BINARY: st.binary(max_size=30),
    Type.PAIR: st.lists(st.tuples(STRINGS, STRINGS), min_size=1, max_size=3),
}


@given(data=st.data(), kind=st.sampled_from(range(16)))
def test_properties_round_trip(data: st.DataObject, kind: int) -> None:
    allowed = {number: VALUES[entry.type] for number, entry in TABLE.items() if kind in entry.packets}
    properties = data.draw(st.fixed_dictionaries({}, optional=cast("dict[Any, Any]", allowed)))
    encoded = encode_properties(properties)
    reader = Reader(encoded + b"rest", 0, len(encoded) + 4)
    assert read_properties(reader, kind) == properties
    assert reader.rest() == b"rest"


@given(
    topic=STRINGS.filter(lambda name: name and "+" not in name and "#" not in name),
    payload=st.binary(max_size=300),
    qos=st.integers(0, 2),
    number=st.integers(1, 65_535),
    version=st.sampled_from([4, 5]),
)
def test_publish_round_trip(topic: str, payload: bytes, qos: int, number: int, version: int) -> None:
    encoded = packets.publish(
        topic, payload, qos=qos, packet_id=number, dup=qos > 0, version=version, properties={p.MESSAGE_EXPIRY: 9}
    )
    mine = publish_packet(
        topic, payload, qos=qos, packet_id=number, dup=qos > 0, version=version, properties=b"\x02\0\0\0\x09"
    )
    assert encoded == mine
    body = 2 if encoded[1] < 128 else 3
    read = packets.read_publish(encoded[0], encoded, body, len(encoded), version)
    assert (read.topic, read.payload, read.qos, read.packet_id) == (topic, payload, qos, number if qos else 0)


@given(data=st.binary(max_size=120), first=st.integers(0, 255), version=st.sampled_from([4, 5]))
def test_packets_are_read_or_refused(data: bytes, first: int, version: int) -> None:
    for read in (packets.read_packet, lambda _first, body, pos, stop, _version: packets.read_connect(body, pos, stop)):
        refused: PacketError | None = None
        try:
            read(first, data, 0, len(data), version)
        except PacketError as error:
            refused = error
        assert refused is None or (0x80 <= refused.code <= 0xFF and str(refused))


@pytest.mark.parametrize("version", [4, 5])
@given(data=st.data())
def test_every_cut_short_packet_is_malformed(version: int, data: st.DataObject) -> None:
    """A packet whose length says less than its content needs is refused, never read past its end."""
    whole = connect_packet(version=version, will=(UP, b"{}"))
    size = data.draw(st.integers(0, len(whole) - 3))
    with pytest.raises(PacketError):
        packets.read_connect(whole, 2, 2 + size)
