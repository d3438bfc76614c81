"""Persons and contacts that another system keeps, taken over page by page. Synchronous functions on a connection.

A page is applied as a whole or not at all. What was changed here since it was taken over is a conflict: reported and
left alone, unless the caller says ``overwrite``. Every change is an audit row of the source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import apsw
from msgspec import Struct, field

from gateway.errors import UsageError
from gateway.model import Actor
from gateway.registry import contacts, persons
from gateway.registry.changes import fetch

Kind = Literal["person", "contact"]
MAX_ITEMS: Final = 1000


class PullError(UsageError):
    """A page that cannot be taken over; it names each bad item. Handler: the command line (exit code 1)."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class PullReport(Struct):
    """Ids by what became of them."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)

    def add(self, other: PullReport) -> None:
        for name in self.__struct_fields__:
            getattr(self, name).extend(getattr(other, name))


def cursor(connection: apsw.Connection, source: str, kind: Kind) -> str:
    """Where the source was read up to, "" for the beginning."""
    row = connection.execute("SELECT cursor FROM pull_cursor WHERE source = ? AND kind = ?", (source, kind)).fetchone()
    return "" if row is None else str(row[0])


def apply_page(
    connection: apsw.Connection,
    kind: Kind,
    source: str,
    items: Sequence[Mapping[str, Any]],
    next_cursor: str,
    *,
    at_us: int,
    actor: Actor,
    overwrite: bool = False,
) -> PullReport:
    """Take a page over in the caller's transaction. Raises PullError: then the caller rolls back."""
    if len(items) > MAX_ITEMS:
        raise PullError([f"a page has at most {MAX_ITEMS} items"])
    report, problems = PullReport(), []
    spec = persons.SPEC if kind == "person" else contacts.SPEC
    for number, item in enumerate(items):
        values = dict(item)
        row_id, version = values.pop(spec.id_name, None), values.pop("version", None)
        if not isinstance(row_id, str) or not isinstance(version, (str, int)) or isinstance(version, bool):
            problems.append(f"item {number}: needs {spec.id_name} (text) and version (text or number)")
            continue
        try:
            _take(connection, kind, source, row_id, str(version), values, report, at_us, actor, overwrite)
        except UsageError as error:
            problems.append(f"item {number} ({row_id[:64]}): {error}")
    if problems:
        raise PullError(problems)
    connection.execute(
        "INSERT INTO pull_cursor VALUES (?, ?, ?, ?) ON CONFLICT (source, kind)"
        " DO UPDATE SET cursor = excluded.cursor, at_us = excluded.at_us",
        (source, kind, next_cursor, at_us),
    )
    return report


def _take(
    connection: apsw.Connection,
    kind: Kind,
    source: str,
    row_id: str,
    version: str,
    values: dict[str, Any],
    report: PullReport,
    at_us: int,
    actor: Actor,
    overwrite: bool,
) -> None:
    spec = persons.SPEC if kind == "person" else contacts.SPEC
    row = fetch(connection, spec, row_id)
    known = connection.execute(
        "SELECT source_version, local_version FROM pulled WHERE source = ? AND kind = ? AND id = ?",
        (source, kind, row_id),
    ).fetchone()
    if row is not None and known is not None and known[0] == version and not overwrite:
        report.unchanged.append(row_id)
        return
    if row is not None and not overwrite and (known is None or known[1] != row["version"]):
        report.conflicts.append(row_id)
        return
    reason = f"{source}, version {version[:64]}"
    if kind == "person":
        view = _person(connection, row_id, values, row is None, at_us, actor, reason)
    else:
        view = _contact(connection, row_id, values, row is None, at_us, actor, reason)
    connection.execute(
        "INSERT INTO pulled VALUES (?, ?, ?, ?, ?) ON CONFLICT (source, kind, id)"
        " DO UPDATE SET source_version = excluded.source_version, local_version = excluded.local_version",
        (source, kind, row_id, version, view["version"]),
    )
    if row is None:
        report.added.append(row_id)
    elif view["version"] == row["version"]:
        report.unchanged.append(row_id)
    else:
        report.changed.append(row_id)


def _person(
    connection: apsw.Connection, row_id: str, values: dict[str, Any], new: bool, at_us: int, actor: Actor, reason: str
) -> dict[str, Any]:
    if new:
        return persons.add_person(connection, row_id, values, at_us=at_us, actor=actor)
    return persons.update_person(connection, row_id, values, at_us=at_us, actor=actor, reason=reason)


def _contact(
    connection: apsw.Connection, row_id: str, values: dict[str, Any], new: bool, at_us: int, actor: Actor, reason: str
) -> dict[str, Any]:
    if new:
        return contacts.add_contact(connection, row_id, values, at_us=at_us, actor=actor)
    return contacts.update_contact(connection, row_id, values, at_us=at_us, actor=actor, reason=reason)
