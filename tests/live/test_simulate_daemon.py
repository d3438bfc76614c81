"""Fleets and stories against a daemon that runs as it does for everybody."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.daemon import free_port
from tests.live.simulate_daemon import Daemon, carebell, daemon, rows

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with daemon(tmp_path_factory.mktemp("simulate")) as running:
        yield running


def test_a_fleet_is_acknowledged_and_in_the_journal(gateway: Daemon) -> None:
    config = str(gateway.folder / "carebell.toml")
    [before] = rows("journal", "stat", "-c", config)
    run = carebell(
        "simulate", "fleet", *gateway.options, "-n", "12", "--rate", "60", "--duration", "2", "--sos-every", "30",
        "--http-share", "0.25", "--json",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    assert result["sent"] == result["acknowledged"] >= 100
    assert result["unacknowledged"] == 0
    assert result["connected"] == result["devices"] == 12
    assert result["sos"] == result["sos_acknowledged"] == result["sent"] // 30
    assert result["ack_ms"]["p50"] > 0
    records = rows("journal", "list", "-c", config, "--from", str((before["last_seq"] or 0) + 1))
    data = [record for record in records if re.fullmatch(r"sim-\d{4}", record["device_id"])]
    answers = [record for record in data if not record["dedup_key"]]  # a press without a place: where are you?
    assert len(data) - len(answers) == result["sent"]
    assert len(answers) <= result["commands_done"] <= result["sos"]
    assert {record["person_id"] for record in data} == {f"sim-p-{number:04d}" for number in range(1, 13)}


def test_a_second_fleet_uses_the_same_devices(gateway: Daemon) -> None:
    options = ("-n", "3", "--rate", "20", "--duration", "0.5", "--json")
    tokens = gateway.folder / "data" / "simulated-devices.csv"
    first = carebell("simulate", "fleet", *gateway.options, *options)
    before = tokens.read_text()
    second = carebell("simulate", "fleet", *gateway.options, *options, "--credentials", str(tokens))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert tokens.read_text() == before
    assert tokens.stat().st_mode & 0o077 == 0


def test_a_wrong_token_is_not_acknowledged(gateway: Daemon, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.csv"
    tokens.write_text("device_id,token\nsim-9999,wrong\n")
    run = carebell(
        "simulate", "fleet", *gateway.options, "-n", "1", "--rate", "5", "--duration", "0.5", "--http-share", "1",
        "--credentials", str(tokens), "--json",
    )  # fmt: skip
    assert run.returncode == 1
    result = json.loads(run.stdout)
    assert result["acknowledged"] == 0
    assert result["unacknowledged"] == result["sent"] > 0
    assert "401" in result["errors"][0]


@pytest.mark.parametrize("name", ["sos-without-position", "low-battery-with-sos", "walk-out-of-the-fence"])
def test_a_story_comes_true(gateway: Daemon, name: str) -> None:
    run = carebell("simulate", "scenario", name, *gateway.options, "--speed", "600")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "通过 passed" in run.stdout
    assert "✗" not in run.stdout


def test_silence_is_told_by_the_will(gateway: Daemon) -> None:
    run = carebell("simulate", "scenario", "device-falls-silent", *gateway.options, "--speed", "600", "--json")
    assert run.returncode == 0, run.stdout + run.stderr
    assert json.loads(run.stdout)["met"] == 3


FALSE_STORY = """
title = { zh = "不会发生", en = "This does not happen" }
[persons.wang]
name = "王秀英"
[devices.cuff]
person = "wang"
profile = "generic.json_bp_cuff"
transport = "http"
[[step]]
at = "00:00"
device = "cuff"
measurements = { systolic_mmhg = 121, diastolic_mmhg = 77 }
expect = [
    { alert = "blood_pressure_high", within_s = 1 },
    { alert = "sos", never = true, within_s = 1 },
]
[[step]]
at = "00:01"
device = "cuff"
measurements = { systolic_mmhg = 198, diastolic_mmhg = 110 }
expect = [{ alert = "blood_pressure_high", never = true, within_s = 60 }]
"""


def test_a_false_expectation_fails(gateway: Daemon, tmp_path: Path) -> None:
    story = tmp_path / "false.toml"
    story.write_text(FALSE_STORY, encoding="utf-8")
    run = carebell("simulate", "scenario", str(story), *gateway.options, "--speed", "0.5", "--json")
    assert run.returncode == 1, run.stdout + run.stderr
    told = json.loads(run.stdout)
    assert told["met"] == 1
    first, second = told["failures"]
    assert "step 1 (at 00:00)" in first
    assert "did not come within 1 s: alert blood_pressure_high; seen: no alert" in first
    assert "step 2 (at 00:01)" in second
    assert "must not come" in second


def test_a_story_leaves_no_key_and_no_open_alert(gateway: Daemon) -> None:
    config = str(gateway.folder / "carebell.toml")
    run = carebell("simulate", "scenario", "cancelled-press", *gateway.options, "--speed", "600")
    assert run.returncode == 0, run.stdout + run.stderr
    mine = [key for key in rows("keys", "list", "-c", config) if key["label"] == "simulate scenario"]
    assert mine
    assert all(key["revoked_at"] for key in mine)
    alerts = rows("alerts", "list", "-c", config)
    assert [alert for alert in alerts if alert["person_id"].endswith("-zhou")]
    assert not [
        alert for alert in rows("alerts", "list", "-c", config, "--open") if alert["person_id"].endswith("-zhou")
    ]


def test_the_platform_shows_its_orders(gateway: Daemon) -> None:
    run = carebell("simulate", "scenario", "sos-without-position", *gateway.options, "--speed", "600")
    assert run.returncode == 0, run.stdout + run.stderr
    assert "紧急呼叫" in httpx2.get(f"{gateway.platform}/", trust_env=False, timeout=60).text
    assert "新工单 order" in (gateway.folder / "platform.log").read_text(encoding="utf-8")


def test_nobody_there(tmp_path: Path) -> None:
    nowhere = ("--port", str(free_port()), "--http", f"http://127.0.0.1:{free_port()}", "--data-dir", str(tmp_path))
    run = carebell("simulate", "scenario", "fall", *nowhere)
    assert run.returncode == 69, run.stdout + run.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("fleet", "--host", "192.0.2.1"),
        ("fleet", "--http", "http://carebell.example.org"),
        ("scenario", "fall", "--host", "192.0.2.1"),
        ("platform", "--gateway", "http://192.0.2.1:8080"),
    ],
)
def test_other_machines_are_refused(arguments: tuple[str, ...]) -> None:
    run = carebell("simulate", *arguments)
    assert run.returncode == 2
    assert "--allow-remote" in run.stderr


def test_the_list_of_stories() -> None:
    run = carebell("simulate", "scenario", "--json")
    assert run.returncode == 0
    assert {"fall", "walk-out-of-the-fence"} <= {story["name"] for story in json.loads(run.stdout)}


def test_a_wrong_file(tmp_path: Path) -> None:
    story = tmp_path / "wrong.toml"
    story.write_text(FALSE_STORY.replace("systolic_mmhg = 121", "systolik_mmhg = 121"), encoding="utf-8")
    run = carebell("simulate", "scenario", str(story))
    assert run.returncode == 1
    assert "step 1 (at 00:00): measurements: 'systolik_mmhg' is no metric; did you mean 'systolic_mmhg'?" in run.stderr
