"""``carebell alerts``: an operator at a terminal."""

from __future__ import annotations

import getpass
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from msgspec import Struct

from gateway.cli import orders
from gateway.cli.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    open_journal,
    print_json,
    settings_of,
)
from gateway.cli.factory import JSON, REQUIRED, WHERE, Parameters, add_command
from gateway.cli.orders import AsOption
from gateway.clock import SystemClock
from gateway.model import Actor

alerts = typer.Typer(help="Alerts.", no_args_is_help=True, add_completion=False)

AlertArgument = Annotated[str, typer.Argument(metavar="ALERT", help="The alert's id.")]
VersionOption = Annotated[
    int | None, typer.Option("--version", min=1, help="Only if the alert still has this version; a lost race exits 1.")
]
NoteOption = Annotated[str, typer.Option("--note", help="Free text for the record.")]
SeverityOption = Annotated[str, typer.Option("--severity", metavar="P1..P4", help="To this severity.")]


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


class Act(Struct, frozen=True):
    """One thing that an operator does to an alert: a command, and an action of alerts.states.DESK_ACTIONS.

    ``first`` are parameters of its own before the common ones, ``more`` behind them. ``detail`` makes the action's
    detail of what was given.
    """

    name: str
    help: str
    first: Parameters = {}
    more: Parameters = {}
    note_needed: bool = False
    detail: Callable[[dict[str, Any]], dict[str, Any]] = lambda _: {}


def _severity(given: dict[str, Any]) -> dict[str, Any]:
    severity = given.pop("severity")
    return {"severity": severity} if severity else {}


def _step(given: dict[str, Any]) -> dict[str, Any]:
    step = given.pop("step")
    return {"progress": step} if step else {}


StepOption = Annotated[
    str, typer.Option("--step", help="contacting_person, talking, ems_called, dispatched, on_scene and so on.")
]
ToOption = Annotated[str, typer.Option("--to", metavar="OPERATOR", help="Whose it is from now on.")]
OutcomeOption = Annotated[
    str,
    typer.Option("--outcome", help="emergency, assistance, false_press, fall_ok, test, technical, duplicate ..."),
]

ACTS: Final = (
    Act(
        "accept",
        "I take it. Fails with the owner's name when somebody else was quicker. Example: carebell alerts accept <id>",
    ),
    Act(
        "progress",
        "What is being done. Example: carebell alerts progress <id> --step talking",
        more={"step": (StepOption, "")},
        detail=_step,
    ),
    Act("release", 'Give it back; it is raised again. Example: `carebell alerts release <id> --note "end of shift"`'),
    Act(
        "escalate",
        'More severe: by one, or to --severity. Example: `carebell alerts escalate <id> --note "short of breath"`',
        more={"severity": (SeverityOption, "")},
        detail=_severity,
    ),
    Act(
        "lower",
        'Less severe: by one, or to --severity; say why. Example: `carebell alerts lower <id> --note "measured again"`',
        more={"severity": (SeverityOption, "")},
        note_needed=True,
        detail=_severity,
    ),
    Act(
        "assign",
        "Give it, or hand it over, to somebody. Example: carebell alerts assign <id> --to li.na",
        first={"to": (ToOption, REQUIRED)},
        detail=lambda given: {"owner": given.pop("to")},
    ),
    Act(
        "reopen",
        'It was not over; say why. Example: `carebell alerts reopen <id> --note "she called again"`',
        note_needed=True,
    ),
    Act(
        "resolve",
        "It is over, and how it ended. Example: carebell alerts resolve <id> --outcome assistance",
        more={"outcome": (OutcomeOption, REQUIRED)},
    ),
)


def _add(act: Act) -> None:
    def run(*, alert_id: str, config: Path | None, data_dir: Path | None, **given: Any) -> None:
        detail = act.detail(given)
        _act(config, data_dir, alert_id, act.name, **given, detail=detail)

    parameters: Parameters = {
        "alert_id": (AlertArgument, REQUIRED),
        **act.first,
        **WHERE,
        **act.more,
        "version": (VersionOption, None),
        "note": (NoteOption, REQUIRED if act.note_needed else ""),
        "operator": (AsOption, ""),
        **JSON,
    }
    add_command(alerts, act.name, act.help, parameters, run)


for each in ACTS:
    _add(each)


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
    _act(config, data_dir, alert_id, "note", operator=operator, json_output=json_output, note=text)


orders.add_act(
    alerts,
    orders.Act(
        name="redispatch",
        action="redispatch",
        help='The same incident under a new order. Example: `carebell alerts redispatch <id> --note "nobody came"`',
        case=AlertArgument,
        note=NoteOption,
    ),
)


def _act(
    config: Path | None,
    data_dir: Path | None,
    alert_id: str,
    action: str,
    *,
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
