"""``carebell devices command`` and ``carebell commands`` as scripts call them, without a gateway that runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import gateway.cli.commands as cli
from gateway.cli.main import build
from gateway.commands import ledger
from gateway.commands.states import Event
from gateway.storage.database import FILE_NAME, open_database

Carebell = Callable[..., Result]


@pytest.fixture
def carebell(tmp_path: Path) -> Carebell:
    runner = CliRunner()

    def run(*arguments: str, code: int = 0) -> Result:
        result = runner.invoke(build(arguments[0]), [*arguments, "--data-dir", str(tmp_path)])
        assert result.exit_code == code, (arguments, result.stdout, result.stderr, result.exception)
        return result

    run("devices", "add", "--id", "D-1", "--profile", "carebell.native")
    return run


def told(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_a_command_is_given_listed_shown_and_taken_back(carebell: Carebell) -> None:
    words = (
        "devices",
        "command",
        "D-1",
        "ring",
        "--param",
        "seconds=9",
        "--expires",
        "2m",
        "--reason",
        "why",
        "--json",
    )
    (given,) = told(carebell(*words))
    assert (given["parameters"], given["state"]) == ({"seconds": 9}, "queued")
    assert "等待设备 queued" in carebell("commands", "list").stdout
    assert [one["id"] for one in told(carebell("commands", "list", "--device", "D-1", "--open", "--json"))] == [
        given["id"]
    ]
    (shown,) = told(carebell("commands", "show", given["id"], "--json"))
    assert shown["steps"][0]["reason"] == "why"
    assert "已取消 cancelled" in carebell("commands", "cancel", given["id"]).stdout
    assert "only a queued one" in carebell("commands", "cancel", given["id"], code=1).stderr
    assert told(carebell("commands", "list", "--open", "--json")) == []


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (("D-9", "ring"), 1, "no device 'D-9'"),
        (("D-1", "rings"), 2, "did you mean ring"),
        (("D-1", "ring", "--param", "seconds"), 2, "write it as NAME=VALUE"),
        (("D-1", "ring", "--param", "seconds=x"), 2, "must be a whole number"),
        (("D-1", "ring", "--expires", "soon"), 2, "write a time such as"),
        (("D-1", "ring", "--expires", "2d"), 2, "write a time such as"),
        (("D-1", "ring", "--expires", "999h"), 2, "10 to 86400 seconds"),
    ],
)
def test_what_cannot_be_is_told_with_its_exit_code(
    carebell: Carebell, words: tuple[str, ...], code: int, reason: str
) -> None:
    assert reason in carebell("devices", "command", *words, code=code).stderr
    assert told(carebell("commands", "list", "--json")) == []


@pytest.mark.parametrize(
    ("events", "code"),
    [([Event.CANCEL], 1), ([Event.SEND, Event.CONFIRM], 0), ([Event.SEND, Event.REFUSE], 1), ([], 75)],
)
def test_waiting_tells_how_it_ended(
    carebell: Carebell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event], code: int
) -> None:
    def pause(_seconds: float) -> None:
        """What the gateway would do meanwhile; or nothing, until nobody can be working on it any more."""
        connection = open_database(tmp_path / FILE_NAME)
        with connection:
            (command,) = ledger.open_commands(connection)
            for event in events:
                ledger.apply(connection, command.id, event, now_us=command.created_at_us + 1)
        connection.close()
        if not events:
            monkeypatch.setattr(cli, "now_us", lambda: command.expires_at_us + 200 * 10**6)

    monkeypatch.setattr("time.sleep", pause)
    (view,) = told(carebell("devices", "command", "D-1", "ring", "--wait", "--json", code=code))
    assert view["finished"] == (code != 75)
