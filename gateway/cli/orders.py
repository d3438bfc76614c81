"""``carebell orders``: cases, what was promised, and what people do about them."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from msgspec import Struct

from gateway.cli.common import (
    ConfigOption,
    DataDirOption,
    JsonOption,
    open_journal,
    print_json,
    settings_of,
)
from gateway.cli.factory import JSON, REQUIRED, WHERE, Parameters, add_command
from gateway.clock import SystemClock
from gateway.model import Actor

orders = typer.Typer(help="Orders.", no_args_is_help=True, add_completion=False)

CaseArgument = Annotated[str, typer.Argument(metavar="CASE", help="The alert's id, or the platform's order id.")]
AsOption = Annotated[str, typer.Option("--as", metavar="OPERATOR", help="Who acts; the login name without it.")]
NoteOption = Annotated[str, typer.Option("--note", help="Why, for the record.")]
SatisfiedOption = Annotated[
    bool | None, typer.Option("--satisfied/--unsatisfied", help="What the person said; neither: not asked.")
]


@orders.command("list")
def list_orders(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    open_only: Annotated[bool, typer.Option("--open", help="Only those of open alerts.")] = False,
    overdue: Annotated[bool, typer.Option("--overdue", help="Only those whose promised time is over.")] = False,
    supervised: Annotated[bool, typer.Option("--supervised", help="Only those under supervision.")] = False,
    category: Annotated[str, typer.Option("--category", help="emergency, service, consultation or maintenance.")] = "",
    person: Annotated[str, typer.Option("--person", metavar="P", help="Only this person's.")] = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000)] = 1000,
    json_output: JsonOption = False,
) -> None:
    """Newest first, one line (or one JSON object) per case. Example: carebell orders list --overdue --json"""
    from alerts.order_cases import list_cases  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        found = list_cases(
            connection, open_only=open_only, overdue=overdue, supervised=supervised, category=category,
            person_id=person, limit=limit,
        )  # fmt: skip
    for case in found:
        _print(case, json_output=json_output)


@orders.command()
def show(case: CaseArgument, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """One case with its orders, their statuses and what was done, as JSON. Example: carebell orders show O-17"""
    from alerts.order_cases import show as read  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        found = read(connection, case)
    print_json(found, indent=2)


@orders.command("request")
def request_order(
    intent: Annotated[str, typer.Argument(metavar="INTENT", help="life_help, consultation, maintenance or emergency.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What is wanted.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    person: Annotated[str, typer.Option("--person", metavar="P", help="For whom.")] = "",
    device: Annotated[str, typer.Option("--device", metavar="D", help="What is to be repaired.")] = "",
    operator: AsOption = "",
    json_output: JsonOption = False,
) -> None:
    """Open a case that somebody asked for. Example: carebell orders request consultation 'which pills?' --person P-1"""
    from alerts.order_cases import request  # noqa: PLC0415 - keeps `--help` quick
    from gateway.registry.devices import show_device  # noqa: PLC0415
    from gateway.registry.persons import show_person  # noqa: PLC0415

    policy = _policy(config, data_dir)
    with open_journal(config, data_dir) as connection, connection:
        if person:
            show_person(connection, person)
        if device:
            person = person or show_device(connection, device)["person_id"] or ""
        found = request(
            connection, intent, person_id=person, device_id=device, text=text, actor=_actor(operator),
            now_us=SystemClock().now_us(), policy=policy,
        )  # fmt: skip
    _print(found, json_output=json_output)


class Act(Struct, frozen=True, kw_only=True):
    """A command that does one of alerts.order_cases.ACTIONS to a case. ``more`` are parameters of its own."""

    name: str
    action: str
    help: str
    case: Any = CaseArgument
    more: Parameters = {}
    note: Any = NoteOption


ACTS: Final = (
    Act(
        name="redispatch",
        action="redispatch",
        help='The same incident under a new request. Example: `carebell orders redispatch O-17 --note "nobody came"`',
    ),
    Act(
        name="supervise",
        action="supervise",
        help="Ask a supervisor to look after it."
        ' Example: `carebell orders supervise O-17 --note "no answer since noon"`',
    ),
    Act(
        name="complaint",
        action="complaint",
        help='Record a complaint; it is supervised. Example: `carebell orders complaint O-17 --note "came too late"`',
    ),
    Act(
        name="followup",
        action="follow_up",
        help="Somebody asked how it was; answers complaints. Example: carebell orders followup O-17 --satisfied",
        more={"satisfied": (SatisfiedOption, None)},
    ),
)


def add_act(group: typer.Typer, act: Act) -> None:
    def run(*, case: str, config: Path | None, data_dir: Path | None, operator: str, **given: Any) -> None:
        _act(config, data_dir, case, act.action, operator, **given)

    parameters: Parameters = {
        "case": (act.case, REQUIRED),
        **WHERE,
        **act.more,
        "note": (act.note, ""),
        "operator": (AsOption, ""),
        **JSON,
    }
    add_command(group, act.name, act.help, parameters, run)


for each in ACTS:
    add_act(orders, each)


def _act(
    config: Path | None,
    data_dir: Path | None,
    case: str,
    action: str,
    operator: str,
    *,
    json_output: bool,
    **arguments: Any,
) -> None:
    from alerts.order_cases import act  # noqa: PLC0415 - keeps `--help` quick

    policy = _policy(config, data_dir)
    with open_journal(config, data_dir) as connection, connection:
        now_us = SystemClock().now_us()
        shown = act(connection, case, action, actor=_actor(operator), now_us=now_us, policy=policy, **arguments)
    _print(shown, json_output=json_output)


def _actor(operator: str) -> Actor:
    return Actor("operator", operator or getpass.getuser(), role="operator", channel="cli")


def _policy(config: Path | None, data_dir: Path | None) -> Any:
    from alerts.policy import Policy  # noqa: PLC0415 - keeps `--help` quick

    return Policy(site=settings_of(config, data_dir).site)


def _print(case: dict[str, Any], *, json_output: bool) -> None:
    if json_output:
        print_json(case)
        return
    order = case["order"] or {}
    late = " OVERDUE" if case["overdue_at"] and not case["kept_at"] else ""
    supervised = f"  supervised: {', '.join(case['supervised'])}" if case["supervised"] else ""
    print(
        f"{case['alert_id']}  {case['severity']}  {case['category'] or '-':<12} {case['kind']:<18}"
        f" {case['handling']:<11}"
        f" person {case['person_id'] or '-'}  device {case['device_id'] or '-'}  order {order.get('order_id') or '-'}"
        f" {order.get('status') or order.get('state') or ''}  due {case['due_at'] or '-'}{late}{supervised}"
    )
