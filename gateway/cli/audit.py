"""``carebell audit``: the record of who did what."""

from __future__ import annotations

from typing import Annotated

import typer

from gateway.cli.common import EXIT_WRONG, ConfigOption, DataDirOption, JsonOption, fail, open_journal, print_json

audit = typer.Typer(help="The record of who did what.", no_args_is_help=True, add_completion=False)


@audit.command()
def verify(config: ConfigOption = None, data_dir: DataDirOption = None, *, json_output: JsonOption = False) -> None:
    """Walk the hash chain and name every row that was edited or removed. Example: carebell audit verify"""
    from gateway.audit import verify as walk  # noqa: PLC0415 - keeps `--help` quick

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        faults = list(walk(connection))
        head = connection.execute("SELECT seq, hex(hash) FROM audit ORDER BY seq DESC LIMIT 1").fetchone()
        count = connection.execute("SELECT count(*) FROM audit").fetchone()
    rows = 0 if count is None else count[0]
    seq, digest = head or (0, "")
    if json_output:
        print_json({"rows": rows, "head_seq": seq, "head_hash": digest.lower(), "faults": faults})
    for fault in faults:
        typer.echo(f"carebell: {fault}", err=True)
    if faults:
        fail(f"the audit chain is broken in {len(faults)} places", EXIT_WRONG)
    if not json_output:
        print(f"{rows} audit rows, unbroken; head {seq} {digest.lower()}")


@audit.command("list")
def list_rows(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    subject: Annotated[str, typer.Option("--subject", help="Only this one, for example alert/<id> or device/D-1")] = "",
    from_seq: Annotated[int, typer.Option("--from", metavar="SEQ", min=0)] = 0,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1)] = 1000,
    json_output: JsonOption = False,
) -> None:
    """Audit rows, oldest first. Example: carebell audit list --subject device/D-0001 --json"""
    import msgspec  # noqa: PLC0415 - keeps `--help` quick

    from gateway.clock import iso  # noqa: PLC0415
    from gateway.filters import where  # noqa: PLC0415

    with open_journal(config, data_dir, read_only=True) as connection, connection:
        asked, values = where((True, "seq >= ?", (from_seq,)), (subject, "subject = ?", (subject,)))
        rows = connection.execute(
            f"SELECT body FROM audit{asked} ORDER BY seq LIMIT ?",  # noqa: S608 - ours
            (*values, limit),
        )
        for (body,) in rows:
            row = msgspec.json.decode(body)
            row["at"] = iso(row.pop("at_us"))
            if json_output:
                print_json(row)
            else:
                print(f"{row['seq']:>10}  {row['at']}  {row['actor']['type']}/{row['actor']['id']}  "
                      f"{row['action']}  {row['subject']}  {row['reason']}")  # fmt: skip
