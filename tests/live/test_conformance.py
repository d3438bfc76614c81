"""The protocols that DB15 section 4.2.4 lists, by their names: a thousand presses each, on lines that break in between.

A press is sent again until it is acknowledged, as devices do. Then each of them is in the journal, once, and an
occurrence of its person's alert. ZigBee and LoRa are in ``test_broker_daemon.py`` (through the programs that own the
radio), Bluetooth in ``test_ble_daemon.py`` and ``test_ble_adverts.py``, serial lines in ``test_serial.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import aiomqtt
import pytest

from gateway.clock import SystemClock
from gateway.registry.devices import add_device
from gateway.registry.persons import add_person
from gateway.storage import journal
from gateway.storage.database import FILE_NAME, open_database
from simulators.coap import CoapLink
from simulators.devices import Gateway, HttpLink, Link, MqttLink, NotAcknowledgedError, http_client
from simulators.terminals.base import Facts, Terminal
from simulators.terminals.registry import KINDS
from tests.broker_world import FaultProxy
from tests.daemon import ACTOR, Daemon, free_port
from tests.live.udp_line import bad_line

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

DEVICES, EACH = 20, 50
CUT_EVERY = 250  # presses
TERMINALS = {"TCP-IP": ("gt06", False), "UDP": ("dc09", True), "SIA-DC-09": ("dc09", False), "SCAIP": ("scaip", False)}
NATIVE = ("MQTT", "NB-IoT", "HTTP")

Send = Callable[[int], Awaitable[object]]
"""Sends the press of this number until it is acknowledged."""


class Site(NamedTuple):
    daemon: Daemon
    ports: dict[str, int]
    tokens: dict[str, str]


def name_of(protocol: str, number: int) -> str:
    return f"{protocol}-{number}"


def serial_of(protocol: str, number: int) -> str:
    return KINDS[TERMINALS[protocol][0]].identity(number + 100 * list(TERMINALS).index(protocol))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data_dir = tmp_path_factory.mktemp("conformance") / "var"
    data_dir.mkdir()
    tokens = {}
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        for protocol in (*NATIVE, *TERMINALS):
            for number in range(DEVICES):
                device_id = name_of(protocol, number)
                at_us = SystemClock().now_us()
                add_person(connection, f"P-{device_id}", {"name": f"测试{number}"}, at_us=at_us, actor=ACTOR)
                profile = "carebell.native" if protocol in NATIVE else KINDS[TERMINALS[protocol][0]].profile
                values = {"profile": profile, "person_id": f"P-{device_id}"}
                values |= {} if protocol in NATIVE else {"serial": serial_of(protocol, number)}
                _, token = add_device(
                    connection, device_id, values, known_profiles=[profile], at_us=at_us, actor=ACTOR
                )  # fmt: skip
                tokens[device_id] = token or ""
    connection.close()
    ports = {"gt06": free_port(), "dc09": free_port(), "scaip": free_port()}
    listening = {
        "CAREBELL_TRACKERS__GT06": f"127.0.0.1:{ports['gt06']}",
        "CAREBELL_DC09__LISTEN": f"127.0.0.1:{ports['dc09']}",
        "CAREBELL_SCAIP__LISTEN": f"127.0.0.1:{ports['scaip']}",
    }
    with Daemon(data_dir, **listening) as daemon:
        yield Site(daemon, ports, tokens)


async def thousand(senders: list[Send], cut: Callable[[], object]) -> None:
    """Every device presses one after the other; the lines break after each so many presses of all together."""
    answered = 0

    async def press(send: Send) -> None:
        nonlocal answered
        for number in range(1, EACH + 1):
            await send(number)
            answered += 1
            if answered % CUT_EVERY == 0:
                cut()

    async with asyncio.timeout(200), asyncio.TaskGroup() as group:
        for send in senders:
            group.create_task(press(send))


def judge(site: Site, protocol: str, transport: str) -> None:
    """Every press once in the journal, and every record of one an occurrence of an SOS alert."""
    connection = open_database(site.daemon.data_dir / FILE_NAME, read_only=True)
    names = {name_of(protocol, number) for number in range(DEVICES)}
    pressed: Counter[tuple[str, str]] = Counter()
    numbers: set[int] = set()
    for batch in journal.read_after(connection, 0, batches=1_000_000):
        assert not isinstance(batch, journal.CorruptBatch)
        for seq, record in enumerate(batch.records, batch.first_seq):
            if record.device_id in names and record.reading is not None and "sos" in record.reading.signals:
                assert (record.transport, record.verified, record.fault) == (transport, True, None)
                pressed[record.device_id, record.dedup_key] += 1
                numbers.add(seq)
    assert len(pressed) == DEVICES * EACH
    assert set(pressed.values()) == {1}, "a press is there twice"
    asyncio.run(_occurrences(site.daemon.data_dir, numbers))
    connection.close()


async def _occurrences(data_dir: Path, numbers: set[int]) -> None:
    connection = open_database(data_dir / FILE_NAME, read_only=True)
    async with asyncio.timeout(60):
        while True:
            rows = connection.execute(
                "SELECT seq FROM occurrence WHERE alert_id IN (SELECT id FROM alert WHERE kind = 'sos')"
            )
            if numbers <= {seq for (seq,) in rows}:
                break
            await asyncio.sleep(0.1)
    connection.close()


def broken_connections_are_no_news(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """aiomqtt leaves a future behind with the error of each connection that broke."""
    if not isinstance(context.get("exception"), aiomqtt.MqttError):
        loop.default_exception_handler(context)


def sender(link: Link) -> Send:
    async def send(number: int) -> None:
        while True:
            with contextlib.suppress(NotAcknowledgedError):
                await link.send(json.dumps({"boot": 1, "seq": number, "signals": ["sos"]}).encode())
                return

    return send


@pytest.mark.parametrize("protocol", NATIVE)
def test_conformance_native(site: Site, protocol: str) -> None:
    daemon = site.daemon

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(broken_connections_are_no_news)
        async with AsyncExitStack() as stack:
            devices = [(name, site.tokens[name]) for name in (name_of(protocol, number) for number in range(DEVICES))]
            links: list[Link]
            if protocol == "NB-IoT":
                line, port = await stack.enter_async_context(bad_line(daemon.coap_port))
                links = [CoapLink("127.0.0.1", port, *device, ack_timeout_s=0.2) for device in devices]
                for link in links:
                    stack.push_async_callback(link.break_off)
                cut: Callable[[], object] = line.cut
            else:
                proxy = await stack.enter_async_context(
                    FaultProxy(daemon.mqtt_port if protocol == "MQTT" else daemon.http_port)
                )
                gateway = Gateway("127.0.0.1", proxy.port, f"http://127.0.0.1:{proxy.port}")
                if protocol == "MQTT":
                    links = [MqttLink(gateway, *device) for device in devices]
                else:
                    client = await stack.enter_async_context(http_client())
                    links = [HttpLink(client, gateway, *device) for device in devices]
                cut = proxy.cut
            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(link.run()) for link in links if protocol == "MQTT"]
                await thousand([sender(link) for link in links], cut)
                for keeper in keepers:
                    keeper.cancel()
            if protocol == "MQTT":
                assert sum(link.connections for link in links if isinstance(link, MqttLink)) > DEVICES
            await asyncio.sleep(0)

    asyncio.run(main())
    judge(site, protocol, {"NB-IoT": "coap"}.get(protocol, protocol.lower()))


@pytest.mark.parametrize("protocol", TERMINALS)
def test_conformance_terminals(site: Site, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulators.terminals.base.RESEND_FIRST_S", 0.15)
    kind_name, udp = TERMINALS[protocol]
    kind = KINDS[kind_name]
    script = kind.udp if udp and kind.udp is not None else kind.script

    async def main() -> None:
        async with AsyncExitStack() as stack:
            if udp:
                line, port = await stack.enter_async_context(bad_line(site.ports[kind_name]))
                cut: Callable[[], object] = line.cut
            else:
                proxy = await stack.enter_async_context(FaultProxy(site.ports[kind_name]))
                port, cut = proxy.port, proxy.cut
            terminals = [Terminal(script(serial_of(protocol, number)), "127.0.0.1", port) for number in range(DEVICES)]

            def send_of(terminal: Terminal) -> Send:
                return lambda _number: terminal.send(terminal.script.report(Facts(datetime.now(UTC), None, ("sos",))))

            async with asyncio.TaskGroup() as group:
                keepers = [group.create_task(terminal.run()) for terminal in terminals]
                await thousand([send_of(terminal) for terminal in terminals], cut)
                for keeper in keepers:
                    keeper.cancel()
            assert sum(terminal.resent for terminal in terminals) > 0, "no press was sent twice: the line is too good"

    asyncio.run(main())
    judge(site, protocol, "udp" if udp else "tcp")
