"""``carebell tail``: normalized events as they are committed, by this or any process on the same journal."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import apsw
import typer

from gateway.cli.common import ConfigOption, DataDirOption, open_journal, print_json, settings_of

POLL_S: Final = 0.2


def tail(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    kind: Annotated[
        str, typer.Option("--kind", metavar="K", help="measurement, signal, position, alert, device or order.")
    ] = "",
    device: Annotated[str, typer.Option("--device", metavar="D", help="Only this device.")] = "",
    person: Annotated[str, typer.Option("--person", metavar="P", help="Only this person.")] = "",
    from_seq: Annotated[
        int, typer.Option("--from", metavar="SEQ", min=0, help="Begin with this sequence number instead of now.")
    ] = 0,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Wait for more, until Ctrl-C.")] = True,
) -> None:
    """Print one CloudEvent per line and follow. Example: carebell tail --kind alert"""
    from gateway.storage.feed import events_after  # noqa: PLC0415 - keeps `--help` quick
    from gateway.storage.journal import last_seq  # noqa: PLC0415

    site = settings_of(config, data_dir).site
    with open_journal(config, data_dir) as connection:  # read-write: it may have to be created first
        seq = from_seq - 1 if from_seq else last_seq(connection)
        while True:
            events, reached = _snapshot(connection, site, seq, events_after)
            for event in events:
                if _wanted(event, kind, device, person):
                    print_json(event)
            if reached == seq:
                if not follow:
                    return
                time.sleep(POLL_S)
            seq = reached


def _snapshot(connection: apsw.Connection, site: str, seq: int, read: Any) -> tuple[list[dict[str, Any]], int]:
    with connection:
        events, reached = read(connection, site, seq, 1000)
    return events, reached


def _wanted(event: dict[str, Any], kind: str, device: str, person: str) -> bool:
    data = event["data"]
    what = data["kind"] if event["type"].endswith(".observation.v1") else event["type"].split(".")[2]
    return (
        (not kind or what == kind)
        and (not device or data.get("device_id") == device)
        and (not person or data.get("person_id") == person)
    )
