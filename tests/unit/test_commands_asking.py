"""Commands to devices: what may be asked for, and what the profile says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_profiles.schema import parse_profile
from gateway.commands import ledger
from gateway.commands.catalog import find
from gateway.errors import ConfigError, ConflictError, NotFoundError, UsageError
from gateway.registry.devices import set_state
from tests.commands_world import (
    CATALOG,
    JSON_DOOR,
    OPERATOR,
    World,
    opened,
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with opened(tmp_path) as it:
        yield it


@pytest.mark.parametrize(
    ("name", "parameters", "told"),
    [
        ("rings", {}, "did you mean ring"),
        ("ring", {"seconds": 0}, "seconds: must be a whole number from 1 to 300"),
        ("ring", {"seconds": 1.5}, "whole number"),
        ("ring", {"seconds": True}, "whole number"),
        ("ring", {"seconds": 10**400}, "whole number"),
        ("ring", {"seconds": "nan"}, "whole number"),
        ("ring", {"minutes": 1}, "ring has no such parameter; it has: seconds"),
        ("call_back", {}, "number: must be given (a telephone number)"),
        ("call_back", {"number": "12a"}, "a telephone number"),
        ("contacts", {"numbers": ["1380000000" + str(n) for n in range(17)]}, "a list of 0 to 16 telephone numbers"),
        ("thresholds", {"metric": "steps", "low": 1, "high": 2}, "one of heart_rate_bpm"),
        ("thresholds", {}, "metric: must be given"),
    ],
)
def test_what_the_profile_does_not_allow_is_refused_with_its_reason(
    world: World, name: str, parameters: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError) as caught:
        world.ask("D-1", name, parameters)
    assert told in str(caught.value)
    assert ledger.open_commands(world.connection) == []


def test_every_fault_is_told_at_once(world: World) -> None:
    with pytest.raises(UsageError) as caught:
        world.ask("D-1", "thresholds", {"metric": "x", "low": "a", "zz": 1})
    assert re.findall(r"(?:^|; )(\w+):", str(caught.value)) == ["zz", "metric", "low", "high"]


def test_who_and_how_many(world: World) -> None:
    with pytest.raises(NotFoundError):
        world.ask("D-9", "ring")
    with pytest.raises(ledger.NotAllowedError, match="admin or supervisor"):
        world.ask("D-1", "restart", may_be_dangerous=False)
    for seconds in (9, 86_401):
        with pytest.raises(UsageError, match="10 to 86400 seconds"):
            world.ask("D-1", "ring", expires_s=seconds)
    world.ask("D-1", "restart")
    with pytest.raises(ConflictError, match="one at a time"):
        world.ask("D-1", "power_off")
    world.ask("D-2", "restart")  # another device's
    for _ in range(9):
        world.ask("D-1", "ring")
    with pytest.raises(ConflictError, match="wait a little"):
        world.ask("D-1", "ring")
    world.clock.advance(61)
    for _ in range(6):
        world.ask("D-1", "ring")
    with pytest.raises(ConflictError, match="are under way"):
        world.ask("D-1", "ring")
    with world.connection:
        set_state(world.connection, "D-2", "suspend", at_us=1, actor=OPERATOR)
    with pytest.raises(ConflictError, match="suspended"):
        world.ask("D-2", "ring")


def test_a_command_that_the_codec_cannot_say_is_refused(world: World) -> None:
    with pytest.raises(UsageError, match="cannot be said in the device's protocol: not 13"):
        world.ask("T-1", "interval", {"seconds": 13})
    with pytest.raises(UsageError, match=r"there are: halt, interval, restart|did you mean"):
        world.ask("T-1", "dance")
    with pytest.raises(UsageError, match="take no commands"):
        find(CATALOG, "test.nothing", "ring")


def test_a_payload_is_json_whatever_the_parameters_say(world: World) -> None:
    text = 'a"}\\ {size} 中'
    command = world.ask("J-1", "name", {"text": text, "many": 'x, y"'})
    world.mailbox.here.add("J-1")
    world.turn()
    sent = msgspec.json.decode(world.mailbox.kept[1][1])
    assert sent == {"n": text, "s": 2.5, "l": ["x", 'y"'], "i": command.id}


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ({"payload": "{x}"}, "payload names {x}, which is no parameter"),
        ({"payload": "-", "parameters": {"x": {"minimum": 1, "maximum": 2}}}, "parameter x is not in payload"),
        ({"parameters": {"x": {"minimum": 1}}}, "a number needs minimum and maximum"),
        ({"parameters": {"x": {"minimum": 3, "maximum": 2}}}, "minimum is above maximum"),
        ({"parameters": {"x": {"type": "phone", "choices": ["a"]}}}, "only a text has choices"),
        ({"dangerus": True}, 'did you mean "dangerous"'),
    ],
)
def test_a_profile_that_contradicts_itself_is_refused(command: dict[str, Any], told: str) -> None:
    values = {**JSON_DOOR, "commands": {"c": {"title": {"zh": "某", "en": "Some"}, **command}}}
    with pytest.raises(ConfigError) as caught:
        parse_profile("p.toml", values)
    assert told in str(caught.value)
