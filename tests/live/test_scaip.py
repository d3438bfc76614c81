"""SCAIP over real sockets: SIPp as a unit, TLS, resends, dialects, refusals; and a call back on a running daemon."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.clock import SystemClock
from gateway.model import DeviceBinding, Verdict
from gateway.registry.devices import add_device
from gateway.storage.database import FILE_NAME, open_database
from protocols.codecs.scaip import Dialect, ScaipCodec
from protocols.codecs.sip_message import SipMessage, read, split
from protocols.transports.datagram import DatagramListener
from protocols.transports.stream import StreamListener
from simulators.scaip import Unit, mrq
from tests.daemon import ACTOR, Daemon, carebell, carebell_json, free_port, provision
from tests.live.certificates import certificate_for
from tests.live.test_dc09 import Disk

pytestmark = pytest.mark.live

CID, INLINE = "26317", "26318"


class Units:
    """``ports.Directory``."""

    def device(self, device_id: str) -> DeviceBinding | None:
        return None

    def device_by_key(self, key: str) -> DeviceBinding | None:
        return DeviceBinding(f"U-{key}", "telecare.scaip_unit", "scaip") if key in (CID, INLINE) else None


Story = Callable[[Any, Disk], Awaitable[None]]


def play(story: Story, kind: type[StreamListener | DatagramListener] = StreamListener, **options: Any) -> Disk:
    disk = Disk()
    codec = ScaipCodec(
        dialect_of=lambda cid: Dialect(reply="inline") if cid == INLINE else None, transfer_to="tel:+862200000000"
    )

    async def main() -> None:
        listener = kind(
            listen="127.0.0.1:0", codec=codec, ingest=disk, directory=Units(), clock=SystemClock(), **options
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


async def ask(listener: Any, payload: bytes, answers: int, tls: ssl.SSLContext | None = None) -> list[SipMessage]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port_of(listener), ssl=tls)
    writer.write(payload)
    data = b""
    async with asyncio.timeout(60):
        while len(found := split(data)) < answers:
            piece = await reader.read(65_536)
            if not piece:
                break
            data += piece
    writer.close()
    return [read(message) for message in found]


def alarm(cid: str = CID, ref: str = "1", transport: str = "TCP") -> bytes:
    return Unit(cid, "127.0.0.1:5060", transport).message(mrq(ref=ref, cid=cid, dty="0003", stc="0010"))


def test_answered_after_the_commit_in_a_message_of_its_own() -> None:
    async def story(listener: Any, disk: Disk) -> None:
        response, request = await ask(listener, alarm(), 2)
        assert (response.status, response.body) == (200, b"")
        assert ";received=127.0.0.1" in response.first("via")
        assert (request.method, request.kind) == ("MESSAGE", "application/scaip+xml")
        assert b"<snu>0</snu><mre>1</mre><cre>62</cre><tnu>tel:+862200000000</tnu>" in request.body
        (response,) = await ask(listener, alarm(INLINE), 1)
        assert response.status == 200
        assert b"<snu>0</snu>" in response.body

    assert play(story).signals() == [("U-26317", "sos", True), ("U-26318", "sos", True)]


def test_who_is_told_to_try_elsewhere_and_what_is_only_polite() -> None:
    async def story(listener: Any, disk: Disk) -> None:
        (stranger,) = await ask(listener, alarm("999"), 1)
        assert (stranger.status, b"<snu>5</snu>" in stranger.body) == (503, True)
        unit = Unit(CID, "127.0.0.1:5060", "TCP")
        for method, status in (("OPTIONS", 200), ("REGISTER", 200), ("INVITE", 405)):
            (answer,) = await ask(listener, unit.request(method, "", ""), 1)
            assert answer.status == status
            assert "MESSAGE" in answer.first("allow")
        disk.verdict = Verdict.RETRY
        (refused,) = await ask(listener, alarm(), 1)
        assert refused.status == 503

    disk = play(story)
    assert len(disk.kept) == 1, "what is only polite is not kept"
    assert disk.signals() == [("999", "sos", True)]


def test_a_resend_over_udp_is_answered_alike_and_named_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("protocols.transports.datagram_repeats.T1_S", 60.0)  # ours is not repeated meanwhile

    async def story(listener: Any, disk: Disk) -> None:
        answers: asyncio.Queue[bytes] = asyncio.Queue()

        class Peer(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                answers.put_nowait(data)

        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Peer, remote_addr=("127.0.0.1", port_of(listener))
        )
        payload = alarm(transport="UDP")
        seen = []
        for _ in range(2):
            transport.sendto(payload)
            seen.append((await answers.get(), await answers.get()))
        transport.close()
        assert seen[0] == seen[1]
        assert read(seen[0][0]).status == 200
        assert read(seen[0][1]).method == "MESSAGE"

    disk = play(story, DatagramListener)
    keys = [report.dedup_key for frame in disk.kept for report in frame.reports or ()]
    assert len(keys) == 2
    assert len(set(keys)) == 1


class Lossy(asyncio.DatagramProtocol):
    """Stands before a listener; the first ``lost`` datagrams of each direction vanish."""

    def __init__(self, target: tuple[str, int], lost: int) -> None:
        self._target = target
        self._left = {"there": lost, "back": lost}
        self._client: tuple[Any, ...] | None = None
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        way = "back" if addr[:2] == self._target else "there"
        self._client = self._client if way == "back" else addr
        self._left[way] -= 1
        if self._left[way] < 0 and self._transport is not None:
            self._transport.sendto(data, self._client if way == "back" else self._target)


def test_what_is_lost_over_udp_is_repeated_by_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 3261, 17.1.2.2: the unit repeats its MESSAGE until a response, we repeat ours until the unit's response."""
    monkeypatch.setattr("simulators.scaip.T1_S", 0.2)
    monkeypatch.setattr("protocols.transports.datagram_repeats.T1_S", 0.05)
    monkeypatch.setattr("protocols.transports.datagram.LOOK_S", 0.02)

    async def story(listener: Any, disk: Disk) -> None:
        line = Lossy(("127.0.0.1", port_of(listener)), 3)
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: line, local_addr=("127.0.0.1", 0)
        )
        unit = Unit(CID, "127.0.0.1:5060", "UDP")
        answer = await unit.send(
            mrq(ref="9", cid=CID, dty="0003", stc="0010"), "127.0.0.1", transport.get_extra_info("sockname")[1]
        )
        assert answer.status == 200
        assert b"<ref>9</ref><snu>0</snu>" in answer.body
        assert unit.repeated >= 3
        while listener.switchboard.repeats._owed:  # until the unit's 200 has come
            await asyncio.sleep(0.01)
        assert listener.switchboard.repeats.counts["unanswered"] == 0
        transport.close()

    disk = play(story, DatagramListener)
    keys = {report.dedup_key for frame in disk.kept for report in frame.reports or ()}
    assert len(keys) == 1, "one press, however often it came, and no response is kept"


def test_a_unit_that_never_answers_our_message_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("T1_S", 0.02), ("T2_S", 0.04), ("GIVE_UP_S", 0.5)):
        monkeypatch.setattr(f"protocols.transports.datagram_repeats.{name}", value)
    monkeypatch.setattr("protocols.transports.datagram.LOOK_S", 0.01)

    async def story(listener: Any, disk: Disk) -> None:
        came: list[bytes] = []

        class Peer(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, addr: object) -> None:
                came.append(data)

        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            Peer, remote_addr=("127.0.0.1", port_of(listener))
        )
        transport.sendto(alarm(transport="UDP"))
        counts = listener.switchboard.repeats.counts
        while not counts["unanswered"]:
            await asyncio.sleep(0.01)
        assert not listener.switchboard.repeats._owed
        while len(came) < 2 + counts["repeated"]:
            await asyncio.sleep(0.01)
        assert len({message for message in came if message.startswith(b"MESSAGE ")}) == 1, "the same one each time"
        transport.close()

    play(story, DatagramListener)


def test_over_tls(tmp_path: Path) -> None:
    certificate, key = certificate_for(tmp_path, "127.0.0.1")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    client = ssl.create_default_context(cafile=certificate)
    client.check_hostname = False

    async def story(listener: Any, disk: Disk) -> None:
        response, _ = await ask(listener, alarm(), 2, client)
        assert response.status == 200

    assert play(story, ssl_context=server).signals() == [("U-26317", "sos", True)]


def test_a_thousand_presses() -> None:
    async def story(listener: Any, disk: Disk) -> None:
        for block in range(20):
            presses = b"".join(alarm(INLINE, f"{block}x{number}") for number in range(50))
            answers = await ask(listener, presses, 50)
            assert [answer.status for answer in answers] == [200] * 50

    assert len(play(story).signals()) == 1000


SIPP = """<?xml version="1.0" encoding="UTF-8"?>
<scenario name="unit"><send retrans="500"><![CDATA[
MESSAGE sip:arc@[remote_ip]:[remote_port] SIP/2.0
Via: SIP/2.0/[transport] [local_ip]:[local_port];branch=[branch]
From: <sip:26318@[local_ip]:[local_port]>;tag=[call_number]
To: <sip:arc@[remote_ip]:[remote_port]>
Call-ID: [call_id]
CSeq: 1 MESSAGE
Max-Forwards: 70
Content-Type: application/scaip+xml
Content-Length: [len]

<mrq><ref>[call_number]</ref><cid>26318</cid><dty>0003</dty><stc>0010</stc></mrq>
]]></send>
<recv response="200"><action><ereg regexp="<snu>0</snu>" search_in="msg" check_it="true" assign_to="1"/></action></recv>
<Reference variables="1"/></scenario>
"""


@pytest.mark.parametrize(("kind", "mode"), [(DatagramListener, "u1"), (StreamListener, "t1")])
def test_sipp(tmp_path: Path, kind: Any, mode: str) -> None:
    """A SIP program of other authors sends a hundred alarms and finds every answer right."""
    if shutil.which("sipp") is None:
        pytest.skip("needs SIPp: apt-get install sip-tester")
    (tmp_path / "unit.xml").write_text(SIPP)

    async def story(listener: Any, disk: Disk) -> None:
        process = await asyncio.create_subprocess_exec(
            "sipp", f"127.0.0.1:{port_of(listener)}", "-sf", "unit.xml", "-m", "100", "-r", "200", "-t", mode,
            "-i", "127.0.0.1", "-p", str(free_port()), "-nostdin", "-timeout", "50s",
            cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode(errors="replace")[-1500:]

    assert len(play(story, kind).signals()) >= 100


def test_the_number_to_call_back_is_noted_on_the_alert(tmp_path: Path) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    provision(data_dir, 1)
    connection = open_database(data_dir / FILE_NAME)
    with connection:
        values = {"profile": "telecare.scaip_inline_unit", "person_id": "P-1", "serial": CID}
        add_device(
            connection, "U-1", values, known_profiles=[values["profile"]], at_us=time.time_ns() // 1000, actor=ACTOR
        )
    connection.close()
    port = free_port()
    with Daemon(data_dir, CAREBELL_SCAIP__LISTEN=f"127.0.0.1:{port}") as daemon:
        assert f"scaip    127.0.0.1:{port} tcp+udp" in daemon.output
        unit = Unit(CID, "127.0.0.1:5060", "UDP")
        body = mrq(ref="7", cid=CID, dty="0004", stc="0010", cha="1", crd="tel:+8613800000009")
        answer = asyncio.run(unit.send(body, "127.0.0.1", port))
        assert (answer.status, b"<ref>7</ref><snu>0</snu>" in answer.body) == (200, True), "as its profile wants it"
        deadline = time.monotonic() + 60
        while True:
            (alert,) = carebell_json("alerts", "list", "--person", "P-1", data_dir=data_dir) or [{}]
            shown = carebell("alerts", "show", alert["id"], data_dir=data_dir) if alert else ""
            if "tel:+8613800000009" in shown:
                break
            assert time.monotonic() < deadline, shown
            time.sleep(0.2)
        assert alert["kind"] == "sos"
