"""The demo from beginning to end, and what is left when it ends in other ways."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.live.simulate_daemon import PROGRAM, carebell, environment, processes_with, rows

pytestmark = pytest.mark.live


@pytest.mark.slow
def test_a_day_in_the_neighbourhood(tmp_path: Path) -> None:
    folder = tmp_path / "the demo"
    run = carebell(
        "simulate", "demo", "--data-dir", str(folder), "--minutes", "0.1", "--once", "--no-history", "--json",
        timeout_s=240,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    told = json.loads(run.stdout)
    assert told["persons"] == 30
    assert told["sent"] == told["acknowledged"] > 400
    assert told["urgent_without_order"] == []
    assert told["callbacks_refused"] == []
    alerts = told["alerts"]
    assert alerts["sos P1"] >= 4
    assert {"fall P1", "smoke P1", "geofence_exit P2", "blood_pressure_high P2", "service_call P2"} <= set(alerts)
    assert sum(told["orders"].values()) == sum(n for name, n in alerts.items() if name.endswith(("P1", "P2")))
    if importlib.util.find_spec("twilio") is not None:
        # No operator was free for one of them: messages, a call that nobody took, and the second contact pressed 1.
        assert "P-0002.2" in told["taken_by_family"]
        assert told["calls"]["no-answer"] >= 1
        assert told["calls"]["completed"] >= 1
        assert told["messages"] >= 2 * (alerts["sos P1"] + alerts["fall P1"] + alerts["smoke P1"])
    assert not processes_with(str(folder))
    # The gateway's own books say the same, after the demo.
    assert len(rows("alerts", "list", "-c", str(folder / "carebell.toml"))) == sum(alerts.values())
    assert carebell("audit", "verify", "-c", str(folder / "carebell.toml")).returncode == 0
    # Somebody can look at it on the console, over the neighbourhood's own ground.
    assert [(user["login"], user["role"]) for user in rows("users", "list", "-c", str(folder / "carebell.toml"))] == [
        ("demo", "supervisor")
    ]
    assert (folder / "console.password").stat().st_mode & 0o777 == 0o600
    assert json.loads((folder / "outline.json").read_text(encoding="utf-8"))["type"] == "FeatureCollection"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_stays_behind(tmp_path: Path, how: signal.Signals) -> None:
    folder = tmp_path / "demo"
    arguments = ("simulate", "demo", "--data-dir", str(folder), "--minutes", "1", "--no-history")
    demo = subprocess.Popen([*PROGRAM, *arguments], stdout=subprocess.PIPE, text=True, env=environment())
    assert demo.stdout is not None
    with contextlib.ExitStack() as stack:
        stack.enter_context(demo.stdout)
        stack.callback(demo.wait)
        stack.callback(demo.kill)
        for line in demo.stdout:  # it says a few lines, then what happens at 06:50
            if line.startswith("06:"):
                break
        assert processes_with(str(folder / "carebell.toml"))
        demo.send_signal(how)
        assert demo.wait(90) == (0 if how is signal.SIGINT else -signal.SIGKILL)
    deadline_s = time.monotonic() + 60
    while processes_with(str(folder)) and time.monotonic() < deadline_s:
        time.sleep(0.1)
    assert not processes_with(str(folder))


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    run = carebell("simulate", "demo", "--data-dir", str(tmp_path), "--once")
    assert run.returncode == 2
    assert (tmp_path / "letters.txt").read_text() == "dear"
