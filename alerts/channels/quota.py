"""What a provider allows in a sliding time, known beforehand so that no call is spent on finding out."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import Final

from msgspec import Struct

from gateway.errors import DeliveryDeferredError

MAX_KEYS: Final = 10_000


class LimitReachedError(DeliveryDeferredError):
    """The provider says that this callee or robot has had what it may get.

    Handler: the adapter, which closes the quota until then; after it the outbox.
    """


class Window(Struct, frozen=True):
    """At most ``count`` in any ``seconds``."""

    seconds: float
    count: int


class Quota:
    """Counts per key (a callee, a robot). In memory: after a restart the provider's own refusal is the guard."""

    def __init__(self, windows: tuple[Window, ...], what: str) -> None:
        """``what`` stands in the error: ``Aliyun voice, this number``."""
        self._windows = windows
        self._what = what
        self._longest_s = max((window.seconds for window in windows), default=0.0)
        self._most = max((window.count for window in windows), default=0)
        self._used: OrderedDict[str, deque[float]] = OrderedDict()
        self._closed_until_s: OrderedDict[str, float] = OrderedDict()

    def take(self, key: str, now_s: float) -> None:
        """Count one. Raises DeliveryDeferredError with the time to wait, counting nothing, when there is none left."""
        wait_s = self.wait_s(key, now_s)
        if wait_s > 0:
            raise DeliveryDeferredError(f"{self._what}: the quota is used up", wait_s)
        if self._windows:
            self._used.setdefault(key, deque(maxlen=self._most)).append(now_s)
            self._used.move_to_end(key)
            if len(self._used) > MAX_KEYS:
                self._used.popitem(last=False)

    def give_back(self, key: str) -> None:
        """The last one taken was not used: the provider cannot have seen it."""
        used = self._used.get(key)
        if used:
            used.pop()

    def close(self, key: str, until_s: float) -> None:
        """The provider itself says that nothing more is allowed until then."""
        self._closed_until_s[key] = until_s
        self._closed_until_s.move_to_end(key)
        if len(self._closed_until_s) > MAX_KEYS:
            self._closed_until_s.popitem(last=False)

    def wait_s(self, key: str, now_s: float) -> float:
        """How long until one more is allowed; 0 when it is now."""
        used = self._used.get(key, deque())
        while used and used[0] <= now_s - self._longest_s:
            used.popleft()
        waits = [self._closed_until_s.get(key, now_s) - now_s]
        for window in self._windows:
            inside = [at for at in used if at > now_s - window.seconds]
            if len(inside) >= window.count:
                waits.append(inside[-window.count] + window.seconds - now_s)
        return max(0.0, *waits)
