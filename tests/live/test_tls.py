"""MQTT over TLS on the running daemon: tokens, client certificates, and who is turned away."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.daemon import Daemon, carebell, carebell_json, free_port, provision
from tests.mqtt_wire import Client, play, publish_packet

pytestmark = pytest.mark.live

SOS = b'{"signals":["sos"]}'
SERVER, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH


class Authority:
    """A certificate authority with its files in a folder."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        made = self._builder(self._name, self._key.public_key(), days=30)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        until = now + timedelta(days=days)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, until) - timedelta(days=60))
            .not_valid_after(until)
        )

    def issue(self, name: str, usage: x509.ObjectIdentifier, *, days: int = 10, label: str = "") -> tuple[Path, Path]:
        """Files of a certificate and its key for this common name; with ``days`` below zero it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = (
            self._builder(subject, key.public_key(), days=days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        certificate, private = self._folder / f"{label or name}.crt", self._folder / f"{label or name}.key"
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return certificate, private


class Site:
    """A daemon with a TLS listener, its authority, and a foreign one."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "var"
        self.data_dir.mkdir()
        self.tokens = provision(self.data_dir, 6)
        self.authority, self.foreign = Authority(folder, "authority"), Authority(folder, "foreign")
        certificate, key = self.authority.issue("server", SERVER)
        self.tls_port = free_port()
        self.daemon = Daemon(
            self.data_dir,
            CAREBELL_MQTT__TLS_LISTEN=f"127.0.0.1:{self.tls_port}",
            CAREBELL_MQTT__CERTIFICATE_FILE=str(certificate),
            CAREBELL_MQTT__KEY_FILE=str(key),
            CAREBELL_MQTT__CLIENT_CA_FILE=str(self.authority.file),
        )

    async def open(self, identity: tuple[Path, Path] | None = None) -> Client:
        """A TLS connection that checks the server's certificate; it may be refused only with its first read."""
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if identity is not None:
            context.load_cert_chain(*identity)
        return await Client.open(self.tls_port, ssl=context, server_hostname="localhost")

    async def refuses(
        self, identity: tuple[Path, Path] | None, *, device_id: str | None = None, token: bytes | None = None
    ) -> bool:
        """Whether this identity and CONNECT end without success, be it in the handshake or with a CONNACK."""
        try:
            client = await self.open(identity)
            await client.connect(device_id=device_id, token=token)
        except (ssl.SSLError, ConnectionError, AssertionError):
            return True
        return client.connack[1] != 0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("tls"))
    with running.daemon:
        yield running


def up(device_id: str) -> str:
    return f"carebell/{device_id}/up"


def records(site: Site, device_id: str) -> list[tuple[str, bool]]:
    rows = carebell_json("journal", "list", "--device", device_id, data_dir=site.data_dir)
    return [(row["transport"], row["verified"]) for row in rows]


@pytest.mark.parametrize(("version", "device_id"), [(4, "D-1"), (5, "D-2")])
def test_a_token_over_tls(site: Site, version: int, device_id: str) -> None:
    async def story() -> None:
        client = await site.open()
        await client.connect(device_id=device_id, token=site.tokens[device_id].encode(), version=version)
        assert client.connack[1] == 0
        client.send(publish_packet(up(device_id), SOS, version=version))
        answer = await client.receive()
        assert answer is not None
        assert answer[0] == 0x40
        assert await site.refuses(None, device_id=device_id, token=b"wrong")
        assert await site.refuses(None, device_id=device_id)
        assert await site.refuses(None)

    play(story())
    assert records(site, device_id) == [("mqtts", True)]


@pytest.mark.parametrize(("version", "device_id"), [(4, "D-3"), (5, "D-4")])
def test_a_client_certificate_instead_of_a_token(site: Site, version: int, device_id: str) -> None:
    identity = site.authority.issue(device_id, CLIENT)

    async def story() -> None:
        for claimed in (None, device_id):  # with and without a user name
            client = await site.open(identity)
            await client.connect(device_id=claimed, token=None, version=version)
            assert client.connack[1] == 0
            client.send(publish_packet(up(device_id), SOS, version=version))
            answer = await client.receive()
            assert answer is not None
            assert answer[0] == 0x40
            await client.close()
        assert await site.refuses(identity, device_id="D-1"), "another name than the certificate's"
        # It is that device and no other, whatever it publishes to.
        client = await site.open(identity)
        await client.connect(device_id=None, token=None, version=version)
        client.send(publish_packet(up("D-6"), SOS, version=version))
        answer = await client.receive()
        assert answer is None or (answer[0], answer[1][2]) == (0x40, 0x87)

    play(story())
    assert records(site, device_id) == [("mqtts", True)] * 2
    assert records(site, "D-6") == []


def test_who_is_turned_away(site: Site) -> None:
    before = len(carebell_json("journal", "list", data_dir=site.data_dir))
    strangers = {
        "of a foreign authority": site.foreign.issue("D-5", CLIENT, label="foreign-D-5"),
        "expired": site.authority.issue("D-5", CLIENT, days=-1, label="expired-D-5"),
        "of a device that nobody knows": site.authority.issue("D-none", CLIENT),
        "made for servers": site.authority.issue("D-5", SERVER, label="wrong-usage-D-5"),
    }

    async def story() -> None:
        for what, identity in strangers.items():
            assert await site.refuses(identity), what
        plain = await Client.open(site.tls_port)
        plain.send(b"\x10\x0c\0\4MQTT\4\2\0\0\0\0")
        answer = await plain.reader.read()
        assert not answer.startswith(b"\x20"), "no MQTT without TLS on this port"
        client = await site.open(site.authority.issue("D-5", CLIENT))
        await client.connect(device_id=None, token=None)
        assert client.connack[1] == 0, "its neighbours are let in"

    play(story())
    assert len(carebell_json("journal", "list", data_dir=site.data_dir)) == before
    assert site.daemon.running()


def test_a_retired_device_is_refused_with_its_certificate(site: Site) -> None:
    identity = site.authority.issue("D-6", CLIENT)

    async def let_in() -> bool:
        return not await site.refuses(identity)

    async def story() -> None:
        assert await let_in()
        await asyncio.to_thread(carebell, "devices", "suspend", "D-6", data_dir=site.data_dir)
        async with asyncio.timeout(60):
            while await let_in():
                await asyncio.sleep(0.1)

    play(story())


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    daemon = Daemon(
        tmp_path / "var",
        CAREBELL_MQTT__TLS_LISTEN=f"127.0.0.1:{free_port()}",
        CAREBELL_MQTT__CERTIFICATE_FILE=str(tmp_path / "x.pem"),
        CAREBELL_MQTT__KEY_FILE=str(tmp_path / "none.key"),
    )
    with pytest.raises(AssertionError, match="it ended with 78"):
        daemon.start()
    daemon.wait()
    assert "the certificate, key or client CA cannot be used" in (tmp_path / "var.log").read_text(encoding="utf-8")
