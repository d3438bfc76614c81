"""How long things took, in bounded memory."""

from __future__ import annotations

import math
from typing import Final

_FIRST_S: Final = 1e-5
_STEP: Final = math.log(1.02)  # a bucket is 2 % wide
_BUCKETS: Final = 900  # up to 9 minutes


class Latencies:
    """Counts in buckets that are 2 % wide, from 10 microseconds to 9 minutes."""

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = 0
        self.highest_s = 0.0

    def add(self, seconds: float) -> None:
        bucket = 0 if seconds <= _FIRST_S else math.ceil(math.log(seconds / _FIRST_S) / _STEP)
        self._counts[min(bucket, _BUCKETS - 1)] += 1
        self.count += 1
        self.highest_s = max(self.highest_s, seconds)

    def quantile_s(self, share: float) -> float | None:
        """An upper bound, at most 2 % above, of the time that ``share`` (0 to 1) of all took; None of none."""
        if not self.count:
            return None
        wanted = max(1, math.ceil(share * self.count))
        seen = 0
        for bucket, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return min(self.highest_s, _FIRST_S * math.exp(bucket * _STEP))
        return self.highest_s

    def summary(self) -> dict[str, float]:
        """How many, and percentiles in milliseconds (0 of none), for the table of a measurement."""
        names = {"p50_ms": 0.5, "p99_ms": 0.99, "p999_ms": 0.999, "max_ms": 1.0}
        return {
            "count": self.count,
            **{name: round((self.quantile_s(share) or 0.0) * 1000, 2) for name, share in names.items()},
        }

    def shown_ms(self) -> dict[str, float | None]:
        """The usual percentiles in milliseconds, for a result that programs read."""
        shown: dict[str, float | None] = {}
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p999", 0.999), ("max", 1.0)):
            quantile_s = self.quantile_s(share)
            shown[name] = None if quantile_s is None else round(quantile_s * 1000, 2)
        return shown
