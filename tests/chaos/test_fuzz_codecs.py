"""Codecs of terminals under a coverage-guided fuzzer, for a bounded time."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocols.registry import TERMINALS

LONG = os.environ.get("CAREBELL_CHAOS") == "long"
SECONDS = 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LONG, reason="fuzzing takes a minute a codec: make chaos"),
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None, reason="needs atheris: pip install 'carebell[fuzz]'"
    ),
]


@pytest.mark.parametrize("codec", sorted(TERMINALS))
def test_a_minute_of_fuzzing(codec: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.fuzz_codec", codec, str(tmp_path / "corpus"), str(SECONDS)],
        capture_output=True, text=True, check=False, timeout=SECONDS * 3,
    )  # fmt: skip
    crashes = [path.read_bytes().hex() for path in tmp_path.glob("crash-*")]
    assert done.returncode == 0, f"inputs {crashes}\n{done.stderr[-4000:]}"
