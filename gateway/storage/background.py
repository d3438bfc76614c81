"""Work that may wait: history gives way to the loop that acknowledges when both want the same processor."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

NICENESS: Final = 10


def give_way(pid: int) -> None:
    """Lower the priority of a child just started, and of what it will start; without effect where that is refused.

    A child in a session of its own is scheduled as a group (autogroup of sched(7)), so its group is lowered as well.
    """
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, NICENESS)
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(NICENESS), encoding="ascii")
