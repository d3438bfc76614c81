"""The ``carebell`` command. Only the group that is called is imported, so that every command starts quickly."""

from __future__ import annotations

import importlib
import sys
from typing import Any, Final

import typer

COMMANDS: Final = {
    "run": ("gateway.cli.run", "Run the gateway in the foreground until SIGTERM or SIGINT, then drain."),
    "check": ("gateway.cli.check", "Validate configuration, profiles with their vectors, rules, policies, registry."),
    "decode": ("gateway.cli.decode", "Say what frames mean, one JSON object per line."),
    "persons": ("gateway.cli.registry", "Persons in care: add, list, show, update, import, export."),
    "devices": ("gateway.cli.registry", "Devices: add, credentials, suspend, retire, claim, import, export."),
    "contacts": ("gateway.cli.registry", "Whom a person's alerts reach: add, list, show, update, import, export."),
    "places": ("gateway.cli.registry", "Homes and fences of persons: add, list, show, update, import, export."),
    "commands": ("gateway.cli.commands", "Commands to devices: list, show, cancel."),
    "installers": ("gateway.cli.installers", "Sign-in links of installers: link, list, revoke."),
    "keys": ("gateway.cli.keys", "API keys: add, list, revoke."),
    "users": ("gateway.cli.users", "Who signs in to the pages: add, list, disable, enable, reset."),
    "journal": ("gateway.cli.journal", "What is in the journal: stat, list."),
    "replay": ("gateway.cli.replay", "Understand the journal's frames again; repair what was not understood then."),
    "alerts": ("gateway.cli.alerts", "Alerts: list, show, accept, progress, release, resolve, note, redispatch."),
    "notify": ("gateway.cli.notify", "What messages and calls say: preview, lint."),
    "calls": ("gateway.cli.calls", "The call log: list, show, export; hold, holds, release."),
    "orders": ("gateway.cli.orders", "Orders: list, show, request, redispatch, supervise, complaint, followup."),
    "care": ("gateway.cli.care", 'Caring messages and "I\'m OK" checks: add, list, remove, log, optout, optin.'),
    "outbox": ("gateway.cli.outbox", "What waits to be delivered: list, retry, discard."),
    "feeds": ("gateway.cli.feeds", "Webhook endpoints of the event feed: list, resume."),
    "suppressions": ("gateway.cli.suppressions", "Test mode and maintenance: list, test, maintenance, end."),
    "audit": ("gateway.cli.audit", "The audit chain: verify, list."),
    "tail": ("gateway.cli.tail", "Follow normalized events."),
    "simulate": ("gateway.cli.simulate", "Simulated devices and the simulated platform, over the real protocols."),
    "backup": ("gateway.cli.backup", "Copy the journal (registry, alerts, outbox, audit) while carebell runs."),
    "restore": ("gateway.cli.backup", "Put a backup in place of the journal, while carebell is stopped."),
    "bench": ("gateway.cli.bench", "The benchmarks of the README."),
}


def build(called: str) -> typer.Typer:
    """The command line with the called command in it; the others are there by name and help text."""
    app = typer.Typer(
        add_completion=False, rich_markup_mode=None, no_args_is_help=True, callback=root, pretty_exceptions_enable=False
    )
    for name, (module, help_text) in COMMANDS.items():
        if name != called:
            app.command(name, help=help_text)(_not_called)
            continue
        target: Any = getattr(importlib.import_module(module), name)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name, help=help_text)
        else:
            app.command(name)(target)
    return app


def root() -> None:
    """carebell 安心铃: IoT and emergency-response gateway.

    Exit codes: 0 done, 1 ran and found something wrong, 2 wrong usage, 69 a needed service is unreachable,
    75 temporary failure, 78 configuration error. Example: carebell run --data-dir ./var
    """


def _not_called() -> None:
    raise AssertionError("the command that is called is imported")


def main() -> None:
    """The console script."""
    called = next((argument for argument in sys.argv[1:] if not argument.startswith("-")), "")
    build(called)()
