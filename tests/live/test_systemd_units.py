"""The service's unit, its account and its folders, judged by systemd's own programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"
LIMIT = 20  # tenths: an exposure of 2.0

MDWE = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(65, 1, 0, 0, 0) != 0:  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN; kept over exec
    sys.exit(77)
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""
STACK = """
import asyncio, ctypes, mmap
try:
    mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)
except PermissionError:
    pass
else:
    raise SystemExit("writable and executable memory was to be had: this test shows nothing")
import apsw, httptools, msgspec, psycopg, pydantic, shapely, uvloop
connection = apsw.Connection(":memory:")
connection.create_scalar_function("twice", lambda value: value * 2)
assert connection.execute("SELECT twice(21)").fetchone() == (42,)
assert shapely.Point(0, 0).buffer(1).contains(shapely.Point(0.5, 0))
assert msgspec.json.decode(b"[1]") == [1]
uvloop.run(asyncio.sleep(0))
ctypes.CDLL(None).getpid()
"""


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing: apt-get install systemd")
    return found


def exposure(unit: Path) -> float:
    done = subprocess.run(
        [tool("systemd-analyze"), "security", "--offline=true", "--no-pager", str(unit)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    match = re.search(r"exposure level for carebell\.service: ([0-9.]+)", done.stdout)
    if match is None:
        pytest.skip(f"systemd-analyze security --offline is not to be had here: {done.stderr.strip()[:200]}")
    return float(match[1])


def test_the_unit_is_hardened() -> None:
    assert exposure(UNITS / "carebell.service") <= LIMIT / 10


def test_without_its_sandbox_the_unit_would_not_pass(tmp_path: Path) -> None:
    bare = tmp_path / "carebell.service"
    lines = (UNITS / "carebell.service").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not re.match(r"Protect|Private|Restrict[A-Z]\w*=|System|Capab|NoNew", line)]
    bare.write_text("\n".join(kept), encoding="utf-8")
    assert exposure(bare) > LIMIT / 10


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    unit = tmp_path / "carebell.service"
    text = (UNITS / "carebell.service").read_text(encoding="utf-8")
    program = shutil.which("true") or "/bin/true"
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", f"ExecStart={program}", text), encoding="utf-8")
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", str(unit)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    about_us = [line for line in done.stderr.splitlines() if "carebell" in line]
    assert about_us == []
    assert done.returncode == 0, done.stderr


def test_account_and_folders(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("systemd-sysusers and systemd-tmpfiles need root to give files away")
    (tmp_path / "etc").mkdir()
    for name, *options in (("sysusers",), ("tmpfiles", "--create")):
        command = [tool(f"systemd-{name}"), *options, f"--root={tmp_path}", str(UNITS / f"carebell.{name}")]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
    account = (tmp_path / "etc/passwd").read_text(encoding="utf-8")
    match = re.search(r"^carebell:x?[^:]*:(\d+):(\d+):", account, re.MULTILINE)
    assert match
    data = (tmp_path / "var/lib/carebell").stat()
    assert (data.st_mode & 0o777, data.st_uid) == (0o700, int(match[1]))
    assert (tmp_path / "etc/carebell/credentials").stat().st_mode & 0o777 == 0o700


def test_the_stack_needs_no_writable_executable_memory() -> None:
    """MemoryDenyWriteExecute in the unit, by the kernel's own switch."""
    done = subprocess.run([sys.executable, "-c", MDWE, STACK], check=False, capture_output=True, text=True, timeout=60)
    if done.returncode == 77:
        pytest.skip("this kernel has no PR_SET_MDWE (Linux 6.3)")
    assert done.returncode == 0, done.stdout + done.stderr
