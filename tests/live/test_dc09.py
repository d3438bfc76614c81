"""SIA DC-09 over real sockets: programs of other authors, encryption, clocks, refusals, a thousand presses."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import random
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from alerts.channels.dc09 import Center, Dc09Provider
from alerts.notice import Notice
from gateway.clock import SystemClock
from gateway.errors import ConfigError, DeliveryDeferredError, DeliveryRefusedError
from gateway.model import DeviceBinding, Frame, Verdict
from protocols.codecs.dc09 import Dc09Codec
from protocols.codecs.dc09_frame import load_keys
from protocols.codecs.dc09_sender import Route
from protocols.transports.datagram import DatagramListener
from protocols.transports.stream import StreamListener
from simulators.terminals.base import Facts, Message
from simulators.terminals.dc09 import Dc09Script
from tests.daemon import free_port

pytestmark = pytest.mark.live

KEY = bytes(range(32))
START = datetime(2026, 11, 22, tzinfo=UTC)
PLAIN, SECRET, STRANGER = "1111", "2222", "3333"
LIBRARY = "needs {0}: pip install --no-deps {0}"


class Units:
    """``ports.Directory``: two units by their accounts."""

    def device(self, device_id: str) -> DeviceBinding | None:
        return None

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return DeviceBinding(f"U-{key}", "telecare.dc09_unit", "dc09") if key in (PLAIN, SECRET) else None


class Disk:
    """``ports.Ingest`` that remembers what it said yes to."""

    def __init__(self) -> None:
        self.verdict = Verdict.ACCEPTED
        self.kept: list[Frame] = []

    def offer(self, frames: Sequence[Frame]) -> asyncio.Future[Verdict]:
        future: asyncio.Future[Verdict] = asyncio.get_running_loop().create_future()
        if self.verdict is Verdict.ACCEPTED:
            self.kept += frames
        future.set_result(self.verdict)
        return future

    async def deliver(self, frames: Sequence[Frame]) -> Verdict:
        return await self.offer(frames)

    def signals(self) -> list[tuple[str, str, bool]]:
        """Who said what, and whether it is believed."""
        return [
            (frame.device_key, signal, frame.verified)
            for frame in self.kept
            for report in frame.reports or ()
            if report.reading is not None
            for signal in report.reading.signals
        ]


Story = Callable[[Any, Disk], Awaitable[None]]


def play(story: Story, kind: type[StreamListener | DatagramListener] = StreamListener) -> Disk:
    disk = Disk()

    async def main() -> None:
        listener = kind(
            listen="127.0.0.1:0",
            codec=Dc09Codec(keys={SECRET: KEY}),
            ingest=disk,
            directory=Units(),
            clock=SystemClock(),
        )
        await listener.start()
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            running = group.create_task(listener.run())
            await story(listener, disk)
            running.cancel()

    asyncio.run(main())
    return disk


def port_of(listener: Any) -> int:
    return int(listener.address.rpartition(":")[2])


async def ask(listener: Any, payload: bytes) -> bytes:
    """The first answer on a connection of its own; empty when it is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(listener))
    writer.write(payload)
    try:
        return await reader.readuntil(b"\r")
    except asyncio.IncompleteReadError:
        return b""
    finally:
        writer.close()


# ---- an independent codec: siadc09 -----------------------------------------------------------------------------------


def account(number: str, key: bytes | None = None) -> Any:
    module = pytest.importorskip("siadc09.account", reason=LIBRARY.format("siadc09"))
    return module.Account(acct=int(number, 16), pref=1, rcvr=1, key=key)


def event(number: str, *, seq: int = 7, key: bytes | None = None, at: datetime | None = None) -> bytes:
    """A pendant's press, written by siadc09."""
    of = account(number, key)

    EventMessage = importlib.import_module("siadc09.message").EventMessage  # noqa: N806
    Data = importlib.import_module("siadc09.xdata").Data  # noqa: N806

    data = Data(b"#%s|1101 01 001" % number.encode())
    message = EventMessage(of, config={"idtoken": "ADM-CID", "data": data})
    frame: bytes = message.encode(seq=seq, timestamp=at or datetime.now(UTC))
    return frame


def read(payload: bytes, key: bytes | None = None) -> Any:
    return importlib.import_module("siadc09.message").parse_frame(payload, key)


def test_siadc09_is_understood_and_understands() -> None:
    async def story(listener: Any, disk: Disk) -> None:
        plain = read(await ask(listener, event(PLAIN)))
        assert (plain.idtoken, plain.seq, plain.encrypted) == ("ACK", 7, False)
        hidden = read(await ask(listener, event(SECRET, key=KEY)), KEY)
        assert (hidden.idtoken, hidden.seq, hidden.encrypted) == ("ACK", 7, True)
        assert abs((hidden.timestamp - datetime.now(UTC)).total_seconds()) < 10

    disk = play(story)
    assert disk.signals() == [("U-1111", "sos", True), ("U-2222", "sos", True)]


def test_a_clock_that_is_off_is_told_our_time_and_its_press_is_kept_unverified() -> None:
    async def story(listener: Any, disk: Disk) -> None:
        for off_s in (-60, 40):
            late = datetime.now(UTC) + timedelta(seconds=off_s)
            answer = await ask(listener, event(SECRET, key=KEY, at=late))
            assert b'"NAK"0000R0L0A0[]_' in answer
        assert b'"*ACK"' in await ask(listener, event(SECRET, key=KEY, seq=8))

    disk = play(story)
    assert disk.signals() == [("U-2222", "sos", False), ("U-2222", "sos", False), ("U-2222", "sos", True)]


def test_who_is_told_to_try_elsewhere() -> None:
    """A stranger, a wrong key, a message in clear in the name of an account with a key; a bad CRC hears nothing."""

    async def story(listener: Any, disk: Disk) -> None:
        for payload in (event(STRANGER), event(SECRET, key=bytes(32)), event(SECRET)):
            assert read(await ask(listener, payload)).idtoken == "DUH"
        broken = event(PLAIN).replace(b"101", b"102")
        answer = read(await ask(listener, broken + event(PLAIN, seq=9)))
        assert (answer.idtoken, answer.seq) == ("ACK", 9), "nothing is said to the broken one before it"
        disk.verdict = Verdict.RETRY
        assert read(await ask(listener, event(PLAIN))).idtoken == "DUH"

    disk = play(story)
    assert disk.signals() == [(STRANGER, "sos", True), ("U-2222", "sos", False), ("U-1111", "sos", True)]
    assert len(disk.kept) == 5, "what cannot be read is kept as well, but nothing that was refused"


def test_over_udp() -> None:
    async def story(listener: Any, disk: Disk) -> None:
        loop = asyncio.get_running_loop()
        answers: asyncio.Queue[bytes] = asyncio.Queue()

        class Unit(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                answers.put_nowait(data)

        transport, _ = await loop.create_datagram_endpoint(Unit, remote_addr=("127.0.0.1", port_of(listener)))
        for payload, kind in ((event(PLAIN), "ACK"), (event(STRANGER), "DUH")):
            transport.sendto(payload)
            assert read(await answers.get()).idtoken == kind
        disk.verdict = Verdict.RETRY
        transport.sendto(event(PLAIN))
        assert read(await answers.get()).idtoken == "DUH"
        transport.close()

    play(story, DatagramListener)


DIALLER = """
import sys
from dc09_spt.dc09_spt import dc09_spt
dialler = dc09_spt("1111", receiver=1, line=1)
dialler.set_path("main", "primary", "127.0.0.1", int(sys.argv[1]), account="1111")
dialler.send_msg("ADM-CID", {"account": "1111", "code": 101, "q": 1, "zone": 3, "area": 1})
sys.stdin.read()
"""
RECEIVER = """
import asyncio, sys
from pysiaalarm.aio import SIAAccount, SIAClient
async def take(event):
    print(event.account, event.message_type.value, event.event_qualifier, event.event_type, flush=True)
async def main():
    client = SIAClient("127.0.0.1", int(sys.argv[1]), [SIAAccount("1111", sys.argv[2] or None)], take)
    await client.async_start()
    print("listening", flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


@contextlib.asynccontextmanager
async def program(text: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python of its own: these libraries leave sockets and threads behind."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-W", "ignore", "-c", text, *arguments, stdin=PIPE, stdout=PIPE
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


def installed(module: str, package: str) -> None:
    if importlib.util.find_spec(module) is None:
        pytest.skip(LIBRARY.format(package))


def test_a_dialler_of_another_author() -> None:
    """dc09-spt tells an alarm; it is acknowledged, or it would tell it again and again."""
    installed("dc09_spt", "dc09-spt")

    async def story(listener: Any, disk: Disk) -> None:
        async with program(DIALLER, str(port_of(listener))):
            while not disk.signals():
                await asyncio.sleep(0.02)
            await asyncio.sleep(0.3)

    assert play(story).signals() == [("U-1111", "sos", True)]


def test_a_thousand_presses_and_reconnects() -> None:
    """Every press is in the journal once it was acknowledged, none is lost when the line breaks in between."""
    rng = random.Random(5)

    async def story(listener: Any, disk: Disk) -> None:
        script = Dc09Script(PLAIN)
        waiting: list[Message] = []
        made = lines = 0
        while made < 1000 or waiting:
            reader, writer = await asyncio.open_connection("127.0.0.1", port_of(listener))
            lines += 1
            for _ in range(rng.randint(1, 40)):
                if not waiting and made < 1000:
                    made += 1
                    at = START + timedelta(seconds=made)
                    waiting.append(script.report(Facts(at, None, ("sos",))))
                if not waiting:
                    break
                writer.write(waiting[0].payload)
                if rng.random() < 0.05:
                    break  # the line breaks before the answer has come: the press is told again
                assert await reader.readuntil(b"\r") == waiting.pop(0).expects
            writer.close()
        assert lines > 30

    disk = play(story)
    keys = [report.dedup_key for frame in disk.kept for report in frame.reports or ()]
    assert len(keys) > 1000, "some were told twice"
    assert len(set(keys)) == 1000, "and ingest knows them by their keys"


# ---- forwarding to a center ------------------------------------------------------------------------------------------


def notice(number: int, to: str = "arc") -> Notice:
    return Notice(
        attempt_id=f"attempt-{number}",
        alert_id="0195-a1",
        medium="webhook",
        to=to,
        language="zh",
        text="",
        template="sos",
    )


def center(port: int, **rest: Any) -> dict[str, Center]:
    route = Route(account=rest.pop("account", PLAIN), receiver="1", line="1", key=rest.pop("key", b""))
    timeout_s = rest.pop("timeout_s", 30.0)
    return {"arc": Center(addresses=(("127.0.0.1", port),), dialogue=route, timeout_s=timeout_s, **rest)}


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_alerts_reach_our_own_receiver(transport: Any) -> None:
    async def story(listener: Any, disk: Disk) -> None:
        provider = Dc09Provider(center(port_of(listener), account=SECRET, key=KEY, transport=transport), SystemClock())
        receipt = await provider.send(notice(1))
        assert receipt.reference.startswith("arc/")
        assert provider.state()[0]
        disk.verdict = Verdict.RETRY
        with pytest.raises(DeliveryDeferredError):
            await provider.send(notice(2))
        assert not provider.state()[0]
        with pytest.raises(DeliveryRefusedError):
            await provider.send(notice(3, "elsewhere"))

    disk = play(story, StreamListener if transport == "tcp" else DatagramListener)
    assert disk.signals() == [("U-2222", "sos", True)]


def test_a_center_that_says_nothing_is_tried_again_and_then_deferred() -> None:
    calls = 0

    async def main() -> None:
        async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal calls
            calls += 1
            await reader.read()
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(silent, "127.0.0.1", 0)
        provider = Dc09Provider(center(server.sockets[0].getsockname()[1], timeout_s=1.0), SystemClock())
        with pytest.raises(DeliveryDeferredError, match="no answer, no answer"):
            await provider.send(notice(1))
        await asyncio.sleep(0.05)
        server.close()

    asyncio.run(main())
    assert calls == 2


@pytest.mark.parametrize("key", ["", "AAAAAAAAAAAAAAAA"])
def test_alerts_reach_pysiaalarm(key: str) -> None:
    """The receiver of another author takes the alert, encrypted too."""
    installed("pysiaalarm", "pysiaalarm")

    async def main() -> str:
        port = free_port()
        async with asyncio.timeout(60), program(RECEIVER, str(port), key) as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"listening\n"
            await Dc09Provider(center(port, key=key.encode()), SystemClock()).send(notice(1))
            return (await process.stdout.readline()).decode()

    assert asyncio.run(main()) == "1111 ADM-CID 1 101\n"


def test_the_file_of_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n2222 {KEY.hex()}\n* {bytes(16).hex()}  # the rest\n")
    assert load_keys(str(file), "dc09.keys_file") == {"2222": KEY, "*": bytes(16)}
    for text, wrong in (("2222 12\n", "line 1"), ("2222\n", "line 1"), ("", "no key"), (f"G1 {KEY.hex()}", "line 1")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=wrong) as caught:
            load_keys(str(file), "dc09.keys_file")
        assert KEY.hex() not in str(caught.value)
