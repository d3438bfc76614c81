"""``carebell users``: who may sign in to the pages."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.common import CLI_ACTOR, ConfigOption, DataDirOption, JsonOption, open_journal, print_json
from gateway.clock import SystemClock

users = typer.Typer(help="Who signs in to the pages.", no_args_is_help=True, add_completion=False)
Login = Annotated[str, typer.Argument(metavar="LOGIN", help="As it is typed at the sign-in.")]


@users.command()
def add(
    login: Login,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    role: Annotated[str, typer.Option("--role", help="admin, operator, supervisor, installer or auditor.")],
    name: Annotated[str, typer.Option("--name", help="Shown to colleagues. Without it: the login.")] = "",
    district: Annotated[str, typer.Option("--district", help="Sees only this district.")] = "",
    json_output: JsonOption = False,
) -> None:
    """Make an account; its password is shown this once. Example: carebell users add chen --role operator --name 陈静"""
    from gateway.access.passwords import hash_password, new_password  # noqa: PLC0415 - keeps `--help` quick
    from gateway.access.users import add_user  # noqa: PLC0415 - as above

    password = new_password()
    encoded = hash_password(password)
    with open_journal(config, data_dir) as connection, connection:
        view = add_user(
            connection, login, name=name, role=role, district=district, password_hash=encoded,
            at_us=SystemClock().now_us(), actor=CLI_ACTOR,
        )  # fmt: skip
    if json_output:
        print_json({**view, "password": password})
    else:
        print(password)


@users.command("list")
def list_all(config: ConfigOption = None, data_dir: DataDirOption = None, *, json_output: JsonOption = False) -> None:
    """All accounts. Example: carebell users list --json"""
    from gateway.access.users import list_users  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        views = list_users(connection)
    for view in views:
        if json_output:
            print_json(view)
        else:
            state = "disabled" if view["disabled_at"] else "in force"
            factor = "second factor" if view["second_factor"] else "no second factor yet"
            print(f"{view['login']:<20}  {view['role']:<10}  {state}  {factor}  {view['name']}")


@users.command()
def disable(login: Login, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """End an account and its sessions now. Example: carebell users disable chen"""
    from gateway.access.users import set_disabled  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir) as connection, connection:
        set_disabled(connection, login, disabled=True, at_us=SystemClock().now_us(), actor=CLI_ACTOR)
    print(f"user {login} disabled")


@users.command()
def enable(login: Login, config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Let a disabled account back in. Example: carebell users enable chen"""
    from gateway.access.users import set_disabled  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir) as connection, connection:
        set_disabled(connection, login, disabled=False, at_us=SystemClock().now_us(), actor=CLI_ACTOR)
    print(f"user {login} enabled")


@users.command()
def reset(
    login: Login, config: ConfigOption = None, data_dir: DataDirOption = None, *, json_output: JsonOption = False
) -> None:
    """A new password, shown this once; lock and second factor are lifted. Example: carebell users reset chen"""
    from gateway.access.passwords import hash_password, new_password  # noqa: PLC0415 - keeps `--help` quick
    from gateway.access.users import reset_user  # noqa: PLC0415 - as above

    password = new_password()
    encoded = hash_password(password)
    with open_journal(config, data_dir) as connection, connection:
        view = reset_user(connection, login, password_hash=encoded, at_us=SystemClock().now_us(), actor=CLI_ACTOR)
    if json_output:
        print_json({**view, "password": password})
    else:
        print(password)
