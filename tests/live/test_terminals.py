"""Terminals on the running daemon: who they are, what they are told, what becomes of an SOS, and who is reported."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.registry.devices import add_device
from gateway.storage.database import FILE_NAME, open_database
from simulators.terminals.base import Facts, Message, Place, Terminal
from simulators.terminals.gt06 import Gt06Script
from tests.daemon import ACTOR, Daemon, carebell, carebell_json, free_port, provision

pytestmark = pytest.mark.live

IMEI, OTHER, STRANGER, NEWER = "860000000000017", "860000000000025", "860000000000033", "860000000000058"
HOME = Place(39.1235, 117.2011)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, int]]:
    data_dir = tmp_path_factory.mktemp("terminals") / "var"
    data_dir.mkdir()
    provision(data_dir, 2)
    add_tracker(data_dir, "T-1", IMEI, "P-1")
    add_tracker(data_dir, "T-2", OTHER, "P-2")
    port = free_port()
    with Daemon(data_dir, CAREBELL_TRACKERS__GT06=f"127.0.0.1:{port}") as daemon:
        yield daemon, port


def add_tracker(data_dir: Path, device_id: str, imei: str, person_id: str) -> None:
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        add_device(
            connection, device_id, {"profile": "trackers.gt06", "person_id": person_id, "imei": imei},
            known_profiles=["trackers.gt06"], at_us=time.time_ns() // 1000, actor=ACTOR,
        )  # fmt: skip
    connection.close()


def now() -> datetime:
    return datetime.now(UTC)


def records(daemon: Daemon, **wanted: Any) -> list[dict[str, Any]]:
    rows = carebell_json("journal", "list", data_dir=daemon.data_dir)
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


async def talk(port: int, *messages: bytes, reply_bytes: int) -> bytes:
    """Send all of this at once on a connection of its own; that many bytes of answer, or what came before its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"".join(messages))
    try:
        async with asyncio.timeout(60):
            return await reader.readexactly(reply_bytes)
    except asyncio.IncompleteReadError as error:
        return error.partial
    except ConnectionError:  # it ended with something of ours unread
        return b""
    finally:
        writer.close()


def test_it_is_announced(gateway: tuple[Daemon, int]) -> None:
    daemon, port = gateway
    assert f"gt06     127.0.0.1:{port}" in daemon.output


def test_a_whole_conversation(gateway: tuple[Daemon, int]) -> None:
    """Login, heartbeat, position, SOS: each answered as the protocol wants it, each in the journal before."""
    daemon, port = gateway
    script = Gt06Script(IMEI)
    terminal = Terminal(script, "127.0.0.1", port)

    async def play() -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(terminal.run())
            async with asyncio.timeout(60):
                await terminal.send(script.heartbeat(Facts(now())))
                await terminal.send(script.report(Facts(now(), HOME)))
                await terminal.send(script.report(Facts(now(), None, ("sos", "low_battery"))))
            running.cancel()

    asyncio.run(play())
    rows = records(daemon, device_id="T-1")
    keys = [row["device_key"] for row in rows if row["observations"]]  # it may also answer the gateway's own "locate"
    assert keys == [IMEI] * len(keys)
    assert len(keys) >= 3
    signals = [o["signal"] for row in rows for o in row["observations"] if o["kind"] == "signal" and o["active"]]
    assert {"sos", "low_battery"} <= set(signals)
    assert any(o["kind"] == "position" and o["latitude"] == 39.1235 for row in rows for o in row["observations"])
    deadline = time.monotonic() + 60
    while not (alerts := carebell_json("alerts", "list", "--person", "P-1", data_dir=daemon.data_dir)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {alert["kind"] for alert in alerts} >= {"sos"}


def test_one_read_one_write(gateway: tuple[Daemon, int]) -> None:
    """Everything that one segment brought is answered, in order."""
    _, port = gateway
    script = Gt06Script(OTHER)
    messages = [*script.hello(now()), *(script.report(Facts(now(), HOME)) for _ in range(5))]
    answer = asyncio.run(talk(port, *(m.payload for m in messages), reply_bytes=60))
    assert answer == b"".join(message.expects + b"\r\n" for message in messages)


def test_a_stranger_is_kept_and_its_sos_counts_as_unverified(gateway: tuple[Daemon, int]) -> None:
    daemon, port = gateway
    script = Gt06Script(STRANGER)
    messages = [*script.hello(now()), script.report(Facts(now(), HOME, ("sos",)))]
    answer = asyncio.run(talk(port, *(m.payload for m in messages), reply_bytes=20))
    assert answer == b"".join(message.expects + b"\r\n" for message in messages)
    rows = [row for row in records(daemon) if STRANGER in json.dumps(row)]
    assert rows
    assert {"kind": "signal", "signal": "sos", "active": True}.items() <= rows[-1]["observations"][0].items()
    assert all("unverified" in (row["fault"] or "") or "credential" in (row["fault"] or "") for row in rows)


def test_a_name_of_another_protocol_opens_nothing(gateway: tuple[Daemon, int]) -> None:
    """A device that has to prove itself over MQTT cannot be played by whoever knows its serial number."""
    daemon, port = gateway
    native = "860000000000041"
    carebell("devices", "update", "D-1", "--imei", native, data_dir=daemon.data_dir)
    add_tracker(daemon.data_dir, "T-3", NEWER, "P-1")
    deadline = time.monotonic() + 60
    while not records(daemon, device_id="T-3"):  # it sees changes in their order: with this one the one before
        assert time.monotonic() < deadline
        asyncio.run(talk(port, Gt06Script(NEWER).hello(now())[0].payload, reply_bytes=10))
    script = Gt06Script(native)
    messages = [*script.hello(now()), script.report(Facts(now(), HOME))]
    asyncio.run(talk(port, *(m.payload for m in messages), reply_bytes=20))
    assert all(not row["observations"] for row in records(daemon, device_key=native))


def test_two_at_once_are_reported(gateway: tuple[Daemon, int]) -> None:
    daemon, port = gateway

    async def play() -> None:
        first, second = Gt06Script(OTHER), Gt06Script(OTHER)
        one_in, one_out = await asyncio.open_connection("127.0.0.1", port)
        two_in, two_out = await asyncio.open_connection("127.0.0.1", port)
        async with asyncio.timeout(60):
            for reader, writer, message in (
                (one_in, one_out, first.hello(now())[0]),
                (two_in, two_out, second.hello(now())[0]),
                (one_in, one_out, first.report(Facts(now(), HOME))),
            ):
                writer.write(message.payload)
                assert (await reader.readexactly(10)).startswith(message.expects)
        one_out.close()
        two_out.close()

    asyncio.run(play())
    faults = [row["fault"] for row in records(daemon, device_id="T-2") if row["fault"]]
    assert any("at the same time" in fault for fault in faults)


def test_rubbish_ends_with_the_connection_and_a_bad_frame_does_not(gateway: tuple[Daemon, int]) -> None:
    daemon, port = gateway
    script = Gt06Script(OTHER)
    login, report = script.hello(now())[0], script.report(Facts(now(), HOME, ("sos",)))
    broken = login.payload[:-4] + b"\x00\x00\r\n"
    answer = asyncio.run(talk(port, login.payload, broken, report.payload, reply_bytes=20))
    assert answer == login.expects + b"\r\n" + report.expects + b"\r\n"
    assert any("CRC" in (row["fault"] or "") for row in records(daemon, device_id="T-2"))
    assert asyncio.run(talk(port, b"\xff" * 100_000, reply_bytes=1)) == b""
    metrics = httpx2.get(f"{daemon.url}/metrics", trust_env=False, timeout=60).text
    assert 'carebell_trackers_total{what="closed_framing"} 1.0' in metrics
    assert 'carebell_trackers_total{what="doubles"}' in metrics


def test_a_command_goes_down_and_its_answer_comes_back(gateway: tuple[Daemon, int]) -> None:
    daemon, port = gateway
    script = Gt06Script(IMEI)
    terminal = Terminal(script, "127.0.0.1", port)

    async def play() -> None:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(terminal.run())
            async with asyncio.timeout(60):
                await terminal.send(script.heartbeat(Facts(now())))
                await asyncio.to_thread(
                    carebell, "devices", "command", "T-1", "interval", "--param", "seconds=60", "--wait",
                    data_dir=daemon.data_dir,
                )  # fmt: skip
            running.cancel()

    asyncio.run(play())
    assert any(b"TIMER,60#" in command for command in terminal.commands), (
        "a press without a place is also asked for one"
    )


def test_messages_expect_what_they_say() -> None:
    """The script's own answers are those of the documented example."""
    script = Gt06Script("383714111810415")
    message = script._message(0x01, b"")
    assert isinstance(message, Message)
    assert Gt06Script("1").frames(bytes.fromhex("787805010002eb470d0a")) == [bytes.fromhex("787805010002eb470d0a")]
