"""The ``carebell`` command. Each group is imported only when it is called, so that every command starts quickly."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, Final, cast

import click
import typer
from typer.core import TyperGroup
from typer.main import get_command

COMMANDS: Final = {
    "run": ("gateway.cli.run", "Run the gateway in the foreground until SIGTERM or SIGINT, then drain."),
    "check": ("gateway.cli.check", "Validate configuration, profiles with their vectors, rules and the registry."),
    "decode": ("gateway.cli.decode", "Say what frames mean, one JSON object per line."),
    "persons": ("gateway.cli.registry", "Persons in care: add, list, show, update, import, export."),
    "devices": ("gateway.cli.registry", "Devices: add, credentials, suspend, retire, claim, import, export."),
    "contacts": ("gateway.cli.registry", "Whom a person's alerts reach: add, list, show, update, import, export."),
    "keys": ("gateway.cli.keys", "API keys: add, list, revoke."),
    "journal": ("gateway.cli.journal", "What is in the journal: stat, list."),
    "alerts": ("gateway.cli.alerts", "Alerts: list, show, accept, progress, release, resolve, note."),
    "outbox": ("gateway.cli.outbox", "What waits to be delivered: list, retry, discard."),
    "audit": ("gateway.cli.audit", "The audit chain: verify, list."),
    "tail": ("gateway.cli.tail", "Follow normalized events."),
    "simulate": ("gateway.cli.simulate", "Simulated devices and the simulated platform, over the real protocols."),
    "backup": ("gateway.cli.backup", "Copy the journal (registry, alerts, outbox, audit) while carebell runs."),
    "restore": ("gateway.cli.backup", "Put a backup in place of the journal, while carebell is stopped."),
    "bench": ("gateway.cli.bench", "The benchmarks of the README."),
}


class LazyGroup(TyperGroup):
    """A group whose commands are modules: the attribute of the same name is a Typer app or a command function."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module, help_text = COMMANDS[cmd_name]
        target: Any = getattr(importlib.import_module(module), cmd_name)
        if not isinstance(target, typer.Typer):
            single = typer.Typer(add_completion=False)
            single.command(name=cmd_name)(cast("Callable[..., Any]", target))
            target = single
        command = get_command(target)
        command.name = cmd_name
        command.short_help = help_text
        return cast("click.Command", command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list without importing any group."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


app = typer.Typer(cls=LazyGroup, add_completion=False, rich_markup_mode=None, no_args_is_help=True)


@app.callback()
def root() -> None:
    """carebell 安心铃: IoT and emergency-response gateway.

    Exit codes: 0 done, 1 ran and found something wrong, 2 wrong usage, 69 a needed service is unreachable,
    75 temporary failure, 78 configuration error. Example: carebell run --data-dir ./var
    """


def main() -> None:
    """The console script."""
    app()
