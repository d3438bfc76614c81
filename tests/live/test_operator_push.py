"""Pushes of OneNET and CTWing over HTTP: proofs, decryption, batches, and an answer only after the commit."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
from collections.abc import Coroutine
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.clock import SystemClock
from gateway.errors import ConfigError, ParseError
from gateway.model import DeviceBinding, Frame, Report, Verdict
from protocols.codecs.operator_messages import CtwingCodec, OneNetCodec
from protocols.transports.operator_push import Ctwing, OneNet, PushReceivers
from tests.live.http_harness import FakeIngest, OneDevice, client_of, run, serving

TOKEN = "token-of-onenet"
AES_KEY = base64.b64encode(bytes(range(32))).decode().rstrip("=")
IMEI = "861234567890123"
POINT = {"type": 1, "dev_id": 2016617, "imei": IMEI, "ds_id": "3347_0_5500", "at": 1_795_309_320_000, "value": True}


class Terminals(OneDevice):
    def device_by_key(self, key: str) -> DeviceBinding | None:
        return DeviceBinding("D-7", "oma.push_button", "onenet", "P-7") if key == IMEI else None


def signed(msg: Any, nonce: str = "Lc2hgb1x") -> bytes:
    """As the platform writes it, computed apart from the code under test."""
    text = msg if isinstance(msg, str) else json.dumps(msg)
    digest = hashlib.md5((TOKEN + nonce + text).encode()).digest()
    body = {"msg": msg, "nonce": nonce, "msg_signature": base64.b64encode(digest).decode()}
    return json.dumps(body).encode()


def sealed(text: str) -> str:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = base64.b64decode(AES_KEY + "=")
    plain = os.urandom(16) + len(text.encode()).to_bytes(4) + text.encode()
    plain += bytes((16 - len(plain) % 16,)) * (16 - len(plain) % 16)
    closer = Cipher(algorithms.AES(key), modes.CBC(key[:16])).encryptor()
    return base64.b64encode(closer.update(plain) + closer.finalize()).decode()


def with_receivers(test: Any, aes_key: str = "") -> None:
    async def main() -> None:
        ingest = FakeIngest()
        receivers = PushReceivers(
            onenet=OneNet(TOKEN, aes_key), ctwing=Ctwing("secret-part"), ingest=ingest, directory=Terminals(),
            clock=SystemClock(),
        )  # fmt: skip
        async with serving(receivers) as server, client_of(server) as client:
            await test(client, ingest)

    coroutine: Coroutine[Any, Any, None] = main()
    run(coroutine)


def test_the_address_is_checked_before_anything_is_pushed() -> None:
    async def test(client: Any, _ingest: FakeIngest) -> None:
        signature = base64.b64encode(hashlib.md5(f"{TOKEN}12345678hello".encode()).digest()).decode()
        for written in (quote(signature, safe=""), signature.replace("+", "%2B")):
            answer = await client.get(f"/push/onenet?msg=hello&nonce=12345678&signature={written}")
            assert (answer.status_code, answer.text) == (200, "hello")
        assert (await client.get("/push/onenet?msg=hello&nonce=12345678&signature=x")).status_code == 403
        assert (await client.get("/push/other")).status_code == 404

    with_receivers(test)


def test_a_push_is_answered_after_the_commit() -> None:
    async def test(client: Any, ingest: FakeIngest) -> None:
        commit = ingest.verdict = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as group:
            sending = group.create_task(client.post("/push/onenet", content=signed(POINT)))
            while not ingest.frames:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            assert not sending.done()
            commit.set_result(Verdict.ACCEPTED)
            assert (await sending).status_code == 200
        frame = ingest.frames[0]
        assert (frame.device_key, frame.verified, frame.codec) == ("D-7", True, "onenet")
        ingest.verdict = Verdict.RETRY
        assert (await client.post("/push/onenet", content=signed(POINT))).status_code == 503

    with_receivers(test)


def test_batches_and_the_encrypted_mode() -> None:
    async def test(client: Any, ingest: FakeIngest) -> None:
        batch = [POINT, {"type": 2, "dev_id": 1, "imei": IMEI, "status": 0, "at": 1_795_309_320_000}]
        assert (await client.post("/push/onenet", content=signed(batch))).status_code == 200
        assert (await client.post("/push/onenet", content=signed(sealed(json.dumps(POINT))))).status_code == 200
        assert [json.loads(frame.payload) for frame in ingest.frames] == [*batch, POINT]
        assert (await client.post("/push/onenet", content=signed("AAAA"))).status_code == 400
        assert ingest.frames[-1].payload, "what cannot be opened is kept as it came"

    with_receivers(test, AES_KEY)


def test_without_proof_it_is_unverified_and_bounded() -> None:
    async def test(client: Any, ingest: FakeIngest) -> None:
        forged = signed(POINT).replace(b'"value": true', b'"value": false')
        statuses = {(await client.post("/push/onenet", content=forged)).status_code for _ in range(15)}
        assert statuses == {401}
        assert 1 <= len(ingest.frames) <= 11
        assert not any(frame.verified for frame in ingest.frames)
        message = json.dumps({"messageType": "dataReport", "IMEI": IMEI, "payload": {"smoke_state": 1}})
        assert (await client.post("/push/ctwing/wrong", content=message)).status_code == 401
        assert (await client.post("/push/ctwing/secret-part", content=message)).status_code == 200
        assert ingest.frames[-1].verified
        assert ingest.frames[-1].device_key == "D-7"
        assert (await client.get("/push/ctwing/secret-part")).status_code == 405

    with_receivers(test)


def test_keys_are_checked() -> None:
    with pytest.raises(ConfigError):
        OneNet(TOKEN, "short")


def parse(codec: Any, message: Any) -> Report:
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    (report,) = codec.parse(Frame("http", codec.name, "t", payload, 1_795_309_323_000_000))
    assert isinstance(report, Report)
    return report


def test_onenet_messages() -> None:
    button = parse(OneNetCodec(), POINT)
    assert (button.device_key, button.fields, button.at_us) == (IMEI, {"/3347/0/pressed": True}, 1_795_309_320_000_000)
    again = parse(OneNetCodec(), POINT)
    assert button.dedup_key == again.dedup_key
    assert button.dedup_key != parse(OneNetCodec(), POINT | {"value": False}).dedup_key
    heart = parse(OneNetCodec(), POINT | {"ds_id": "3303_0_5700", "value": "21.5"})
    assert heart.reading is not None
    assert heart.reading.measurements == {"temperature_celsius": 21.5}
    assert parse(OneNetCodec(), POINT | {"ds_id": "temp", "value": {"a": 1}}).fields == {"temp": {"a": 1}}
    offline = parse(OneNetCodec(), {"type": 2, "dev_id": 5, "status": 0, "login_type": 10})
    assert offline.reading is not None
    assert offline.reading.signals == {"connection_lost": True}


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["payload", "serviceData", "APPdata", "value", "x"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
_NAMES = st.sampled_from(["type", "ds_id", "at", "value", "imei", "status", "messageType", "payload", "IMEI",
                          "timestamp", "eventType", "eventContent"])  # fmt: skip
_MEMBERS = _JSON | st.sampled_from([1, 2, 7, "3347_0_5500", "dataReport", "eventReport", "deviceOnlineOfflineReport"])


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(_NAMES, _MEMBERS, max_size=6))
def test_any_message_gives_a_report_or_a_parse_error(message: dict[str, Any]) -> None:
    for codec in (OneNetCodec(), CtwingCodec()):
        try:
            report = parse(codec, message)
        except ParseError:
            continue
        json.dumps(report.fields, allow_nan=False)
