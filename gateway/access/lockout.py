"""When a login has to wait: after wrong passwords or codes, by account (in its row) and by address (in memory).

Only signing in waits. Taking in alarms knows nothing of this.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

TRIES: Final = 5
WINDOW_US: Final = 15 * 60_000_000
FIRST_LOCK_US: Final = 60_000_000
LONGEST_LOCK_US: Final = 60 * 60_000_000
ADDRESS_TRIES: Final = 20  # a whole call center may sit behind one address
ADDRESSES: Final = 10_000


def after_failure(failures: int, failed_at_us: int, now_us: int) -> tuple[int, int]:
    """Failures with this one, and until when the account is locked (0: it is not). Each further failure doubles it."""
    failures = 1 if now_us - failed_at_us > WINDOW_US and failures < TRIES else failures + 1
    if failures < TRIES:
        return failures, 0
    return failures, now_us + min(FIRST_LOCK_US << min(failures - TRIES, 10), LONGEST_LOCK_US)


class Addresses:
    """Failures by address, the newest ``ADDRESSES``."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, int]] = OrderedDict()

    def locked_until_us(self, address: str, now_us: int) -> int:
        count, newest_us = self._failures.get(address, (0, 0))
        if count < ADDRESS_TRIES:
            return 0
        until_us = newest_us + min(FIRST_LOCK_US << min(count - ADDRESS_TRIES, 10), LONGEST_LOCK_US)
        return until_us if until_us > now_us else 0

    def failed(self, address: str, now_us: int) -> None:
        count, newest_us = self._failures.pop(address, (0, 0))
        if now_us - newest_us > WINDOW_US and self.locked_until_us(address, now_us) == 0:
            count = 0
        self._failures[address] = (count + 1, now_us)
        while len(self._failures) > ADDRESSES:
            self._failures.popitem(last=False)
