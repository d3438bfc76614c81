"""What ``carebell simulate broker`` does: devices in the registry, a simulated program on a broker, what it came to."""

from __future__ import annotations

import asyncio
import difflib
from pathlib import Path

from gateway.cli.common import CLI_ACTOR, EXIT_UNREACHABLE, EXIT_USAGE, fail, open_journal, print_json
from gateway.clock import SystemClock
from gateway.registry.devices import add_device
from gateway.registry.persons import add_person
from simulators.broker_sites import SITES, LoraSite, SitePlan, ZigbeeSite, play


def site_of(kind: str, devices: int) -> ZigbeeSite | LoraSite:
    """The program of this name with so many devices; ends the command when there is none."""
    made = SITES.get(kind)
    if made is None:
        close = difflib.get_close_matches(kind, SITES, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(SITES))}"
        fail(f"there is no simulated {kind!r}; {hint}", EXIT_USAGE)
    return made(devices)


def register(config: Path | None, data_dir: Path | None, kind: str, site: ZigbeeSite | LoraSite, count: int) -> None:
    """Enter the persons sim-p-0001 ... and the devices sim-KIND-0001 ... that are not there yet."""
    at_us = SystemClock().now_us()
    with open_journal(config, data_dir) as connection, connection:
        for number in range(count):
            person_id, device_id = f"sim-p-{number + 1:04d}", f"sim-{kind}-{number + 1:04d}"
            if connection.execute("SELECT 1 FROM person WHERE id = ?", (person_id,)).fetchone() is None:
                fields = {"name": f"模拟{number + 1:04d}", "note": "模拟人员 simulated"}
                add_person(connection, person_id, fields, at_us=at_us, actor=CLI_ACTOR)
            if connection.execute("SELECT 1 FROM device WHERE id = ?", (device_id,)).fetchone() is None:
                values = {
                    "profile": site.profile, "person_id": person_id, site.key: site.identity(number),
                    "note": "模拟终端 simulated",
                }  # fmt: skip
                add_device(
                    connection, device_id, values, known_profiles={site.profile}, at_us=at_us, actor=CLI_ACTOR
                )  # fmt: skip


def run(kind: str, site: ZigbeeSite | LoraSite, devices: int, url: str, plan: SitePlan, *, json_output: bool) -> None:
    """Play it and print what it came to; exit code 69 when nobody answers at the broker's address."""
    try:
        result = asyncio.run(play(site, devices, url, plan, client_id=f"simulated-{kind}"))
    except ConnectionError as error:
        fail(f"{url}: {error}", EXIT_UNREACHABLE)
    if json_output:
        print_json(result)
    else:
        for name, value in result.items():
            print(f"{name:<16} {value}")
