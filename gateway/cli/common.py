"""What the commands share: options, exit codes, opening the journal, printing."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Final, NoReturn

import apsw
import typer

from gateway.config import Settings, load_settings
from gateway.errors import ConfigError, ConflictError, NotFoundError, StorageError, UsageError
from gateway.model import Actor

EXIT_DONE: Final = 0
EXIT_WRONG: Final = 1  # ran, and found something wrong
EXIT_USAGE: Final = 2
EXIT_UNREACHABLE: Final = 69
EXIT_TEMPORARY: Final = 75
EXIT_CONFIG: Final = 78

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", metavar="FILE", help="Configuration file. Without it: the defaults.")
]
DataDirOption = Annotated[
    Path | None, typer.Option("--data-dir", metavar="DIR", help="Where the journal is; wins over the file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]

CLI_ACTOR: Final = Actor("operator", "cli", role="admin", channel="cli")


def fail(message: str, code: int = EXIT_WRONG) -> NoReturn:
    """Print one message to standard error and end with this exit code."""
    print(f"carebell: {message}", file=sys.stderr)
    raise typer.Exit(code)


def print_json(value: Any, *, indent: int | None = None) -> None:
    """One JSON value on standard output, UTF-8, not escaped."""
    print(json.dumps(value, ensure_ascii=False, indent=indent))


def settings_of(config: Path | None, data_dir: Path | None) -> Settings:
    """The settings for a command. Ends the command with exit code 78 when they are wrong."""
    try:
        return load_settings(config, data_dir)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)


@contextmanager
def open_journal(config: Path | None, data_dir: Path | None, *, read_only: bool = False) -> Iterator[apsw.Connection]:
    """The journal file of this site, created when it is not there yet. Turns our errors into exit codes."""
    from gateway.storage.database import FILE_NAME, open_database  # noqa: PLC0415 - keeps `--help` quick

    settings = settings_of(config, data_dir)
    try:
        path = settings.data_dir / FILE_NAME
        connection = open_database(path, read_only=read_only and path.exists())
        if not read_only:  # what is read first is still so when it is written, whatever the daemon does meanwhile
            connection.transaction_mode = "IMMEDIATE"
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    except StorageError as error:
        fail(str(error), EXIT_TEMPORARY)
    try:
        yield connection
    except (NotFoundError, ConflictError) as error:
        fail(str(error), EXIT_WRONG)
    except UsageError as error:
        fail(str(error), EXIT_USAGE)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    except StorageError as error:
        fail(str(error), EXIT_TEMPORARY)
    except (apsw.BusyError, apsw.FullError, apsw.IOError) as error:
        fail(f"the journal cannot be written now ({error}); try again", EXIT_TEMPORARY)
    finally:
        connection.close()
