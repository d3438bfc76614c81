"""CSV in and out: a file is applied as a whole or not at all, and every bad row is named with its line and column."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, Final

import apsw
from msgspec import Struct

from gateway.errors import UsageError
from gateway.model import Actor
from gateway.registry import contacts, devices, persons, place_sheet, places
from gateway.registry import fields as f
from gateway.registry.changes import Change, begin, fetch

MAX_BYTES: Final = 64 * 1024 * 1024
MAX_ROWS: Final = 200_000
_FORMULA: Final = ("=", "+", "-", "@")


class RowProblem(Struct, frozen=True):
    """What is wrong in one line (1 is the header), and in which column ("" for the whole row or file)."""

    line: int
    column: str
    text: str

    def __str__(self) -> str:
        where = f"line {self.line}" + (f", {self.column}" if self.column else "")
        return f"{where}: {self.text}" if self.line else self.text


class ImportRefusedError(UsageError):
    """The file has problems, nothing of it was applied. Handler: the CLI (exit 1) or the API (422)."""

    def __init__(self, problems: Collection[RowProblem]) -> None:
        super().__init__(
            f"nothing was imported, {len(problems)} problem(s): " + "; ".join(map(str, list(problems)[:5]))
        )
        self.problems = list(problems)


class Row(Struct, frozen=True):
    line: int
    row_id: str
    values: dict[str, f.SqlValue]


class Plan(Struct, frozen=True):
    """A file that was read and whose every cell is valid by itself. ``encoding`` is ``utf-8`` or ``gb18030``."""

    table: str
    rows: list[Row]
    columns: list[str]
    encoding: str


class ImportReport(Struct):
    """What an import did, by row ids. ``tokens`` are those of new devices, by device."""

    encoding: str
    added: list[str]
    updated: list[str]
    unchanged: list[str]
    tokens: dict[str, str]


SPECS: Final[Mapping[str, f.Spec]] = {
    "persons": persons.SPEC,
    "devices": devices.SPEC,
    "contacts": contacts.SPEC,
    "places": place_sheet.SPEC,
}


def read_plan(table: str, data: bytes, *, at_us: int, known_profiles: Collection[str] = ()) -> Plan:
    """Read a CSV file of ``persons``, ``devices``, ``contacts`` or ``places``, without the database.

    UTF-8 with or without a byte order mark, else GB18030. Columns go by the names of fields or by their Chinese labels.
    Raises ImportRefusedError with all problems of all rows.
    """
    spec = SPECS[table]
    text, encoding = _decode(data)
    lines = _lines(text)
    header = next(lines, None)
    if header is None:
        raise ImportRefusedError([RowProblem(0, "", "the file is empty: its first line names the columns")])
    columns = _columns(spec, table, header[1])
    problems: list[RowProblem] = []
    plan: list[Row] = []
    first_line: dict[str, int] = {}
    for line, cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if len(plan) + len(problems) >= MAX_ROWS:
            raise ImportRefusedError([RowProblem(line, "", f"a file has at most {MAX_ROWS} rows: split it")])
        row_id = dict(zip(columns, cells, strict=False)).get(spec.id_name, "").strip()
        if row_id and row_id in first_line:
            problems.append(RowProblem(line, spec.id_name, f"{row_id!r} is in line {first_line[row_id]} already"))
        first_line.setdefault(row_id, line)
        try:
            plan.append(_row(spec, table, columns, line, cells, at_us, known_profiles))
        except f.FieldsError as error:
            problems += [RowProblem(line, problem.field, problem.text) for problem in error.problems]
    if problems:
        raise ImportRefusedError(problems)
    return Plan(table, plan, columns, encoding)


def apply_plan(connection: apsw.Connection, plan: Plan, *, at_us: int, actor: Actor, reason: str = "") -> ImportReport:
    """Add what is new, and change what differs in the columns that the file has (a blank cell empties a field).

    Raises ImportRefusedError with every row that does not fit the registry; the caller then rolls back.
    """
    change = begin(connection, at_us=at_us, actor=actor, reason=reason, bulk=True)
    report = apply_rows(connection, plan, change)
    change.end(connection)
    return report


def apply_rows(connection: apsw.Connection, plan: Plan, change: Change) -> ImportReport:
    """As ``apply_plan``, within a bulk change that has begun and that the caller ends."""
    report = ImportReport(plan.encoding, [], [], [], {})
    problems: list[RowProblem] = []
    for row in plan.rows:
        try:
            _APPLY[plan.table](connection, row, plan, change, report)
        except f.FieldsError as error:
            problems += [RowProblem(row.line, problem.field, problem.text) for problem in error.problems]
        except UsageError as error:
            column, separator, text = str(error).partition(": ")
            known = separator and column in {*SPECS[plan.table].names, SPECS[plan.table].id_name}
            problems.append(RowProblem(row.line, column, text) if known else RowProblem(row.line, "", str(error)))
    if problems:
        raise ImportRefusedError(problems)
    return report


def export_csv(table: str, views: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """CSV lines that ``read_plan`` takes back. Free text that looks like a formula gets a ``'`` in front."""
    spec = SPECS[table]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow([spec.id_name, *spec.names])
    for view in views:
        writer.writerow([view[spec.id_name], *(_cell(field, view[field.name]) for field in spec.fields)])
        yield buffer.getvalue()
        buffer.seek(0)
        buffer.truncate()
    yield buffer.getvalue()


# ---- reading ---------------------------------------------------------------------------------------------------------


def _decode(data: bytes) -> tuple[str, str]:
    if len(data) > MAX_BYTES:
        raise ImportRefusedError([RowProblem(0, "", f"the file has {len(data)} bytes, at most {MAX_BYTES} are read")])
    try:
        return data.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    try:
        return data.decode("gb18030"), "gb18030"
    except UnicodeDecodeError:
        raise ImportRefusedError([RowProblem(line, "", "is neither UTF-8 nor GB18030 text")]) from None


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Each row with the line that it begins in."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    line = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise ImportRefusedError([RowProblem(line, "", f"is not CSV: {error}")]) from None
        yield line, cells
        line = reader.line_num + 1


def _columns(spec: f.Spec, table: str, header: list[str]) -> list[str]:
    labels = {field.label: field.name for field in spec.fields} | {"编号": spec.id_name}
    columns = [labels.get(cell.strip(), cell.strip().lower()) for cell in header]
    while columns and not columns[-1]:
        columns.pop()
    known = [spec.id_name, *spec.names]
    problems = [
        RowProblem(1, name, f.unknown_name(name, known) if name else "a column has no name")
        for name in columns
        if name not in known
    ]
    problems += [
        RowProblem(1, name, "the column is there twice") for name in dict.fromkeys(columns) if columns.count(name) > 1
    ]
    required = [field.name for field in spec.fields if field.required]
    if table != "contacts":
        required.insert(0, spec.id_name)
    if not problems:  # a missing column often is a misspelt one, which was named then
        problems = [RowProblem(1, name, "this column is missing") for name in required if name not in columns]
    if problems:
        raise ImportRefusedError(problems)
    return columns


def _row(
    spec: f.Spec,
    table: str,
    columns: list[str],
    line: int,
    cells: list[str],
    at_us: int,
    known_profiles: Collection[str],
) -> Row:
    if len(cells) < len(columns) or any(cell.strip() for cell in cells[len(columns) :]):
        raise f.FieldsError([f.Problem("", f"has {len(cells)} cells, the header has {len(columns)}")])
    values = dict(zip(columns, cells, strict=False))
    for field in spec.fields:
        text = values.get(field.name, "")
        if field.kind.free_text and text[:1] == "'" and text[1:2] in (*_FORMULA, "'"):
            values[field.name] = text[1:]
    row_id = values.pop(spec.id_name, "").strip()
    if table == "persons":
        row_id, clean = persons.clean_person(row_id, values, at_us=at_us, partial=False)
    elif table == "devices":
        row_id, clean = devices.clean_device(row_id, values, known_profiles=known_profiles, partial=False)
    elif table == "places":
        row_id, clean = place_sheet.clean_line(row_id, values)
    else:
        row_id, clean = contacts.clean_contact(row_id, values, partial=False)
    return Row(line, row_id, clean)


# ---- applying --------------------------------------------------------------------------------------------------------


def _given(row: Row, plan: Plan) -> dict[str, f.SqlValue]:
    return {name: value for name, value in row.values.items() if name in plan.columns}


def _apply_person(connection: apsw.Connection, row: Row, plan: Plan, change: Change, report: ImportReport) -> None:
    old = fetch(connection, persons.SPEC, row.row_id)
    if old is None:
        persons.insert_person(connection, row.row_id, row.values, change)
        report.added.append(row.row_id)
    else:
        names = persons.apply_person(connection, old, _given(row, plan), change)
        (report.updated if names else report.unchanged).append(row.row_id)


def _apply_device(connection: apsw.Connection, row: Row, plan: Plan, change: Change, report: ImportReport) -> None:
    old = fetch(connection, devices.SPEC, row.row_id)
    if old is None:
        token = devices.insert_device(connection, row.row_id, row.values, change)
        report.added.append(row.row_id)
        if token:
            report.tokens[row.row_id] = token
    else:
        names = devices.apply_device(connection, old, _given(row, plan), change)
        (report.updated if names else report.unchanged).append(row.row_id)


def _apply_contact(connection: apsw.Connection, row: Row, plan: Plan, change: Change, report: ImportReport) -> None:
    if row.row_id:
        old = fetch(connection, contacts.SPEC, row.row_id)
    else:
        old = contacts.find_contact(connection, str(row.values["person_id"]), str(row.values["phone"]))
    if old is None:
        values = dict(row.values)
        if "position" not in plan.columns:
            values["position"] = contacts.next_position(connection, str(values["person_id"]))
        report.added.append(contacts.insert_contact(connection, row.row_id, values, change))
    else:
        names = contacts.apply_contact(connection, old, _given(row, plan), change)
        (report.updated if names else report.unchanged).append(str(old["id"]))


def _apply_place(connection: apsw.Connection, row: Row, plan: Plan, change: Change, report: ImportReport) -> None:
    old = fetch(connection, places.SPEC, row.row_id)
    if old is None:
        place_sheet.insert_line(connection, row.row_id, row.values, change)
        report.added.append(row.row_id)
    else:
        names = place_sheet.apply_line(connection, old, _given(row, plan), change)
        (report.updated if names else report.unchanged).append(row.row_id)


_Apply = Callable[[apsw.Connection, Row, Plan, Change, ImportReport], None]
_APPLY: Final[Mapping[str, _Apply]] = {
    "persons": _apply_person,
    "devices": _apply_device,
    "contacts": _apply_contact,
    "places": _apply_place,
}


def _cell(field: f.Field, value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ";".join(value)
    if isinstance(value, dict):
        return f.encode_object(value)
    text = str(value)
    risky = text.startswith(_FORMULA) or (text[:1] == "'" and text[1:2] in (*_FORMULA, "'"))
    return f"'{text}" if field.kind.free_text and risky else text
