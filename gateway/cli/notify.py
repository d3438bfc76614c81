"""``carebell notify``: what messages and calls would say (docs/templates.md)."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from gateway.cli.common import (
    EXIT_CONFIG,
    EXIT_WRONG,
    ConfigOption,
    DataDirOption,
    JsonOption,
    fail,
    print_json,
    settings_of,
)
from gateway.config import Settings

notify = typer.Typer(help="What messages and calls say.", no_args_is_help=True, add_completion=False)

ALERT_ID = "019aa5c0-0000-7000-8000-000000000001"


class Channel(StrEnum):
    sms = "sms"
    voice = "voice"
    email = "email"
    chat = "chat"
    push = "push"


class Language(StrEnum):
    zh = "zh"
    en = "en"


class Role(StrEnum):
    family = "family"
    operator = "operator"
    group = "group"


TemplatesOption = Annotated[
    Path | None, typer.Option("--templates", metavar="DIR", help="Instead of the configuration's templates_dir.")
]


@notify.command()
def preview(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    kind: Annotated[str, typer.Option("--kind", help="The alert's kind.")] = "sos",
    channel: Annotated[Channel, typer.Option("--channel")] = Channel.sms,
    language: Annotated[Language, typer.Option("--language")] = Language.zh,
    role: Annotated[Role, typer.Option("--role", help="Who reads it; chat is always a group.")] = Role.family,
    severity: Annotated[int | None, typer.Option("--severity", metavar="1-4", min=1, max=4)] = None,
    position: Annotated[bool, typer.Option("--position/--no-position", help="With a fix of the device.")] = True,
    templates: TemplatesOption = None,
    json_output: JsonOption = False,
) -> None:
    """What would be said of somebody made up.

    Example: carebell notify preview --kind sos --channel sms --language zh
    """
    from alerts.wording import Wording  # noqa: PLC0415 - keeps `--help` quick
    from alerts.wording_lint import preview as made_up  # noqa: PLC0415
    from gateway.errors import ConfigError  # noqa: PLC0415

    settings = settings_of(config, data_dir)
    try:
        wording = Wording(templates or settings.templates_dir, replies=settings.notify.replies)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    shown = made_up(
        wording, kind=kind, channel=channel.value, language=language.value, role=role.value, severity=severity,
        link=_link(settings), with_position=position,
    )  # fmt: skip
    if json_output:
        print_json({name: getattr(shown, name) for name in shown.__struct_fields__})
        return
    if shown.subject:
        print(f"# {shown.subject}")
    print(shown.text)
    if shown.keys:
        print(f"[{shown.keys}]")
        print(f"-- said twice; about {shown.seconds:.0f} s once, without the keys")
    if shown.segments is not None:
        print(f"-- {len(shown.text)} characters, {shown.segments} SMS")


@notify.command()
def lint(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    templates: TemplatesOption = None,
    json_output: JsonOption = False,
) -> None:
    """Render every text for every kind, language and role. Example: carebell notify lint --templates templates.d

    Exit codes: 0 nothing is wrong (there may be warnings), 1 a template cannot be used.
    """
    from alerts.wording_lint import check  # noqa: PLC0415 - keeps `--help` quick

    settings = settings_of(config, data_dir)
    report = check(templates or settings.templates_dir, _link(settings), replies=settings.notify.replies)
    if json_output:
        print_json({"problems": report.problems, "warnings": report.warnings})
    else:
        for problem in report.problems:
            print(f"FAIL  {problem}")
        for warning in report.warnings:
            print(f"NOTE  {warning}")
        if not report.problems and not report.warnings:
            print("ok    every text in every language for every role")
    if report.problems:
        raise typer.Exit(EXIT_WRONG)


def _link(settings: Settings) -> str:
    return settings.notify.alert_url.replace("{id}", ALERT_ID)
