"""Writing to the registry: every change counts up the versions and leaves an audit row, all in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import apsw
import msgspec
from msgspec import Struct

from gateway import audit
from gateway.clock import iso
from gateway.errors import ConflictError, NotFoundError
from gateway.filters import Filter, where
from gateway.model import Actor
from gateway.registry.fields import Spec, SqlValue, show_row

VERSION_KEY: Final = "registry_version"
ROWS_PER_AUDIT: Final = 500


class Change(Struct, frozen=True):
    """Who changes the registry, when, why, and which version of the registry that makes."""

    at_us: int
    actor: Actor
    number: int
    reason: str = ""
    bulk: list[dict[str, Any]] | None = None

    def record(
        self,
        connection: apsw.Connection,
        action: str,
        subject: str,
        *,
        version: int = 0,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the audit row; in bulk, keep it for ``end``. ``before`` and ``after`` hold no personal data."""
        if self.bulk is not None:
            self.bulk.append(
                {"action": action, "subject": subject, "version": version, "before": before, "after": after}
            )
            return
        audit.append(
            connection,
            at_us=self.at_us,
            actor=self.actor,
            action=action,
            subject=subject,
            version=version,
            before=before,
            after=after,
            reason=self.reason,
        )

    def parts(self) -> list[msgspec.Raw]:
        """What a bulk change did, encoded for the audit: 500 rows in each part."""
        rows = self.bulk or []
        starts = range(0, len(rows), ROWS_PER_AUDIT)
        return [msgspec.Raw(audit.canonical({"rows": rows[start : start + ROWS_PER_AUDIT]})) for start in starts]

    def end(self, connection: apsw.Connection, parts: Sequence[msgspec.Raw] | None = None) -> None:
        """Write what a bulk change did, one audit row for each of its ``parts``, which may be there already."""
        for part in self.parts() if parts is None else parts:
            audit.append(
                connection,
                at_us=self.at_us,
                actor=self.actor,
                action="registry.import",
                subject=f"registry/{self.number}",
                after=part,
                reason=self.reason,
            )


def begin(connection: apsw.Connection, *, at_us: int, actor: Actor, reason: str = "", bulk: bool = False) -> Change:
    """Count the registry's version up, so that readers in every process look again once this transaction commits."""
    row = connection.execute(
        "INSERT INTO meta (key, value) VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET value = value + 1 RETURNING value",
        (VERSION_KEY,),
    ).fetchone()
    assert row is not None
    return Change(at_us=at_us, actor=actor, number=int(row[0]), reason=reason, bulk=[] if bulk else None)


def registry_version(connection: apsw.Connection) -> int:
    """The number of changes so far, 0 for a registry that was never touched."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (VERSION_KEY,)).fetchone()
    return 0 if row is None else int(row[0])


def fetch(connection: apsw.Connection, spec: Spec, row_id: str) -> dict[str, Any] | None:
    """One stored row with all its columns."""
    return next(rows(connection, f"SELECT * FROM {spec.noun} WHERE id = ?", (row_id,)), None)  # noqa: S608


def rows(connection: apsw.Connection, sql: str, bindings: tuple[SqlValue, ...] = ()) -> Any:
    """An iterator of rows as dicts."""
    cursor = connection.execute(sql, bindings)
    names: list[str] | None = None
    for row in cursor:
        if names is None:
            names = [column[0] for column in cursor.get_description()]
        yield dict(zip(names, row, strict=True))


def listing(
    connection: apsw.Connection,
    select: str,
    conditions: Iterable[Filter],
    order: str,
    limit: int,
) -> Iterator[dict[str, Any]]:
    """Rows that meet the conditions that were asked for, each as dict."""
    asked, values = where(*conditions)
    found: Iterator[dict[str, Any]] = rows(connection, f"{select}{asked} ORDER BY {order} LIMIT ?", (*values, limit))
    return found


def existing(connection: apsw.Connection, spec: Spec, row_id: str) -> dict[str, Any]:
    """One stored row. Raises NotFoundError."""
    row = fetch(connection, spec, row_id)
    if row is None:
        raise NotFoundError(f"no {spec.noun} {row_id!r}")
    return row


def view_of(spec: Spec, row: Mapping[str, Any]) -> dict[str, Any]:
    """A versioned row, JSON-ready."""
    shown = {spec.id_name: row["id"], **show_row(spec, row), "version": row["version"]}
    return shown | {"created_at": iso(row["created_at_us"]), "updated_at": iso(row["updated_at_us"])}


def require_person(connection: apsw.Connection, person_id: str) -> None:
    """Raises NotFoundError for a person that a row names and that is not there."""
    if connection.execute("SELECT 1 FROM person WHERE id = ?", (person_id,)).fetchone() is None:
        raise NotFoundError(f"person_id: no person {person_id!r}")


def insert(
    connection: apsw.Connection,
    spec: Spec,
    row_id: str,
    values: Mapping[str, SqlValue],
    change: Change,
    action: str = "",
) -> None:
    """Insert a new row of clean values with its audit row. Raises ConflictError when the id is taken."""
    if fetch(connection, spec, row_id) is not None:
        raise ConflictError(f"{spec.noun} {row_id!r} exists already")
    columns = {name: values[name] for name in spec.columns}
    columns |= {"id": row_id, "created_at_us": change.at_us, "updated_at_us": change.at_us, "changed": change.number}
    names = ", ".join(columns)
    marks = ", ".join("?" * len(columns))
    connection.execute(f"INSERT INTO {spec.noun} ({names}) VALUES ({marks})", tuple(columns.values()))  # noqa: S608
    told = {name: value for name, value in _tellable(spec, values).items() if value not in (None, "", "[]")}
    change.record(connection, action or f"{spec.noun}.add", f"{spec.noun}/{row_id}", version=1, after=told)


def update(
    connection: apsw.Connection,
    spec: Spec,
    row: Mapping[str, Any],
    values: Mapping[str, SqlValue],
    change: Change,
    action: str = "",
    extra: Mapping[str, tuple[Any, Any]] | None = None,
) -> list[str]:
    """Change the columns of ``row`` whose clean values differ; return the names that did. No difference, no change.

    ``extra`` are changes kept in other tables (before, after), told in the same audit row and version.
    """
    differing = {name: value for name, value in values.items() if name in spec.columns and row[name] != value}
    extra = extra or {}
    if not differing and not extra:
        return []
    version = int(row["version"]) + 1
    sets = "".join(f"{name} = ?, " for name in differing)
    connection.execute(
        f"UPDATE {spec.noun} SET {sets}version = ?, updated_at_us = ?, changed = ? WHERE id = ?",  # noqa: S608
        (*differing.values(), version, change.at_us, change.number, row["id"]),
    )
    names = sorted({*differing, *extra})
    before = _tellable(spec, {name: row[name] for name in differing} | {name: pair[0] for name, pair in extra.items()})
    after = _tellable(spec, differing | {name: pair[1] for name, pair in extra.items()})
    change.record(
        connection,
        action or f"{spec.noun}.update",
        f"{spec.noun}/{row['id']}",
        version=version,
        before=before,
        after=after | {"fields": names},
    )
    return names


def expect_version(spec: Spec, row: Mapping[str, Any], version: int | None) -> None:
    """Raises ConflictError when the caller saw another version of the row (None: it does not mind)."""
    if version is not None and version != row["version"]:
        raise ConflictError(f"{spec.noun} {row['id']!r} is at version {row['version']}, not {version}: read it again")


def _tellable(spec: Spec, values: Mapping[str, Any]) -> dict[str, Any]:
    personal = {field.name for field in spec.fields if field.personal}
    return {name: value for name, value in values.items() if name not in personal}
