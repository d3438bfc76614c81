"""Commands of one shape, made from tables: typer reads options off a signature, and these come from data."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

import typer

from gateway.cli.common import ConfigOption, DataDirOption, JsonOption

REQUIRED: Final = inspect.Parameter.empty
"""The default of a parameter that must be given."""

Parameters = Mapping[str, tuple[Any, Any]]
"""Parameters of a command: what typer is to make of each, and its default."""

WHERE: Final[Parameters] = {"config": (ConfigOption, None), "data_dir": (DataDirOption, None)}
JSON: Final[Parameters] = {"json_output": (JsonOption, False)}


def add_command(group: typer.Typer, name: str, text: str, parameters: Parameters, run: Callable[..., None]) -> None:
    """Add a command to a group. ``run`` gets what was given by the parameters' names."""

    def command(**given: Any) -> None:
        run(**given)

    kind = inspect.Parameter.KEYWORD_ONLY
    signature = [inspect.Parameter(key, kind, annotation=a, default=d) for key, (a, d) in parameters.items()]
    vars(command)["__signature__"] = inspect.Signature(signature)
    command.__annotations__ = {key: annotation for key, (annotation, _) in parameters.items()}
    group.command(name, help=text)(command)
