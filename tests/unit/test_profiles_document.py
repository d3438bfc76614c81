"""What docs/profiles.md shows is true: its example is a profile that its vectors prove, its tables are complete."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from device_profiles.conversions import CONVERSIONS
from device_profiles.loader import load_profiles
from device_profiles.schema import Battery, Certificates, FieldMap, Links, Place, Profile
from device_profiles.vectors import Vector, check_vectors
from protocols.registry import CODECS

DOCUMENT = Path(__file__).parents[2] / "docs" / "profiles.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")


def test_the_example_is_a_profile_that_its_vectors_prove(tmp_path: Path) -> None:
    profile, vectors = re.findall(r"^ {3}```toml\n(.*?)^ {3}```", TEXT, re.DOTALL | re.MULTILINE)
    (tmp_path / "cord.toml").write_text(textwrap.dedent(profile), encoding="utf-8")
    (tmp_path / "cord.vectors.toml").write_text(textwrap.dedent(vectors), encoding="utf-8")
    assert check_vectors(load_profiles([tmp_path]), "acme.cord", CODECS["json"]) == []


def test_every_key_is_documented() -> None:
    named = set(re.findall(r"[a-z_]+[a-z0-9_]*", " ".join(re.findall(r"`([^`\n]+)`", TEXT))))
    for model in (Profile, FieldMap, Place, Battery, Links, Certificates, Vector):
        assert set(model.model_fields) <= named, model
    assert set(CONVERSIONS) <= named
