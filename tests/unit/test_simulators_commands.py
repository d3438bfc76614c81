"""A simulated device carries a command out once, however often it comes, and says what became of it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from device_profiles.loader import load_profiles
from gateway.model import Frame
from protocols.codecs.native import NativeCodec
from simulators.commands import KNOWN, REMEMBERED, Obedience
from simulators.payloads import Place

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOME = Place(39.1, 117.2)


def envelope(command_id: str, name: str, *, expires_at: str = "2026-11-22T12:01:00.000Z") -> bytes:
    return msgspec.json.encode({"command": command_id, "name": name, "parameters": {}, "expires_at": expires_at})


def answered(obedience: Obedience, payload: bytes) -> dict[str, Any]:
    """The answer, which the gateway must understand without a fault."""
    answer = obedience.answer(payload)
    assert answer is not None
    (report,) = NativeCodec().parse(Frame("mqtt", "native", "", answer, 1, "D-1"))
    assert report.faults is None
    found: dict[str, Any] = msgspec.json.decode(answer)
    return found


def test_each_is_done_once_and_answered_every_time() -> None:
    device = Obedience(lambda: HOME, lambda: NOON)
    for _ in range(3):
        assert answered(device, envelope("a", "restart")) == {"command": "a", "result": "done"}
    assert answered(device, envelope("b", "locate"))["position"]["latitude"] == 39.1
    assert device.done == ["restart", "locate"]


def test_what_it_does_not_do() -> None:
    device = Obedience(lambda: None, lambda: NOON)
    assert answered(device, envelope("a", "dance"))["result"] == "unknown"
    assert answered(device, envelope("b", "ring", expires_at="2026-11-22T12:00:00.000Z"))["detail"] == "expired"
    assert answered(device, envelope("c", "locate"))["detail"] == "no fix"
    assert device.done == []


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"5", b'{"cmd": "mute"}', b'{"command": 1, "name": 2, "expires_at": 3}']
)
def test_what_is_no_command_of_the_protocol_gets_no_answer(payload: bytes) -> None:
    assert Obedience(lambda: None).answer(payload) is None


def test_its_memory_is_bounded() -> None:
    device = Obedience(lambda: None, lambda: NOON)
    for number in range(REMEMBERED + 1):
        device.answer(envelope(str(number), "ring"))
    device.answer(envelope(str(REMEMBERED), "ring"))
    assert len(device.done) == REMEMBERED + 1


def test_it_knows_every_command_of_the_native_profile() -> None:
    native = load_profiles().get("carebell.native")
    assert native is not None
    assert set(native.commands) == KNOWN
