"""Clients that others wrote: paho, mosquitto's and the npm package mqtt, against the endpoint over real sockets."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.mqtt_wire import TOKEN, Client, World, bounds, running
from tests.npm_packages import npm_packages

pytestmark = pytest.mark.live

UP = "carebell/D-1/up"
DOWN = "carebell/D-1/down"
NPM_MQTT = "mqtt@5.16.0"

both_versions = pytest.mark.parametrize("version", [4, 5])


class Device:
    """A paho client on its own thread."""

    def __init__(self, port: int, version: int, *, token: bytes = TOKEN, clean: bool = True) -> None:
        kwargs: dict[str, Any] = {"client_id": "paho", "protocol": version}
        if version == 4:
            kwargs["clean_session"] = clean
        self.client = paho.Client(CallbackAPIVersion.VERSION2, **kwargs)
        self.connected = threading.Event()
        self.gone = threading.Event()
        self.answer = self.goodbye = ""
        self.present = False
        self.messages: list[tuple[str, bytes, bool]] = []
        self.arrived = threading.Condition()
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_message = self._on_message
        self.client.username_pw_set("D-1", token.decode())
        if version == 5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho has no types here
            properties.SessionExpiryInterval = 0 if clean else 60
            self.client.connect("127.0.0.1", port, keepalive=30, properties=properties, clean_start=clean)
        else:
            self.client.connect("127.0.0.1", port, keepalive=30)
        self.client.loop_start()

    def _on_connect(self, _client: Any, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        self.answer = self.answer or str(code)
        self.present = flags.session_present
        self.connected.set()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        self.goodbye = self.goodbye or str(code)
        self.gone.set()

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        with self.arrived:
            self.messages.append((message.topic, message.payload, message.dup))
            self.arrived.notify_all()

    def wait_messages(self, count: int) -> list[tuple[str, bytes, bool]]:
        with self.arrived:
            assert self.arrived.wait_for(lambda: len(self.messages) >= count, timeout=60), self.messages
        return self.messages

    def subscribe(self, topic: str) -> list[str]:
        granted: list[str] = []
        done = threading.Event()

        def told(_client: Any, _data: Any, _mid: Any, codes: Any, _properties: Any) -> None:
            granted.extend(str(code) for code in codes)
            done.set()

        self.client.on_subscribe = told
        self.client.subscribe(topic, qos=1)
        assert done.wait(60)
        return granted

    def publish(self, payload: bytes, qos: int, topic: str = UP) -> None:
        self.client.publish(topic, payload, qos=qos).wait_for_publish(60)

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def play(story: Callable[[], Any]) -> None:
    uvloop.run(story())


@both_versions
@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_paho_publishes_at_every_qos_and_gets_its_commands(
    tmp_path: Path, version: int, loop: Callable[..., None]
) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:

            def device() -> Device:
                paho_device = Device(world.port, version)
                assert paho_device.connected.wait(60)
                for qos in (0, 1, 2):
                    for number in range(20):
                        paho_device.publish(b"%d %d" % (qos, number), qos)
                assert paho_device.subscribe(f"{DOWN}/#") == ["Granted QoS 1"]
                return paho_device

            client = await asyncio.to_thread(device)
            payloads = [frame.payload for frame in world.ingest.frames]
            assert payloads == [b"%d %d" % (qos, number) for qos in (0, 1, 2) for number in range(20)]
            told: list[str] = []
            await world.endpoint.send_down("D-1", b"ring", topic_suffix="bell", on_ack=told.append)
            assert await asyncio.to_thread(client.wait_messages, 1) == [(f"{DOWN}/bell", b"ring", False)]
            async with asyncio.timeout(60):
                while not told:
                    await asyncio.sleep(0.01)
            assert told == ["acknowledged"]
            await asyncio.to_thread(client.stop)

    loop(main())


@both_versions
def test_paho_waits_for_the_commit(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            world.ingest.verdict = None
            client = await asyncio.to_thread(Device, world.port, version)
            assert await asyncio.to_thread(client.connected.wait, 60)
            message = client.client.publish(UP, b"{}", qos=1)
            await world.until(lambda: len(world.ingest.frames) == 1)
            await asyncio.sleep(0.2)
            assert not message.is_published()
            world.ingest.commit()
            await asyncio.to_thread(message.wait_for_publish, 60)
            assert message.is_published()
            await asyncio.to_thread(client.stop)

    play(main)


@both_versions
def test_paho_is_refused_with_a_wrong_token(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await asyncio.to_thread(Device, world.port, version, token=b"wrong")
            assert await asyncio.to_thread(client.connected.wait, 60)
            assert client.answer == "Bad user name or password"
            await asyncio.to_thread(client.stop)

    play(main)


@both_versions
def test_paho_gets_what_it_missed(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            client = await asyncio.to_thread(Device, world.port, version, clean=False)
            assert await asyncio.to_thread(client.connected.wait, 60)
            assert await asyncio.to_thread(client.subscribe, DOWN) == ["Granted QoS 1"]
            await asyncio.to_thread(client.stop)
            for number in range(3):
                await world.endpoint.send_down("D-1", b"%d" % number)
        async with running(tmp_path) as world:  # another run of the gateway
            client = await asyncio.to_thread(Device, world.port, version, clean=False)
            assert [payload for _, payload, _ in await asyncio.to_thread(client.wait_messages, 3)] == [b"0", b"1", b"2"]
            assert client.present
            await asyncio.to_thread(client.stop)

    play(main)


def test_paho_is_taken_over(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            first = await asyncio.to_thread(Device, world.port, 5)
            assert await asyncio.to_thread(first.connected.wait, 60)
            first.client.on_disconnect = first._on_disconnect
            first.client.reconnect_delay_set(60, 60)
            second = await asyncio.to_thread(Device, world.port, 5)
            assert await asyncio.to_thread(second.connected.wait, 60)
            assert await asyncio.to_thread(first.gone.wait, 60)
            assert first.goodbye == "Session taken over"
            await asyncio.to_thread(first.stop)
            await asyncio.to_thread(second.stop)

    play(main)


# ---- mosquitto -------------------------------------------------------------------------------------------------------


def mosquitto(world: World, program: str, version: int, *arguments: str, token: bool = True) -> list[str]:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"needs {program}: apt-get install mosquitto-clients")
    where = ["-h", "127.0.0.1", "-p", str(world.port), "-V", "mqttv5" if version == 5 else "mqttv311"]
    who = ["-u", "D-1", "-P", TOKEN.decode()] if token else []
    return [path, *where, *who, *arguments]


async def output_of(command: list[str], stdin: str | None = None) -> subprocess.CompletedProcess[str]:
    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, input=stdin)

    return await asyncio.to_thread(run)


@both_versions
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_mosquitto_pub(tmp_path: Path, version: int, qos: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            lines = "".join(f'{{"seq": {number}}}\n' for number in range(300))
            command = mosquitto(world, "mosquitto_pub", version, "-t", UP, "-q", str(qos), "-l")
            result = await output_of(command, lines)
            assert result.returncode == 0, result.stderr
            async with asyncio.timeout(60):
                while len(world.ingest.frames) < 300:
                    await asyncio.sleep(0.01)
            assert "\n".join(frame.payload.decode() for frame in world.ingest.frames) + "\n" == lines

    play(main)


@both_versions
def test_mosquitto_is_told_what_it_may_not(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            foreign = await output_of(
                mosquitto(world, "mosquitto_pub", version, "-t", "carebell/D-2/up", "-q", "1", "-m", "x")
            )
            if version == 5:
                assert "Not authorized" in foreign.stderr
            refused = await output_of([*mosquitto(world, "mosquitto_sub", version, "-t", "#", "-d", "-W", "60")])
            assert "All subscription requests were denied" in refused.stderr
            wrong = await output_of([*mosquitto(world, "mosquitto_pub", version, "-t", UP, "-m", "x"), "-P", "wrong"])
            assert wrong.returncode != 0
            assert "bad user name or password" in wrong.stderr.lower()
            assert world.ingest.frames == []

    play(main)


@both_versions
def test_mosquitto_sub(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            for number in range(3):
                await world.endpoint.send_down("D-1", b"command %d" % number)
            result = await output_of(
                mosquitto(world, "mosquitto_sub", version, "-t", f"{DOWN}/#", "-q", "1", "-C", "3", "-W", "60")
            )
            assert result.stdout == "command 0\ncommand 1\ncommand 2\n", result.stderr

    play(main)


def test_a_will_of_mosquitto(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path) as world:
            command = mosquitto(
                world, "mosquitto_sub", 5, "-t", DOWN, "--will-topic", UP, "--will-payload", '{"signals":[]}'
            )
            process = await asyncio.create_subprocess_exec(*command)
            async with asyncio.timeout(60):
                while not world.endpoint.counters()["authenticated"]:
                    await asyncio.sleep(0.01)
                process.kill()
                await process.wait()
                while not world.ingest.frames:
                    await asyncio.sleep(0.01)
            assert [frame.payload for frame in world.ingest.frames] == [b'{"signals":[]}']

    play(main)


# ---- npm -------------------------------------------------------------------------------------------------------------


@both_versions
def test_npm_mqtt(tmp_path: Path, version: int) -> None:
    folder = npm_packages(NPM_MQTT, NPM_MQTT)
    script = Path(__file__).with_name("mqtt_npm_client.mjs")

    async def main() -> None:
        async with running(tmp_path) as world:
            process = await asyncio.create_subprocess_exec(
                "node", str(script), str(world.port), str(version), TOKEN.decode(), cwd=folder, stdout=subprocess.PIPE
            )
            async with asyncio.timeout(60):
                while not world.ingest.frames or world.ingest.frames[-1].payload != b'{"done": true}':
                    await asyncio.sleep(0.01)
                await world.endpoint.send_down("D-1", "铃".encode(), topic_suffix="bell")
                out, _ = await process.communicate()
            told = json.loads(out)
            assert told["errors"] == []
            assert told["granted"] == [1]
            assert told["acks"] == 50
            assert sorted(told["puback"]) == ["puback"] * 25 + ["pubrec"] * 25
            assert told["down"] == [[f"{DOWN}/bell", "铃"]]
            numbers = [json.loads(frame.payload)["seq"] for frame in world.ingest.frames[:-1]]
            assert sorted(numbers) == list(range(50))

    play(main)


# ---- TLS -------------------------------------------------------------------------------------------------------------


def certificate(
    path: Path, name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """A key and a certificate for ``name`` as ``<name>.crt`` and ``<name>.key``; without an issuer a CA."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer[0].subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    )
    made = builder.sign(key if issuer is None else issuer[1], hashes.SHA256())
    (path / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (path / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return made, key


def tls_server(path: Path) -> ssl.SSLContext:
    authority = certificate(path, "authority")
    certificate(path, "server", authority)
    certificate(path, "D-1", authority)
    certificate(path, "stranger")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path / "server.crt", path / "server.key")
    context.load_verify_locations(path / "authority.crt")
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@both_versions
def test_tls_with_a_token_and_with_a_certificate(tmp_path: Path, version: int) -> None:
    async def main() -> None:
        async with running(tmp_path, ssl_context=tls_server(tmp_path)) as world:
            tls = ["--cafile", str(tmp_path / "authority.crt"), "--insecure", "-t", UP, "-q", "1", "-m"]
            result = await output_of([*mosquitto(world, "mosquitto_pub", version, *tls, "token")])
            assert result.returncode == 0, result.stderr
            anonymous = mosquitto(world, "mosquitto_pub", version, token=False)
            mine = ["--cert", str(tmp_path / "D-1.crt"), "--key", str(tmp_path / "D-1.key")]
            result = await output_of([*anonymous, *mine, *tls, "certificate"])
            assert result.returncode == 0, result.stderr
            for more in (["-u", "D-2"], ["-u", "D-1", "-P", "wrong"]):  # neither another name nor a wrong token
                result = await output_of([*anonymous, *more, *mine, *tls, "no"])
                assert result.returncode != 0
            result = await output_of([*anonymous, *tls, "no"])
            assert result.returncode != 0
            theirs = ["--cert", str(tmp_path / "stranger.crt"), "--key", str(tmp_path / "stranger.key")]
            result = await output_of([*anonymous, *theirs, *tls, "no"])
            assert result.returncode != 0
            assert [(frame.payload, frame.transport, frame.device_key) for frame in world.ingest.frames] == [
                (b"token", "mqtts", "D-1"),
                (b"certificate", "mqtts", "D-1"),
            ]

    play(main)


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_who_does_not_shake_hands_counts_and_is_shed(tmp_path: Path, loop: Callable[..., None]) -> None:
    async def main() -> None:
        context = tls_server(tmp_path)
        async with running(tmp_path, bounds(handshake_s=0.5), ssl_context=context) as world:
            assert not await (await Client.open(world.port)).reader.read()
            await world.until(lambda: world.endpoint.counters()["refused_tls_total"] == 1)
        limits = bounds(unauthenticated_per_address=3, handshake_s=60.0)
        async with running(tmp_path, limits, ssl_context=context) as world:
            silent = [await Client.open(world.port) for _ in range(3)]
            surplus = await Client.open(world.port)
            assert await surplus.ended()
            silent[0].send(b"no TLS at all, only noise" * 10)
            assert await silent[0].reader.read() != b"MQTT"  # an alert at most, then the end
            for client in silent:
                await client.close()
            await world.until(lambda: world.endpoint.counters()["refused_tls_total"] == 3)
            assert world.endpoint.counters()["refused_address_total"] == 1
            tls = ssl.create_default_context(cafile=str(tmp_path / "authority.crt"))
            client = await Client.open(world.port, ssl=tls, server_hostname="localhost")
            await client.connect(version=5)
            await client.roundtrip()
            assert world.endpoint.counters()["authenticated"] == 1
            for client in Client.opened:
                await client.close()
            Client.opened.clear()

    loop(main())


def test_a_finished_handshake_is_counted_once(tmp_path: Path) -> None:
    async def main() -> None:
        async with running(tmp_path, bounds(unauthenticated_per_address=1), ssl_context=tls_server(tmp_path)) as world:
            tls = ssl.create_default_context(cafile=str(tmp_path / "authority.crt"))
            for _ in range(3):
                client = await Client.open(world.port, ssl=tls, server_hostname="localhost")
                await client.connect()
                await client.roundtrip()
                await client.close()
            Client.opened.clear()

    play(main)
