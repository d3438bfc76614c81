"""Metrics in the text format, read back by the client library's own parser."""

from __future__ import annotations

import bisect

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from gateway.metrics import LATENCY_BOUNDS_S, Histogram, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    page, _ = metrics.render()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_text(page.decode())
        for sample in family.samples
    }


def test_sources_are_read_when_asked() -> None:
    counts = {"accepted": 1, "retry": 0}
    metrics = Metrics("0.1.0")
    metrics.counter("carebell_frames_total", "Frames.", lambda: counts, "verdict")
    metrics.gauge("carebell_connections", "Connections.", lambda: {"": 7})
    assert samples(metrics)["carebell_frames_total", (("verdict", "accepted"),)] == 1
    counts["accepted"] = 5
    found = samples(metrics)
    assert found["carebell_frames_total", (("verdict", "accepted"),)] == 5
    assert found["carebell_connections", ()] == 7
    assert any(name == "carebell_build_info" and dict(labels)["version"] == "0.1.0" for name, labels in found)
    assert ("process_resident_memory_bytes", ()) in found


def test_openmetrics_for_who_asks() -> None:
    metrics = Metrics()
    metrics.counter("carebell_frames_total", "Frames.", lambda: {"": 3})
    page, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    values = {
        s.name: s.value
        for family in parse_openmetrics(page.decode())  # type: ignore[no-untyped-call]  # of the library
        for s in family.samples
    }
    assert values["carebell_frames_total"] == 3


@pytest.mark.parametrize("name", ["frames_total", "carebell_Frames_total", "carebell_frames", "carebell_"])
def test_names_are_checked(name: str) -> None:
    with pytest.raises(ValueError):
        Metrics().counter(name, "", dict)


def test_names_are_used_once_and_labels_are_bounded() -> None:
    metrics = Metrics()
    metrics.gauge("carebell_many", "", lambda: {str(number): 1 for number in range(500)}, "what")
    with pytest.raises(ValueError):
        metrics.gauge("carebell_many", "", dict)
    assert sum(name == "carebell_many" for name, _ in samples(metrics)) == 100


@given(st.lists(st.floats(0, 20, allow_nan=False), max_size=50))
def test_histogram_counts_as_sorting_does(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    metrics = Metrics()
    metrics.histogram("carebell_ack_seconds", "Acks.", histogram)
    found = samples(metrics)
    ordered = sorted(values)
    for bound in LATENCY_BOUNDS_S:
        expected = bisect.bisect_right(ordered, bound)
        assert found["carebell_ack_seconds_bucket", (("le", str(bound)),)] == expected
    assert found["carebell_ack_seconds_count", ()] == len(values)
    assert found["carebell_ack_seconds_sum", ()] == pytest.approx(sum(values))
    if values:
        assert histogram.quantile(1.0) >= max(values)
        assert histogram.quantile(0.5) >= ordered[(len(ordered) - 1) // 2]


def test_what_alerts_count_with_the_library_is_on_the_page() -> None:
    import alerts.service  # noqa: F401 - registers its metrics

    page, _ = Metrics("1").render()
    assert b"carebell_alerts_raised_total" in page
    assert b"python_gc_objects" not in page, "only what is ours"
