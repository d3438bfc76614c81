"""Commands to devices: over crashes and restarts, taken back, looked at, forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from gateway.commands import ledger
from gateway.commands.states import State
from gateway.errors import ConflictError, NotFoundError, UsageError
from gateway.model import Reading
from tests.commands_world import (
    OPERATOR,
    World,
    opened,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with opened(tmp_path) as it:
        yield it


def test_a_dangerous_command_is_written_down_before_it_goes_and_goes_once(world: World) -> None:
    command = world.ask("T-1", "restart", expires_s=3600)
    world.line.here.add("T-1")
    seen: list[State] = []
    world.line.on_send = lambda: seen.append(ledger.get(world.connection, command.id).state)
    world.turn()
    assert seen == [State.SENT]
    for _ in range(3):
        world.start()
        world.turn(recover=True)
        world.clock.advance(60)
        world.turn()
    assert len(world.line.sent) == 1
    assert world.state(command) == (State.FAILED, "unanswered")


@pytest.mark.parametrize("name", ["restart", "halt"])
def test_a_dangerous_command_whose_device_is_away_waits_and_still_goes_once(world: World, name: str) -> None:
    command = world.ask("T-1", name, expires_s=3600)
    world.turn()
    assert world.state(command) == (State.QUEUED, "")
    world.line.here.add("T-1")
    world.says("T-1", Reading(world.clock.now_us()))
    world.turn()
    world.turn()
    assert len(world.line.sent) == 1
    assert world.state(command) == (State.SENT, "")
    assert (ledger.get(world.connection, command.id).finished_at_us is not None) == (name == "halt")


def test_over_mqtt_a_dangerous_command_never_enters_the_queue(world: World) -> None:
    command = world.ask("D-1", "power_off")
    world.mailbox.here.add("D-1")
    world.turn()
    assert not world.mailbox.kept
    assert [device for device, _ in world.mailbox.once] == ["D-1"]
    world.start()
    world.turn(recover=True)
    assert len(world.mailbox.once) == 1
    world.answers("D-1", {"command": command.id, "result": "done"})
    world.turn()
    assert world.state(command) == (State.CONFIRMED, "done")


def test_after_a_crash_the_answer_in_the_journal_is_found_and_the_rest_sent_again(world: World) -> None:
    first, second = world.ask("T-1", "interval", {"seconds": 1}), world.ask("T-1", "interval", {"seconds": 2})
    world.line.here.add("T-1")
    world.turn()
    world.answers("T-1", {"command": "interval", "result": "done"}, heard=False)  # the crash comes before the sender
    world.start()
    world.turn(recover=True)
    assert world.state(first) == (State.CONFIRMED, "done")
    assert world.line.sent == [b"[490154203237518*1]", b"[490154203237518*2]"]
    world.start()
    world.turn(recover=True)
    assert world.line.sent[2:] == [b"[490154203237518*2]"]
    assert world.state(second) == (State.SENT, "")


def test_what_the_mailbox_keeps_is_not_put_there_twice(world: World) -> None:
    command = world.ask("D-1", "ring")
    world.mailbox.here.add("D-1")
    world.turn()
    world.start()
    world.turn(recover=True)
    assert len(world.mailbox.kept) == 1
    assert world.state(command) == (State.SENT, "")


# ---- cancelling, looking, forgetting ---------------------------------------------------------------------------------


def test_only_what_was_not_sent_can_be_taken_back(world: World) -> None:
    first, second = world.ask("D-1", "ring"), world.ask("D-2", "ring")
    world.mailbox.here.add("D-1")
    world.turn()
    with world.connection, pytest.raises(ConflictError, match="sent already"):
        ledger.cancel(world.connection, first.id, now_us=1, actor=OPERATOR)
    with world.connection:
        ledger.cancel(world.connection, second.id, now_us=1, actor=OPERATOR)
    world.mailbox.here.add("D-2")
    world.turn()
    assert len(world.mailbox.kept) == 1
    with pytest.raises(NotFoundError):
        ledger.show(world.connection, "none")


def test_numbers_are_masked_everywhere_and_forgotten_in_the_end(world: World) -> None:
    command = world.ask("D-1", "contacts", {"numbers": "+8613800001234, 120"})
    assert ledger.view(command)["parameters"] == {"numbers": ["****34", "****"]}
    world.mailbox.here.add("D-1")
    world.turn()
    assert msgspec.json.decode(world.mailbox.kept[1][1])["parameters"]["numbers"] == ["+8613800001234", "120"]
    world.answers("D-1", {"command": command.id, "result": "done"})
    world.turn()
    dump = [row for table in ("command", "audit") for row in world.connection.execute(f"SELECT * FROM {table}")]
    assert "1380000" not in str(dump)


def test_lists_and_retention(world: World) -> None:
    for _ in range(3):
        world.ask("D-1", "ring")
    world.ask("D-2", "ring")
    newest = ledger.list_commands(world.connection, device_id="D-1", limit=2)
    assert [view["number"] for view in newest] == [3, 2]
    assert [view["number"] for view in ledger.list_commands(world.connection, device_id="D-1", before=2)] == [1]
    with pytest.raises(UsageError, match="none of queued"):
        ledger.list_commands(world.connection, state="asleep")
    world.clock.advance(200)
    world.turn()
    assert ledger.list_commands(world.connection, open_only=True) == []
    assert len(ledger.list_commands(world.connection, state="expired")) == 4
    assert ledger.prune(world.connection, now_us=world.clock.now_us()) == 0
    world.clock.advance(93 * 86_400)
    world.turn()
    assert ledger.list_commands(world.connection) == []
