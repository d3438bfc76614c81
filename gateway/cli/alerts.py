"""``carebell alerts``: an operator at a terminal."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any

import typer

from gateway.cli.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    open_journal,
    print_json,
    settings_of,
)
from gateway.clock import SystemClock
from gateway.model import Actor

alerts = typer.Typer(help="Alerts.", no_args_is_help=True, add_completion=False)

AlertArgument = Annotated[str, typer.Argument(metavar="ALERT", help="The alert's id.")]
VersionOption = Annotated[
    int | None, typer.Option("--version", min=1, help="Only if the alert still has this version; a lost race exits 1.")
]
NoteOption = Annotated[str, typer.Option("--note", help="Free text for the record.")]
SeverityOption = Annotated[str, typer.Option("--severity", metavar="P1..P4", help="To this severity.")]
AsOption = Annotated[str, typer.Option("--as", metavar="OPERATOR", help="Who acts; the login name without it.")]


@alerts.command("list")
def list_alerts(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    open_only: Annotated[bool, typer.Option("--open", help="Only those that nobody has resolved.")] = False,
    person: Annotated[str, typer.Option("--person", metavar="P", help="Only this person's.")] = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000)] = 1000,
    json_output: JsonOption = False,
) -> None:
    """Newest first, one line (or one JSON object) per alert. Example: carebell alerts list --open --json"""
    from alerts.rows import list_alerts as read  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        found = read(connection, open_only=open_only, person_id=person, limit=limit)
    for alert in found:
        _print(alert, json_output=json_output)


@alerts.command()
def show(
    alert_id: AlertArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """One alert with its transitions, orders, escalation, messages and calls. Example: carebell alerts show <id>"""
    from alerts.desk import show_alert  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        found = show_alert(connection, alert_id)
    print_json(found, indent=2)


@alerts.command()
def accept(
    alert_id: AlertArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    version: VersionOption = None,
    note: NoteOption = "",
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """I take it. Fails with the owner's name when somebody else was quicker. Example: carebell alerts accept <id>"""
    _act(config, data_dir, alert_id, "accept", operator, json_output, version=version, note=note)


@alerts.command()
def progress(
    alert_id: AlertArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    step: Annotated[
        str, typer.Option("--step", help="contacting_person, talking, ems_called, dispatched, on_scene and so on.")
    ] = "",
    version: VersionOption = None,
    note: NoteOption = "",
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """What is being done. Example: carebell alerts progress <id> --step talking"""
    detail = {"progress": step} if step else {}
    _act(config, data_dir, alert_id, "progress", operator, json_output, version=version, note=note, detail=detail)


@alerts.command()
def release(
    alert_id: AlertArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    version: VersionOption = None,
    note: NoteOption = "",
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """Give it back; it is raised again. Example: `carebell alerts release <id> --note "end of shift"`"""
    _act(config, data_dir, alert_id, "release", operator, json_output, version=version, note=note)


@alerts.command()
def escalate(
    alert_id: AlertArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    severity: SeverityOption = "",
    version: VersionOption = None,
    note: NoteOption = "",
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """More severe: by one, or to --severity. Example: `carebell alerts escalate <id> --note "short of breath"`"""
    detail = {"severity": severity} if severity else {}
    _act(config, data_dir, alert_id, "escalate", operator, json_output, version=version, note=note, detail=detail)


@alerts.command()
def lower(
    alert_id: AlertArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    severity: SeverityOption = "",
    version: VersionOption = None,
    note: NoteOption,
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """Less severe: by one, or to --severity; say why. Example: `carebell alerts lower <id> --note "measured again"`"""
    detail = {"severity": severity} if severity else {}
    _act(config, data_dir, alert_id, "lower", operator, json_output, version=version, note=note, detail=detail)


@alerts.command()
def assign(
    alert_id: AlertArgument,
    to: Annotated[str, typer.Option("--to", metavar="OPERATOR", help="Whose it is from now on.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    version: VersionOption = None,
    note: NoteOption = "",
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """Give it, or hand it over, to somebody. Example: carebell alerts assign <id> --to li.na"""
    detail = {"owner": to}
    _act(config, data_dir, alert_id, "assign", operator, json_output, version=version, note=note, detail=detail)


@alerts.command()
def reopen(
    alert_id: AlertArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    version: VersionOption = None,
    note: NoteOption,
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """It was not over; say why. Example: `carebell alerts reopen <id> --note "she called again"`"""
    _act(config, data_dir, alert_id, "reopen", operator, json_output, version=version, note=note)


@alerts.command()
def resolve(
    alert_id: AlertArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    outcome: Annotated[
        str,
        typer.Option("--outcome", help="emergency, assistance, false_press, fall_ok, test, technical, duplicate ..."),
    ],
    version: VersionOption = None,
    note: NoteOption = "",
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """It is over, and how it ended. Example: carebell alerts resolve <id> --outcome assistance"""
    _act(config, data_dir, alert_id, "resolve", operator, json_output, version=version, note=note, outcome=outcome)


@alerts.command()
def note(
    alert_id: AlertArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """Write something down. Example: `carebell alerts note <id> "neighbour has the key"`"""
    _act(config, data_dir, alert_id, "note", operator, json_output, note=text)


@alerts.command()
def redispatch(
    alert_id: AlertArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    note: NoteOption = "",
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """The same incident under a new order. Example: `carebell alerts redispatch <id> --note "nobody came"`"""
    from gateway.cli.orders import act_on  # noqa: PLC0415 - keeps `--help` quick

    act_on(config, data_dir, alert_id, "redispatch", operator, note=note, json_output=json_output)


def _act(
    config: Path | None,
    data_dir: Path | None,
    alert_id: str,
    action: str,
    operator: str,
    json_output: bool,
    **arguments: Any,
) -> None:
    from alerts.desk import act  # noqa: PLC0415 - keeps `--help` quick
    from alerts.policy import Policy  # noqa: PLC0415

    actor = Actor("operator", operator or getpass.getuser(), role="operator", channel="cli")
    policy = Policy(site=settings_of(config, data_dir).site)
    arguments = {"version": None, **arguments}
    with open_journal(config, data_dir) as connection, connection:
        now_us = SystemClock().now_us()
        shown = act(connection, alert_id, action, actor=actor, now_us=now_us, policy=policy, **arguments)
    _print(shown, json_output=json_output)


def _print(alert: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        print_json(alert)
        return
    order = alert["order"] or {}
    owner = f" {alert['owner']}" if alert.get("owner") else ""
    print(
        f"{alert['id']}  v{alert['version']:<3} {alert['severity']}  {alert['kind']:<22} {alert['condition']:<8}"
        f" {alert['handling']}{owner}  person {alert['person_id'] or '-'}  device {alert['device_id'] or '-'}"
        f"  x{alert['occurrences']}  {alert['raised_at']}  order {order.get('order_id') or order.get('state') or '-'}"
    )
