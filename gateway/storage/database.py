"""The SQLite file: opening it safely, and its schema."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Final

import apsw

from gateway.errors import NewerSchemaError, StorageBrokenError, StorageError

FILE_NAME: Final = "journal.sqlite3"
BUSY_TIMEOUT_MS: Final = 5000
APPLICATION_ID: Final = 0x63626C31  # "cbl1"


def open_database(path: Path, *, read_only: bool = False, vfs: str | None = None) -> apsw.Connection:
    """Open the journal file with WAL and ``synchronous=FULL``, both asserted, and bring its schema up to date.

    Raises NewerSchemaError when a newer carebell wrote it, StorageBrokenError when it is not a usable database.
    """
    flags = apsw.SQLITE_OPEN_READONLY if read_only else apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    if not read_only:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        connection = apsw.Connection(str(path), flags=flags, vfs=vfs)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        version = connection.pragma("user_version")
        if version <= len(migrations()):
            if not read_only:
                _prepare(connection)
            connection.pragma("query_only", read_only)
            connection.pragma("temp_store", "memory")  # a statement must not need a file that cannot be opened
            connection.pragma("foreign_keys", True)
    except (apsw.NotADBError, apsw.CorruptError, apsw.IOError, apsw.CantOpenError) as error:
        raise StorageBrokenError(f"{path}: {error}") from error
    except (apsw.BusyError, apsw.FullError) as error:
        raise StorageError(f"{path}: {error}") from error
    newest = len(migrations())
    if version > newest:
        connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)  # not even what a crash left in its WAL is moved
        connection.close()
        raise NewerSchemaError(
            f"{path}: its schema is version {version}, this carebell knows up to {newest}; "
            "install the newer carebell again, or restore a backup made by this one"
        )
    if not read_only:
        _migrate(connection, version)
        path.chmod(0o600)
    return connection


def _prepare(connection: apsw.Connection) -> None:
    mode = connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.pragma("wal_autocheckpoint", 0)  # the checkpointer thread does it, so that no commit pays for it
    if connection.pragma("application_id") != APPLICATION_ID:  # writing it needs the lock, so only once
        connection.pragma("application_id", APPLICATION_ID)
    if mode != "wal" or connection.pragma("synchronous") != 2:
        raise StorageBrokenError(f"SQLite refuses WAL with synchronous=FULL here (journal_mode={mode})")


def migrations() -> list[str]:
    """The numbered SQL files in order; file n brings the schema from version n-1 to n."""
    folder = resources.files("gateway.storage") / "migrations"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(folder / name).read_text(encoding="utf-8") for name in names]


def _migrate(connection: apsw.Connection, version: int) -> None:
    for number, sql in enumerate(migrations()[version:], start=version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if connection.pragma("user_version") < number:  # another process may have been quicker
                connection.execute(sql)
                connection.pragma("user_version", number)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
