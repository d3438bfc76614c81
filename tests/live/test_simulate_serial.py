"""``carebell simulate serial`` against a running daemon: a call host, a panel and a receiver, plugged in one by one."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from gateway.config_house import SerialSection
from simulators.serial_lines import UNITS
from tests.daemon import Daemon, carebell_json, provision
from tests.live.ble_harness import until
from tests.live.simulate_daemon import carebell

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

if any(importlib.util.find_spec(name) is None for name in ("serialx", "pynmeagps")):
    pytest.skip("needs serialx and pynmeagps: pip install 'carebell[serial]'", allow_module_level=True)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """With a line for each, none of which is there yet."""
    data_dir = tmp_path_factory.mktemp("serial") / "var"
    data_dir.mkdir()
    provision(data_dir, 1)
    lines = [
        {"port": str(data_dir / f"simulated-{kind}"), "device": f"sim-serial-{kind}", **dict(unit.section)}
        for kind, unit in UNITS.items()
    ]
    with Daemon(data_dir, CAREBELL_SERIAL=msgspec.json.encode(lines).decode()) as running:
        yield running


def simulate(daemon: Daemon, kind: str, *options: str) -> tuple[dict[str, Any], SerialSection]:
    run = carebell(
        "simulate", "serial", "--kind", kind, "--data-dir", str(daemon.data_dir), "--json", "--wait", "60", *options
    )
    assert run.returncode == 0, run.stdout + run.stderr
    said = tomllib.loads(run.stderr[: run.stderr.index("等")])["serial"][0]
    return json.loads(run.stdout), SerialSection.model_validate(said)


def journal(daemon: Daemon, codec: str) -> list[dict[str, Any]]:
    rows = carebell_json("journal", "list", data_dir=daemon.data_dir)
    return [row for row in rows if row["codec"] == codec]


def test_calls_of_a_host_are_alerts_of_its_rooms(daemon: Daemon) -> None:
    result, section = simulate(daemon, "callhost", "-n", "3", "--rate", "40", "--duration", "0.5", "--sos-every", "5")
    assert result["sent"] == result["answered"] >= 10
    assert result["presses"] == result["presses_answered"] >= 2
    assert (section.codec, section.reply, section.point) == ("callhost", "\x06", "word_2")
    rows = journal(daemon, "callhost")
    assert {row["device_id"] for row in rows} == {"sim-room-101", "sim-room-102", "sim-room-103"}
    pressed = {row["person_id"] for row in rows if any(seen.get("signal") == "sos" for seen in row["observations"])}

    def raised() -> bool:
        alerts = carebell_json("alerts", "list", "--open", data_dir=daemon.data_dir)
        return pressed <= {alert["person_id"] for alert in alerts if alert["kind"] == "sos"}

    assert pressed
    asyncio.run(until(raised, 60))


def test_a_panel_is_polled_and_a_receiver_tells_where_it_is(daemon: Daemon) -> None:
    result, section = simulate(daemon, "modbus", "--rate", "4", "--duration", "0.5", "--sos-every", "2")
    assert result["presses"] == result["presses_answered"] >= 1
    assert section.read == ("1 coil 0 16", "1 holding 0 2")
    signals = [seen["signal"] for row in journal(daemon, "modbus") for seen in row["observations"] if "signal" in seen]
    assert signals.count("sos") >= result["presses"]
    assert "service_call" in signals
    result, section = simulate(daemon, "nmea", "--rate", "10", "--duration", "0.3")
    assert section.codec == "nmea"

    def placed() -> bool:
        return any(
            seen["kind"] == "position" and round(seen["latitude"], 2) == 39.12
            for row in journal(daemon, "nmea")
            for seen in row["observations"]
        )

    asyncio.run(until(placed, 60))


def test_nobody_opens_it_and_what_cannot_be_simulated(tmp_path: Path) -> None:
    run = carebell("simulate", "serial", "--data-dir", str(tmp_path), "--wait", "0.2")
    assert run.returncode == 69, run.stderr
    assert "nobody has opened it" in run.stderr
    assert not (tmp_path / "simulated-callhost").is_symlink()
    run = carebell("simulate", "serial", "--kind", "callhos", "--data-dir", str(tmp_path))
    assert (run.returncode, "did you mean callhost?" in run.stderr) == (2, True)
    (tmp_path / "mine").write_text("something else")
    run = carebell("simulate", "serial", "--link", str(tmp_path / "mine"), "--data-dir", str(tmp_path))
    assert run.returncode == 2
    assert (tmp_path / "mine").read_text() == "something else"
