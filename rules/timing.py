"""Clock sanity: which time a record is judged by. A wrong clock may make a device look late once, never mute it."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from gateway.clock import US_PER_S
from rules.machine import DAY_US, MINUTE_US

LATE_US: Final = 5 * MINUTE_US
AHEAD_US: Final = MINUTE_US
_OLDEST_US: Final = 400 * DAY_US  # older than that is a clock that was never set
_SAME_LAG_US: Final = 30 * US_PER_S
_LIVE_PACE_US: Final = 20 * US_PER_S


class Timing(Struct, frozen=True):
    """``at_us`` orders the record; ``occurred_at_us`` is the best guess of when it happened; ``lag_us`` how far the
    device's time lies back when that is more than it should.
    """

    late: bool
    at_us: int
    occurred_at_us: int
    lag_us: int | None = None


def judge(
    received_at_us: int, observed_at_us: int, *, stored: bool, known_lag_us: int | None, known_lag_at_us: int
) -> Timing:
    """Decide whether a record is late.

    What a device says it had stored is late. So is what was observed more than five minutes before it came, unless the
    device says so all the time while it speaks at a live pace: then its clock is slow, and the record is live. Times in
    the future, or more than 400 days back, are no times at all.
    """
    lag_us = received_at_us - observed_at_us
    possible = -AHEAD_US <= lag_us <= _OLDEST_US
    occurred_at_us = min(observed_at_us, received_at_us) if possible else received_at_us
    if stored:
        return Timing(late=True, at_us=occurred_at_us, occurred_at_us=occurred_at_us)
    if not possible or lag_us <= LATE_US:
        return Timing(late=False, at_us=received_at_us, occurred_at_us=occurred_at_us)
    slow_clock = (
        known_lag_us is not None
        and abs(lag_us - known_lag_us) <= _SAME_LAG_US
        and received_at_us - known_lag_at_us >= _LIVE_PACE_US
    )
    if slow_clock:
        return Timing(late=False, at_us=received_at_us, occurred_at_us=received_at_us, lag_us=lag_us)
    return Timing(late=True, at_us=observed_at_us, occurred_at_us=observed_at_us, lag_us=lag_us)


def sane_us(observed_us: int, received_us: int, otherwise_us: int | None = None) -> int:
    """A device's time where it can be right, never after its reception; else ``otherwise_us``, else the reception."""
    if received_us - LATE_US <= observed_us <= received_us + AHEAD_US:
        return min(observed_us, received_us)
    return received_us if otherwise_us is None else otherwise_us
