"""An import without a long lock: all of it is tried on a copy of the registry, then only what that changed is written.

An import is all or nothing, so it is one transaction, and while that runs no alarm is committed. Most of its time goes
into checking rows against the registry, which needs the registry as it is, but not the lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import apsw
import msgspec
from msgspec import Struct

from gateway.model import Actor
from gateway.registry.changes import Change, begin, registry_version
from gateway.registry.csvio import ImportReport, Plan, apply_rows

_TABLES: Final = ("person", "contact", "place", "device", "device_key", "binding", "credential", "unknown_device")
"""What an import reads and writes. Whoever else writes them counts the registry's version up, but for the last one."""


class Rehearsal(Struct, frozen=True):
    """What an import does to the registry of this version: its report, and its rows and audit, ready to be written."""

    version: int
    report: ImportReport
    changeset: bytes
    change: Change
    audited: Sequence[msgspec.Raw]


def rehearse(path: Path, plan: Plan, *, at_us: int, actor: Actor, reason: str = "") -> Rehearsal:
    """Try an import on a copy in memory; the journal file at ``path`` is only read, and somebody may be writing it.

    Raises ImportRefusedError as ``csvio.apply_plan``.
    """
    copy = apsw.Connection(":memory:", flags=apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_URI)
    try:
        _fill(copy, path)
        version = registry_version(copy)
        session = apsw.Session(copy, "main")
        for table in _TABLES:
            session.attach(table)
        with copy:
            change = begin(copy, at_us=at_us, actor=actor, reason=reason, bulk=True)
            report = apply_rows(copy, plan, change)
        return Rehearsal(version, report, session.changeset(), change, change.parts())
    finally:
        copy.close()


def perform(connection: apsw.Connection, rehearsal: Rehearsal) -> bool:
    """Write what was rehearsed, in the caller's transaction. False, and nothing is written, when the registry has
    changed since: rehearse again.
    """
    if registry_version(connection) != rehearsal.version:
        return False
    try:
        apsw.Changeset.apply(rehearsal.changeset, connection, conflict=_on_conflict)
    except apsw.AbortError:
        return False
    change = begin(connection, at_us=rehearsal.change.at_us, actor=rehearsal.change.actor)
    assert change.number == rehearsal.change.number
    rehearsal.change.end(connection, rehearsal.audited)
    return True


def _on_conflict(_: int, change: apsw.TableChange) -> int:
    """The daemon keeps its list of unknown devices without counting the version: what it dropped needs no mark."""
    return apsw.SQLITE_CHANGESET_OMIT if change.name == "unknown_device" else apsw.SQLITE_CHANGESET_ABORT


def _fill(copy: apsw.Connection, path: Path) -> None:
    """Copy the tables with their indexes and triggers, all as of one moment."""
    copy.execute("ATTACH ? AS file", (f"{path.resolve().as_uri()}?mode=ro",))
    with copy:
        made: list[tuple[str, str]] = copy.execute(
            "SELECT type, sql FROM file.sqlite_schema WHERE sql IS NOT NULL AND tbl_name IN (SELECT value FROM"
            " json_each(?))",
            (msgspec.json.encode(["meta", *_TABLES]).decode(),),
        ).fetchall()  # type: ignore[assignment]  # the schema says so
        for sql in [sql for kind, sql in made if kind == "table"]:
            copy.execute(sql)
        for table in ("meta", *_TABLES):
            copy.execute(f"INSERT INTO main.{table} SELECT * FROM file.{table}")  # noqa: S608 - one of ours
        for sql in [sql for kind, sql in made if kind != "table"]:
            copy.execute(sql)
    copy.execute("DETACH file")
