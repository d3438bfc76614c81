"""Commands to devices: what the sender does with them, who is told what, and when they end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.commands import ledger
from gateway.commands.sender import ABSENT_US
from gateway.commands.states import Event, State
from gateway.errors import UsageError
from gateway.model import Committed, Reading, Record
from tests.commands_world import (
    DEVICES,
    World,
    opened,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with opened(tmp_path) as it:
        yield it


def test_a_sleeping_device_gets_its_commands_in_order_when_it_is_there(world: World) -> None:
    first, second = world.ask("D-1", "ring", {"seconds": "5"}), world.ask("D-1", "locate")
    world.turn()
    assert world.state(first) == (State.QUEUED, "")
    assert not world.mailbox.kept
    world.mailbox.here.add("D-1")
    world.turn()
    envelopes = [msgspec.json.decode(payload) for _, payload in world.mailbox.kept.values()]
    assert envelopes[0] == {
        "command": first.id, "name": "ring", "parameters": {"seconds": 5}, "expires_at": "2026-11-22T12:02:00.000Z",
    }  # fmt: skip
    assert envelopes[1]["command"] == second.id
    assert world.state(first) == (State.SENT, "")
    world.sender.outcome(1, "acknowledged", True)
    world.sender.outcome(2, "refused", True)
    world.turn()
    assert world.state(first) == (State.ACKNOWLEDGED, "")
    assert world.state(second) == (State.FAILED, "refused")
    world.answers("D-1", {"command": first.id, "result": "done"})
    world.turn()
    assert world.state(first) == (State.CONFIRMED, "done")
    assert world.sender.totals == {
        "sent": 2, "acknowledged": 1, "failed_refused": 1, "confirmed": 1,
    }  # fmt: skip


def test_what_came_too_late_is_never_sent(world: World) -> None:
    command = world.ask("D-1", "ring", expires_s=10)
    world.clock.advance(10)
    world.mailbox.here.add("D-1")
    world.turn()
    assert world.state(command) == (State.EXPIRED, "")
    assert not world.mailbox.kept


@pytest.mark.parametrize(("transmitted", "state"), [(False, (State.EXPIRED, "")), (True, (State.FAILED, "unanswered"))])
def test_a_message_that_expired_on_its_way_is_only_called_expired_when_nobody_got_it(
    world: World, transmitted: bool, state: tuple[State, str]
) -> None:
    command = world.ask("D-1", "ring", expires_s=10)
    world.mailbox.here.add("D-1")
    world.turn()
    world.clock.advance(11)
    world.sender.outcome(1, "expired", transmitted)
    world.turn()
    assert world.state(command) == state


def test_a_full_mailbox_is_for_later_and_a_command_too_long_is_not(world: World) -> None:
    world.mailbox.here.add("D-1")
    world.mailbox.full = True
    command = world.ask("D-1", "ring")
    world.turn()
    assert world.state(command) == (State.QUEUED, "")
    world.mailbox.full = False
    world.turn()
    world.sender.outcome(1, "too_large", False)
    world.turn()
    assert world.state(command) == (State.FAILED, "unsendable")


def test_silence_and_the_answer_that_came_late(world: World) -> None:
    command = world.ask("D-1", "ring")
    world.mailbox.here.add("D-1")
    world.turn()
    world.sender.outcome(1, "acknowledged", True)
    world.turn()
    world.clock.advance(119)
    world.turn()
    assert world.state(command) == (State.ACKNOWLEDGED, "")
    world.clock.advance(1)
    world.turn()
    assert world.state(command) == (State.FAILED, "unanswered")
    world.answers("D-1", {"command": command.id, "result": "done"})
    world.turn()
    assert world.state(command) == (State.CONFIRMED, "done")


@pytest.mark.parametrize(
    "reply",
    [
        {"command": "another", "result": "done"}, {"result": "perhaps", "command": "ring"}, 7, [["ring"]],
        {"command": "x" * 65}, {"command": 5},
    ],
)  # fmt: skip
def test_answers_that_fit_nothing_change_nothing(world: World, reply: Any) -> None:
    command = world.ask("D-1", "ring")
    world.mailbox.here.add("D-1")
    world.turn()
    world.answers("D-1", reply)
    world.turn()
    assert world.state(command) == (State.SENT, "")


def test_nobody_answers_for_another_device_or_without_a_credential(world: World) -> None:
    command = world.ask("D-1", "ring")
    world.mailbox.here.add("D-1")
    world.turn()
    world.answers("D-2", {"command": command.id, "result": "done"})
    world.answers("D-1", {"command": command.id, "result": "done"}, verified=False)
    world.turn()
    assert world.state(command) == (State.SENT, "")
    assert world.sender.totals["stray_answer"] == 1


def test_a_terminal_is_told_one_thing_at_a_time_and_answers_by_name(world: World) -> None:
    first, second = world.ask("T-1", "interval", {"seconds": 30}), world.ask("T-1", "interval", {"seconds": 40})
    world.turn()
    assert (world.line.tries, world.line.sent) == (1, [])
    world.turn()
    assert world.line.tries == 1  # it is left alone until it speaks
    world.line.here.add("T-1")
    world.says("T-1", Reading(world.clock.now_us()))
    world.turn()
    assert world.line.sent == [b"[490154203237518*30]"]
    assert world.state(second) == (State.QUEUED, "")
    world.answers("T-1", "interval")
    world.turn()
    assert world.state(first) == (State.CONFIRMED, "done")
    assert world.line.sent[-1] == b"[490154203237518*40]"
    world.answers("T-1", {"result": "refused"})  # it does not say to what
    world.turn()
    assert world.state(second) == (State.FAILED, "refused")


def test_the_key_is_the_one_that_the_terminal_uses(world: World) -> None:
    record = Record(1, "tcp", "terminal", "", b"", "T-1", "0123456789", "", "test.watch", True, 0, "", None)
    world.sender.observe(Committed(1, [record]))
    world.line.here.add("T-1")
    world.ask("T-1", "restart")
    world.turn()
    assert world.line.sent == [b"[0123456789*R]"]


def test_a_harmless_command_without_an_answer_goes_out_again_a_few_times(world: World) -> None:
    command = world.ask("T-1", "interval", expires_s=3600)
    world.line.here.add("T-1")
    for attempt in (1, 2, 3):
        world.turn()
        assert len(world.line.sent) == attempt
        world.clock.advance(120)
        world.turn()
    assert world.state(command) == (State.FAILED, "unanswered")
    world.turn()
    assert len(world.line.sent) == 3


def test_an_absent_terminal_is_tried_now_and_then(world: World) -> None:
    command = world.ask("T-1", "interval", expires_s=3600)
    world.turn()
    world.clock.advance(ABSENT_US / 1e6)
    world.turn()
    assert world.line.tries == 2
    assert world.state(command) == (State.QUEUED, "")
    assert [step["state"] for step in ledger.show(world.connection, command.id)["steps"]] == ["queued"]


def test_a_profile_that_went_away_ends_its_commands(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    command = world.ask("D-1", "ring")
    world.mailbox.here.add("D-1")
    monkeypatch.setitem(DEVICES, "D-1", "test.gone")
    world.turn()
    assert world.state(command) == (State.FAILED, "unsendable")


@pytest.mark.parametrize(
    ("error", "harmless", "dangerous"),
    [
        (ConnectionResetError(), (State.QUEUED, ""), (State.SENT, "")),
        (TimeoutError(), (State.QUEUED, ""), (State.SENT, "")),
        (UsageError("too long"), (State.FAILED, "unsendable"), (State.FAILED, "unsendable")),
    ],
)
def test_a_line_that_breaks_while_it_takes_a_command(
    world: World, error: Exception, harmless: tuple[State, str], dangerous: tuple[State, str]
) -> None:
    def broken() -> None:
        raise error

    world.line.on_send = broken
    first = world.ask("T-1", "interval", expires_s=3600)
    world.turn()
    assert world.state(first) == harmless
    with world.connection:
        ledger.apply(world.connection, first.id, Event.CANCEL, now_us=world.clock.now_us())
    second = world.ask("T-1", "restart", expires_s=3600)
    world.sender.contact("T-1")
    world.turn()
    assert world.state(second) == dangerous
