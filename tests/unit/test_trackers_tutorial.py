"""The tutorial of docs/trackers.md, followed: a model by two data files, a protocol by one codec."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from msgspec import convert

from device_profiles.loader import load_profiles
from device_profiles.vectors import check_vectors
from gateway.ports import TerminalCodec
from protocols.registry import CODECS
from tests.vectors import own

PAGE = (Path(__file__).parents[2] / "docs" / "trackers.md").read_text(encoding="utf-8")
BLOCKS = {kind: re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) for kind in ("toml", "python")}


def test_a_model_is_two_data_files(tmp_path: Path) -> None:
    profile, vectors, _ = BLOCKS["toml"]
    folder = tmp_path / "acme"
    folder.mkdir()
    (folder / "pendant.toml").write_text(profile, encoding="utf-8")
    (folder / "pendant.vectors.toml").write_text(vectors, encoding="utf-8")
    profiles = load_profiles([tmp_path])
    assert check_vectors(profiles, "acme.pendant", CODECS["gt06"]) == []


def test_a_protocol_is_one_codec() -> None:
    module: dict[str, Any] = {}
    exec(compile(BLOCKS["python"][0], "acme.py", "exec"), module)
    codec: TerminalCodec = module["AcmeCodec"]()
    written = convert(tomllib.loads(BLOCKS["toml"][2]), dict[str, list[own.Vector]])["vector"]
    for vector in written:
        assert own.problems_with(codec, vector) == []
        if vector.reframe:
            assert codec.framer().feed(b"\0rubbish" + vector.payload * 5) == [vector.payload] * 5
