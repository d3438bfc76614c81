"""Named places where a test lets the process die as if the power had gone.

``CAREBELL_CRASH=after_commit:120`` kills it with SIGKILL when that place is reached for the 120th time. Without the
variable a place costs one comparison.
"""

from __future__ import annotations

import os
import signal
from typing import Final

BEFORE_COMMIT: Final = "before_commit"  # the records of a batch are in the transaction
AFTER_COMMIT: Final = "after_commit"  # they are durable; nobody has been told
BEFORE_JUDGING: Final = "before_judging"  # acknowledged, not yet judged
BEFORE_EFFECTS: Final = "before_effects"  # judged; the alert's transaction has not begun
AFTER_EFFECTS: Final = "after_effects"  # the alert, its audit row and its dispatch are durable; nothing was sent
AFTER_SENDING: Final = "after_sending"  # the destination has answered; that is not yet written down

POINTS: Final = (BEFORE_COMMIT, AFTER_COMMIT, BEFORE_JUDGING, BEFORE_EFFECTS, AFTER_EFFECTS, AFTER_SENDING)
"""Those on every press's way."""

REPLAY_COMMITTED: Final = "replay_committed"  # a slice of a replay is in the journal, and its rows still wait

_name, _, _count = os.environ.get("CAREBELL_CRASH", "").partition(":")
_left = int(_count or 1)


def reached(point: str) -> None:
    """Die here if this is the place and the time."""
    if point == _name:
        _countdown()


def _countdown() -> None:
    global _left  # noqa: PLW0603 - one process, one death
    _left -= 1
    if _left <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
