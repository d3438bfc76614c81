"""Whatever comes in: it is in the journal with a clear reason, its connection and its neighbours live, and the SOS
right behind it is acknowledged.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx2
import pytest

from tests.daemon import Daemon, carebell_json, provision
from tests.mqtt_wire import Client, connect_packet, packet, play, publish_packet, text, varint

pytestmark = pytest.mark.live

SOS: Final = b'{"signals":["sos"]}'

PAYLOADS: Final = [
    (b"", "not JSON"),
    (b'{"signals":["so', "not JSON: Unterminated"),
    (b'{"seq":1,"measurements":{"heart_rate_bpm":7', "not JSON"),
    (bytes(200), "not JSON"),
    (random.Random(1).randbytes(5000), "not JSON"),
    (b"\xff\xfe\xfd", "not JSON"),
    (b'{"measurements":{"steps":1},"x":"\xc3\x28"}', "not UTF-8 at byte 33"),
    (b'"sos"', "neither an object nor an array"),
    (b"null", "neither an object nor an array"),
    (b"[]", "an array without objects"),
    (b"[1]", r"\[0\]: a number, not an object"),
    (b"{}", "none of signals, measurements, position"),
    (b'{"measurements":{"heart_rate_bpm":"fast"}}', "heart_rate_bpm: a text, not a number"),
    (b'{"measurements":{"heart_rate_bpm":1e999}}', "heart_rate_bpm: infinite"),
    (b'{"measurements":{"heart_rate_bpm":NaN}}', "heart_rate_bpm: infinite or NaN"),
    (b'{"measurements":{"heart_rate_bpm":' + b"9" * 400 + b"}}", "heart_rate_bpm: infinite"),
    (b'{"measurements":{"heart_rate_bpm":' + b"9" * 5000 + b"}}", "heart_rate_bpm"),
    (b'{"seq":' + b"9" * 400 + b',"measurements":{"steps":1}}', "seq: not an integer"),
    (b'{"measurements":["steps"],"signals":"x","position":7}', "measurements: an array, not an object"),
    (b'{"position":{"latitude":91,"longitude":0}}', "latitude: not within"),
    (b'{"at":"yesterday","measurements":{"steps":1}}', "at: not an RFC 3339 time"),
    (b'{"x":"\\ud800","measurements":{"steps":1}}', "x: not used: half of a surrogate pair"),
    (b"[" * 30_000, "not JSON: 30000 brackets"),
    (b'{"measurements":{"steps":1},"x":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "nested deeper than 16"),
    (b"x" * 65_537, "65537 bytes; a message has at most 65536"),
]
"""What a device with a valid credential may send, and what the journal says of it."""


class Site:
    """A running daemon; each test takes devices of its own."""

    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "var"
        self.data_dir.mkdir()
        self.tokens = provision(self.data_dir, 40)
        self._unused = iter(self.tokens)
        self.daemon = Daemon(self.data_dir)

    def device(self) -> str:
        return next(self._unused)

    async def connect(self, device_id: str, version: int = 4) -> Client:
        client = await Client.open(self.daemon.mqtt_port)
        token = self.tokens[device_id].encode()
        await client.connect(device_id=device_id, token=token, client_id=device_id, version=version)
        return client

    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.daemon.url, trust_env=False, timeout=60)

    def bearer(self, device_id: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.tokens[device_id]}"}

    def records(self, device_id: str) -> list[dict[str, Any]]:
        return carebell_json("journal", "list", "--payload", "--device", device_id, data_dir=self.data_dir)

    def alerts(self) -> list[dict[str, Any]]:
        return carebell_json("alerts", "list", "--open", data_dir=self.data_dir)

    def is_well(self) -> None:
        """It runs, answers, and no part of it reported an error."""
        assert self.daemon.running()
        with self.http() as client:
            assert client.get("/healthz").status_code == 200
            assert client.get("/readyz").status_code == 200
        log = (self.data_dir.parent / "var.log").read_text(encoding="utf-8")
        errors = [line for line in log.splitlines() if '"level": "error"' in line or "Traceback" in line]
        assert errors == []


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("bad-input"))
    with running.daemon:
        yield running


async def acknowledged(client: Client, device_id: str, packet_id: int, payload: bytes, version: int = 4) -> None:
    """Publish with QoS 1 and see the acknowledgement of just that."""
    client.send(publish_packet(up(device_id), payload, packet_id=packet_id, version=version))
    answer = await client.receive()
    assert answer is not None, "the connection ended"
    assert (answer[0], answer[1][:2]) == (0x40, packet_id.to_bytes(2, "big"))
    assert answer[1][2:3] in (b"", b"\0")


def up(device_id: str) -> str:
    return f"carebell/{device_id}/up"


def explained(site: Site, device_id: str) -> None:
    """Each payload is in the journal as it came, with its reason, and each SOS between them."""
    rows = site.records(device_id)
    faulty = [row for row in rows if row["fault"] is not None]
    pressed = [row for row in rows if any(item.get("signal") == "sos" for item in row["observations"])]
    assert len(pressed) == len(PAYLOADS)
    assert [base64.b64decode(row["payload"]) for row in faulty] == [payload for payload, _ in PAYLOADS]
    for row, (payload, reason) in zip(faulty, PAYLOADS, strict=True):
        assert re.search(reason, row["fault"]), (payload[:60], row["fault"])
        assert "failed" not in row["fault"], "the codec had no words for it"
        assert row["verified"]


@pytest.mark.parametrize("version", [4, 5])
def test_payloads_over_mqtt(site: Site, version: int) -> None:
    device_id, neighbour_id = site.device(), site.device()

    async def story() -> None:
        client, neighbour = await site.connect(device_id, version), await site.connect(neighbour_id)
        for number, (payload, _reason) in enumerate(PAYLOADS):
            await acknowledged(client, device_id, 2 * number + 1, payload, version)
            await acknowledged(client, device_id, 2 * number + 2, SOS, version)
        await neighbour.roundtrip()

    play(story())
    explained(site, device_id)
    site.is_well()


def test_payloads_over_http(site: Site) -> None:
    device_id = site.device()
    with site.http() as client:
        for payload, _reason in PAYLOADS:
            url, headers = f"/ingest/v1/{device_id}", site.bearer(device_id)
            status = client.post(url, content=payload, headers=headers).status_code
            assert status == (413 if len(payload) > 65_536 else 202)
            assert client.post(url, content=SOS, headers=headers).status_code == 202
    explained(site, device_id)
    site.is_well()


def test_a_press_beside_nonsense_counts(site: Site) -> None:
    device_id = site.device()
    mixed = [
        b'{"signals":["sos",7],"measurements":"no","position":[]}',
        b'[{"measurements":{"heart_rate_bpm":"?"}},{"signals":["fall"]}]',
        b'{"at":"never","signals":["smoke"],"seq":-1,"x":"\xff"}',
    ]

    async def story() -> None:
        client = await site.connect(device_id)
        for number, payload in enumerate(mixed, 1):
            await acknowledged(client, device_id, number, payload)

    play(story())
    faults = [row["fault"] for row in site.records(device_id) if row["fault"]]
    assert len(faults) == 3
    raised = until(lambda: {alert["kind"] for alert in site.alerts() if alert["device_id"] == device_id}, 3)
    assert raised == {"sos", "fall", "smoke"}


def until(read: Any, size: int) -> Any:
    """What ``read`` gives once it has that many elements; the rules are a moment behind the journal."""
    deadline = time.monotonic() + 60
    while len(found := read()) < size and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


# ---- MQTT below the payload ------------------------------------------------------------------------------------------


def malformed(device_id: str, version: int) -> list[bytes]:
    topic = text(up(device_id))
    none = b"\0" if version == 5 else b""
    return [
        b"\x00\x00",  # packet type 0
        b"\x36" + varint(len(topic) + 2) + topic + b"\0\1",  # QoS 3
        b"\x32\xff\xff\xff\xff\x7f",  # a length of five bytes
        packet(0x32, text(b"carebell/\xff\xfe/up") + b"\0\1" + none + SOS),  # a topic that is not UTF-8
        packet(0x32, text(f"carebell/{device_id}/#") + b"\0\1" + none + SOS),  # a topic with a wildcard
        packet(0x32, topic + b"\0\0" + none + SOS),  # packet identifier 0
        packet(0x32, topic[:-3]),  # the topic is longer than its packet
        packet(0x80, b"\0\1" + none + text("x") + b"\1"),  # SUBSCRIBE with wrong flags
        packet(0x82, b"\0\1" + none),  # SUBSCRIBE to nothing
        connect_packet(device_id, version=version),  # a second CONNECT
        packet(0x20, b"\0\0" + none),  # what only a server sends
        b"GET /" + b"a" * 100 + b" HTTP/1.1\r\n\r\n",
        b"\xf8" + random.Random(2).randbytes(3000),
    ]


@pytest.mark.parametrize("version", [4, 5])
def test_malformed_packets_end_their_connection_alone(site: Site, version: int) -> None:
    device_id, neighbour_id = site.device(), site.device()
    bad = malformed(device_id, version)

    async def story() -> None:
        neighbour = await site.connect(neighbour_id, version)
        for number, noise in enumerate(bad):
            client = await site.connect(device_id, version)
            press = b'{"seq":%d,"signals":["sos"]}' % number
            # The press stands before the noise in the same read: it is kept, acknowledged or not.
            client.send(publish_packet(up(device_id), press, packet_id=7, version=version) + noise)
            answer = await client.receive()
            while answer is not None:
                assert answer[0] in (0x40, 0xE0), answer
                answer = await client.receive()
            again = await site.connect(device_id, version)
            await acknowledged(again, device_id, 8, press, version)
            await acknowledged(neighbour, neighbour_id, number + 1, b'{"measurements":{"steps":1}}', version)
            await again.close()

    play(story())
    rows = site.records(device_id)
    assert [row["dedup_key"] for row in rows] == [str(number) for number in range(len(bad))], "each press, and once"
    assert len(site.records(neighbour_id)) == len(bad)
    site.is_well()


def test_strangers_who_speak_no_mqtt(site: Site) -> None:
    device_id = site.device()
    token = site.tokens[device_id].encode()
    first = [
        b"\0",
        b"\xff" * 100,
        random.Random(3).randbytes(5000),
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS on the plain port
        b"\x10\xff\xff\xff\x7f",  # a CONNECT of 256 MiB
        packet(0x10, text("MQTT")),
        packet(0x10, text("MQIsdp") + b"\3\2\0\0" + text("x")),
        packet(0x10, text("MQTT") + b"\x09\2\0\0" + text("x")),
        packet(0x10, text("MQTT") + b"\4\xc3\0\0" + text("x")),
        publish_packet(up(device_id), SOS),
        connect_packet(device_id, token=b"wrong"),
        connect_packet(device_id, token=b"\xff\0" * 400),
        connect_packet("D-none", token=token),
        connect_packet("../../D-1\n", token=token),
        connect_packet(None, token=None),
    ]

    async def story() -> None:
        for noise in first:
            stranger = await Client.open(site.daemon.mqtt_port)
            stranger.send(noise)
            if len(noise) > 1:
                answer = await stranger.receive()
                assert answer is None or (answer[0] == 0x20 and answer[1][1] != 0), "no success"
            await stranger.close()
        client = await site.connect(device_id)
        await acknowledged(client, device_id, 1, SOS)

    play(story())
    assert len(site.records(device_id)) == 1
    site.is_well()


def test_huge_packets(site: Site) -> None:
    old_id, new_id, absurd_id = site.device(), site.device(), site.device()
    huge = b"A" * 300_000

    async def story() -> None:
        # 3.1.1 has no words for "too large": it is acknowledged, or the device would send it for ever.
        old = await site.connect(old_id)
        await acknowledged(old, old_id, 1, huge)
        await acknowledged(old, old_id, 2, SOS)
        # MQTT 5 names the limit in CONNACK, and the reason when it is broken.
        new = await site.connect(new_id, 5)
        new.send(publish_packet(up(new_id), huge, version=5))
        answer = await new.receive()
        assert answer is not None
        assert (answer[0], answer[1][0]) == (0xE0, 0x95)
        again = await site.connect(new_id, 5)
        await acknowledged(again, new_id, 2, SOS, 5)
        # 256 MiB announced: closed, and not waited for.
        absurd = await site.connect(absurd_id)
        absurd.send(b"\x32\xff\xff\xff\x7f" + text(up(absurd_id)) + b"\0\1" + huge)
        assert await absurd.ended()
        again = await site.connect(absurd_id)
        await acknowledged(again, absurd_id, 2, SOS)

    play(story())
    for device_id in (old_id, new_id, absurd_id):
        cut, press = site.records(device_id)
        assert "at most 65536" in cut["fault"]
        assert 65_536 < len(base64.b64decode(cut["payload"])) < 75_000, "its head is kept"
        assert press["observations"][0]["signal"] == "sos"
    site.is_well()


def test_a_device_publishes_as_itself_only(site: Site) -> None:
    device_id, other_id = site.device(), site.device()

    async def story() -> None:
        for topic in (up(other_id), "carebell/+/up", "$SYS/x", "/", "carebell/up", f"{up(device_id)}/../{other_id}"):
            client = await site.connect(device_id)
            client.send(publish_packet(topic, SOS))
            answer = await client.receive()
            if topic.startswith(up(device_id)):  # a topic below its own is its own; ".." is only a name
                assert answer is not None
            else:
                assert answer is None, topic
            await client.close()
        client = await site.connect(device_id, 5)
        client.send(publish_packet(up(other_id), SOS, version=5))
        answer = await client.receive()
        assert answer is not None
        assert (answer[0], answer[1][2]) == (0x40, 0x87)
        await acknowledged(client, device_id, 2, SOS, 5)

    play(story())
    assert site.records(other_id) == []
    assert {row["device_id"] for row in site.records(device_id)} == {device_id}
    site.is_well()


# ---- HTTP below the payload, and senders who prove nothing -----------------------------------------------------------


def raw_http(site: Site, request: bytes, *, until_end: bool = True) -> bytes:
    """What a server says to these bytes."""
    with socket.create_connection(("127.0.0.1", site.daemon.http_port), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while until_end and (more := connection.recv(65_536)):
            answer += more
        return answer


def test_http_that_is_none(site: Site) -> None:
    device_id = site.device()
    credential = f"Authorization: Bearer {site.tokens[device_id]}\r\n".encode()
    post = f"POST /ingest/v1/{device_id} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode() + credential
    refused = [
        (b"\0\1\2\3\r\n\r\n", b"400"),
        (b"POST\r\n\r\n", b"400"),
        (random.Random(4).randbytes(2000) + b"\r\n\r\n", b"400"),
        (post + b"Content-Length: -1\r\n\r\n", b"400"),
        (post + b"Content-Length: many\r\n\r\n", b"400"),
        (post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"POST /ingest/v1/%ff HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", b"404"),
        (b"POST /ingest/v1/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", b"404"),
        (b"GET /ingest/v1/D-1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"405"),
    ]
    for request, status in refused:
        answer = raw_http(site, request)
        assert answer == b"" or answer.split(b" ", 2)[1] == status, (request[:60], answer[:200])
    raw_http(site, post + b"Content-Length: 50\r\n\r\n" + SOS, until_end=False)  # it goes away in the middle
    raw_http(site, post + b"Content-Length: 50", until_end=False)
    with site.http() as client:
        huge = client.post(f"/ingest/v1/{device_id}", content=b"A" * 900_000, headers=site.bearer(device_id))
        assert huge.status_code == 413
        assert huge.headers["content-type"] == "application/problem+json"
        press = client.post(f"/ingest/v1/{device_id}", content=SOS, headers=site.bearer(device_id))
        assert press.status_code == 202
    cut, kept = site.records(device_id)
    assert "at most 65536" in cut["fault"]
    assert kept["fault"] is None
    site.is_well()


def test_an_unverified_press_is_kept_and_told_as_such(site: Site) -> None:
    device_id = site.device()
    stranger = "K-unknown-7"
    with site.http() as client:
        tries: list[tuple[str, dict[str, str], bytes]] = [
            (device_id, {"authorization": "Bearer wrong"}, b'{"seq":1,"signals":["sos","door_open"]}'),
            (device_id, {}, b'{"seq":2,"measurements":{"heart_rate_bpm":200}}'),
            (stranger, {"authorization": "Bearer wrong"}, b'{"seq":1,"signals":["sos"]}'),
            (stranger, {}, b"\xff\xff"),
        ]
        for key, headers, body in tries:
            answer = client.post(f"/ingest/v1/{key}", content=body, headers=headers)
            assert answer.status_code == 401
            assert json.loads(answer.content)["status"] == 401
        # The numbers of the true device are not used up by who only claims to be it.
        own = client.post(f"/ingest/v1/{device_id}", content=b'{"seq":1,"signals":["sos"]}',
                          headers=site.bearer(device_id))  # fmt: skip
        assert own.status_code == 202
    pressed, measured, proved = site.records(device_id)
    assert (pressed["verified"], measured["verified"], proved["verified"]) == (False, False, True)
    assert [item["signal"] for item in pressed["observations"]] == ["sos"], "of an unproved frame only the emergency"
    assert measured["observations"] == []
    assert "credential" in measured["fault"]
    press, noise = site.records(stranger)
    assert (press["device_id"], press["device_key"], press["verified"]) == (None, stranger, False)
    assert "not JSON" in noise["fault"]
    mine = until(lambda: [alert for alert in site.alerts() if alert["device_id"] == device_id], 2)
    assert sorted(alert["verified"] for alert in mine) == [False, True], "the proved press has an alert of its own"
    unproved = [alert for alert in site.alerts() if not alert["verified"]]
    assert len(unproved) == 2
    site.is_well()


def test_many_bad_clients_at_once_do_not_hold_up_a_press(site: Site) -> None:
    device_id = site.device()

    async def story() -> None:
        rng = random.Random(5)
        noise = [await Client.open(site.daemon.mqtt_port) for _ in range(60)]
        for stranger in noise:
            stranger.send(rng.randbytes(rng.randrange(1, 20_000)))
        half = [await Client.open(site.daemon.mqtt_port) for _ in range(60)]
        for stranger in half:
            stranger.send(connect_packet("D-1", token=b"x" * 40)[:20])  # and never the rest
        client = await site.connect(device_id)
        async with asyncio.timeout(60):
            await acknowledged(client, device_id, 1, SOS)

    play(story())
    site.is_well()
