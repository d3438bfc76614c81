"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

LOG_BYTES = 6000

# How long an example takes says how busy the machine is. New examples are drawn by `make chaos`, not by luck.
settings.register_profile(
    "steady",
    deadline=None,
    derandomize=os.environ.get("CAREBELL_CHAOS") != "long",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("steady")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Behind a test that failed stands what its daemons logged last."""
    report = yield
    if report.failed and call.excinfo is not None:
        for log in sorted({log for folder in _folders(item) for log in folder.glob("*.log")}):
            report.sections.append((log.name, log.read_bytes()[-LOG_BYTES:].decode(errors="replace")))
    return report


def _folders(item: pytest.Item) -> Iterator[Path]:
    """Where the test's daemons log: its own folder, and that of a daemon which a fixture keeps for several tests."""
    for value in getattr(item, "funcargs", {}).values():
        data_dir = getattr(getattr(value, "daemon", value), "data_dir", None)
        if isinstance(value, Path):
            yield value
        elif isinstance(data_dir, Path):
            yield data_dir.parent
