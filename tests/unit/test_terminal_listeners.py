"""Listeners for terminals with an ingest whose commits the test holds: who is answered when, and every bound."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from structlog.testing import capture_logs

from gateway.clock import Clock, SystemClock, VirtualClock
from gateway.model import DeviceBinding, Frame, Report, Verdict
from gateway.ports import TerminalCodec
from protocols.codecs.terminal import Draft
from protocols.framing import Framer, delimited
from protocols.transports.datagram import DatagramListener
from protocols.transports.stream import StreamListener
from protocols.transports.terminal_talk import Limits

BINDINGS = {
    "T-1": DeviceBinding("T-1", "test.stars", "stars"),
    "D-9": DeviceBinding("D-9", "carebell.native", "native"),
}
KEYS = {"861": "T-1", "869": "D-9"}
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


class StarsCodec:
    """``*key,what#``: ``sos`` is one; ``boom`` is a bug; a proof is ``ok`` or ``bad``; everything is answered."""

    name = "stars"
    default_port = 1
    text = True
    datagrams = True

    def framer(self) -> Framer:
        return Framer(delimited(b"*", b"#"), limit=200, rubbish_limit=1000)

    def parse(self, frame: Frame) -> Sequence[Report]:
        key, _, what = frame.payload.decode().strip("*#").partition(",")
        if what == "boom":
            raise RuntimeError("a bug")
        draft = Draft(frame, key)
        if what == "sos":
            draft.alarm("sos")
        if what in ("ok", "bad"):
            draft.proof = what == "ok"
        draft.context = {"last": what}
        draft.keep("before", (frame.context or {}).get("last", ""))
        draft.reply = f"+{what}".encode()
        return [draft.report()]


class HeldIngest:
    """``ports.Ingest`` whose verdicts come when the test says so."""

    def __init__(self) -> None:
        self.offers: list[list[Frame]] = []
        self.futures: list[asyncio.Future[Verdict]] = []
        self.at_once: Verdict | None = None

    def offer(self, frames: Sequence[Frame]) -> asyncio.Future[Verdict]:
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        self.offers.append(list(frames))
        self.futures.append(future)
        if self.at_once is not None:
            future.set_result(self.at_once)
        return future

    async def deliver(self, frames: Sequence[Frame]) -> Verdict:
        return await self.offer(frames)

    @property
    def frames(self) -> list[Frame]:
        return [frame for offer in self.offers for frame in offer]

    def settle(self, verdict: Verdict) -> None:
        for future in self.futures:
            if not future.done():
                future.set_result(verdict)


class Names:
    """``ports.Directory``."""

    def device(self, device_id: str) -> DeviceBinding | None:
        return BINDINGS.get(device_id)

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return BINDINGS.get(KEYS.get(key, ""))


Play = Callable[[Any, HeldIngest], Awaitable[None]]


def play(
    story: Play,
    kind: type[StreamListener | DatagramListener] = StreamListener,
    clock: Clock | None = None,
    **bounds: Any,
) -> None:
    async def main() -> None:
        ingest = HeldIngest()
        codec: TerminalCodec = StarsCodec()
        listener = kind(
            listen="127.0.0.1:0", codec=codec, ingest=ingest, directory=Names(), clock=clock or SystemClock(),
            limits=Limits(sweep_s=0.02, **bounds),
        )  # fmt: skip
        await listener.start()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(listener.run())
            await story(listener, ingest)
            ingest.settle(Verdict.ACCEPTED)
            running.cancel()

    asyncio.run(main())


async def connect(listener: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = listener.address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_one_offer_a_read_and_answers_after_the_commit() -> None:
    async def story(listener: Any, ingest: HeldIngest) -> None:
        reader, writer = await connect(listener)
        writer.write(b"*861,a#rubbish*861,b#*861,c#")
        await until(lambda: ingest.offers)
        assert [len(offer) for offer in ingest.offers] == [3]
        assert [frame.device_key for frame in ingest.frames] == ["T-1"] * 3
        reading = ingest.frames[2].reports
        assert reading is not None
        assert reading[0].reading is not None
        assert reading[0].reading.unknown == {"before": "b"}, "what a connection has learnt is known to the next frame"
        await asyncio.sleep(0.05)
        assert not reader._buffer, "nothing is answered before the commit"  # type: ignore[attr-defined]  # StreamReader's
        ingest.settle(Verdict.ACCEPTED)
        assert await reader.readexactly(6) == b"+a+b+c"
        writer.close()

    play(story)


def test_what_is_not_stored_ends_the_connection_without_an_answer() -> None:
    async def story(listener: Any, ingest: HeldIngest) -> None:
        ingest.at_once = Verdict.RETRY
        reader, writer = await connect(listener)
        writer.write(b"*861,a#")
        assert await reader.read() == b""
        writer.close()
        assert listener.counters()["closed_not_stored_total"] == 1

    play(story)


def test_a_bug_of_the_codec_does_not_lose_the_frame() -> None:
    async def story(listener: Any, ingest: HeldIngest) -> None:
        ingest.at_once = Verdict.ACCEPTED
        reader, writer = await connect(listener)
        writer.write(b"*861,a#*861,boom#*861,b#")
        assert await reader.readexactly(4) == b"+a+b"
        assert [frame.payload for frame in ingest.frames] == [b"*861,a#", b"*861,boom#", b"*861,b#"]
        assert ingest.frames[1].reports is None, "ingest parses it again, and writes down what happens"
        writer.close()

    play(story)


def test_identity_and_proof() -> None:
    async def story(listener: Any, ingest: HeldIngest) -> None:
        ingest.at_once = Verdict.ACCEPTED
        reader, writer = await connect(listener)
        writer.write(b"*999,a#*869,b#*861,bad#*861,c#*861,ok#*861,d#")
        await reader.readexactly(15)
        seen = [(frame.device_key, frame.verified) for frame in ingest.frames]
        assert seen == [
            ("999", True), ("869", False), ("T-1", False), ("T-1", False), ("T-1", True), ("T-1", True),
        ]  # fmt: skip
        writer.close()

    play(story)


def test_commands_go_to_the_youngest_connection() -> None:
    async def story(listener: Any, ingest: HeldIngest) -> None:
        ingest.at_once = Verdict.ACCEPTED
        assert not await listener.send("T-1", b"now")
        one, out_one = await connect(listener)
        out_one.write(b"*861,a#")
        await one.readexactly(2)
        two, out_two = await connect(listener)
        out_two.write(b"*861,b#")
        await two.readexactly(2)
        assert await listener.send("T-1", b"now")
        assert await two.readexactly(3) == b"now"
        out_two.close()
        await until(lambda: listener.counters()["connections"] == 1)
        assert not await listener.send("T-1", b"gone")
        out_one.close()

    play(story)


def test_a_new_address_is_reported() -> None:
    """Of a known terminal, once for each move; another connection from the same address is no news."""

    async def over_tcp(listener: Any, ingest: HeldIngest) -> None:
        ingest.at_once = Verdict.ACCEPTED
        host, _, port = listener.address.rpartition(":")
        for source in ("127.0.0.1", "127.0.0.1", "127.0.0.2"):
            reader, writer = await asyncio.open_connection(host, int(port), local_addr=(source, 0))
            writer.write(b"*861,a#*999,b#")
            await reader.readexactly(4)
            writer.close()
        assert listener.counters()["address_changes_total"] == 1

    async def over_udp(listener: Any, ingest: HeldIngest) -> None:
        ingest.at_once = Verdict.ACCEPTED
        host, _, port = listener.address.rpartition(":")
        for source in ("127.0.0.1", "127.0.0.2", "127.0.0.2"):
            before = len(ingest.frames)
            transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                Sender, local_addr=(source, 0), remote_addr=(host, int(port))
            )
            transport.sendto(b"*861,a#")
            while len(ingest.frames) == before:
                await asyncio.sleep(0.005)
            transport.close()
        assert listener.counters()["address_changes_total"] == 1

    for story, kind in ((over_tcp, StreamListener), (over_udp, DatagramListener)):
        with capture_logs() as told:
            play(story, kind)
        moves = [(event["device"], event["codec"]) for event in told if event["event"] == "terminal_new_address"]
        assert moves == [("T-1", "stars")]


def test_bounds_of_connections() -> None:
    async def story(listener: Any, ingest: HeldIngest) -> None:
        ingest.at_once = Verdict.ACCEPTED
        pairs = [await connect(listener) for _ in range(3)]
        assert await pairs[2][0].read() == b"", "a third unknown one of the same address"
        pairs[0][1].write(b"*861,a#")
        await pairs[0][0].readexactly(2)
        more = await connect(listener)
        assert await pairs[1][0].read() == b"", "at the bound of all, the oldest unknown one gives way"
        for _, writer in (*pairs, more):
            writer.close()
        counters = listener.counters()
        assert counters["closed_address_total"] == 1
        assert counters["closed_displaced_total"] == 1

    play(story, connections=2, unknown_per_address=2)


def test_silence_and_rubbish_end_a_connection() -> None:
    clock = VirtualClock(NOON)

    async def story(listener: Any, ingest: HeldIngest) -> None:
        ingest.at_once = Verdict.ACCEPTED
        silent, idle, rubbish = [await connect(listener) for _ in range(3)]
        idle[1].write(b"*861,a#")
        assert await idle[0].readexactly(2) == b"+a"
        rubbish[1].write(b"r" * 3000)
        assert await rubbish[0].read() == b""
        clock.advance(1.2)
        assert await silent[0].read() == b""
        assert listener.counters()["connections"] == 1
        clock.advance(1.2)
        assert await idle[0].read() == b""
        for _, writer in (silent, idle, rubbish):
            writer.close()
        counters = listener.counters()
        assert counters["closed_framing_total"] == 1
        assert counters["closed_said_nothing_total"] == 1
        assert counters["closed_idle_total"] == 1

    play(story, clock=clock, identify_s=1.0, idle_s=2.0)


def test_a_connection_with_too_much_in_flight_waits() -> None:
    async def story(listener: Any, ingest: HeldIngest) -> None:
        reader, writer = await connect(listener)
        for number in range(40):
            writer.write(b"*861,%03d#" % number)
            await writer.drain()
            await asyncio.sleep(0.002)
        assert len(ingest.frames) < 40
        ingest.at_once = Verdict.ACCEPTED
        ingest.settle(Verdict.ACCEPTED)
        assert len(await reader.readexactly(160)) == 160
        assert len(ingest.frames) == 40
        writer.close()

    play(story, inflight=10)


def test_strangers_are_bounded_and_their_emergencies_have_room() -> None:
    async def story(listener: Any, ingest: HeldIngest) -> None:
        ingest.at_once = Verdict.ACCEPTED
        reader, writer = await connect(listener)
        writer.write(b"*999,a#" * 10 + b"*999,sos#" + b"*861,b#")
        assert await reader.readexactly(12) == b"+a+a+a+sos+b"
        writer.close()
        assert listener.counters()["shed_total"] == 7

    play(story, unknown_per_s=0.0, unknown_burst=3.0)


def test_a_terminal_that_ends_its_side_gets_its_answers() -> None:
    async def story(listener: Any, ingest: HeldIngest) -> None:
        reader, writer = await connect(listener)
        writer.write(b"*861,a#")
        writer.write_eof()
        await until(lambda: ingest.offers)
        ingest.settle(Verdict.ACCEPTED)
        assert await reader.read() == b"+a"
        writer.close()

    play(story)


def test_draining_answers_what_is_being_committed() -> None:
    async def main() -> None:
        ingest = HeldIngest()
        listener = StreamListener(
            listen="127.0.0.1:0", codec=StarsCodec(), ingest=ingest, directory=Names(),
            clock=VirtualClock(NOON), limits=Limits(drain_s=60.0),
        )  # fmt: skip
        await listener.start()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(listener.run())
            reader, writer = await connect(listener)
            writer.write(b"*861,a#")
            await until(lambda: ingest.offers)
            running.cancel()
            await asyncio.sleep(0.05)
            ingest.settle(Verdict.ACCEPTED)
            assert await reader.read() == b"+a"
            writer.close()

    asyncio.run(main())


class Sender(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.answers: list[bytes] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.answers.append(data)


async def sender(listener: Any) -> tuple[asyncio.DatagramTransport, Sender]:
    host, _, port = listener.address.rpartition(":")
    return await asyncio.get_running_loop().create_datagram_endpoint(Sender, remote_addr=(host, int(port)))


def test_datagrams() -> None:
    async def story(listener: Any, ingest: HeldIngest) -> None:
        transport, heard = await sender(listener)
        other, _ = await sender(listener)
        transport.sendto(b"*861,a#*861,b#")
        await until(lambda: len(ingest.frames) == 2)
        other.sendto(b"no frame at all")
        await until(lambda: len(ingest.frames) == 3)
        assert ingest.frames[2].payload == b"no frame at all", "what cannot be cut is kept whole"
        await asyncio.sleep(0.03)
        assert heard.answers == []
        ingest.settle(Verdict.ACCEPTED)
        await until(lambda: len(heard.answers) == 2)
        assert heard.answers == [b"+a", b"+b"]
        assert await listener.send("T-1", b"now")
        await until(lambda: b"now" in heard.answers)
        ingest.at_once = Verdict.RETRY
        transport.sendto(b"*861,c#")
        await until(lambda: len(ingest.frames) == 4)
        await asyncio.sleep(0.03)
        assert len(heard.answers) == 3, "what is not stored is not answered"
        transport.close()
        other.close()

    play(story, DatagramListener)


def test_bounds_of_datagrams() -> None:
    clock = VirtualClock(NOON)

    async def story(listener: Any, ingest: HeldIngest) -> None:
        ingest.at_once = Verdict.ACCEPTED
        senders = [await sender(listener) for _ in range(3)]
        for transport, _ in senders:
            transport.sendto(b"*999,a#")
        senders[0][0].sendto(b"*861," + b"x" * 9000 + b"#")
        await until(lambda: listener.counters()["datagrams_total"] == 4)
        counters = listener.counters()
        assert counters["dropped_address_total"] == 1
        assert counters["dropped_long_total"] == 1
        clock.advance(1)
        await until(lambda: listener.counters()["peers"] == 0)
        for transport, _ in senders:
            transport.close()

    play(story, DatagramListener, clock, unknown_per_address=2, idle_s=0.3)
