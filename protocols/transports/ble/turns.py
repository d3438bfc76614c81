"""Whose turn it is: many devices that want to be connected, few connections."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from msgspec import Struct

WANTED_S: Final = 15.0
"""A device that was not heard for so long sleeps again; it is left out until it wakes."""


class Wish(Struct):
    """A device that was heard, and what the radio calls it."""

    device_id: str
    target: Any
    heard_s: float


class _Past(Struct):
    served_s: float = -1e9
    not_before_s: float = -1e9
    failures: int = 0


class Turns:
    """The device that was served longest ago goes first; one that failed pauses, doubling up to a minute."""

    def __init__(self, rest_s: float, longest_pause_s: float = 60.0) -> None:
        self._rest_s = rest_s
        self._longest_pause_s = longest_pause_s
        self._wishes: dict[str, Wish] = {}
        self._past: dict[str, _Past] = {}
        self._active: set[str] = set()
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    @property
    def waiting(self) -> int:
        """Devices that were heard a moment ago and have no connection yet."""
        oldest_s = self._loop.time() - WANTED_S
        return sum(wish.heard_s >= oldest_s for wish in self._wishes.values())

    @property
    def active(self) -> int:
        return len(self._active)

    def want(self, device_id: str, target: Any) -> None:
        """Note that a device was heard. Nothing happens while it is connected, or rests."""
        now_s = self._loop.time()
        past = self._past.get(device_id)
        if device_id in self._active or (past is not None and now_s < past.not_before_s):
            return
        self._wishes[device_id] = Wish(device_id, target, now_s)
        self._news.set()

    async def next(self) -> Wish:
        """Wait for a device and give it its turn; ``done`` must follow."""
        while True:
            oldest_s = self._loop.time() - WANTED_S
            for device_id in [name for name, wish in self._wishes.items() if wish.heard_s < oldest_s]:
                del self._wishes[device_id]
            if self._wishes:
                wish = min(self._wishes.values(), key=lambda wish: self._past.get(wish.device_id, _Past()).served_s)
                del self._wishes[wish.device_id]
                self._active.add(wish.device_id)
                return wish
            self._news.clear()
            await self._news.wait()

    def done(self, device_id: str, *, failed: bool, pause_s: float = 0.0) -> None:
        """The turn is over. The device rests, or pauses after a failure for at least ``pause_s``."""
        self._active.discard(device_id)
        past = self._past.setdefault(device_id, _Past())
        past.served_s = self._loop.time()
        past.failures = past.failures + 1 if failed else 0
        doubled_s = min(self._longest_pause_s, 0.25 * 2 ** min(past.failures, 10))
        past.not_before_s = past.served_s + (max(pause_s, doubled_s) if failed else self._rest_s)
