"""Datagrams of ours that want an answer, sent again until it comes: RFC 3261, 17.1.2.2, timers E and F."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from msgspec import Struct

from gateway.clock import Clock

T1_S: Final = 0.5
T2_S: Final = 4.0
GIVE_UP_S: Final = 64 * T1_S
LOOK_S: Final = T1_S / 2
MOST: Final = 5000


class Asking(Protocol):
    """A codec whose replies contain requests of its own."""

    def asks(self, part: bytes) -> str:
        """By what the answer to this datagram of ours will be known; "" when none is awaited."""
        ...

    def settles(self, payload: bytes) -> str:
        """The same of a datagram that came; "" when it is no final answer."""
        ...


class _Owed(Struct):
    datagram: bytes
    send: Callable[[bytes], Any]
    next_s: float
    pause_s: float
    until_s: float


class Repeats:
    """At most MOST; above that the oldest is let go."""

    def __init__(self, codec: Asking, clock: Clock) -> None:
        self._codec = codec
        self._clock = clock
        self._owed: dict[str, _Owed] = {}
        self.counts = {"repeated": 0, "unanswered": 0}

    def sent(self, part: bytes, send: Callable[[bytes], Any]) -> None:
        """Remember a datagram that went out by ``send``, if it asks for something."""
        key = self._codec.asks(part)
        if not key:
            return
        self._owed.pop(key, None)
        if len(self._owed) >= MOST:
            del self._owed[next(iter(self._owed))]
            self.counts["unanswered"] += 1
        now_s = self._clock.monotonic_s()
        self._owed[key] = _Owed(part, send, now_s + T1_S, T1_S, now_s + GIVE_UP_S)

    def heard(self, payload: bytes) -> None:
        """Forget what a datagram that came is the answer to."""
        if self._owed and (key := self._codec.settles(payload)):
            self._owed.pop(key, None)

    def look(self) -> None:
        """Send what is due; give up what was never answered. To be called every LOOK_S."""
        now_s = self._clock.monotonic_s()
        for key, owed in list(self._owed.items()):
            if now_s >= owed.until_s:
                del self._owed[key]
                self.counts["unanswered"] += 1
            elif now_s >= owed.next_s:
                owed.pause_s = min(T2_S, owed.pause_s * 2)
                owed.next_s = now_s + owed.pause_s
                owed.send(owed.datagram)
                self.counts["repeated"] += 1
