"""Message-id deduplication (RFC 7252, section 4.5), bounded.

A resend is the same bytes from the same address. Another message under a message id that was used before (a device that
started anew and counts from the beginning) is not taken for one: a second press is never hidden by a first.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Final

LIFETIME_S: Final = 247.0  # EXCHANGE_LIFETIME
MAX_EXCHANGES: Final = 65_536

Key = tuple[Any, int]


class Exchange:
    """One request. ``answer`` is what went out last for it, None while nothing did."""

    __slots__ = ("answer", "at_s", "digest")

    def __init__(self, digest: int, at_s: float) -> None:
        self.digest = digest
        self.at_s = at_s
        self.answer: bytes | None = None


class Exchanges:
    """The newest ``limit`` requests of the last LIFETIME_S seconds, by address and message id."""

    def __init__(self, limit: int = MAX_EXCHANGES) -> None:
        self._limit = limit
        self._kept: OrderedDict[Key, Exchange] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def seen(self, address: Any, mid: int, data: bytes, now_s: float) -> Exchange | None:
        """The exchange that these bytes belong to, when they are a resend; else note them as a new one."""
        key = (address, mid)
        digest = hash(data)
        known = self._kept.get(key)
        if known is not None and known.digest == digest and now_s - known.at_s < LIFETIME_S:
            return known
        if known is not None:
            del self._kept[key]
        self._kept[key] = Exchange(digest, now_s)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return None

    def answered(self, address: Any, mid: int, data: bytes) -> None:
        """Remember what a resend is to be answered with."""
        known = self._kept.get((address, mid))
        if known is not None:
            known.answer = data

    def forget(self, address: Any, mid: int) -> None:
        """A resend shall be treated as new: its frame was not stored."""
        self._kept.pop((address, mid), None)

    def sweep(self, now_s: float) -> None:
        """Forget what is older than LIFETIME_S."""
        while self._kept:
            key, oldest = next(iter(self._kept.items()))
            if now_s - oldest.at_s < LIFETIME_S:
                return
            del self._kept[key]
