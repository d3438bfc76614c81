"""``carebell suppressions``: bounded times in which alerts are kept and not escalated."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any, Literal

import apsw
import typer

from gateway.cli.common import ConfigOption, DataDirOption, JsonOption, open_journal, print_json, settings_of
from gateway.clock import US_PER_S, SystemClock
from gateway.errors import UsageError
from gateway.model import Actor

suppressions = typer.Typer(help="Test mode and maintenance.", no_args_is_help=True, add_completion=False)

DeviceOption = Annotated[str, typer.Option("--device", metavar="D", help="Alerts of this device.")]
PersonOption = Annotated[str, typer.Option("--person", metavar="P", help="Alerts of this person.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the audit.")]
AsOption = Annotated[str, typer.Option("--as", metavar="OPERATOR", help="Who acts; the login name without it.")]


@suppressions.command("list")
def list_suppressions(
    config: ConfigOption = None, data_dir: DataDirOption = None, *, json_output: JsonOption = False
) -> None:
    """What is in force now. Example: carebell suppressions list"""
    from alerts.suppression import in_force  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        found = in_force(connection, SystemClock().now_us())
    for each in found:
        _print(each, json_output=json_output)


@suppressions.command("test")
def begin_test(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    device: DeviceOption = "",
    person: PersonOption = "",
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, max=30)] = 15,
    reason: ReasonOption,
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """Test mode: alerts are kept and end as `test`, an SOS too; at most 30 minutes.

    Example: `carebell suppressions test --device D-0001 --minutes 10 --reason installation`
    """
    _start(config, data_dir, "test", _subject(device, person, ""), minutes, reason, operator, json_output)


@suppressions.command()
def maintenance(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    device: DeviceOption = "",
    person: PersonOption = "",
    whole_site: Annotated[bool, typer.Option("--site", help="Everything of this site.")] = False,
    minutes: Annotated[float, typer.Option("--minutes", min=0.1, max=1440)] = 60,
    reason: ReasonOption,
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """Maintenance: alerts are kept until its end, emergencies are told as always; at most 24 hours.

    Example: `carebell suppressions maintenance --site --minutes 120 --reason "network is rebuilt"`
    """
    site = settings_of(config, data_dir).site if whole_site else ""
    _start(config, data_dir, "maintenance", _subject(device, person, site), minutes, reason, operator, json_output)


@suppressions.command()
def end(
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=1)],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    operator: AsOption = "",
) -> None:
    """End it before its time; what it held back is looked at now. Example: carebell suppressions end 3"""
    from alerts.suppression import stop  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir) as connection, connection:
        stop(connection, number, actor=_actor(operator), now_us=SystemClock().now_us())


def _subject(device: str, person: str, site: str) -> str:
    named = [f"{scope}/{name}" for scope, name in (("device", device), ("person", person), ("site", site)) if name]
    return named[0] if len(named) == 1 else ""


def _start(
    config: Path | None,
    data_dir: Path | None,
    kind: Literal["test", "maintenance"],
    subject: str,
    minutes: float,
    reason: str,
    operator: str,
    json_output: bool,
) -> None:
    from alerts.suppression import in_force, start  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir) as connection, connection:
        _require(connection, subject)
        now_us = SystemClock().now_us()
        until_us = now_us + round(minutes * 60 * US_PER_S)
        number = start(connection, kind, subject, until_us, actor=_actor(operator), reason=reason, now_us=now_us)
        begun = next(each for each in in_force(connection, now_us) if each["id"] == number)
    _print(begun, json_output=json_output)


def _require(connection: apsw.Connection, subject: str) -> None:
    """Raises UsageError without exactly one subject, NotFoundError for one that is not in the registry."""
    from gateway.registry.devices import show_device  # noqa: PLC0415 - keeps `--help` quick
    from gateway.registry.persons import show_person  # noqa: PLC0415

    scope, _, name = subject.partition("/")
    if not scope:
        raise UsageError("name one subject: --device, --person or (maintenance) --site")
    if scope != "site":
        {"device": show_device, "person": show_person}[scope](connection, name)


def _actor(operator: str) -> Actor:
    """Who may write the journal's file may do what an administrator may."""
    return Actor("operator", operator or getpass.getuser(), role="admin", channel="cli")


def _print(each: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        print_json(each)
    else:
        print(
            f"{each['id']}  {each['kind']:<11} {each['subject']:<24} until {each['until']}"
            f"  {each['actor']}: {each['reason']}"
        )
