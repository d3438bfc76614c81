"""``carebell outbox``: what waits to be delivered, and what could not be."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.common import (
    CLI_ACTOR,
    ConfigOption,
    DataDirOption,
    JsonOption,
    open_journal,
    print_json,
)
from gateway.clock import SystemClock

outbox = typer.Typer(help="The outbox.", no_args_is_help=True, add_completion=False)

DispatchArgument = Annotated[int, typer.Argument(metavar="ID", help="The dispatch's number.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="For the audit.")]


@outbox.command("list")
def list_dispatches(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    state: Annotated[
        str, typer.Option("--state", help="pending, sending, retry, done, dead or superseded; all without it.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=100_000)] = 1000,
    json_output: JsonOption = False,
) -> None:
    """One line per dispatch. Example: carebell outbox list --state dead --json"""
    from alerts.outbox_rows import list_outbox  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        found = list_outbox(connection, state=state, limit=limit)
    for row in found:
        if json_output:
            print_json(row)
        else:
            print(f"{row['id']:>8}  {row['state']:<10} {row['destination']:<12} alert {row['alert_id']}  "
                  f"attempts {row['attempts']}  {row['error'] or ''}")  # fmt: skip


@outbox.command()
def retry(
    dispatch_id: DispatchArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    reason: ReasonOption = "",
    json_output: JsonOption = False,
) -> None:
    """Send a dead letter again, under the same idempotency key. Example: carebell outbox retry 17"""
    _act("retry", dispatch_id, config, data_dir, reason, json_output)


@outbox.command()
def discard(
    dispatch_id: DispatchArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why it need not arrive; for the audit.")],
    json_output: JsonOption = False,
) -> None:
    """Give a dead letter up. Example: `carebell outbox discard 17 --reason "handled by telephone"`"""
    _act("discard", dispatch_id, config, data_dir, reason, json_output)


def _act(
    action: str,
    dispatch_id: int,
    config: ConfigOption,
    data_dir: DataDirOption,
    reason: str,
    json_output: bool,
) -> None:
    from alerts.outbox_rows import act  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir) as connection, connection:
        now_us = SystemClock().now_us()
        row = act(connection, dispatch_id, action, actor=CLI_ACTOR, reason=reason, now_us=now_us)
    if json_output:
        print_json(row)
    else:
        print(f"dispatch {dispatch_id}: {row['state']}")
