"""``carebell keys``: who may use the API."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.common import CLI_ACTOR, ConfigOption, DataDirOption, JsonOption, open_journal, print_json
from gateway.clock import SystemClock

keys = typer.Typer(help="API keys.", no_args_is_help=True, add_completion=False)


@keys.command()
def add(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    role: Annotated[
        str, typer.Option("--role", help="admin, operator, supervisor, installer, backend, family or auditor.")
    ],
    label: Annotated[str, typer.Option("--label", help="What it is for.")] = "made by the command line",
    district: Annotated[str, typer.Option("--district", help="Sees only this district.")] = "",
    person: Annotated[str, typer.Option("--person", help="For role family: whose.")] = "",
    valid_days: Annotated[int, typer.Option("--valid-days", min=0, help="0: until it is revoked.")] = 0,
    json_output: JsonOption = False,
) -> None:
    """Make a key; it is shown this once. Example: `carebell keys add --role operator --label "night shift"`"""
    from gateway.registry.keys import issue_api_key  # noqa: PLC0415 - keeps `--help` quick

    values = {"role": role, "label": label, "district": district, "person_id": person}
    with open_journal(config, data_dir) as connection, connection:
        view, key = issue_api_key(
            connection,
            {name: value for name, value in values.items() if value},
            at_us=SystemClock().now_us(),
            actor=CLI_ACTOR,
            valid_days=valid_days or None,
        )
    if json_output:
        print_json({**view, "key": key})
    else:
        print(key)


@keys.command("list")
def list_keys(config: ConfigOption = None, data_dir: DataDirOption = None, *, json_output: JsonOption = False) -> None:
    """All keys, without their secrets. Example: carebell keys list --json"""
    from gateway.registry.keys import list_api_keys  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        views = list_api_keys(connection)
    for view in views:
        if json_output:
            print_json(view)
        else:
            state = f"revoked {view['revoked_at']}" if view["revoked_at"] else "in force"
            print(f"{view['key_id']}  {view['role']:<10}  {state}  {view['label'] or ''}")


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="KEY_ID", help="The middle part of the key.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    reason: Annotated[str, typer.Option("--reason", help="For the audit.")] = "",
) -> None:
    """End a key now. Example: `carebell keys revoke 5rdgt9mrf9 --reason "lost laptop"`"""
    from gateway.registry.keys import revoke_api_key  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir) as connection, connection:
        revoke_api_key(connection, key_id, at_us=SystemClock().now_us(), actor=CLI_ACTOR, reason=reason)
    print(f"key {key_id} revoked")
