"""Prometheus metrics: read from plain counters when somebody asks, so that counting costs what an addition costs.

Names are ``carebell_<noun>_<unit>[_total]``; label values come from closed sets, never from devices or persons.
"""

from __future__ import annotations

import platform
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import apsw
from prometheus_client import REGISTRY, CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

Number = int | float
Read = Callable[[], Mapping[str, Number]]

LATENCY_BOUNDS_S: Final = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.06, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
MAX_LABEL_VALUES: Final = 100  # of one family; more of them is not a closed set

_NAME = re.compile(r"carebell_[a-z][a-z0-9_]*")


class Histogram:
    """Durations in seconds, counted into buckets. ``observe`` is for the hot path: about 0.1 µs."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float] = LATENCY_BOUNDS_S) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)  # the last one: above every bound
        self.total = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total += seconds

    def quantile(self, share: float) -> float:
        """An upper bound of this quantile (0 to 1), infinite above the last bound, 0 when nothing was observed."""
        wanted = share * sum(self.counts)
        seen = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            if seen >= wanted and seen:
                return bound
        return 0.0


class Metrics:
    """What /metrics shows. Each source is a function that returns its numbers by label value ("" for none)."""

    def __init__(self, version: str = "") -> None:
        self._sources: dict[str, Callable[[], Metric]] = {}
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        build = GaugeMetricFamily(
            "carebell_build_info", "1; the labels are versions", labels=("version", "python", "sqlite")
        )
        build.add_metric((version, platform.python_version(), apsw.sqlite_lib_version()), 1)
        self._sources["carebell_build_info"] = lambda: build

    def counter(self, name: str, text: str, read: Read, label: str = "") -> None:
        """Numbers that only rise; ``name`` ends with ``_total``."""
        if not name.endswith("_total"):
            raise ValueError(f"{name}: the name of a counter ends with _total")
        self._add(name, lambda: _family(CounterMetricFamily, name.removesuffix("_total"), text, read, label))

    def gauge(self, name: str, text: str, read: Read, label: str = "") -> None:
        """Numbers that rise and fall."""
        self._add(name, lambda: _family(GaugeMetricFamily, name, text, read, label))

    def histogram(self, name: str, text: str, histogram: Histogram) -> None:
        """``name`` ends with ``_seconds``."""

        def collect() -> Metric:
            cumulative, rows = 0, []
            for bound, count in zip((*map(str, histogram.bounds), "+Inf"), histogram.counts, strict=True):
                cumulative += count
                rows.append((bound, cumulative))
            return HistogramMetricFamily(name, text, buckets=rows, sum_value=histogram.total)

        self._add(name, collect)

    def collect(self) -> Iterator[Metric]:
        """prometheus_client calls this: our sources, and what parts count with the library's own registry."""
        for source in self._sources.values():
            yield source()
        for family in REGISTRY.collect():
            if family.name.startswith("carebell_"):
                yield family

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The page and its content type: OpenMetrics for who asks for it, else the Prometheus text format."""
        encode, content_type = choose_encoder(accept)
        return encode(self._registry), content_type

    def _add(self, name: str, collect: Callable[[], Metric]) -> None:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name}: a metric is called carebell_<noun>_<unit>")
        if name in self._sources:
            raise ValueError(f"{name}: registered twice")
        self._sources[name] = collect


def _family(
    kind: type[CounterMetricFamily | GaugeMetricFamily], name: str, text: str, read: Read, label: str
) -> Metric:
    family = kind(name, text, labels=(label,) if label else ())
    for number, (value, amount) in enumerate(read().items()):
        if number == MAX_LABEL_VALUES:
            break
        family.add_metric((value,) if label else (), amount)
    return family
