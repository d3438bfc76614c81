"""CoAP over real sockets: libcoap's clients, datagrams by hand, and aiocoap as the client of OSCORE."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import ConfigError
from gateway.model import Verdict
from protocols.transports.coap import wire as gateway_wire
from protocols.transports.coap.credentials import CoapCredentials
from protocols.transports.coap.exchanges import Exchanges
from protocols.transports.coap.stack import is_private
from simulators import coap_wire as wire
from simulators.coap import CoapLink, Peer
from tests.live.coap_harness import PSK, RawSocket, coap_client, hears, serving, watching
from tests.live.http_harness import TOKEN, until

SOS = b'{"signals": ["sos"]}'
libcoap = pytest.mark.skipif(shutil.which("coap-client-notls") is None, reason="needs apt-get install libcoap3-bin")
dtls = pytest.mark.skipif(
    shutil.which("coap-client-openssl") is None or importlib.util.find_spec("DTLSSocket") is None,
    reason="needs apt-get install libcoap3-bin autoconf automake libtool gcc, then pip install 'carebell[dtls]'",
)


def run(main: Coroutine[Any, Any, None]) -> None:
    uvloop.run(main)


def post(payload: bytes, mid: int = 7, token: str = TOKEN, kind: int = wire.CON, device: str = "D-1") -> bytes:
    options = (*wire.path("up"), *wire.query(d=device, t=token))
    return wire.encode(wire.Message(kind, wire.POST, mid, b"\xca\xfe", options, payload))


# ---- answers and the commit ------------------------------------------------------------------------------------------


def test_the_answer_waits_for_the_commit_and_goes_separately_when_that_takes_long(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as world:
            commit = world.ingest.verdict = asyncio.get_running_loop().create_future()
            sock = RawSocket(world.port)
            sock.send(post(SOS))
            first = wire.decode(await sock.receive())  # about 1.5 s later
            assert (first.kind, first.code, first.mid, first.token) == (wire.ACK, 0, 7, b"")
            sock.send(post(SOS))
            assert wire.decode(await sock.receive()) == first, "a resend gets the empty ACK again, and nothing else"
            assert len(world.ingest.frames) == 1
            commit.set_result(Verdict.ACCEPTED)
            separate = wire.decode(await sock.receive())
            assert (separate.kind, separate.code, separate.token) == (wire.CON, wire.CHANGED, b"\xca\xfe")
            again = wire.decode(await sock.receive())
            assert again == separate, "sent again until it is acknowledged"
            sock.send(wire.encode(wire.Message(wire.ACK, 0, separate.mid)))
            sock.close()

    run(main())


def test_not_durable_is_503_with_max_age(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as world:
            world.ingest.verdict = Verdict.RETRY
            sock = RawSocket(world.port)
            sock.send(post(SOS))
            refused = wire.decode(await sock.receive())
            assert (refused.kind, refused.code, refused.option(wire.MAX_AGE)) == (wire.ACK, wire.UNAVAILABLE, b"\x05")
            sock.send(post(SOS, kind=wire.NON, mid=9))
            assert wire.decode(await sock.receive()).code == wire.UNAVAILABLE
            world.ingest.verdict = Verdict.ACCEPTED
            sock.send(post(SOS, kind=wire.NON, mid=9))
            assert wire.decode(await sock.receive()).code == wire.CHANGED
            sock.close()

    run(main())


def test_resends_are_answered_and_not_kept_twice(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as world:
            sock = RawSocket(world.port)
            sock.send(post(SOS))
            first = await sock.receive()
            sock.send(post(SOS))
            second = await sock.receive()
            assert first == second
            assert wire.decode(first).code == wire.CHANGED
            assert len(world.ingest.frames) == 1
            sock.send(post(b'{"signals": ["fall"]}'))  # the same message id, of a device that began anew
            assert wire.decode(await sock.receive()).code == wire.CHANGED
            assert [frame.payload for frame in world.ingest.frames] == [SOS, b'{"signals": ["fall"]}']
            sock.close()

    run(main())


def test_what_one_turn_brings_is_one_offer(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as world:
            sock = RawSocket(world.port)
            for mid in range(60):
                sock.send(post(SOS, mid))
            answers = {wire.decode(await sock.receive()).mid for _ in range(60)}
            assert answers == set(range(60))
            assert len(world.ingest.frames) == 60
            assert world.ingest.offers < 10
            sock.close()

    run(main())


def test_content_formats(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as world:
            peer = await Peer.connect("127.0.0.1", world.port)
            codes = {}
            for number in (0, 50, 110, 112, 41):
                options = (*wire.path("up"), *wire.query(d="D-1", t=TOKEN), (wire.CONTENT_FORMAT, wire.number(number)))
                codes[number] = (await peer.request(wire.POST, options, b"x")).code
            peer.close()
            assert codes == {0: 0x44, 50: 0x44, 110: 0x44, 112: 0x44, 41: 0x8F}
            assert [frame.codec for frame in world.ingest.frames] == ["native", "native", "senml", "senml", "native"]

    run(main())


# ---- who sends -------------------------------------------------------------------------------------------------------


def test_a_wrong_credential_is_kept_as_unverified_and_told_nothing_good(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as world:
            sock = RawSocket(world.port)
            for mid in range(30):
                sock.send(post(SOS, mid, token="wrong"))
            codes = {wire.decode(await sock.receive()).code for _ in range(30)}
            assert codes == {0x81}
            assert 1 <= len(world.ingest.frames) <= 11, "kept within bounds for each source"
            assert not any(frame.verified for frame in world.ingest.frames)
            sock.send(post(SOS, 99))
            assert wire.decode(await sock.receive()).code == wire.CHANGED
            sock.close()

    run(main())


def test_a_device_with_a_key_does_not_speak_in_plain(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as world:
            sock = RawSocket(world.port)
            sock.send(post(SOS, device="D-2"))
            assert wire.decode(await sock.receive()).code == 0x81
            assert [frame.verified for frame in world.ingest.frames] == [False]
            sock.close()

    run(main())


def test_tokens_count_on_private_listeners_alone(tmp_path: Path) -> None:
    private = ("127.0.0.1:1", "localhost:1", "[::1]:1", "10.1.2.3:1", "192.168.0.9:1", "[fd00::1]:1")
    assert all(is_private(listen) for listen in private)
    assert not any(is_private(listen) for listen in ("0.0.0.0:1", "[::]:1", "8.8.8.8:1", "[2606:4700::1]:1"))

    async def main() -> None:
        async with serving(tmp_path, listen="0.0.0.0:0") as world:
            sock = RawSocket(world.port)
            sock.send(post(SOS))
            assert wire.decode(await sock.receive()).code == 0x81
            sock.close()

    run(main())


# ---- blocks ----------------------------------------------------------------------------------------------------------


def test_blocks_are_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as world:
            peer = await Peer.connect("127.0.0.1", world.port)

            async def block(number: int, *, more: bool, size: int = 1024, sender: str = "D-1") -> int:
                options = (*wire.path("up"), *wire.query(d=sender, t=TOKEN),
                           (wire.BLOCK1, wire.number(number << 4 | (8 if more else 0) | 6)))  # fmt: skip
                return (await peer.request(wire.POST, options, b" " * size)).code

            assert await block(3, more=True) == 0x88, "4.08: it did not begin"
            assert await block(0, more=True) == wire.CONTINUE
            assert await block(2, more=True) == 0x88, "4.08: a gap"
            assert await block(0, more=True, size=1000) == 0x80, "4.00: a block that is not full"
            for number in range(64):
                assert await block(number, more=True) == wire.CONTINUE
            assert await block(64, more=True) == 0x8D, "4.13"
            for sender in range(4):
                assert await block(0, more=True, sender=f"D-{sender}") == wire.CONTINUE
            assert await block(0, more=True, sender="D-9") == wire.UNAVAILABLE, "so many bodies of one address"
            assert world.ingest.frames == []
            peer.close()

    run(main())


def test_a_simulated_device_sends_blocks_and_hears_commands(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as world, asyncio.TaskGroup() as group:
            heard: list[bytes] = []
            link = CoapLink("127.0.0.1", world.port, "D-1", TOKEN, on_command=heard.append)
            running = group.create_task(link.run())
            long = json.dumps([{"seq": number, "signals": ["test"]} for number in range(200)]).encode()
            await link.send(long)
            assert world.ingest.frames[-1].payload == long
            await until(lambda: world.endpoint.downs.listening == 1)
            assert await world.endpoint.downs.send("D-1", '{"name": "响铃"}'.encode())
            assert await world.endpoint.downs.send("D-1", b"second")
            await until(lambda: len(heard) == 2)
            assert heard == ['{"name": "响铃"}'.encode(), b"second"]
            assert not await world.endpoint.downs.send("D-2", b"nobody listens")
            running.cancel()
            await link.break_off()

    run(main())


# ---- libcoap ---------------------------------------------------------------------------------------------------------


@libcoap
def test_libcoap_plain(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as world:
            out, err = await coap_client("-v", "7", "-m", "post", "-t", "50", "-e", SOS.decode(), world.up())
            assert "c:2.04" in out + err
            _, err = await coap_client("-N", "-m", "post", "-e", SOS.decode(), world.up())
            assert err == ""
            big = tmp_path / "big"
            big.write_bytes(b'{"signals": ["sos"], "note": "' + b"x" * 4000 + b'"}')
            _, err = await coap_client("-m", "post", "-b", "256", "-f", str(big), world.up())
            assert err == ""
            assert world.ingest.frames[-1].payload == big.read_bytes()
            out, _ = await coap_client("-m", "get", f"coap://127.0.0.1:{world.port}/.well-known/core")
            assert "</up>" in out
            _, err = await coap_client("-m", "post", "-e", SOS.decode(), world.up(token="wrong"))
            assert err.strip() == "4.01"

    run(main())


@libcoap
def test_libcoap_observes_commands(tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(tmp_path) as world, watching(world.up().replace("/up", "/down")) as said:
            await until(lambda: world.endpoint.downs.listening == 1)
            assert await world.endpoint.downs.send("D-1", b"ring-the-bell")
            await hears(said, "ring-the-bell")

    run(main())


@dtls
@pytest.mark.parametrize("program", ["coap-client-openssl", "coap-client-gnutls"])
def test_libcoap_with_a_psk(tmp_path: Path, program: str) -> None:
    async def main() -> None:
        async with serving(tmp_path, dtls=True) as world:
            base = f"coaps://127.0.0.1:{world.dtls_port}"
            me = ("-u", "D-2", "-k", PSK)
            _, err = await coap_client(*me, "-m", "post", "-e", SOS.decode(), f"{base}/up", program=program)
            assert err == ""
            frame = world.ingest.frames[-1]
            assert (frame.device_key, frame.verified, frame.payload) == ("D-2", True, SOS)
            big = tmp_path / "big"
            big.write_bytes(b"y" * 3000)
            await coap_client(*me, "-m", "post", "-b", "512", "-f", str(big), f"{base}/up?d=D-1", program=program)
            assert world.ingest.frames[-1].payload == b"y" * 3000
            assert world.ingest.frames[-1].device_key == "D-2", "the key says who it is, whatever the query says"
            async with watching(*me, f"{base}/down", program=program) as said:
                await until(lambda: world.endpoint.downs.listening == 1)
                assert await world.endpoint.downs.send("D-2", b"ring")
                await hears(said, "ring")
            count = len(world.ingest.frames)
            await coap_client(
                "-u", "D-2", "-k", "wrong", "-B", "1", "-m", "post", "-e", SOS.decode(), f"{base}/up", program=program
            )
            assert len(world.ingest.frames) == count, "with a wrong key there is no session"

    run(main())


# ---- OSCORE ----------------------------------------------------------------------------------------------------------


def test_oscore(tmp_path: Path) -> None:
    pytest.importorskip("lakers", reason="needs pip install 'carebell[oscore]'")
    import aiocoap

    async def main() -> None:
        device = tmp_path / "device"
        device.mkdir()
        (device / "settings.json").write_text(
            json.dumps({"sender-id_hex": "01", "recipient-id_hex": "02", "salt_hex": "9e7ca92223786340",
                        "secret_hex": "0102030405060708090a0b0c0d0e0f10"})
        )  # fmt: skip
        async with serving(tmp_path) as world:
            context = await aiocoap.Context.create_client_context(transports=["oscore", "udp6"])
            uri = f"coap://127.0.0.1:{world.port}"
            context.client_credentials.load_from_dict({f"{uri}/*": {"oscore": {"basedir": f"{device}/"}}})
            async with asyncio.timeout(60):
                message = aiocoap.Message(code=aiocoap.POST, uri=f"{uri}/up", payload=SOS, content_format=50)
                answer = await context.request(message).response
            assert answer.code == aiocoap.CHANGED
            frame = world.ingest.frames[-1]
            assert (frame.device_key, frame.verified, frame.payload) == ("D-3", True, SOS)
            context.client_credentials[f"{uri}/*"]._destroy()
            await context.shutdown()
            sock = RawSocket(world.port)
            sock.send(post(SOS, device="D-3"))
            assert wire.decode(await sock.receive()).code == 0x81
            sock.close()

    run(main())


def test_credentials_files_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    file.write_text('[devices."D-1"]\npsk = "zz"\n[devices."D-2"]\npsk = "00"\nfoo = 1\n[device]\n')
    with pytest.raises(ConfigError) as failed:
        CoapCredentials().load(file, tmp_path)
    lines = str(failed.value).splitlines()
    assert len(lines) == 3
    assert any("psk: not hexadecimal" in line for line in lines)
    assert any("foo: unknown key" in line for line in lines)


# ---- reading ---------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda tail: b"\x42\x02\0\7ab\xb2up" + tail))
def test_the_hot_path_takes_only_what_it_understands(data: bytes) -> None:
    found = gateway_wire.read_post(data)
    if found is None:
        return
    message = wire.decode(data)
    assert (message.code, message.path(), message.mid) == (wire.POST, "/up", found.mid)
    assert message.payload == found.payload
    known = {3, wire.CONTENT_FORMAT, wire.URI_PATH, wire.URI_QUERY, 7, 60}
    assert {key for key, _ in message.options} <= known


@settings(max_examples=100, deadline=None)
@given(
    st.text(max_size=40), st.text(max_size=40), st.binary(max_size=300), st.integers(0, 65_535), st.binary(max_size=8)
)
def test_the_hot_path_reads_what_a_device_writes(
    device: str, secret: str, payload: bytes, mid: int, token: bytes
) -> None:
    options = (*wire.path("up"), *wire.query(d=device, t=secret), (wire.CONTENT_FORMAT, b"\x32"))
    found = gateway_wire.read_post(wire.encode(wire.Message(wire.CON, wire.POST, mid, token, options, payload)))
    assert found is not None
    assert (found.device, found.secret, found.payload) == (device, secret, payload)
    assert (found.mid, found.token, found.content_format, found.confirmable) == (mid, token, 50, True)
    back = wire.decode(gateway_wire.answer(found, gateway_wire.CHANGED))
    assert (back.kind, back.code, back.mid, back.token) == (wire.ACK, wire.CHANGED, mid, token)


def test_exchanges_are_bounded_and_end() -> None:
    exchanges = Exchanges(limit=3)
    for mid in range(5):
        assert exchanges.seen("a", mid, b"x", 0.0) is None
    assert len(exchanges) == 3
    assert exchanges.seen("a", 4, b"x", 100.0) is not None
    assert exchanges.seen("b", 4, b"x", 100.0) is None
    assert exchanges.seen("a", 4, b"x", 247.5) is None, "its lifetime ended"
    exchanges.sweep(1000.0)
    assert len(exchanges) == 0
