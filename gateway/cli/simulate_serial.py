"""``carebell simulate serial``: a call host, a satellite receiver or a Modbus panel on a pseudo-terminal."""

from __future__ import annotations

import asyncio
import difflib
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import apsw
import typer

from gateway.cli.common import (
    CLI_ACTOR,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    EXIT_WRONG,
    ConfigOption,
    DataDirOption,
    JsonOption,
    fail,
    open_journal,
    print_json,
    settings_of,
)

SEEN_S = 0.6  # a running gateway looks that often at who was entered


def serial(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    kind: Annotated[str, typer.Option("--kind", metavar="K", help="callhost, nmea or modbus.")] = "callhost",
    link: Annotated[
        Path | None, typer.Option("--link", metavar="PATH", help="Where the port is. Else: simulated-KIND in data_dir.")
    ] = None,
    points: Annotated[int, typer.Option("--points", "-n", min=1, max=72, help="How many call points.")] = 8,
    rate: Annotated[float, typer.Option("--rate", min=0.01, help="Calls (nmea: places) per second.")] = 1.0,
    duration: Annotated[float, typer.Option("--duration", min=0.1, metavar="S", help="Seconds to call.")] = 10.0,
    sos_every: Annotated[
        int, typer.Option("--sos-every", min=0, metavar="K", help="Each K-th call is an SOS; 0 for none.")
    ] = 0,
    wait: Annotated[
        float, typer.Option("--wait", min=0.1, metavar="S", help="How long to wait until the gateway opens it.")
    ] = 600.0,
    json_output: JsonOption = False,
) -> None:
    """What stands at the end of a serial line, on a port that exists while this runs; exit code 1 when a call was lost.

    It registers the line's device sim-serial-KIND (callhost: and its rooms) in the registry of --data-dir, says what
    the configuration needs, waits for the gateway to open the port, and begins.
    Example: carebell simulate serial --kind callhost --sos-every 5
    """
    from simulators.serial_lines import UNITS, LinePlan, Port, play  # noqa: PLC0415 - keeps `--help` quick

    unit_type = UNITS.get(kind)
    if unit_type is None:
        close = difflib.get_close_matches(kind, UNITS, n=1, cutoff=0.4)
        hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(sorted(UNITS))}"
        fail(f"there is no simulated {kind!r}; {hint}", EXIT_USAGE)
    place = link or settings_of(config, data_dir).data_dir / f"simulated-{kind}"
    if place.exists() and not place.is_symlink():
        fail(f"{place} exists and is no link of ours; name another with --link", EXIT_USAGE)
    device = f"sim-serial-{kind}"
    with open_journal(config, data_dir) as connection, connection:
        register(connection, device, unit_type.profile, points if unit_type.rooms else 0)
    time.sleep(SEEN_S)
    stop = asyncio.Event()

    async def main() -> dict[str, Any]:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        with Port(place) as port:
            said = section({"port": str(place.absolute()), "device": device, **unit_type.section})
            _tell(f"{said}\n等待网关打开端口 waiting for the gateway to open the port")
            return await play(
                port,
                unit_type(port, points),
                LinePlan(rate, duration, sos_every, open_s=wait),
                stop,
                lambda: _tell("已打开 opened"),
            )

    try:
        result = asyncio.run(main())
    except ConnectionError as error:
        fail(f"{place}: {error}", EXIT_UNREACHABLE)
    if json_output:
        print_json(result)
    else:
        for name, value in result.items():
            print(f"{name:<16} {value}")
    if result["unanswered"]:
        raise typer.Exit(EXIT_WRONG)


def register(connection: apsw.Connection, device: str, profile: str, rooms: int) -> None:
    """Enter the line's device and so many rooms of it, with the persons sim-p-0001 ..., that are not there yet."""
    from gateway.clock import SystemClock  # noqa: PLC0415 - keeps `--help` quick
    from gateway.registry.devices import add_device  # noqa: PLC0415
    from gateway.registry.persons import add_person  # noqa: PLC0415
    from simulators.serial_lines import room  # noqa: PLC0415

    at_us = SystemClock().now_us()
    wanted: list[tuple[str, str, str]] = [(device, "sim-p-0001", "")]
    wanted += [
        (f"sim-room-{room(number)}", f"sim-p-{number + 1:04d}", f"{device}/{room(number)}") for number in range(rooms)
    ]
    for device_id, person_id, serial_number in wanted:
        if connection.execute("SELECT 1 FROM person WHERE id = ?", (person_id,)).fetchone() is None:
            fields = {"name": f"模拟{person_id[-4:]}", "note": "模拟人员 simulated"}
            add_person(connection, person_id, fields, at_us=at_us, actor=CLI_ACTOR)
        if connection.execute("SELECT 1 FROM device WHERE id = ?", (device_id,)).fetchone() is None:
            values: dict[str, Any] = {"profile": profile, "person_id": person_id, "note": "模拟终端 simulated"}
            values |= {"serial": serial_number} if serial_number else {}
            add_device(connection, device_id, values, known_profiles={profile}, at_us=at_us, actor=CLI_ACTOR)


def section(values: dict[str, Any]) -> str:
    """The section for the configuration file."""
    lines = [f"{name} = {json.dumps(_plain(value), ensure_ascii=True)}" for name, value in values.items()]
    return "\n".join(["[[serial]]", *lines])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _tell(line: str) -> None:
    """To standard error: standard output has the result alone."""
    print(line, file=sys.stderr, flush=True)
