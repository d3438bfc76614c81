"""What the commands of the registry share: a short transaction, fields from options, tables, import and export."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import apsw
import typer

from gateway.cli.common import (
    CLI_ACTOR,
    EXIT_CONFIG,
    EXIT_TEMPORARY,
    EXIT_USAGE,
    EXIT_WRONG,
    fail,
    open_journal,
    print_json,
    settings_of,
)
from gateway.clock import SystemClock
from gateway.errors import ConfigError, ConflictError

if TYPE_CHECKING:
    from gateway.registry.rehearsal import Rehearsal

PAGE: Final = 1000
TRIES: Final = 3
"""How often an import is rehearsed while others change the registry."""

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Any other field; may be given again. An empty value clears it."),
]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the audit.")]
StateOption = Annotated[str, typer.Option("--state", metavar="STATE", help="Only those in this state.")]
SearchOption = Annotated[str, typer.Option("--search", metavar="TEXT", help="Only those that contain this text.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check everything, change nothing.")]
CsvArgument = Annotated[Path, typer.Argument(metavar="CSV", help="The file; '-' is standard input.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Into this file, readable by its owner alone.")
]
BomOption = Annotated[bool, typer.Option("--bom", help="Begin with a byte order mark, which Excel needs for UTF-8.")]

Page = Callable[[apsw.Connection, str], list[dict[str, Any]]]
"""The rows behind an id, at most PAGE of them."""


def now_us() -> int:
    return SystemClock().now_us()


@contextmanager
def _when_free() -> Iterator[None]:
    """Opening a file takes its lock for a moment too; somebody may hold that for long."""
    try:
        yield
    except apsw.BusyError as error:
        fail(f"the journal is locked ({error}); try again", EXIT_TEMPORARY)


@contextmanager
def transaction(config: Path | None, data_dir: Path | None) -> Iterator[apsw.Connection]:
    """One IMMEDIATE transaction, that is committed at the end. The gateway may run meanwhile."""
    with _when_free(), open_journal(config, data_dir) as connection:
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException as error:
            if connection.in_transaction:  # SQLite has rolled back by itself when the disk is full
                connection.execute("ROLLBACK")
            if isinstance(error, ConflictError):
                fail(str(error), EXIT_WRONG)
            raise
        connection.execute("COMMIT")


@contextmanager
def reading(config: Path | None, data_dir: Path | None) -> Iterator[apsw.Connection]:
    """One snapshot of the registry."""
    with _when_free(), open_journal(config, data_dir, read_only=True) as connection, connection:
        yield connection


def known_profiles(config: Path | None, data_dir: Path | None) -> Collection[str]:
    """The ids of the profiles that come with carebell and of the site's own."""
    from device_profiles.loader import load_profiles  # noqa: PLC0415 - only commands that change devices need it

    try:
        return load_profiles((settings_of(config, data_dir).profiles_dir,)).names()
    except ConfigError as error:
        fail(str(error), EXIT_CONFIG)


def given(options: Mapping[str, Any], extra: Sequence[str] | None) -> dict[str, Any]:
    """The fields that a command was given: its options, then ``--set``. Ends the command for a malformed one."""
    values = {name: value for name, value in options.items() if value is not None}
    for assignment in extra or ():
        name, separator, value = assignment.partition("=")
        if not separator:
            fail(f"--set {assignment}: write it as FIELD=VALUE", EXIT_USAGE)
        values[name.strip().replace("-", "_")] = value
    return values


def json_file(path: Path | None) -> str | None:
    """The text of a JSON file. Ends the command when there is none."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{path}: {error}", EXIT_USAGE)


# ---- printing --------------------------------------------------------------------------------------------------------


def print_view(view: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    """One thing, a field a line; what is empty is left out."""
    for name, value in view.items():
        if value in (None, [], ""):
            continue
        label = f"{labels[name]} {name}" if name in labels else name
        if isinstance(value, list) and isinstance(value[0], dict):
            print(f"{label}:")
            for entry in value:
                print("  - " + ", ".join(f"{key} {item}" for key, item in entry.items() if item is not None))
        else:
            print(f"{label}: {', '.join(map(str, value)) if isinstance(value, list) else value}")


def print_table(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    """A table with a heading over each column; ``columns`` maps names in the rows to Chinese labels."""
    from rich.console import Console  # noqa: PLC0415 - keeps `--json` and `--help` quick
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, label in columns.items():
        table.add_column(f"{label} {name}".strip(), overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if row[name] is None else str(row[name])) for name in columns))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=400)
    console.print(table)


def all_pages(connection: apsw.Connection, page: Page, id_name: str) -> Iterator[dict[str, Any]]:
    """Every row of a list that comes in pages."""
    after_id = ""
    while found := page(connection, after_id):
        yield from found
        after_id = str(found[-1][id_name])


# ---- import and export -----------------------------------------------------------------------------------------------


def export(
    config: Path | None, data_dir: Path | None, table: str, id_name: str, page: Page, output: Path | None, *, bom: bool
) -> None:
    """Write a table as CSV to a file or standard output."""
    from gateway.registry.csvio import export_csv  # noqa: PLC0415 - keeps `--help` quick

    with reading(config, data_dir) as connection:
        write_lines(export_csv(table, all_pages(connection, page, id_name)), output, bom=bom)


def write_lines(lines: Iterable[str], output: Path | None, *, bom: bool) -> None:
    """Write CSV to a file that its owner alone can read, or to standard output."""
    if output is None:
        sys.stdout.write("\ufeff" if bom else "")
        sys.stdout.writelines(lines)
        return
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:  # noqa: PTH123
            os.fchmod(descriptor, 0o600)
            file.writelines(lines)
    except OSError as error:
        fail(f"{output}: {error.strerror}", EXIT_WRONG)


def import_file(
    config: Path | None,
    data_dir: Path | None,
    table: str,
    path: Path,
    *,
    dry_run: bool,
    json_output: bool,
    credentials_out: Path | None = None,
) -> None:
    """Apply a CSV file, all of it or nothing, and say what was done or everything that is wrong with it."""
    from gateway.registry import csvio  # noqa: PLC0415 - keeps `--help` quick
    from gateway.registry.rehearsal import rehearse  # noqa: PLC0415

    try:
        data = sys.stdin.buffer.read(csvio.MAX_BYTES + 1) if str(path) == "-" else path.read_bytes()
    except OSError as error:
        fail(f"{path}: {error.strerror}", EXIT_USAGE)
    if credentials_out is not None and credentials_out.exists() and credentials_out.stat().st_size > 0:
        fail(f"{credentials_out} is there already and may hold tokens that nobody can show again", EXIT_USAGE)
    profiles = known_profiles(config, data_dir) if table == "devices" else ()
    with _problems_told(path, json_output=json_output):
        plan = csvio.read_plan(table, data, at_us=now_us(), known_profiles=profiles)
    for _ in range(TRIES):
        journal, told = open_journal(config, data_dir, read_only=True), _problems_told(path, json_output=json_output)
        with _when_free(), journal as connection, told:
            rehearsal = rehearse(Path(connection.filename), plan, at_us=now_us(), actor=CLI_ACTOR)
        if dry_run or _perform(config, data_dir, rehearsal, credentials_out):
            break
    else:
        fail("others keep changing the registry; nothing was imported: try again", EXIT_TEMPORARY)
    tokens_kept = credentials_out is not None
    _tell_report(path, rehearsal.report, dry_run=dry_run, json_output=json_output, tokens_kept=tokens_kept)


def _perform(config: Path | None, data_dir: Path | None, rehearsal: Rehearsal, credentials_out: Path | None) -> bool:
    """Write what was rehearsed, and the new tokens; False, and nothing is written, when the registry has changed."""
    from gateway.registry.rehearsal import perform  # noqa: PLC0415 - keeps `--help` quick

    written = None if credentials_out is None else _write_tokens(credentials_out, rehearsal.report.tokens)
    done = committed = False
    try:
        with transaction(config, data_dir) as connection:
            done = perform(connection, rehearsal)
        committed = done
    finally:
        if written is not None and not committed:
            written.unlink(missing_ok=True)  # of tokens that do not count
    if committed and credentials_out is not None and written is not None:
        try:
            written.replace(credentials_out)
        except OSError as error:
            fail(f"{credentials_out}: {error.strerror}; the devices were imported, their tokens are in {written}")
    return committed


@contextmanager
def _problems_told(path: Path, *, json_output: bool) -> Iterator[None]:
    """Ends the command with all that is wrong with the file."""
    from gateway.registry.csvio import ImportRefusedError  # noqa: PLC0415 - keeps `--help` quick

    try:
        yield
    except ImportRefusedError as error:
        _tell_problems(path, error.problems, json_output=json_output)
        raise typer.Exit(EXIT_WRONG) from None


def _write_tokens(credentials_out: Path, tokens: Mapping[str, str]) -> Path:
    """Write the tokens beside their place, on disk before the commit that makes them valid."""
    beside = credentials_out.with_name(f"{credentials_out.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="utf-8", newline="") as file:  # noqa: PTH123 - it has a descriptor
            file.write("device_id,token\r\n")
            file.writelines(f"{device_id},{token}\r\n" for device_id, token in tokens.items())
            file.flush()
            os.fsync(descriptor)
    except OSError as error:
        fail(f"{credentials_out}: {error.strerror}; nothing was imported", EXIT_USAGE)
    return beside


def _tell_problems(path: Path, problems: Sequence[Any], *, json_output: bool) -> None:
    if json_output:
        told = [{"line": problem.line, "column": problem.column, "text": problem.text} for problem in problems]
        print_json({"applied": False, "problems": told})
        return
    for problem in problems:
        print(f"{path}: {problem}", file=sys.stderr)
    print(f"carebell: {len(problems)} problem(s); nothing was imported", file=sys.stderr)


def _tell_report(path: Path, report: Any, *, dry_run: bool, json_output: bool, tokens_kept: bool) -> None:
    if json_output:
        told = {"applied": not dry_run, "dry_run": dry_run, "encoding": report.encoding}
        told |= {"added": len(report.added), "updated": len(report.updated), "unchanged": len(report.unchanged)}
        if report.tokens and not dry_run and not tokens_kept:
            told["tokens"] = report.tokens
        print_json(told | {"problems": []})
        return
    if report.encoding != "utf-8":
        print(f"{path}: read as {report.encoding.upper()}, because it is not UTF-8", file=sys.stderr)
    verb = "would be" if dry_run else "were"
    print(f"{len(report.added)} {verb} added, {len(report.updated)} updated, {len(report.unchanged)} left as they are")
    if report.tokens and not dry_run and not tokens_kept:
        print(
            f"carebell: nobody has seen the {len(report.tokens)} new tokens: import with --credentials-out, or make new"
            " ones with 'carebell devices credentials'",
            file=sys.stderr,
        )
