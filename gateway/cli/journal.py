"""``carebell journal``: what is in the journal."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Annotated, Any

import apsw
import typer

from gateway.cli.common import EXIT_WRONG, ConfigOption, DataDirOption, JsonOption, fail, open_journal, print_json

journal = typer.Typer(help="What is in the journal.", no_args_is_help=True, add_completion=False)


@journal.command()
def stat(config: ConfigOption = None, data_dir: DataDirOption = None, *, json_output: JsonOption = False) -> None:
    """Extent of the journal and how far its readers are. Example: carebell journal stat --json"""
    from gateway.storage.journal import stat as read_stat  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        numbers = read_stat(connection)
    if json_output:
        print_json(numbers)
        return
    readers = ", ".join(f"{name} {seq}" for name, seq in numbers["readers"].items()) or "none"
    print(f"records   {numbers['records']} (sequence {numbers['first_seq']} to {numbers['last_seq']})")
    print(f"bytes     {numbers['bytes']}")
    print(f"readers   {readers}")


@journal.command("list")
def list_records(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    from_seq: Annotated[int, typer.Option("--from", metavar="SEQ", min=0, help="First sequence number.")] = 0,
    device: Annotated[str, typer.Option("--device", metavar="D", help="Only this device (id, or what it says).")] = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=0, help="Stop after N records; 0: all.")] = 0,
    payload: Annotated[bool, typer.Option("--payload", help="With the raw frame, base64.")] = False,
    json_output: JsonOption = False,
) -> None:
    """One line per record, oldest first. Example: carebell journal list --device D-0001 --json"""
    damaged = 0
    with open_journal(config, data_dir, read_only=True) as connection:
        shown = 0
        for row in _rows(connection, from_seq, with_payload=payload):
            if "corrupt" in row:
                damaged += 1
                typer.echo(f"carebell: {row['corrupt']}", err=True)
                continue
            if device and device not in (row["device_id"], row["device_key"]):
                continue
            if json_output:
                print_json(row)
            else:
                what = " ".join(brief(item) for item in row["observations"])
                if row["fault"]:
                    what = f"{what} [{row['fault']}]".lstrip()
                print(f"{row['seq']:>10}  {row['received_at']}  {row['device_id'] or row['device_key'] or '?'}  {what}")
            shown += 1
            if limit and shown >= limit:
                break
    if damaged:
        fail(f"{damaged} rows of the journal cannot be read", EXIT_WRONG)


def _rows(connection: apsw.Connection, from_seq: int, *, with_payload: bool) -> Iterator[dict[str, Any]]:
    from gateway.clock import iso  # noqa: PLC0415
    from gateway.observations import observations  # noqa: PLC0415
    from gateway.storage.journal import CorruptBatch, read_after  # noqa: PLC0415

    seq = max(0, from_seq - 1)
    while True:
        parts = list(read_after(connection, seq))
        if not parts:
            return
        for part in parts:
            seq = part.last_seq
            if isinstance(part, CorruptBatch):
                yield {"corrupt": f"sequence numbers {part.first_seq} to {part.last_seq}: {part.reason}"}
                continue
            for offset, record in enumerate(part.records):
                row: dict[str, Any] = {
                    "seq": part.first_seq + offset,
                    "received_at": iso(record.received_at_us),
                    "device_id": record.device_id or None,
                    "device_key": record.device_key or None,
                    "person_id": record.person_id or None,
                    "transport": record.transport,
                    "codec": record.codec,
                    "source": record.source,
                    "profile": record.profile or None,
                    "verified": record.verified,
                    "dedup_key": record.dedup_key or None,
                    "fault": record.fault,
                    "observations": observations(record.reading) if record.reading is not None else [],
                }
                if with_payload:
                    row["payload"] = base64.b64encode(record.payload).decode()
                yield row


def brief(observation: dict[str, Any]) -> str:
    """One observation in a word or two."""
    match observation["kind"]:
        case "measurement":
            return f"{observation['metric']}={observation['value']:g}"
        case "signal":
            return str(observation["signal"]) + ("" if observation["active"] else " (ended)")
        case _:
            return f"position ({observation['source']})"
