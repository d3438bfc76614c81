"""Every codec of terminals says of its own frames exactly what their file says."""

from __future__ import annotations

import pytest

from protocols.registry import RECEIVERS, TERMINALS
from tests.vectors import own

TALKERS = {**TERMINALS, **RECEIVERS}
CASES = [(codec, vector) for codec in TALKERS for vector in own.vectors(codec)]


@pytest.mark.parametrize("codec", sorted(TALKERS))
def test_has_vectors(codec: str) -> None:
    assert own.vectors(codec), f"tests/vectors/{codec}.toml is missing: a codec is proved by frames of its own"


@pytest.mark.parametrize(("codec", "vector"), CASES, ids=[f"{codec}: {vector.name}" for codec, vector in CASES])
def test_says_what_its_file_says(codec: str, vector: own.Vector) -> None:
    assert own.problems(codec, vector) == []
