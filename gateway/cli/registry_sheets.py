"""What the groups ``persons``, ``devices``, ``contacts`` and ``places`` have in common: show, list, import, export."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import apsw
import typer
from msgspec import Struct

from gateway.cli.common import print_json
from gateway.cli.factory import JSON, REQUIRED, WHERE, Parameters, add_command
from gateway.cli.registry_shared import (
    PAGE,
    BomOption,
    CsvArgument,
    DryRunOption,
    OutputOption,
    all_pages,
    export,
    import_file,
    print_table,
    print_view,
    reading,
)

View = dict[str, Any]


class Help(Struct, frozen=True):
    show: str
    list: str
    import_: str
    export: str


class Sheet(Struct, frozen=True, kw_only=True):
    """One table of the registry, as its commands show it. ``gateway.registry.<table>`` has its functions.

    ``filters`` are keywords of ``list_<table>``, ``columns`` those of the printed table, whose rows ``masked`` makes of
    views. ``exported`` is what an export needs besides, ``import_options`` an import. ``described`` makes a view fit to
    be printed. With ``ordered_by_person`` one person's rows have an order of their own, and fit into a page.
    """

    table: str
    help: Help
    filters: Parameters
    columns: Mapping[str, str]
    masked: Callable[[View], View] = lambda view: view
    exported: Callable[[apsw.Connection, str], list[View]]
    import_options: Parameters = {}
    described: Callable[[apsw.Connection, View], View] = lambda _, view: view
    ordered_by_person: bool = False

    @property
    def noun(self) -> str:
        return self.table.removesuffix("s")

    @property
    def id_name(self) -> str:
        return f"{self.noun}_id"

    def module(self) -> ModuleType:
        return import_module(f"gateway.registry.{self.table}")  # only when a command runs: it keeps `--help` quick


def add_commands(group: typer.Typer, sheet: Sheet) -> None:
    """Add the four commands to a group."""
    row_id = Annotated[str, typer.Argument(metavar="ID", help=f"The {sheet.noun}'s id.")]
    shown: Parameters = {"row_id": (row_id, REQUIRED), **WHERE, **JSON}
    taken: Parameters = {
        "path": (CsvArgument, REQUIRED),
        **WHERE,
        "dry_run": (DryRunOption, False),
        **sheet.import_options,
        **JSON,
    }
    written: Parameters = {**WHERE, "output": (OutputOption, None), "bom": (BomOption, False)}
    add_command(group, "show", sheet.help.show, shown, lambda **given: _show(sheet, **given))
    add_command(
        group, "list", sheet.help.list, {**WHERE, **sheet.filters, **JSON}, lambda **given: _list(sheet, **given)
    )
    add_command(group, "import", sheet.help.import_, taken, lambda **given: import_file(table=sheet.table, **given))
    add_command(group, "export", sheet.help.export, written, lambda **given: _export(sheet, **given))


def _show(sheet: Sheet, row_id: str, config: Path | None, data_dir: Path | None, *, json_output: bool) -> None:
    module = sheet.module()
    with reading(config, data_dir) as connection:
        view = getattr(module, f"show_{sheet.noun}")(connection, row_id)
        described = view if json_output else sheet.described(connection, view)
    if json_output:
        print_json(view)
    else:
        from gateway.registry.csvio import SPECS  # noqa: PLC0415 - keeps `--help` quick

        print_view(described, {field.name: field.label for field in SPECS[sheet.table].fields})


def _list(sheet: Sheet, config: Path | None, data_dir: Path | None, *, json_output: bool, **filters: Any) -> None:
    found_by = getattr(sheet.module(), f"list_{sheet.table}")

    def page(connection: apsw.Connection, after_id: str) -> list[View]:
        found: list[View] = found_by(connection, **filters, after_id=after_id, limit=PAGE)
        return found

    with reading(config, data_dir) as connection:
        if sheet.ordered_by_person and filters["person_id"]:
            found = page(connection, "")
        else:
            found = list(all_pages(connection, page, sheet.id_name))
    if json_output:
        print_json(found)
    else:
        print_table(sheet.columns, map(sheet.masked, found))


def _export(sheet: Sheet, config: Path | None, data_dir: Path | None, output: Path | None, *, bom: bool) -> None:
    export(config, data_dir, sheet.table, sheet.id_name, sheet.exported, output, bom=bom)


def with_masks(view: View) -> View:
    """Name and number in part, for a screen that others may see."""
    from gateway.security import mask_name, mask_phone  # noqa: PLC0415 - keeps `--help` quick

    return view | {"name": mask_name(view["name"]), "phone": mask_phone(view["phone"])}
