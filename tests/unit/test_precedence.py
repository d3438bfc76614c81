"""Who goes first when there is more to do than there are processors."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.precedence import NICENESS
from gateway.storage import launch

SAYS = "import os; print(os.getpriority(os.PRIO_PROCESS, 0))"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may raise a priority")
def test_the_daemon_goes_first_and_what_it_starts_gives_way(tmp_path: Path) -> None:
    child = [
        sys.executable, "-I", "-S", launch.__file__, "keep", "SIGINT", "PARENT", str(tmp_path),
        sys.executable, "-c", SAYS,
    ]  # fmt: skip
    program = (
        "import os, subprocess, sys\n"
        "from gateway.precedence import go_first\n"
        "assert go_first() and go_first()\n"
        f"{SAYS}\n"
        "sys.stdout.flush()\n"
        f"child = [str(os.getpid()) if part == 'PARENT' else part for part in {child!r}]\n"
        "subprocess.run(child, check=True, start_new_session=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(NICENESS), str(launch.NICENESS)]


def test_without_the_right_to_it_nothing_is_raised_and_nothing_fails() -> None:
    program = (
        "import os\n"
        "from gateway.precedence import go_first\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "before = os.getpriority(os.PRIO_PROCESS, 0)\n"
        "raised = go_first()\n"
        "print(raised == (before <= -10), os.getpriority(os.PRIO_PROCESS, 0) == before)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]
