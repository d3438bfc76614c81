"""``carebell backup`` and ``carebell restore``: the journal file with everything in it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import apsw
import typer

from gateway.cli.common import (
    EXIT_TEMPORARY,
    EXIT_USAGE,
    EXIT_WRONG,
    ConfigOption,
    DataDirOption,
    fail,
    open_journal,
    settings_of,
)


def backup(
    target: Annotated[Path, typer.Argument(metavar="FILE", help="Where to write the copy; must not exist.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Copy registry, journal, alerts, outbox and audit while carebell runs. Example: carebell backup /mnt/b/today.db"""
    if target.exists():
        fail(f"{target} exists already; a backup never overwrites", EXIT_USAGE)
    with open_journal(config, data_dir, read_only=True) as source:
        partial = target.with_name(target.name + ".partial")
        try:
            copy = apsw.Connection(str(partial))
            with copy.backup("main", source, "main") as run:
                while not run.done:
                    run.step(1000)
            copy.pragma("journal_mode", "delete")  # one file, whole by itself
            faults = [row[0] for row in copy.execute("PRAGMA quick_check") if row[0] != "ok"]
            copy.close()
        except apsw.Error as error:
            partial.unlink(missing_ok=True)
            fail(f"{target} cannot be written: {error}", EXIT_TEMPORARY)
        if faults:
            fail(f"the copy is damaged: {faults[0]}", EXIT_WRONG)
        partial.chmod(0o600)
        partial.rename(target)
    print(f"{target}: {target.stat().st_size} bytes, checked")


def restore(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `carebell backup` wrote.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Put a backup in place while carebell is stopped. Refuses to overwrite a journal. Example: carebell restore x.db

    The history database notices that the journal is another one only by its numbers: give it a fresh one as well.
    """
    from gateway.errors import CarebellError  # noqa: PLC0415 - keeps `--help` quick
    from gateway.storage.database import APPLICATION_ID, FILE_NAME, open_database  # noqa: PLC0415

    settings = settings_of(config, data_dir)
    target = settings.data_dir / FILE_NAME
    for file in (target, target.with_name(f"{FILE_NAME}-wal"), target.with_name(f"{FILE_NAME}-shm")):
        if file.exists():  # an old WAL would be played into the restored file
            fail(f"{file} exists; move it away first, nothing is overwritten", EXIT_USAGE)
    try:
        probe = apsw.Connection(str(source), flags=apsw.SQLITE_OPEN_READONLY)
        known = probe.pragma("application_id") == APPLICATION_ID
        faults = [row[0] for row in probe.execute("PRAGMA quick_check") if row[0] != "ok"]
        probe.close()
    except apsw.Error as error:
        fail(f"{source}: {error}", EXIT_WRONG)
    if not known or faults:
        fail(f"{source}: {faults[0] if faults else 'this is not a backup of carebell'}", EXIT_WRONG)
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    shutil.copyfile(source, target)
    try:
        open_database(target).close()
    except CarebellError as error:
        target.unlink()
        fail(str(error), EXIT_WRONG)
    print(f"{target}: restored")
