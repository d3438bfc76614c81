"""Deadlines of many connections with one timer."""

from __future__ import annotations

import math
from typing import Final, Protocol

HORIZON_S: Final = 60


class Timed(Protocol):
    def due(self, now_s: float) -> None:
        """A deadline that was added may have passed. It may be added again."""
        ...


class Wheel:
    """Buckets of whole seconds. An item fires within a second after its deadline, or after HORIZON_S if that is sooner:
    it has to look at its deadline itself, and what is closed is let go of soon.
    """

    __slots__ = ("_buckets", "_next")

    def __init__(self, now_s: float) -> None:
        self._buckets: dict[int, list[Timed]] = {}
        self._next = math.ceil(now_s)

    def add(self, item: Timed, at_s: float) -> None:
        slot = max(math.ceil(at_s), self._next)
        slot = min(slot, self._next + HORIZON_S)
        bucket = self._buckets.get(slot)
        if bucket is None:
            self._buckets[slot] = [item]
        else:
            bucket.append(item)

    def advance(self, now_s: float) -> None:
        """Fire what is due."""
        last = math.floor(now_s)
        if last < self._next:
            return
        due = sorted(slot for slot in self._buckets if slot <= last)
        self._next = last + 1
        for slot in due:
            for item in self._buckets.pop(slot):
                item.due(now_s)
