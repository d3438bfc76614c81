"""What ``carebell simulate fleet`` does: devices in the registry, the fleet, and its display."""

from __future__ import annotations

import asyncio
import csv
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

import typer

from gateway.cli.common import (
    CLI_ACTOR,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    EXIT_WRONG,
    fail,
    open_journal,
    print_json,
    settings_of,
)
from gateway.clock import SystemClock
from simulators.devices import Gateway, is_loopback
from simulators.fleet import PROFILE, Fleet, FleetPlan, play

TOKENS_FILE: Final = "simulated-devices.csv"
ROWS_PER_TRANSACTION: Final = 200


def refuse_remote(*targets: str, allowed: bool) -> None:
    """End the command when a host or URL is not this machine: simulated emergencies do not belong in a real gateway."""
    for target in targets:
        host = urlsplit(target).hostname if "://" in target else target
        if host is None:
            fail(f"{target}: is no URL such as http://127.0.0.1:8080", EXIT_USAGE)
        if not allowed and not is_loopback(host):
            fail(f"{host} is not this machine; simulated emergencies go there only with --allow-remote", EXIT_USAGE)


def credentials_for(
    config: Path | None, data_dir: Path | None, credentials: Path | None, count: int
) -> list[tuple[str, str]]:
    """Device ids with tokens: those of the file, else simulated devices of the registry, entered when they are new."""
    if credentials is not None:
        known = read_tokens(credentials)
        if len(known) < count:
            fail(f"{credentials}: has {len(known)} devices, not {count}", EXIT_USAGE)
        return known[:count]
    path = settings_of(config, data_dir).data_dir / TOKENS_FILE
    known = read_tokens(path) if path.exists() else []
    tokens = _registered(config, data_dir, dict(known), count)
    _write_tokens(path, dict(known) | tokens)
    return list(tokens.items())


def read_tokens(path: Path) -> list[tuple[str, str]]:
    """The rows of a file with the columns device_id and token. Ends the command when it has no such columns."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        fail(f"{path}: {error}", EXIT_USAGE)
    found = [(row.get("device_id") or "", row.get("token") or "") for row in rows]
    for line, pair in enumerate(found, 2):
        if not all(pair):
            fail(f"{path}: line {line}: device_id or token is missing", EXIT_USAGE)
    return found


def _write_tokens(path: Path, tokens: dict[str, str]) -> None:
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with open(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
        file.write("device_id,token\n")
        file.writelines(f"{device_id},{token}\n" for device_id, token in tokens.items())
    beside.replace(path)


def _registered(config: Path | None, data_dir: Path | None, known: dict[str, str], count: int) -> dict[str, str]:
    """The first ``count`` simulated devices with valid tokens. In short transactions: the gateway may be running."""
    tokens: dict[str, str] = {}
    numbers = list(range(1, count + 1))
    with open_journal(config, data_dir) as connection:
        for start in range(0, count, ROWS_PER_TRANSACTION):
            with connection:
                for number in numbers[start : start + ROWS_PER_TRANSACTION]:
                    device_id = f"sim-{number:04d}"
                    tokens[device_id] = _one(connection, device_id, f"sim-p-{number:04d}", number, known.get(device_id))
    return tokens


def _one(connection: Any, device_id: str, person_id: str, number: int, token: str | None) -> str:
    from gateway.registry.credentials import issue_token  # noqa: PLC0415 - keeps `--help` quick
    from gateway.registry.devices import add_device  # noqa: PLC0415
    from gateway.registry.persons import add_person  # noqa: PLC0415

    at_us = SystemClock().now_us()
    if connection.execute("SELECT 1 FROM person WHERE id = ?", (person_id,)).fetchone() is None:
        fields = {"name": f"模拟{number:04d}", "note": "模拟人员 simulated"}
        add_person(connection, person_id, fields, at_us=at_us, actor=CLI_ACTOR)
    row = connection.execute("SELECT state FROM device WHERE id = ?", (device_id,)).fetchone()
    if row is None:
        values = {"profile": PROFILE, "person_id": person_id, "note": "模拟设备 simulated"}
        return add_device(connection, device_id, values, known_profiles={PROFILE}, at_us=at_us, actor=CLI_ACTOR)[1]
    return token or issue_token(connection, device_id, at_us=at_us, actor=CLI_ACTOR)


def run(gateway: Gateway, credentials: list[tuple[str, str]], plan: FleetPlan, *, json_output: bool) -> None:
    """Play the fleet and end the command with 0, 1 (something was not acknowledged) or 69 (nobody answers)."""
    fleet = Fleet(gateway, credentials, plan)
    try:
        asyncio.run(_play(fleet, quiet=json_output))
    except* ConnectionError as group:
        _unreachable(group, gateway)
    result = fleet.result()
    if json_output:
        print_json(result)
    else:
        _tell(result)
    if result["unacknowledged"] or result["connected"] < result["devices"]:
        raise typer.Exit(EXIT_WRONG)


def _unreachable(group: BaseExceptionGroup[ConnectionError], gateway: Gateway) -> NoReturn:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    fail(f"{gateway.mqtt_host}:{gateway.mqtt_port}: {error}", EXIT_UNREACHABLE)


async def _play(fleet: Fleet, *, quiet: bool) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, fleet.stop)
    if quiet or not sys.stderr.isatty():
        await play(fleet, lambda _fleet: None)
        return
    from rich.console import Console  # noqa: PLC0415 - only a terminal needs it
    from rich.live import Live  # noqa: PLC0415

    with Live(console=Console(stderr=True), refresh_per_second=4, transient=True) as live:
        await play(fleet, lambda running: live.update(_panel(running)))


def _panel(fleet: Fleet) -> Any:
    from rich.panel import Panel  # noqa: PLC0415 - only a terminal needs it

    result = fleet.result()
    return Panel("\n".join(_lines(result, fleet.tally.in_flight)), title="模拟设备 simulated fleet", width=78)


def _lines(result: dict[str, Any], in_flight: int) -> list[str]:
    ack, sos = result["ack_ms"], result["sos_ack_ms"]
    lines = [
        f"设备 devices     {result['connected']}/{result['devices']}   重连 reconnects {result['reconnects']}",
        f"已发 sent        {result['sent']}   {result['rate_per_s']}/s   {result['seconds']:.0f} s",
        f"已确认 acked     {result['acknowledged']}   在途 in flight {in_flight}   重发 resent {result['resent']}",
        f"延迟 latency ms  p50 {ack['p50']}   p95 {ack['p95']}   p99 {ack['p99']}   max {ack['max']}",
    ]
    if result["sos"]:
        lines.append(
            f"求助 SOS         {result['sos_acknowledged']}/{result['sos']}   p50 {sos['p50']}   p99 {sos['p99']}"
        )
    return lines


def _tell(result: dict[str, Any]) -> None:
    for line in _lines(result, 0):
        print(line)
    print(f"未确认 unacknowledged  {result['unacknowledged']}")
    for error in result["errors"]:
        print(f"  {error}", file=sys.stderr)
