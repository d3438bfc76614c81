"""Nothing is acknowledged before it is on disk: seen from outside by strace, and from inside with a held commit."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import time
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest

from device_profiles.loader import load_profiles
from gateway.clock import SystemClock
from gateway.errors import StorageError
from gateway.ingest import JournalIngest
from gateway.model import Record
from gateway.storage.dedup import Marks
from protocols.registry import CODECS
from protocols.transports.http_ingest import HttpIngest
from protocols.transports.mqtt_endpoint.server import MqttEndpoint
from tests.daemon import Daemon, provision
from tests.mqtt_wire import (
    TOKEN,
    Client,
    FakeRegistry,
    FileStore,
    bounds,
    connect_packet,
    play,
    puback,
    publish_packet,
)

PRESSES = 5
UP = "carebell/D-1/up"

# ---- what strace saw -------------------------------------------------------------------------------------------------


@dataclass
class Call:
    """One system call: the lines of the trace where it began and ended, which are in the order of time."""

    name: str
    text: str
    began: int
    ended: int


STARTED = re.compile(r"^(\d+)\s+(\w+)\((.*)$")
RESUMED = re.compile(r"^(\d+)\s+<\.\.\. (\w+) resumed>(.*)$")
UNFINISHED = " <unfinished ...>"


def calls_of(trace: Sequence[str]) -> list[Call]:
    """The calls of a trace written by ``strace -f``; those that another thread's lines interrupt are put together."""
    calls: list[Call] = []
    open_calls: dict[str, Call] = {}
    for number, line in enumerate(trace):
        if found := STARTED.match(line):
            call = Call(found[2], found[3].removesuffix(UNFINISHED), number, number)
            calls.append(call)
            if line.endswith(UNFINISHED):
                open_calls[found[1]] = call
        elif found := RESUMED.match(line):
            call = open_calls.pop(found[1])
            call.text += found[3]
            call.ended = number
    return calls


def acked_too_early(trace: Sequence[str], marks: Sequence[str], is_ack: Callable[[str], bool]) -> list[str]:
    """The marks (each in one message's payload) whose message was acknowledged before its commit.

    A commit is: a write to the WAL that holds the mark, behind it an fsync of the WAL, begun after that write ended,
    that ended well before the acknowledgement began.
    """
    calls = calls_of(trace)
    early = []
    for mark in marks:
        arrived = next(call for call in calls if call.name in RECEIVING and mark in call.text and "TCP:" in call.text)
        ack = next(call for call in calls if call.began > arrived.ended and call.name in SENDING and is_ack(call.text))
        written = [
            call for call in calls
            if call.name == "pwrite64" and "journal.sqlite3-wal>" in call.text and mark in call.text
            and arrived.ended < call.began and call.ended < ack.began
        ]  # fmt: skip
        synced = [
            call for call in calls
            if call.name in ("fdatasync", "fsync") and "journal.sqlite3-wal>" in call.text and call.text.endswith("= 0")
            and written and written[0].ended < call.began and call.ended < ack.began
        ]  # fmt: skip
        if not synced:
            early.append(mark)
    return early


RECEIVING = ("read", "recvfrom", "recvmsg")
SENDING = ("write", "writev", "sendto", "sendmsg")
TRACED = ",".join((*RECEIVING, *SENDING, "pwrite64", "fdatasync", "fsync"))


def is_puback(text: str) -> bool:
    return "TCP:" in text and '"@\\2' in text


def is_pubrec(text: str) -> bool:
    return "TCP:" in text and '"P\\2' in text


def is_202(text: str) -> bool:
    return "TCP:" in text and '"HTTP/1.1 202' in text


def doctored(trace: list[str]) -> list[str]:
    """The same trace as if the journal had never been fsynced."""
    return [line.replace("fdatasync(", "skipped(") for line in trace]


def read_packet(connection: socket.socket, first: int) -> bytes:
    packet = connection.recv(64)
    assert packet[0] == first, packet
    return packet


def press_by_mqtt(port: int, token: str, qos: int, marks: Sequence[str]) -> None:
    """One press after the other, each acknowledged before the next is sent."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(connect_packet("D-1", token=token.encode(), client_id=f"q{qos}"))
        read_packet(connection, 0x20)
        for number, mark in enumerate(marks, 1):
            payload = f'{{"seq":{mark},"signals":["sos"]}}'.encode()
            connection.sendall(publish_packet(UP, payload, qos=qos, packet_id=number))
            read_packet(connection, 0x40 if qos == 1 else 0x50)
            if qos == 2:
                connection.sendall(b"\x62\x02" + number.to_bytes(2, "big"))
                read_packet(connection, 0x70)


def press_by_http(url: str, token: str, marks: Sequence[str]) -> None:
    headers = {"authorization": f"Bearer {token}"}
    with httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=60) as client:
        for mark in marks:
            answer = client.post("/ingest/v1/D-1", content=f'{{"seq":{mark},"signals":["sos"]}}'.encode())
            assert answer.status_code == 202


@pytest.mark.live
def test_every_acknowledgement_follows_the_fsync_of_its_commit(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace: apt-get install strace")
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    token = provision(data_dir, 1)["D-1"]
    trace_file = tmp_path / "trace"
    daemon = Daemon(data_dir)
    # -D: the daemon is the child of the test and strace is not, so that signals reach the daemon.
    strace = ("strace", "-D", "-f", "-yy", "-s", "8192", "-o", str(trace_file), "-e", f"trace={TRACED}")
    try:
        daemon.start(prefix=strace)
    except AssertionError:
        pytest.skip("this machine does not let strace trace a child")
    sets = {"7001": is_puback, "7002": is_pubrec, "7003": is_202}
    marks = {kind: [f"{kind}{number:05d}" for number in range(PRESSES)] for kind in sets}
    try:
        press_by_mqtt(daemon.mqtt_port, token, 1, marks["7001"])
        press_by_mqtt(daemon.mqtt_port, token, 2, marks["7002"])
        press_by_http(daemon.url, token, marks["7003"])
    finally:
        assert daemon.stop() == 0
    trace = settled(trace_file)
    for kind, is_ack in sets.items():
        assert acked_too_early(trace, marks[kind], is_ack) == []
        assert acked_too_early(doctored(trace), marks[kind], is_ack) == marks[kind], "this test cannot fail"


def settled(trace_file: Path) -> list[str]:
    """The whole trace: strace writes its last line a moment after the daemon's end."""
    deadline = time.monotonic() + 60
    while True:
        lines = trace_file.read_text(encoding="latin-1").splitlines()
        if lines and any("+++ exited" in line for line in lines[-3:]):
            return lines
        assert time.monotonic() < deadline, "strace did not end"
        time.sleep(0.05)


def test_the_trace_is_read_in_the_order_of_its_lines() -> None:
    good = [
        '1 read(9<TCP:[a]>, "0.\\1{\\"seq\\":42}", 100) = 14',
        '2 pwrite64(5</v/journal.sqlite3-wal>, "x{\\"seq\\":42}", 12, 0) = 12',
        "2 fdatasync(5</v/journal.sqlite3-wal> <unfinished ...>",
        '1 read(3</v/other>, "", 1) = 0',
        "2 <... fdatasync resumed>) = 0",
        '1 write(9<TCP:[a]>, "@\\2\\0\\1", 4) = 4',
    ]
    early = [*good[:3], good[5], *good[3:5]]
    failed = [line.replace("resumed>) = 0", "resumed>) = -1 EIO (Input/output error)") for line in good]
    before = [good[0], *good[2:5], good[1], good[5]]
    assert acked_too_early(good, ["42"], is_puback) == []
    for wrong in (early, failed, before):
        assert acked_too_early(wrong, ["42"], is_puback) == ["42"]


# ---- with the commit in the test's hand ------------------------------------------------------------------------------


class HeldJournal:
    """An Appender that commits when it is told to."""

    def __init__(self) -> None:
        self.waiting: list[tuple[list[Record], Callable[[int | StorageError], None]]] = []
        self.seq = 0

    def submit(self, records: Sequence[Record], done: Callable[[int | StorageError], None], *, emergency: bool) -> None:
        self.waiting.append((list(records), done))

    async def submitted(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.waiting) < count:
                await asyncio.sleep(0.005)

    def commit(self, error: StorageError | None = None) -> None:
        """Everything that waits."""
        waiting, self.waiting = self.waiting, []
        for records, done in waiting:
            first, self.seq = self.seq + 1, self.seq + len(records)
            done(error or first)


def ingest_on(journal: HeldJournal, registry: FakeRegistry) -> JournalIngest:
    return JournalIngest(
        codecs=CODECS,
        profiles=load_profiles([]),
        directory=registry,
        marks=Marks(),
        journal=journal,
        clock=SystemClock(),
    )


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[tuple[Client, HeldJournal]]:
    """A client of a real endpoint on a real ingest, on a journal that waits for the test."""
    journal, registry, store = HeldJournal(), FakeRegistry(), FileStore(folder / "journal.sqlite3")
    endpoint = MqttEndpoint(
        listen="127.0.0.1:0",
        ingest=ingest_on(journal, registry),
        credentials=registry,
        directory=registry,
        store=store,
        clock=SystemClock(),
        limits=bounds(),
    )
    await endpoint.start()
    async with asyncio.TaskGroup() as group:
        running = group.create_task(endpoint.run())
        client = await Client.open(int(endpoint.address.rpartition(":")[2]))
        await client.connect(token=TOKEN)
        yield client, journal
        running.cancel()
    store.close()


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("payload", [b'{"seq":1,"signals":["sos"]}', b'{"seq":1,"measurements":{"steps":3}}', b"\xff"])
def test_mqtt_says_nothing_until_the_commit(tmp_path: Path, qos: int, payload: bytes) -> None:
    async def story() -> None:
        async with connected(tmp_path) as (client, journal):
            client.send(publish_packet(UP, payload, qos=qos, packet_id=3))
            await journal.submitted(1)
            assert await client.silent()
            journal.commit()
            assert await client.receive() == (0x40 if qos == 1 else 0x50, b"\0\3")
            # A commit that fails ends the connection without a word of success.
            client.send(publish_packet(UP, b'{"seq":2,"signals":["sos"]}', qos=qos, packet_id=4))
            await journal.submitted(1)
            journal.commit(StorageError("no"))
            assert await client.ended()

    play(story())


def test_a_resend_is_not_acknowledged_before_the_commit_of_its_original(tmp_path: Path) -> None:
    async def story() -> None:
        async with connected(tmp_path) as (client, journal):
            for packet_id in (1, 2):
                client.send(publish_packet(UP, b'{"seq":1,"signals":["sos"]}', packet_id=packet_id))
                await journal.submitted(packet_id)
            assert await client.silent()
            journal.commit()
            assert await client.receive() == (0x40, puback(1)[2:])
            assert await client.receive() == (0x40, puback(2)[2:])
            assert journal.seq == 1

    play(story())


@pytest.mark.parametrize(("error", "status"), [(None, 202), (StorageError("no"), 503)])
def test_http_says_nothing_until_the_commit(error: StorageError | None, status: int) -> None:
    async def main() -> None:
        journal, registry = HeldJournal(), FakeRegistry()
        http = HttpIngest(
            ingest=ingest_on(journal, registry), credentials=registry, directory=registry, clock=SystemClock()
        )
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "http.request", "body": b'{"seq":1,"signals":["sos"]}', "more_body": False}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/ingest/v1/D-1", "scheme": "http", "client": ("127.0.0.1", 1),
            "headers": [(b"authorization", b"Bearer " + TOKEN)],
        }  # fmt: skip
        async with asyncio.TaskGroup() as group:
            request = group.create_task(http(scope, receive, send))
            await journal.submitted(1)
            await asyncio.sleep(0.05)
            assert (sent, request.done()) == ([], False)
            journal.commit(error)
        assert sent[0]["status"] == status

    asyncio.run(main())
