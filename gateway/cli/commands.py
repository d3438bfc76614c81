"""``carebell devices command`` and ``carebell commands``: tell a device something, and see what became of it."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from gateway.cli.common import (
    CLI_ACTOR,
    EXIT_TEMPORARY,
    EXIT_USAGE,
    EXIT_WRONG,
    ConfigOption,
    DataDirOption,
    JsonOption,
    fail,
    print_json,
    settings_of,
)
from gateway.cli.registry_shared import ReasonOption, now_us, reading, transaction
from gateway.errors import ConfigError

commands = typer.Typer(help="Commands to devices.", no_args_is_help=True, add_completion=False)

CommandArgument = Annotated[str, typer.Argument(metavar="ID", help="The command's id.")]

STATES_ZH: Final = {
    "queued": "等待设备", "sent": "已发送", "acknowledged": "已送达", "confirmed": "已执行", "failed": "失败",
    "expired": "已过期", "cancelled": "已取消",
}  # fmt: skip
RESULTS_ZH: Final = {
    "done": "完成", "refused": "设备拒绝", "unknown": "设备不支持", "unanswered": "无应答", "unsendable": "无法发送",
}  # fmt: skip
WAIT_POLL_S: Final = 0.3
GRACE_S: Final = 15

_DURATION: Final = re.compile(r"([0-9]{1,6})(s|m|h)?")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600}


def command(
    device_id: Annotated[str, typer.Argument(metavar="ID", help="The device's id.")],
    name: Annotated[str, typer.Argument(metavar="COMMAND", help="One of its profile: locate, ring, restart, ...")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    parameter: Annotated[
        list[str] | None,
        typer.Option("--param", metavar="NAME=VALUE", help="A parameter; may be given again. A list has commas."),
    ] = None,
    expires: Annotated[
        str,
        typer.Option("--expires", metavar="10m", help="Send it within this time or never; without it the profile's."),
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it is over: exit code 0 when it succeeded, 1 when not, 75: not yet.")
    ] = False,
    reason: ReasonOption = "",
    json_output: JsonOption = False,
) -> None:
    """Tell a device something, now or when it is next in contact.

    Example: carebell devices command D-0001 ring --param seconds=30 --expires 2m --wait
    """
    from device_profiles.loader import load_profiles  # noqa: PLC0415 - keeps `--help` quick
    from gateway.commands import ledger  # noqa: PLC0415
    from gateway.downlink import ProfileCommands  # noqa: PLC0415
    from protocols.registry import CODECS  # noqa: PLC0415

    settings = settings_of(config, data_dir)
    try:
        profiles = load_profiles([settings.profiles_dir])
    except ConfigError as error:
        fail(str(error), 78)
    with transaction(config, data_dir) as connection:
        given = ledger.request(
            connection,
            ProfileCommands(profiles, CODECS),
            device_id,
            name,
            _parameters(parameter or []),
            now_us=now_us(),
            actor=CLI_ACTOR,
            expires_s=_seconds(expires) if expires else None,
            reason=reason,
        )
    if not wait:
        _print(ledger.view(given), json_output=json_output)
        return
    view = _wait(config, data_dir, given.id, given.confirm_within_s)
    _print(view, json_output=json_output)
    if not view["finished"]:
        raise typer.Exit(EXIT_TEMPORARY)
    if view["state"] in ("failed", "expired", "cancelled"):
        raise typer.Exit(EXIT_WRONG)


@commands.command("list")
def list_(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    device: Annotated[str, typer.Option("--device", metavar="D", help="Only this device's.")] = "",
    state: Annotated[str, typer.Option("--state", metavar="STATE", help="Only those in this state.")] = "",
    open_only: Annotated[bool, typer.Option("--open", help="Only those that are not over.")] = False,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000)] = 100,
    json_output: JsonOption = False,
) -> None:
    """Newest first, one line (or one JSON object) per command. Example: carebell commands list --open --json"""
    from gateway.commands.ledger import list_commands  # noqa: PLC0415 - keeps `--help` quick

    with reading(config, data_dir) as connection:
        found = list_commands(connection, device_id=device, state=state, open_only=open_only, limit=limit)
    for view in found:
        _print(view, json_output=json_output)


@commands.command()
def show(
    command_id: CommandArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    json_output: JsonOption = False,
) -> None:
    """One command with its steps, as JSON. Example: carebell commands show 8c1f5b0d3a7e4c92"""
    from gateway.commands import ledger  # noqa: PLC0415 - keeps `--help` quick

    with reading(config, data_dir) as connection:
        found = ledger.show(connection, command_id)
    print_json(found, indent=None if json_output else 2)


@commands.command()
def cancel(
    command_id: CommandArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    reason: ReasonOption = "",
    json_output: JsonOption = False,
) -> None:
    """Take back a command that has not been sent. Example: carebell commands cancel 8c1f5b0d3a7e4c92"""
    from gateway.commands import ledger  # noqa: PLC0415 - keeps `--help` quick

    with transaction(config, data_dir) as connection:
        found = ledger.cancel(connection, command_id, now_us=now_us(), actor=CLI_ACTOR, reason=reason)
    _print(ledger.view(found), json_output=json_output)


def _parameters(assignments: list[str]) -> dict[str, str]:
    values = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator:
            fail(f"--param {assignment}: write it as NAME=VALUE", EXIT_USAGE)
        values[name.strip()] = value
    return values


def _seconds(text: str) -> int:
    found = _DURATION.fullmatch(text.strip().lower())
    if found is None:
        fail(f"--expires {text}: write a time such as 30s, 10m or 2h", EXIT_USAGE)
    return int(found[1]) * _SECONDS[found[2] or "s"]


def _wait(config: Path | None, data_dir: Path | None, command_id: str, confirm_within_s: int) -> dict[str, Any]:
    """The command once it is over, or as it is when nobody seems to work on it."""
    from gateway.commands import ledger  # noqa: PLC0415 - keeps `--help` quick

    while True:
        with reading(config, data_dir) as connection:
            found = ledger.get(connection, command_id)
        last_us = max(found.expires_at_us, found.answer_by_us or 0) + (confirm_within_s + GRACE_S) * 1_000_000
        if found.finished_at_us is not None or now_us() > last_us:
            return ledger.view(found)
        time.sleep(WAIT_POLL_S)


def _print(view: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        print_json(view)
        return
    result = f" ({RESULTS_ZH[view['result']]} {view['result']})" if view["result"] else ""
    told = "".join(f" {name}={value}" for name, value in view["parameters"].items())
    print(f"{view['id']}  {view['created_at']}  {view['device_id']}  {view['name']}{told}  "
          f"{STATES_ZH[view['state']]} {view['state']}{result}")  # fmt: skip
