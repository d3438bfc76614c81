"""History's tables in PostgreSQL: their numbered migrations, applied under a lock, a newer schema refused."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Final

import psycopg

from gateway.errors import NewerSchemaError
from gateway.storage.history.dialect import Connection, Native, Timescale, choose, metric_hour_view, wide_aggregates

SCHEMA: Final = "carebell"
LOCK_KEY: Final = 0x63626C31  # "cbl1": one migration at a time
SESSION: Final = (
    f"SET search_path = {SCHEMA}, public",
    "SET timezone = 'UTC'",
    "SET client_min_messages = 'error'",
)


def reason(error: psycopg.Error) -> str:
    """What went wrong in one line, without the DETAIL that could carry readings into a log."""
    return error.diag.message_primary or (str(error).strip().splitlines() or [type(error).__name__])[0]


def connect(dsn: str, *, statement_timeout_s: float = 120.0) -> Connection:
    """A connection of the worker: autocommit, bounded waits. Raises psycopg.OperationalError."""
    connection = psycopg.connect(
        dsn,
        autocommit=True,
        connect_timeout=5,
        keepalives_idle=10,
        keepalives_interval=5,
        keepalives_count=3,
        tcp_user_timeout=20_000,
        application_name="carebell-history",
    )
    try:
        for statement in (*SESSION, f"SET statement_timeout = {round(statement_timeout_s * 1000)}"):
            connection.execute(statement.encode())
    except BaseException:
        connection.close()
        raise
    return connection


def migrations() -> list[str]:
    """The numbered SQL files in order; file n brings the schema from version n-1 to n."""
    folder = resources.files("gateway.storage.history") / "sql"
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(folder / name).read_text(encoding="utf-8") for name in names]


def migrate(connection: Connection) -> Native | Timescale:
    """Bring the schema up to date and return its dialect. Raises NewerSchemaError, having touched nothing."""
    connection.execute("SELECT pg_advisory_lock(%s)", (LOCK_KEY,))
    try:
        return _migrate(connection)
    finally:
        if not connection.broken:
            connection.execute("SELECT pg_advisory_unlock(%s)", (LOCK_KEY,))


def _migrate(connection: Connection) -> Native | Timescale:
    scripts = migrations()
    known = connection.execute("SELECT to_regclass(%s)", (f"{SCHEMA}.schema_version",)).fetchone()
    version, recorded, derived = 0, None, ""
    if known is not None and known[0] is not None:
        row = connection.execute("SELECT version, dialect, derived FROM schema_version").fetchone()
        assert row is not None
        version, recorded, derived = row
    if version > len(scripts):
        raise NewerSchemaError(
            f"the history's schema is version {version}, this carebell knows up to {len(scripts)}; "
            "install the newer carebell again, or give history.dsn another database"
        )
    dialect = choose(connection, recorded)
    fingerprint = hashlib.sha256((wide_aggregates() + metric_hour_view()).encode()).hexdigest()
    if version == len(scripts) and derived == fingerprint:
        return dialect
    with connection.transaction():
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}".encode())
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_version (version integer NOT NULL, dialect text NOT NULL,"
            " derived text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
        )
        for script in scripts[version:]:
            connection.execute(script.replace("/*partitioned*/", dialect.partitioned).encode())
        connection.execute("DELETE FROM schema_version")
        connection.execute(
            "INSERT INTO schema_version (version, dialect, derived) VALUES (%s, %s, '')", (len(scripts), dialect.name)
        )
    # Apart from the tables: continuous aggregates cannot be made inside a transaction. Each step may be repeated.
    dialect.derive(connection)
    connection.execute("UPDATE schema_version SET derived = %s, applied_at = now()", (fingerprint,))
    return dialect
