"""A profile file that is wrong: the message names the file, the key, what is wrong and what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from device_profiles.loader import load_profiles
from gateway.errors import ConfigError

GOOD = """
id = "acme.button"
vendor = "acme"
model = "button"
kind = "button"
codec = "json"
transports = ["mqtt"]
raises = ["sos"]

[title]
zh = "按钮"
en = "Button"

[fields.press]
values = { long = "sos" }
"""


def write(tmp_path: Path, text: str, name: str = "button.toml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str) -> str:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_profiles([tmp_path])
    assert str(path) in str(error.value)
    return str(error.value)


def test_the_good_one(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    profile = load_profiles([tmp_path]).get("acme.button")
    assert profile is not None
    assert profile.raises == ["sos"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            'kind = "button"',
            'kind = "button"\nheartbeet_s = 3',
            'heartbeet_s: unknown key; did you mean "heartbeat_s"?',
        ),
        ("values = {", 'metrik = "steps"\nvalues = {', 'fields.press.metrik: unknown key; did you mean "metric"?'),
        ('zh = "按钮"', 'zh = "按钮"\nde = "Knopf"', "title.de: unknown key; "),
        (
            "[fields.press]",
            "[battery]\nlow = 3\n[fields.press]",
            'battery.low: unknown key; did you mean "low_percent"?',
        ),
        ('raises = ["sos"]', "", "raises: missing; add it"),
        ('raises = ["sos"]', 'raises = ["soss"]', 'raises.0: soss is not a signal; did you mean "sos"?'),
        ('raises = ["sos"]', 'raises = ["sos", "sos"]', "raises names sos twice; name it once"),
        (
            'raises = ["sos"]',
            'raises = ["sos", "fall"]',
            "raises names fall, but no field maps to it; map it or drop it",
        ),
        ('raises = ["sos"]', "raises = []", "maps to sos, which raises does not name; add it to raises"),
        ('long = "sos"', 'long = "help"', "fields.press.values.long.0: help is not a signal"),
        ('long = "sos"', 'Long = "sos", long = "sos"', "two keys mean the same value"),
        ('id = "acme.button"', 'id = "acme.knob"', "id is acme.knob, but vendor and model make acme.button"),
        ('transports = ["mqtt"]', 'transports = ["pigeon"]', "transports.0: Input should be 'mqtt'"),
        ('transports = ["mqtt"]', "transports = []", "transports: List should have at least 1 item"),
        ("values = {", 'metric = "pulse"\nvalues = {', "fields.press.metric: pulse is not a metric"),
        ("values = {", 'metric = "x_Puls"\nvalues = {', "nor a name like x_irregular_pulse"),
        ("values = {", 'convert = "farenheit_to_celsius"\nvalues = {', 'did you mean "fahrenheit_to_celsius"?'),
        ("values = {", "clear_bits = [1]\nvalues = {", "clear_bits names bit 1, which bits does not; add it there"),
        ("values = {", 'bits = { 63 = "sos" }\nvalues = {', "fields.press.bits.63: Input should be less than"),
        ("values = {", "[time]\nfield = 't'\nzone = 'Asia/Tientsin'\n[fields.p]\nvalues = {", "is not a time zone"),
        ("values = {", "[time]\nfield = 't'\nformat = 'epoch'\n[fields.p]\nvalues = {", "time.format: write one of"),
        ("values = {", "[time]\nfield = 't'\nformat = '%Q'\n[fields.p]\nvalues = {", "not a pattern"),
        ("[fields.press]", '[fields."a..b"]', "fields.a..b: write a path as name, name.inner or list[].inner"),
        (
            "values = { long",
            "missing = [1]\n[fields.p]\nvalues = { long",
            "fields.press: means nothing: give it metric",
        ),
        ("[fields.press]", "[battery]\nlow_percent = 5\n[fields.press]", "urgent_percent is above low_percent"),
        ("[fields.press]", "[battery]\nclear_percent = 5\n[fields.press]", "clear_percent is not above low_percent"),
        (
            "values = {",
            'convert_by = { field = "a[].unit", values = { k = "none" } }\nvalues = {',
            "fields.press.convert_by.field",
        ),
    ],
)
def test_refusals(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert message in refusal(tmp_path, GOOD.replace(old, new, 1))


def test_every_fault_of_every_file_at_once(tmp_path: Path) -> None:
    write(tmp_path, GOOD.replace('raises = ["sos"]', 'raises = ["soss"]\ncodek = 1'), "one.toml")
    write(tmp_path, "id = 1 2\n", "two.toml")
    with pytest.raises(ConfigError) as error:
        load_profiles([tmp_path])
    lines = str(error.value).splitlines()
    assert [line.split(": ")[0].rpartition("/")[2] for line in lines] == ["one.toml", "one.toml", "two.toml"]
    assert any('codek: unknown key; did you mean "codec"?' in line for line in lines)
    assert "line 1" in lines[-1]


def test_two_files_of_one_id(tmp_path: Path) -> None:
    first, second = write(tmp_path, GOOD, "a.toml"), write(tmp_path, GOOD, "b.toml")
    with pytest.raises(ConfigError) as error:
        load_profiles([tmp_path])
    assert str(error.value) == f"{second}: id: acme.button is also in {first}; give one of them another id"


def test_a_site_s_profile_takes_the_place_of_a_shipped_one(tmp_path: Path) -> None:
    text = GOOD.replace("acme", "generic").replace('"button"\nkind', '"json_button"\nkind')
    write(tmp_path, text.replace("generic.button", "generic.json_button"))
    profile = load_profiles([tmp_path, tmp_path / "absent"]).get("generic.json_button")
    assert profile is not None
    assert profile.title.en == "Button"


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"x\.toml"):
        load_profiles([tmp_path])
    (tmp_path / "x.toml").write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match="larger than"):
        load_profiles([tmp_path])
