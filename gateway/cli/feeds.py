"""``carebell feeds``: the endpoints that are told events by webhook."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.common import CLI_ACTOR, ConfigOption, DataDirOption, JsonOption, open_journal, print_json
from gateway.clock import SystemClock

feeds = typer.Typer(help="Webhook endpoints of the event feed.", no_args_is_help=True, add_completion=False)


@feeds.command("list")
def list_feeds(config: ConfigOption = None, data_dir: DataDirOption = None, json_output: JsonOption = False) -> None:
    """One line per endpoint: how far it is, and since when it fails. Example: carebell feeds list --json"""
    from gateway.storage.webhook_rows import listed  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        found = listed(connection)
    for row in found:
        if json_output:
            print_json(row)
        else:
            trouble = f"fails since {row['failing_since']}: {row['reason']}" if row["failing_since"] else ""
            print(f"{row['name']:<20} {row['state']:<9} {row['behind']:>8} behind  {trouble}")


@feeds.command()
def resume(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The endpoint's name in [feed.webhook.NAME].")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    skip: Annotated[bool, typer.Option("--skip", help="Begin with what happens from now on.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Tell a disabled endpoint events again, from where it was. Example: carebell feeds resume backend"""
    from gateway import audit  # noqa: PLC0415 - keeps `--help` quick
    from gateway.storage.webhook_rows import resume as resume_row  # noqa: PLC0415

    now_us = SystemClock().now_us()
    with open_journal(config, data_dir) as connection, connection:
        row = resume_row(connection, name, skip=skip, at_us=now_us)
        audit.append(
            connection, at_us=now_us, actor=CLI_ACTOR, action="feed.resume", subject=f"feed/{name}",
            after={"seq": row["seq"], "skip": skip},
        )  # fmt: skip
    if json_output:
        print_json(row)
    else:
        print(f"{name}: resumed, {row['behind']} behind")
