"""Is the journal file what it should be? If not: put it aside, loudly, and save what can still be read."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw
import structlog

from gateway.clock import from_us
from gateway.storage.database import FILE_NAME, migrations, open_database
from gateway.storage.journal import CorruptBatch, decode_row

NEWEST_BATCHES: Final = 200
SUSPICION: Final = "journal.suspect"
"""A file of this name beside the journal asks for the check of every page at the next start."""

log = structlog.get_logger("journal")


def suspect(data_dir: Path) -> None:
    """Ask for the thorough check at the next start."""
    (data_dir / SUSPICION).touch()


def check(data_dir: Path) -> list[str]:
    """What is wrong with the journal file; empty when nothing is, when there is none, or when a newer carebell wrote it
    (which ``open_database`` refuses): what this one cannot read there need not be damaged.

    Every table but the big one is checked whole, of that the newest rows; all of it after ``suspect``.
    """
    path = data_dir / FILE_NAME
    if not path.exists():
        return []
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
        try:
            if connection.pragma("user_version") > len(migrations()):
                connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
                return []
            return list(_faults(connection, thorough=(data_dir / SUSPICION).exists()))
        finally:
            connection.close()
    except (apsw.NotADBError, apsw.CorruptError, apsw.IOError, apsw.CantOpenError) as error:
        return [f"{type(error).__name__}: {error}"]


def _faults(connection: apsw.Connection, *, thorough: bool) -> Iterator[str]:
    connection.set_busy_timeout(5000)
    if thorough:
        yield from (row[0] for row in connection.execute("PRAGMA quick_check") if row[0] != "ok")
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
    for table in tables:
        if table != "batch" and not table.startswith("sqlite_"):
            rows = connection.execute(f'PRAGMA quick_check("{table}")')
            yield from (f"{table}: {row[0]}" for row in rows if row[0] != "ok")
    if "batch" in tables:
        newest = connection.execute(
            "SELECT first_seq, last_seq, checksum, body FROM batch ORDER BY first_seq DESC LIMIT ?", (NEWEST_BATCHES,)
        )
        for row in newest:
            read = decode_row(*row)
            if isinstance(read, CorruptBatch):
                yield f"batch {read.first_seq}: {read.reason}"


def quarantine(data_dir: Path, faults: list[str], now_us: int) -> Path:
    """Move the damaged files aside and build a new journal from every row that can still be read.

    Returns the folder with the damaged files and a report. Nothing is deleted.
    """
    folder = data_dir / "quarantine" / from_us(now_us).strftime("%Y%m%dT%H%M%S.%fZ")
    folder.mkdir(parents=True, mode=0o700)
    for suffix in ("", "-wal", "-shm"):
        source = data_dir / (FILE_NAME + suffix)
        if source.exists():
            shutil.move(source, folder / source.name)
    (data_dir / SUSPICION).unlink(missing_ok=True)
    saved, lost = _salvage(folder / FILE_NAME, data_dir / FILE_NAME)
    report = [*faults, "", *(f"{table}: {count} rows saved" for table, count in saved.items()), *lost]
    (folder / "report.txt").write_text("\n".join(report) + "\n", encoding="utf-8")
    log.error("journal_quarantined", folder=str(folder), faults=faults[:5], saved=saved, lost=lost[:20])
    return folder


def _salvage(damaged: Path, fresh: Path) -> tuple[dict[str, int], list[str]]:
    target = open_database(fresh)
    saved: dict[str, int] = {}
    lost: list[str] = []
    tables = [
        row[0]
        for row in target.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")
    ]
    # The copy may not roll the damaged WAL into anything: read a copy, keep the original as it is.
    work = fresh.with_name("salvage.sqlite3")
    for suffix in ("", "-wal"):
        source = damaged.with_name(damaged.name + suffix)
        if source.exists():
            shutil.copy(source, work.with_name(work.name + suffix))
    try:
        source_connection = apsw.Connection(str(work), flags=apsw.SQLITE_OPEN_READWRITE)
        target.pragma("foreign_keys", False)
        target.execute("BEGIN")
        for table in tables:
            saved[table] = _copy_table(source_connection, target, table, lost)
        target.execute("COMMIT")
        source_connection.close()
    except apsw.Error as error:
        if target.in_transaction:
            target.execute("ROLLBACK")
        lost.append(f"nothing could be read: {error}")
    finally:
        target.close()
        for suffix in ("", "-wal", "-shm"):
            work.with_name(work.name + suffix).unlink(missing_ok=True)
    return saved, lost


def _copy_table(source: apsw.Connection, target: apsw.Connection, table: str, lost: list[str]) -> int:
    """Every readable row, from both ends of the table when the middle cannot be read."""
    columns = [row[1] for row in target.execute(f'PRAGMA table_info("{table}")')]
    names = ", ".join(f'"{column}"' for column in columns)
    insert = f'INSERT OR IGNORE INTO "{table}" ({names}) VALUES ({", ".join("?" * len(columns))})'  # noqa: S608 - schema names
    key = ", ".join(
        f'"{row[1]}"'
        for row in sorted(target.execute(f'PRAGMA table_info("{table}")'), key=lambda row: row[5])
        if row[5]
    )
    count = 0
    for direction in ("ASC", "DESC"):
        order = ", ".join(f"{part} {direction}" for part in key.split(", ")) if key else f"rowid {direction}"
        try:
            for row in source.execute(f'SELECT {names} FROM "{table}" ORDER BY {order}'):  # noqa: S608 - as above
                if table == "batch" and isinstance(decode_row(row[0], row[1], row[3], row[4]), CorruptBatch):
                    lost.append(f"batch: sequence numbers {row[0]} to {row[1]} are lost")
                    continue
                target.execute(insert, row)
                count += target.changes()
        except apsw.Error as error:
            lost.append(f"{table}, read {direction.lower()}: {error}")
            continue
        return count
    return count
