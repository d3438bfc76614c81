"""``carebell simulate terminals`` against a running daemon's alarm receivers, and units that are early."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import pytest

from simulators.terminals.base import Facts, Terminal
from simulators.terminals.registry import KINDS
from tests.daemon import Daemon, carebell, carebell_json, free_port, provision
from tests.live.ble_harness import until
from tests.live.simulate_daemon import carebell as command

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]


class Site(NamedTuple):
    daemon: Daemon
    ports: dict[str, int]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    data_dir = tmp_path_factory.mktemp("receivers") / "var"
    data_dir.mkdir()
    provision(data_dir, 2)
    ports = {"dc09": free_port(), "scaip": free_port(), "gt06": free_port()}
    listening = {
        "CAREBELL_DC09__LISTEN": f"127.0.0.1:{ports['dc09']}",
        "CAREBELL_SCAIP__LISTEN": f"127.0.0.1:{ports['scaip']}",
        "CAREBELL_TRACKERS__GT06": f"127.0.0.1:{ports['gt06']}",
    }
    with Daemon(data_dir, **listening) as daemon:
        yield Site(daemon, ports)


RUNS = (("gt06", False), ("dc09", False), ("dc09", True), ("scaip", True))


def test_presses_of_simulated_terminals_are_alerts(site: Site) -> None:
    """One data directory for all of them: their devices have numbers of their own."""
    data_dir = site.daemon.data_dir
    presses: dict[tuple[str, str], int] = {}
    for protocol, udp in RUNS:
        run = command(
            "simulate", "terminals", "--protocol", protocol, "-n", "2", "--rate", "20", "--duration", "0.4",
            "--sos-every", "4", "--port", str(site.ports[protocol]), "--data-dir", str(data_dir), "--json",
            *(["--udp"] if udp else []),
        )  # fmt: skip
        assert run.returncode == 0, run.stdout + run.stderr
        result = json.loads(run.stdout)
        assert result["sent"] == result["answered"] >= 8
        assert result["sos_answered"] == result["sos"] >= 2
        presses[protocol, "udp" if udp else "tcp"] = result["sos"]
    pressed = [
        (row["codec"], row["transport"], row["person_id"])
        for row in carebell_json("journal", "list", data_dir=data_dir)
        if (row["device_id"] or "").startswith("sim-")
        and any(seen.get("signal") == "sos" for seen in row["observations"])
    ]
    assert Counter(each[:2] for each in pressed) == presses
    persons = {person for _, _, person in pressed}

    def raised() -> bool:
        alerts = carebell_json("alerts", "list", "--open", data_dir=data_dir)
        return persons <= {alert["person_id"] for alert in alerts if alert["kind"] == "sos"}

    asyncio.run(until(raised, 60))


@pytest.mark.parametrize(("protocol", "udp"), [("dc09", False), ("scaip", True)])
def test_a_unit_that_is_connected_before_it_is_registered(site: Site, protocol: str, udp: bool) -> None:
    """It is sent away, tries again, and is taken as soon as the registry knows it; without a restart of anything."""
    kind = KINDS[protocol]
    data_dir, serial = site.daemon.data_dir, kind.identity(777 + udp)
    made = kind.udp if udp else kind.script
    assert made is not None
    script = made(serial)
    terminal = Terminal(script, "127.0.0.1", site.ports[protocol])
    device = f"early-{protocol}-{udp:d}"

    async def play() -> None:
        async with asyncio.timeout(120), asyncio.TaskGroup() as group:
            running = group.create_task(terminal.run())
            await until(lambda: terminal.refused, 60)
            added = ("devices", "add", "--id", device, "--profile", kind.profile, "--serial", serial)
            await asyncio.to_thread(carebell, *added, "--person", "P-1", data_dir=data_dir)
            await terminal.send(script.report(Facts(datetime.now(UTC), None, ("sos",))))
            running.cancel()

    asyncio.run(play())
    (row,) = [
        row for row in carebell_json("journal", "list", "--device", device, data_dir=data_dir)
        if any(seen.get("signal") == "sos" for seen in row["observations"])
    ]  # fmt: skip
    assert (row["person_id"], row["fault"]) == ("P-1", None)


def test_what_cannot_be_simulated_is_said(site: Site) -> None:
    run = command("simulate", "terminals", "--protocol", "gt06", "--udp", "--data-dir", str(site.daemon.data_dir))
    assert run.returncode == 2
    assert "dc09, scaip" in run.stderr
