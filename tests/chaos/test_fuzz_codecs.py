"""Every codec under a coverage-guided fuzzer, for a bounded time: those of terminals longest."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from protocols.registry import CODECS, TERMINALS

LONG = os.environ.get("CAREBELL_CHAOS") == "long"
SECONDS, SECONDS_OTHERS = 60, 20

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LONG, reason="fuzzing takes up to a minute a codec: make chaos"),
    pytest.mark.skipif(
        importlib.util.find_spec("atheris") is None, reason="needs atheris: pip install 'carebell[fuzz]'"
    ),
]


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_a_while_of_fuzzing(codec: str, tmp_path: Path) -> None:
    seconds = SECONDS if codec in TERMINALS else SECONDS_OTHERS
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.fuzz_codec", codec, str(tmp_path / "corpus"), str(seconds)],
        capture_output=True, text=True, check=False, timeout=seconds * 3 + 60,
    )  # fmt: skip
    crashes = [path.read_bytes().hex() for path in tmp_path.glob("crash-*")]
    assert done.returncode == 0, f"inputs {crashes}\n{done.stderr[-4000:]}"
