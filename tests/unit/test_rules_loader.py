"""Rule files: the defaults, a site's own, and errors that say what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.care import CarePlan, Fence, ThresholdOverride, plan_from_json, problems
from gateway.errors import ConfigError
from rules.loader import load_rules
from tests.rules_world import DEFAULTS, World, home_fence, only, raises

_OWN = """
version = "site-7"

[[threshold]]
id = "spo2"
alert_low = "spo2_low"
plausible = { spo2_percent = [50, 100] }

[[threshold.band]]
metric = "spo2_percent"
side = "low"
level = "urgent"
limit = 89
source = "Dr. Li, 2026-10"
"""


def _load(tmp_path: Path, text: str, name: str = "site.toml") -> None:
    (tmp_path / name).write_text(text, "utf-8")
    load_rules([tmp_path])


def test_every_default_number_has_a_source() -> None:
    for item in DEFAULTS.thresholds.values():
        assert item.version
        for band in item.config.band:
            assert len(band.source) > 5, band


def test_a_site_rule_replaces_the_default_of_its_id(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(_OWN, "utf-8")
    rules = load_rules([tmp_path, tmp_path / "absent"])
    assert rules.files[-1].endswith("site.toml")
    world = World(rules=rules)
    assert world.say(spo2_percent=90) == []
    found = only(world.say(spo2_percent=89))
    assert (found.rule_version, found.evidence["source"]) == ("site-7", "Dr. Li, 2026-10")


def test_a_site_may_take_a_rule_out_but_no_emergency(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('version = "x"\ndisabled = ["tamper", "battery"]\n', "utf-8")
    world = World(rules=load_rules([tmp_path]))
    assert world.say(signal="tamper") == []
    assert world.say(battery_percent=2) == []
    assert raises(world.say(signal="sos")) == [("sos", "P1")]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("version = 1", ("version", "str")),
        ("version = 'x'\nversion = 'y'", ("not TOML",)),
        ("", ("version",)),
        ("version = 'x'\nthresold = []", ("thresold",)),
        ("version = 'x'\ndisabled = ['heart-rte']", ("heart-rte", "heart-rate")),
        (_OWN.replace("spo2_percent", "spo2"), ("spo2", "not a metric", "spo2_percent")),
        (_OWN.replace("limit = 89", "limit = 189"), ("189", "plausible")),
        (_OWN.replace("limit = 89", "limit = nan"), ("limit", "finite")),
        (_OWN.replace('side = "low"', 'side = "high"'), ("alert_high",)),
        (_OWN.replace('level = "urgent"', 'level = "serious"'), ("level",)),
        (_OWN.replace('source = "Dr. Li, 2026-10"', ""), ("source",)),
        (_OWN + _OWN.split("\n", 2)[2], ("twice",)),
        (_OWN.replace("[[threshold.band]]", "urgent = {count = 3, of = 2}\n[[threshold.band]]"), ("count", "of")),
        (_OWN.replace("[[threshold.band]]", "urgent = {count = 0}\n[[threshold.band]]"), ("confirmed",)),
        (
            "version='x'\n[[signal]]\nid='q'\nsignal='sos'\nalert='x'\nseverity='P4'\nsource='me!'",
            ("sos", "emergency", "built in"),
        ),
        ("version='x'\n[[signal]]\nid='q'\nsignal='soz'\nalert='x'\nseverity='P4'\nsource='me!'", ("soz", "known")),
    ],
)
def test_errors_name_file_key_and_cure(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text)
    message = str(caught.value)
    assert "site.toml" in message
    for word in words:
        assert word in message, message


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_rules([tmp_path])


def test_what_is_wrong_with_a_care_plan() -> None:
    plan = CarePlan(
        person_id="P-1",
        timezone="Asia/Shanhai",
        overrides=(
            ThresholdOverride(
                metric="systolic", limits={"urgent_high": 150, "advisory_high": 160}, author="a", reason="r"
            ),
        ),
        fences=(home_fence(), home_fence()),
    )
    found = problems(plan)
    assert len(found) == 4
    assert "Asia/Shanghai" in found[0]
    assert problems(CarePlan(person_id="P-1", timezone="Asia/Shanghai", fences=(home_fence(),))) == []


def test_a_care_plan_is_read_from_json() -> None:
    fence = b"""{"fence_id": "home", "kind": "home", "consent": true, "datum": "gcj02",
        "shape": {"type": "Polygon", "coordinates": [[[117.1, 39.1], [117.2, 39.1], [117.2, 39.2], [117.1, 39.1]]]},
        "schedule": {"windows": [{"start": "22:00", "until": "06:00", "days": [1, 2, 3, 4, 5, 6, 7]}]}}"""
    plan = plan_from_json(b'{"person_id": "P-1", "fences": [' + fence + b"]}")
    assert isinstance(plan.fences[0], Fence)
    assert problems(plan) == []
