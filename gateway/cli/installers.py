"""``carebell installers``: sign-in links of installers."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.common import (
    CLI_ACTOR,
    EXIT_USAGE,
    ConfigOption,
    DataDirOption,
    JsonOption,
    fail,
    print_json,
    settings_of,
)
from gateway.cli.registry_shared import now_us, print_table, reading, transaction

installers = typer.Typer(help="Sign-in links of installers.", no_args_is_help=True, add_completion=False)


@installers.command()
def link(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    label: Annotated[str, typer.Option("--label", metavar="TEXT", help="Whose it is.")],
    district: Annotated[str, typer.Option("--district", metavar="TEXT", help="Works in this district only.")] = "",
    all_districts: Annotated[bool, typer.Option("--all-districts", help="Works everywhere.")] = False,
    hours: Annotated[int, typer.Option("--hours", min=1, max=24, help="How long it and its session last.")] = 8,
    json_output: JsonOption = False,
) -> None:
    """A link that signs an installer in, once. Example: carebell installers link --label 'team 2' --district 和平"""
    from gateway.provisioning import links  # noqa: PLC0415 - keeps `--help` quick

    if bool(district) == all_districts:
        fail("say where it works: --district or --all-districts", EXIT_USAGE)
    settings = settings_of(config, data_dir)
    base = settings.console.public_url or f"http://{settings.http.listen}"
    with transaction(config, data_dir) as connection:
        link_id, token = links.issue(connection, label, district, hours=hours, at_us=now_us(), actor=CLI_ACTOR)
    url = f"{base}/installer/enter/{token}"
    if json_output:
        print_json({"link_id": link_id, "url": url, "hours": hours, "district": district})
    else:
        print(f"link   {link_id}, good for one sign-in within {hours} h\n{url}\n只显示这一次 shown this once")


@installers.command("list")
def list_all(config: ConfigOption = None, data_dir: DataDirOption = None, *, json_output: JsonOption = False) -> None:
    """All links, without their secrets. Example: carebell installers list"""
    from gateway.provisioning import links  # noqa: PLC0415 - keeps `--help` quick

    with reading(config, data_dir) as connection:
        found = links.list_links(connection)
    if json_output:
        print_json(found)
        return
    columns = {"link_id": "编号", "label": "用途", "district": "区县", "expires_at": "到期", "used_at": "登录"}
    print_table({**columns, "revoked_at": "吊销"}, found)


@installers.command()
def revoke(
    link_id: Annotated[str, typer.Argument(metavar="LINK", help="The link's id.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """End a link and the session that it began. Example: carebell installers revoke k3v9m2xw7a"""
    from gateway.provisioning import links  # noqa: PLC0415 - keeps `--help` quick

    with transaction(config, data_dir) as connection:
        links.revoke(connection, link_id, at_us=now_us(), actor=CLI_ACTOR)
    print(f"link {link_id} has ended")
