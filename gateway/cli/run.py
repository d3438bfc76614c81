"""``carebell run``: the daemon."""

from __future__ import annotations

import typer

from gateway.cli.common import (
    EXIT_CONFIG,
    EXIT_TEMPORARY,
    EXIT_UNREACHABLE,
    ConfigOption,
    DataDirOption,
    fail,
    settings_of,
)


def run(config: ConfigOption = None, data_dir: DataDirOption = None) -> None:
    """Run the gateway in the foreground until SIGTERM or SIGINT, then drain.

    Prints one line for each listener, and `carebell ready` when it accepts traffic. Example: carebell run -c site.toml
    """
    from gateway import app  # noqa: PLC0415 - keeps `--help` quick
    from gateway.errors import ConfigError, StorageError, TransportError  # noqa: PLC0415
    from gateway.logs import configure_logs  # noqa: PLC0415

    settings = settings_of(config, data_dir)
    configure_logs(settings.log_format)
    try:
        app.run(settings, typer.echo)
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)
    except TransportError as error:
        fail(str(error), EXIT_UNREACHABLE)
    except StorageError as error:
        fail(f"{error}; nothing was acknowledged that is not on disk", EXIT_TEMPORARY)
