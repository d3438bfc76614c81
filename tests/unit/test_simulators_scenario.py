"""Scenario files: all shipped ones can be played, and a wrong one says where and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from simulators import scenario
from simulators.payloads import utc_now, write

GOOD = """
title = { zh = "求助", en = "A call" }
[persons.wang]
name = "王秀英"
home = { latitude = 39.1, longitude = 117.2 }
[devices.button]
person = "wang"
profile = "generic.json_button"
[devices.watch]
person = "wang"
profile = "carebell.native"
[[step]]
at = "00:05"
device = "button"
signals = ["sos"]
expect = [{ alert = "sos", severity = "P1" }]
"""
BUTTON_STEP = '[[step]]\nat = "00:10"\ndevice = "button"\n'
WATCH_STEP = '[[step]]\nat = "00:10"\ndevice = "watch"\n'


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "story.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(scenario.ScenarioError) as caught:
        scenario.load(path)
    for line in caught.value.problems:
        assert line.startswith(str(path))
    return [line.removeprefix(f"{path}: ") for line in caught.value.problems]


@pytest.mark.parametrize("name", sorted(scenario.shipped()))
def test_shipped_scenarios_load_and_expect_something(name: str) -> None:
    story = scenario.load(scenario.find(name))
    assert any(step.expect for step in story.step)
    for step in story.step:
        if step.speaks and step.raw is None:
            device = story.devices[step.device]
            assert write(device.profile, story.statement(step), number=1, boot=1, at=utc_now())


def test_there_are_enough_of_them() -> None:
    assert len(scenario.shipped()) >= 8


def test_a_good_story(tmp_path: Path) -> None:
    path = tmp_path / "story.toml"
    path.write_text(GOOD, encoding="utf-8")
    story = scenario.load(path)
    assert story.step[0].at_s == 5
    assert story.step[0].expect[0].alert == "sos"


@pytest.mark.parametrize(
    ("addition", "expected"),
    [
        (BUTTON_STEP + 'signals = ["ssos"]', "step 2 (at 00:10): signals: 'ssos' is no signal; did you mean 'sos'?"),
        (BUTTON_STEP + 'signal = ["sos"]', "step 2 (at 00:10): Object contains unknown field signal"),
        (BUTTON_STEP + 'signals = "sos"', "step 2 (at 00:10): signals: Expected array, got str"),
        (BUTTON_STEP, "step 2 (at 00:10): nothing happens"),
        (BUTTON_STEP + "measurements = { systolic_mmhg = 120 }", "has no words for: measurement 'systolic_mmhg'"),
        (BUTTON_STEP + "measurements = { pulse = 60 }", "measurements: 'pulse' is no metric"),
        (BUTTON_STEP + 'signals = ["sos"]\nsilent = true', "silent: a device that falls silent says nothing"),
        (BUTTON_STEP + 'raw = { press = "long" }\nsignals = ["sos"]', "raw: is the whole message"),
        ('[[step]]\nat = "soon"\ndevice = "button"\nsignals = ["sos"]', "step 2 (at soon): at: "),
        ('[[step]]\nat = "00:01"\ndevice = "button"\nsignals = ["sos"]', "step 2 (at 00:01): at: lies before"),
        ('[[step]]\nat = "999:00:00"\ndevice = "button"\nsignals = ["sos"]', "at: a story lasts at most a week"),
        ('[[step]]\nat = "00:10"\ndevice = "buton"\nsignals = ["sos"]', "'buton' is no device; did you mean 'button'?"),
        (WATCH_STEP + "position = { east_m = 5, latitude = 39.0 }", "position: give latitude and longitude, or east_m"),
        (WATCH_STEP + "position = { latitude = 39.0 }", "position: give latitude and longitude, or east_m"),
        (WATCH_STEP + 'position = { east_m = 5, source = "gps" }', "position.source: 'gps' is no source"),
        (WATCH_STEP + 'signals = ["sos"]\nexpect = [{ within_s = 3 }]', "expect 1: name either an alert or a signal"),
        (WATCH_STEP + 'signals = ["sos"]\nexpect = [{ signal = "sos", severity = "P1" }]', "expect 1: severity"),
        (
            WATCH_STEP + 'signals = ["sos"]\nexpect = [{ alert = "sos", severity = "P9" }]',
            "expect[0].severity: Invalid",
        ),
        ('[devices.cuff]\nperson = "wang"\nprofile = "generic.json_bp_cof"', "did you mean 'generic.json_bp_cuff'?"),
        (
            '[devices.cuff]\nperson = "wong"\nprofile = "generic.json_bp_cuff"',
            "'wong' is no person; did you mean 'wang'?",
        ),
        ("speed = 0", "speed: "),
        ("= 3", "Invalid"),
    ],
)
def test_faults_name_step_and_key(tmp_path: Path, addition: str, expected: str) -> None:
    text = f"{addition}\n{GOOD}" if addition.startswith("speed") else f"{GOOD}\n{addition}\n"
    assert any(expected in line for line in problems(tmp_path, text)), problems(tmp_path, text)


def test_all_faults_at_once(tmp_path: Path) -> None:
    found = problems(tmp_path, f'{GOOD}\n{BUTTON_STEP}signals = ["x1"]\n{BUTTON_STEP}signals = ["x2"]\n')
    assert len(found) == 2


def test_no_such_file_and_no_such_name(tmp_path: Path) -> None:
    with pytest.raises(scenario.ScenarioError, match="did you mean 'fall'"):
        scenario.find("fal")
    with pytest.raises(scenario.ScenarioError, match="No such file"):
        scenario.load(scenario.find(str(tmp_path / "none.toml")))


@pytest.mark.parametrize(("text", "seconds"), [("00:05", 5), ("12:30", 750), ("1:00:00", 3600), ("100:00:01", 360_001)])
def test_story_time(text: str, seconds: int) -> None:
    assert scenario.story_seconds(text) == seconds
