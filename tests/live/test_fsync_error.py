"""fsync fails: nothing more is acknowledged, the daemon ends with 75 and starts again cleanly.

After a failed fsync the kernel may call the lost pages clean, so that the next one succeeds: one failure is enough.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.mqtt_driver import Driver
from tests.daemon import Daemon, carebell_json, provision

pytestmark = pytest.mark.live

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* While the file named by BREAK_SYNC exists every fsync fails; the file named by BREAK_SYNC_ONCE is used up by one. */
static int fails(void)
{
    const char *always = getenv("BREAK_SYNC"), *once = getenv("BREAK_SYNC_ONCE");
    return (always && access(always, F_OK) == 0) || (once && unlink(once) == 0);
}

static int sync_or_fail(const char *name, int descriptor)
{
    int saved = errno;
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    if (fails()) { errno = EIO; return -1; }
    errno = saved;
    return real(descriptor);
}

int fsync(int descriptor) { return sync_or_fail("fsync", descriptor); }
int fdatasync(int descriptor) { return sync_or_fail("fdatasync", descriptor); }
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that, loaded before libc, lets fsync fail when a test wants it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt-get install gcc libc6-dev")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    made = subprocess.run(
        [compiler, "-shared", "-fPIC", "-o", folder / "shim.so", folder / "shim.c", "-ldl"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"needs a C compiler with libc's headers: apt-get install libc6-dev\n{made.stderr}")
    return folder / "shim.so"


@pytest.mark.parametrize("how", ["BREAK_SYNC", "BREAK_SYNC_ONCE"])
def test_a_failed_fsync_ends_the_daemon_and_loses_nothing_acknowledged(tmp_path: Path, shim: Path, how: str) -> None:
    data_dir = tmp_path / "var"
    data_dir.mkdir()
    tokens = provision(data_dir, 6)
    broken = tmp_path / "broken"
    daemon = Daemon(data_dir)
    driver = Driver(daemon.mqtt_port, tokens, seed=3)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            await asyncio.to_thread(daemon.start, {"LD_PRELOAD": str(shim), how: str(broken)})
            group.create_task(driver.run())
            async with asyncio.timeout(60):
                while len(driver.acknowledged()) <= 50:
                    await asyncio.sleep(0.05)
            broken.touch()
            assert await asyncio.to_thread(daemon.wait, 90) == os.EX_TEMPFAIL
            seen = driver.acknowledged()
            in_journal = {(row["device_id"], int(row["dedup_key"])) for row in rows(data_dir)}
            assert seen <= in_journal
            broken.unlink(missing_ok=True)
            await asyncio.to_thread(daemon.start, {"LD_PRELOAD": str(shim), how: str(broken)})
            async with asyncio.timeout(60):
                while len(driver.acknowledged()) <= len(seen):
                    await asyncio.sleep(0.05)
            driver.finish()
            await asyncio.sleep(0.5)
            assert await asyncio.to_thread(daemon.stop) == 0  # which also ends the connections that have nothing to say

    asyncio.run(main())
    found = Counter((row["device_id"], int(row["dedup_key"])) for row in rows(data_dir))
    assert driver.acknowledged() <= set(found)
    assert set(found.values()) == {1}
    assert not (data_dir / "quarantine").exists(), "the file is whole"
    said = (tmp_path / "var.log").read_text(encoding="utf-8")
    assert "journal_broken" in said
    assert "nothing was acknowledged that is not on disk" in said
    assert "Traceback" not in said


def test_a_disk_that_fails_from_the_start(tmp_path: Path, shim: Path) -> None:
    data_dir = tmp_path / "var"
    broken = tmp_path / "broken"
    broken.touch()
    daemon = Daemon(data_dir)
    with pytest.raises(AssertionError, match=f"it ended with {os.EX_TEMPFAIL}"):
        daemon.start({"LD_PRELOAD": str(shim), "BREAK_SYNC": str(broken)})
    daemon.wait()
    assert "Traceback" not in (tmp_path / "var.log").read_text(encoding="utf-8")
    broken.unlink()
    with daemon:
        pass


def rows(data_dir: Path) -> list[dict[str, str]]:
    return carebell_json("journal", "list", data_dir=data_dir)
