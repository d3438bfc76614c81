"""Every shipped profile is proved by its vectors, and the proof itself can fail."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from device_profiles.loader import VECTORS_SUFFIX, Profiles, load_profiles, profile_files, shipped_folder
from device_profiles.vectors import check_vectors, load_vectors
from gateway.errors import ConfigError, UsageError
from protocols.registry import CODECS

SHIPPED = load_profiles()
REQUIRED = {
    "carebell.native", "generic.json_button", "generic.json_bp_cuff", "generic.json_gps_pendant",
    "generic.json_smoke_detector", "generic.json_bed_sensor",
}  # fmt: skip


def problems_of(profiles: Profiles, name: str) -> list[str]:
    return check_vectors(profiles, name, CODECS[profiles.codec_of(name)])


def site(tmp_path: Path, name: str = "generic.json_button") -> tuple[Path, Path]:
    """A site's copy of a shipped profile and its vectors."""
    source = SHIPPED.vectors_file(name)
    model = name.partition(".")[2]
    vectors, profile = tmp_path / f"{model}{VECTORS_SUFFIX}", tmp_path / f"{model}.toml"
    vectors.write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    profile.write_text(source.with_name(f"{model}.toml").read_text(encoding="utf-8"), encoding="utf-8")
    return profile, vectors


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_required_profiles_are_shipped() -> None:
    assert set(SHIPPED.names()) >= REQUIRED


@pytest.mark.parametrize("name", SHIPPED.names())
def test_vectors_of_a_shipped_profile(name: str) -> None:
    assert problems_of(SHIPPED, name) == []
    assert SHIPPED.codec_of(name) in CODECS


@pytest.mark.parametrize("name", SHIPPED.names())
def test_vectors_show_garbage_too(name: str) -> None:
    vectors = load_vectors(SHIPPED.vectors_file(name))
    assert any(vector.fault for vector in vectors), "no telegram that cannot be read"
    assert any(vector.unknown for vector in vectors), "no unknown field"
    assert any(vector.faults for vector in vectors), "no bad member"


@pytest.mark.parametrize("path", list(profile_files(shipped_folder())), ids=lambda path: path.stem)
def test_a_shipped_profile_stands_where_its_id_says(path: Path) -> None:
    assert tomllib.loads(path.read_text(encoding="utf-8"))["id"] == f"{path.parent.name}.{path.stem}"


def test_every_vectors_file_has_its_profile() -> None:
    for path in shipped_folder().rglob(f"*{VECTORS_SUFFIX}"):
        assert path.with_name(path.name.replace(VECTORS_SUFFIX, ".toml")).exists()


def test_a_signal_that_no_vector_raises_is_a_problem(tmp_path: Path) -> None:
    profile, _ = site(tmp_path)
    change(profile, 'test = "test"', 'test = "test", shake = "vibration"')
    change(profile, '"test", "low_battery"]', '"test", "low_battery", "vibration"]')
    (problem,) = problems_of(load_profiles([tmp_path]), "generic.json_button")
    assert "no vector raises vibration" in problem


def test_a_cleared_signal_is_not_a_raised_one(tmp_path: Path) -> None:
    profile, _ = site(tmp_path, "generic.json_bed_sensor")
    change(profile, "bits = { 0 =", 'bits = { 5 = "tamper", 0 =')
    change(profile, "clear_bits = [", "clear_bits = [5, ")
    change(profile, '"power_lost"]', '"power_lost", "tamper"]')
    problems = problems_of(load_profiles([tmp_path]), "generic.json_bed_sensor")
    assert any("no vector raises tamper" in problem for problem in problems)


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('signal = "sos", active = true', 'signal = "sos", active = false', "missing"),
        ("value = -61", "value = -60", "rssi_dbm"),
        ('dedup_key = "812|', 'dedup_key = "813|', "dedup_key should be '813|"),
        ("mode = 3 }", "mode = 4 }", "unknown should be"),
        ('faults = ["time:', 'faults = ["clock:', "faults: missing 'clock:"),
        ('fault = "not JSON', 'fault = "no JSON', "fault should be"),
    ],
)
def test_a_vector_that_is_not_met_is_a_problem(tmp_path: Path, old: str, new: str, problem: str) -> None:
    _, vectors = site(tmp_path)
    change(vectors, old, new)
    problems = problems_of(load_profiles([tmp_path]), "generic.json_button")
    assert problems
    assert any(problem in line for line in problems), problems


def test_observations_in_another_order_are_a_problem(tmp_path: Path) -> None:
    _, vectors = site(tmp_path)
    text = vectors.read_text(encoding="utf-8")
    first = '{ kind = "signal", signal = "test", active = true },'
    second = '{ kind = "measurement", metric = "battery_volts", value = 2.987 },'
    vectors.write_text(text.replace(first, "@").replace(second, first).replace("@", second), encoding="utf-8")
    (problem,) = problems_of(load_profiles([tmp_path]), "generic.json_button")
    assert "another order" in problem


def test_a_profile_without_vectors_is_a_problem(tmp_path: Path) -> None:
    _, vectors = site(tmp_path)
    vectors.unlink()
    (problem,) = problems_of(load_profiles([tmp_path]), "generic.json_button")
    assert str(vectors) in problem
    assert "missing" in problem


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[vector]]\nname = 'x'\n", "write either payload or payload_hex"),
        ("[[vector]]\nname = 'x'\npayload = '{}'\nobservation = []\n", 'did you mean "observations"?'),
        ("[[vector]]\nname = 'x'\npayload = '{}'\nreceived_at = 2026-01-01T00:00:00\n", "no offset"),
        ("[[vector]]\npayload_hex = '0'\n", "name: missing"),
        ("vector = 3", "vector"),
        ("vector = [", "vectors.toml"),
    ],
)
def test_a_broken_vectors_file_is_a_problem(tmp_path: Path, text: str, problem: str) -> None:
    _, vectors = site(tmp_path)
    vectors.write_text(text, encoding="utf-8")
    problems = problems_of(load_profiles([tmp_path]), "generic.json_button")
    assert any(problem in line for line in problems), problems
    with pytest.raises(ConfigError):
        load_vectors(vectors)


def test_vectors_of_no_profile() -> None:
    with pytest.raises(UsageError, match=r"did you mean generic\.json_button"):
        check_vectors(SHIPPED, "generic.json_buton", CODECS["json"])
