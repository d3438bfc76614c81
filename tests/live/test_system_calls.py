"""The daemon and its child processes under the unit's own filter of system calls, loaded by libseccomp."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from gateway.storage import launch
from tests.live.console_harness import console_daemon
from tests.live.test_console_room import people

pytestmark = pytest.mark.live
UNIT = Path(__file__).resolve().parents[2] / "systemd" / "carebell.service"
UNSUPPORTED = 77
SANDBOX = """
import ctypes, os, sys
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 1  # SCMP_ACT_ALLOW, SCMP_ACT_ERRNO(EPERM)
try:
    library = ctypes.CDLL("libseccomp.so.2")
except OSError:
    sys.exit(77)
library.seccomp_init.restype = ctypes.c_void_p
library.seccomp_rule_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint)
library.seccomp_load.argtypes = (ctypes.c_void_p,)
context = library.seccomp_init(REFUSE)
for name in open(sys.argv[1]).read().split():
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number >= 0 and library.seccomp_rule_add(context, ALLOW, number, 0) != 0:
        sys.exit(77)
if library.seccomp_load(context) != 0:
    sys.exit(77)
os.execv(sys.argv[2], sys.argv[2:])
"""


def calls_of(group: str) -> set[str]:
    """The system calls of a group of systemd's, or the one call itself."""
    if not group.startswith("@"):
        return {group}
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is missing: apt-get install systemd")
    done = subprocess.run(
        [program, "syscall-filter", "--no-pager", group], check=True, capture_output=True, text=True, timeout=120
    )
    found: set[str] = set()
    for name in re.findall(r"^ +(@?[a-z0-9_-]+)$", done.stdout, re.MULTILINE):
        found |= calls_of(name)
    return found


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """What stands before a command to run it under the filter."""
    allowed = calls_of("@default")  # systemd adds it by itself
    for line in re.findall(r"^SystemCallFilter=(.+)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE):
        for group in line.removeprefix("~").split():
            allowed = allowed - calls_of(group) if line.startswith("~") else allowed | calls_of(group)
    file = tmp_path_factory.mktemp("calls") / "allowed"
    file.write_text("\n".join(sorted(allowed)))
    before = (sys.executable, "-c", SANDBOX, str(file))
    done = subprocess.run([*before, sys.executable, "-c", ""], check=False, timeout=60)
    if done.returncode == UNSUPPORTED:
        pytest.skip("libseccomp2 is missing, or this kernel loads no filters: apt-get install libseccomp2")
    assert done.returncode == 0
    return before


def test_the_filter_refuses_what_it_should(sandbox: tuple[str, ...]) -> None:
    code = "import os; os.sched_setaffinity(0, os.sched_getaffinity(0))"
    done = subprocess.run([*sandbox, sys.executable, "-c", code], check=False, capture_output=True, timeout=60)
    assert b"PermissionError" in done.stderr


def test_the_launcher_of_postgresql(sandbox: tuple[str, ...], tmp_path: Path) -> None:
    script = str(Path(launch.__file__).resolve())
    arguments = ["keep", "SIGKILL", str(os.getpid()), str(tmp_path), shutil.which("true") or "/bin/true"]
    done = subprocess.run(
        [*sandbox, sys.executable, "-I", "-S", script, *arguments], check=False, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_the_daemon_its_history_and_its_pages(sandbox: tuple[str, ...], tmp_path: Path) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:1/none"
    with console_daemon(tmp_path / "var", prefix=sandbox, CAREBELL_HISTORY__DSN=nowhere) as (daemon, _):
        token = people(tmp_path / "var")[0]
        cookie = {"cookie": f"carebell_session={token}"}
        page = httpx2.get(f"{daemon.url}/console/queue", headers=cookie, trust_env=False, timeout=60)
        assert page.status_code == 200
        state = ""
        until_s = time.monotonic() + 60
        while (
            not state.startswith("PostgreSQL:") and time.monotonic() < until_s
        ):  # it runs, and cannot reach the server
            ready: dict[str, Any] = httpx2.get(f"{daemon.url}/readyz", trust_env=False, timeout=60).json()
            state = next(part["text"] for part in ready["parts"] if part["name"] == "history")
            time.sleep(0.1)
        assert state.startswith("PostgreSQL:")
