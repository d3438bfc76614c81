"""An emergency without a place asks the device where it is; answers in the native protocol."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.commands import ledger
from gateway.model import Frame, Position, Reading, Report, Urgency
from protocols.codecs.native import NativeCodec
from tests.commands_world import (
    World,
    opened,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with opened(tmp_path) as it:
        yield it


def press(world: World, device_id: str, position: Position | None = None, *, stored: bool = False) -> None:
    reading = Reading(world.clock.now_us(), signals={"sos": True}, position=position, stored=stored)
    world.says(device_id, reading, urgency=Urgency.EMERGENCY)


def test_a_press_without_a_place_asks_the_device_where_it_is_once(world: World) -> None:
    world.mailbox.here.add("D-1")
    world.turn()
    press(world, "D-1")
    press(world, "D-1", Position(39.0, 117.0, 1, valid=False))
    world.turn()
    press(world, "D-1")
    world.turn()
    (payload,) = world.mailbox.kept.values()
    assert msgspec.json.decode(payload[1])["name"] == "locate"
    (view,) = ledger.list_commands(world.connection)
    assert view["requested_by"]["id"] == "locate-on-emergency"


def test_a_press_with_a_place_or_from_a_device_that_is_not_there_asks_nothing(world: World) -> None:
    world.mailbox.here |= {"D-1", "J-1"}
    press(world, "D-1", Position(39.0, 117.0, 1))
    press(world, "D-1", stored=True)
    press(world, "D-2")
    press(world, "J-1")  # its profile has no such command
    world.turn()
    assert ledger.list_commands(world.connection) == []


# ---- the native protocol's answer ------------------------------------------------------------------------------------


def parse(payload: bytes) -> Report:
    (report,) = NativeCodec().parse(Frame("mqtt", "native", "", payload, 1, "D-1"))
    return report


def test_a_native_answer_is_no_fault_and_may_stand_beside_readings() -> None:
    report = parse(b'{"seq": 3, "command": "ab12", "result": "refused", "detail": "on charge"}')
    assert report.faults is None
    assert report.seq == 3
    assert report.reading is not None
    assert report.reading.unknown == {"command_reply": {"command": "ab12", "result": "refused", "detail": "on charge"}}
    report = parse(b'{"command": "ab12", "result": "done", "position": {"latitude": 39, "longitude": 117}}')
    assert report.faults is None
    assert report.reading is not None
    assert report.reading.position is not None


@pytest.mark.parametrize(
    ("payload", "fault"),
    [
        (b'{"command": 5, "result": "done"}', "command: not the id"),
        (b'{"command": "", "result": "done"}', "command: not the id"),
        (b'{"command": "a"}', "result: none of done, refused, unknown"),
        (b'{"command": "a", "result": "ok", "signals": ["sos"]}', "result: none of"),
        (b'{"command": "a", "result": "done", "detail": 5}', "detail: a number"),
    ],
)
def test_a_bad_answer_is_a_fault_of_that_member(payload: bytes, fault: str) -> None:
    report = parse(payload)
    assert report.faults is not None
    assert fault in report.faults[0]
    if b"sos" in payload:
        assert report.reading is not None
        assert report.reading.signals == {"sos": True}
