"""What ``carebell simulate terminals`` does: terminals in the registry, the fleet, and what it came to."""

from __future__ import annotations

import asyncio
import difflib
import signal
import time
from pathlib import Path

import typer

from gateway.cli.common import (
    CLI_ACTOR,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    EXIT_WRONG,
    fail,
    open_journal,
    print_json,
)
from gateway.clock import SystemClock
from gateway.registry.devices import add_device
from gateway.registry.persons import add_person
from simulators.terminals.fleet import TerminalFleet, TerminalPlan
from simulators.terminals.registry import KINDS, Kind

SEEN_S = 0.6  # a running gateway looks that often at who was entered; whoever is early is a stranger to it


def registered(config: Path | None, data_dir: Path | None, protocol: str, count: int) -> list[str]:
    """The identities of the first ``count`` simulated terminals of the protocol, entered when they are new."""
    kind = kind_of(protocol)
    identities = []
    at_us = SystemClock().now_us()
    with open_journal(config, data_dir) as connection, connection:
        for number in range(1, count + 1):
            person_id, device_id = f"sim-p-{number:04d}", f"sim-{protocol}-{number:04d}"
            if connection.execute("SELECT 1 FROM person WHERE id = ?", (person_id,)).fetchone() is None:
                fields = {"name": f"模拟{number:04d}", "note": "模拟人员 simulated"}
                add_person(connection, person_id, fields, at_us=at_us, actor=CLI_ACTOR)
            known = connection.execute(
                "SELECT shown FROM device_key WHERE device_id = ? AND kind = 'serial'", (device_id,)
            ).fetchone()
            identities.append(str(known[0]) if known else kind.identity(number))
            if known is None:
                values = {
                    "profile": kind.profile, "person_id": person_id, "serial": identities[-1],
                    "note": "模拟终端 simulated",
                }  # fmt: skip
                add_device(
                    connection, device_id, values, known_profiles={kind.profile}, at_us=at_us, actor=CLI_ACTOR
                )  # fmt: skip
    time.sleep(SEEN_S)
    return identities


def kind_of(protocol: str, *, udp: bool = False) -> Kind:
    """Ends the command when there is none of this name, or none over UDP."""
    kind = KINDS.get(protocol)
    if kind is None:
        close = difflib.get_close_matches(protocol, KINDS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(KINDS))}"
        fail(f"there are no simulated terminals of {protocol!r}; {hint}", EXIT_USAGE)
    if udp and kind.udp is None and not kind.script.datagrams:
        both = ", ".join(sorted(name for name, each in KINDS.items() if each.udp is not None))
        fail(f"{protocol} is not simulated over UDP; these are: {both}", EXIT_USAGE)
    return kind


def run(
    kind: Kind, identities: list[str], host: str, port: int, plan: TerminalPlan, *, udp: bool, json_output: bool
) -> None:
    """Play the terminals and end the command with 0, 1 (something was not answered) or 69 (nobody answers)."""
    fleet = TerminalFleet(kind, identities, host, port, plan, udp=udp)
    try:
        asyncio.run(_play(fleet))
    except* ConnectionError as group:
        fail(f"{host}:{port or kind.port}: {group.exceptions[0]}", EXIT_UNREACHABLE)
    result = fleet.result()
    if json_output:
        print_json(result)
    else:
        for name, value in result.items():
            print(f"{name:<16} {value}")
    if result["unanswered"] or result["connected"] < result["terminals"]:
        raise typer.Exit(EXIT_WRONG)


async def _play(fleet: TerminalFleet) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, fleet.stop)
    await fleet.run()
