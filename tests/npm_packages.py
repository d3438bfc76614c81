"""Programs from npm that tests take for judges and clients: installed once, outside of the repository."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

LIMIT_S: Final = 100.0
GIVEN_UP_S: Final = 900.0
"""So long nobody tries again what npm could not fetch: other workers of pytest wait for the one that tries."""


def npm_packages(name: str, *packages: str) -> Path:
    """The folder whose node_modules holds these packages (``package@version``).

    Skips the test where there is no npm, or npm cannot fetch them.
    """
    missing = [program for program in ("node", "npm") if shutil.which(program) is None]
    if missing:
        pytest.skip(f"needs {' and '.join(missing)}: apt-get install nodejs npm")
    cache = os.environ.get("CAREBELL_TEST_CACHE") or Path.home() / ".cache" / "carebell-tests"
    folder = Path(cache) / name
    folder.mkdir(parents=True, exist_ok=True)
    wanted = "\n".join(packages)
    installed, failed = folder / "installed", folder / "failed"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists() or installed.read_text() != wanted:
            if failed.exists() and time.time() - failed.stat().st_mtime < GIVEN_UP_S:
                pytest.skip(failed.read_text())
            trouble = _install(folder, packages)
            if trouble:
                failed.write_text(f"npm cannot install {' '.join(packages)}: {trouble}")
                pytest.skip(failed.read_text())
            installed.write_text(wanted)
    return folder


def _install(folder: Path, packages: tuple[str, ...]) -> str:
    """What went wrong, or ""."""
    command = ["npm", "install", "--prefix", str(folder), "--no-fund", "--no-audit", "--silent", *packages]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"not within {LIMIT_S:g} s"
    return (done.stderr[-300:] or f"it ended with {done.returncode}") if done.returncode else ""
