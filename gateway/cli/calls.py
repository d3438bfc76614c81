"""``carebell calls``: the call log, what it is asked, and what holds it (docs/call-log.md)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from gateway.cli.common import (
    CLI_ACTOR,
    EXIT_USAGE,
    ConfigOption,
    DataDirOption,
    JsonOption,
    fail,
    print_json,
)
from gateway.cli.factory import JSON, WHERE, Parameters, add_command
from gateway.cli.registry_shared import (
    BomOption,
    OutputOption,
    now_us,
    print_table,
    print_view,
    reading,
    transaction,
    write_lines,
)

if TYPE_CHECKING:
    from gateway.storage.calls import Question

calls = typer.Typer(help="The call log.", no_args_is_help=True, add_completion=False)

PersonOption = Annotated[str, typer.Option("--person", metavar="ID", help="About this person.")]
AlertOption = Annotated[str, typer.Option("--alert", metavar="ID", help="Because of this alert.")]
ContactOption = Annotated[str, typer.Option("--contact", metavar="ID", help="To this contact, staff:... or center:...")]
NumberOption = Annotated[str, typer.Option("--number", help="To or from this number, whole, in any spelling.")]
MediumOption = Annotated[str, typer.Option("--medium", help="voice, sms, email, chat, push or webhook.")]
StateOption = Annotated[str, typer.Option("--state", help="Only those in this state.")]
FromOption = Annotated[str, typer.Option("--from", metavar="TIME", help="From then on: 2026-11-22 or RFC 3339.")]
ToOption = Annotated[str, typer.Option("--to", metavar="TIME", help="Before that: 2026-11-22 or RFC 3339.")]
LimitOption = Annotated[int, typer.Option("--limit", metavar="N", min=1, max=10_000)]
MaskedOption = Annotated[bool, typer.Option("--masked", help="Hide the middle of numbers.")]
HoldReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept with the hold and in the audit.")]

_ASKED: Final[Parameters] = {
    "person": (PersonOption, ""), "alert": (AlertOption, ""), "contact": (ContactOption, ""),
    "number": (NumberOption, ""), "medium": (MediumOption, ""), "state": (StateOption, ""), "from_": (FromOption, ""),
    "to": (ToOption, ""),
}  # fmt: skip
"""Which calls are asked for."""
_LABELS: Final = {
    "id": "编号", "created_at": "时间", "medium": "方式", "caller": "主叫", "callee": "被叫", "state": "结果",
    "answer": "应答", "person_id": "对象", "alert_id": "告警", "recording_serials": "录音编号",
}  # fmt: skip
_HOLD_LABELS: Final = {"hold": "编号", "subject": "对象", "reason": "原因", "placed_by": "经办", "placed_at": "时间",
                       "released_at": "解除"}  # fmt: skip


def _list(
    *, config: Path | None, data_dir: Path | None, limit: int, masked: bool, json_output: bool, **asked: str
) -> None:
    from gateway.storage.calls import search  # noqa: PLC0415 - keeps `--help` quick

    question = _question(**asked)
    with reading(config, data_dir) as connection:
        found = search(connection, question, limit=limit, masked=masked)
    if json_output:
        for view in found:
            print_json(view)
        return
    print_table(_LABELS, [view | {"recording_serials": _serials(view["recordings"])} for view in found])


add_command(
    calls,
    "list",
    "Calls and messages, newest first. Example: carebell calls list --person P-0001 --medium voice",
    {**WHERE, **_ASKED, "limit": (LimitOption, 100), "masked": (MaskedOption, False), **JSON},
    _list,
)


@calls.command()
def show(
    call: Annotated[int, typer.Argument(metavar="ID", help="The call's number.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    masked: MaskedOption = False,
    json_output: JsonOption = False,
) -> None:
    """One call with everything that its provider told. Example: carebell calls show 17"""
    from gateway.storage.calls import show as show_call  # noqa: PLC0415 - keeps `--help` quick

    with reading(config, data_dir) as connection:
        view = show_call(connection, call, masked=masked)
    if json_output:
        print_json(view)
    else:
        print_view(view, _LABELS)


def _export(
    *, config: Path | None, data_dir: Path | None, output: Path | None, bom: bool, masked: bool, **asked: str
) -> None:
    from gateway.storage.calls import MAX_ROWS, note_export, search, to_csv  # noqa: PLC0415 - keeps `--help` quick

    question = _question(**asked)
    found: list[dict[str, Any]] = []
    with reading(config, data_dir) as connection:
        part = question
        while views := search(connection, part, limit=MAX_ROWS, masked=masked):
            found += views
            part = _older(part, views[-1]["id"])
    with transaction(config, data_dir) as connection:
        note_export(connection, question, len(found), actor=CLI_ACTOR, now_us=now_us(), masked=masked)
    write_lines(to_csv(found), output, bom=bom)


add_command(
    calls,
    "export",
    "Write calls as CSV, newest first; audited. Example: carebell calls export -o calls.csv --bom",
    {**WHERE, **_ASKED, "output": (OutputOption, None), "bom": (BomOption, False), "masked": (MaskedOption, False)},
    _export,
)


@calls.command()
def hold(
    subject: Annotated[str, typer.Argument(metavar="SUBJECT", help="call/<id>, alert/<id> or person/<id>.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    reason: HoldReasonOption,
    json_output: JsonOption = False,
) -> None:
    """Keep it until it is released. Example: `carebell calls hold alert/<id> --reason "complaint 2026-118"`"""
    from gateway.storage.call_retention import hold as place  # noqa: PLC0415 - keeps `--help` quick

    with transaction(config, data_dir) as connection:
        view = place(connection, subject, reason=reason, actor=CLI_ACTOR, now_us=now_us())
    if json_output:
        print_json(view)
    else:
        print(f"hold {view['hold']}: {subject} is kept")


@calls.command()
def holds(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    released: Annotated[bool, typer.Option("--all", help="Those that were released as well.")] = False,
    json_output: JsonOption = False,
) -> None:
    """Holds in force, oldest first. Example: carebell calls holds --all --json"""
    from gateway.storage.call_retention import holds as list_holds  # noqa: PLC0415 - keeps `--help` quick

    with reading(config, data_dir) as connection:
        found = list_holds(connection, released=released)
    if json_output:
        for view in found:
            print_json(view)
    else:
        print_table(_HOLD_LABELS, found)


@calls.command()
def release(
    number: Annotated[int, typer.Argument(metavar="HOLD", help="The hold's number.")],
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    reason: HoldReasonOption,
    json_output: JsonOption = False,
) -> None:
    """End a hold. Example: `carebell calls release 3 --reason "complaint closed"`"""
    from gateway.storage.call_retention import release as end  # noqa: PLC0415 - keeps `--help` quick

    with transaction(config, data_dir) as connection:
        view = end(connection, number, reason=reason, actor=CLI_ACTOR, now_us=now_us())
    if json_output:
        print_json(view)
    else:
        print(f"hold {number}: {view['subject']} is released")


def _question(
    *, person: str, alert: str, contact: str, number: str, medium: str, state: str, from_: str, to: str
) -> Question:
    from gateway.registry import fields  # noqa: PLC0415 - keeps `--help` quick
    from gateway.storage.calls import Question  # noqa: PLC0415

    if medium not in ("", "voice", "sms", "email", "chat", "push", "webhook"):
        fail(f"--medium {medium}: voice, sms, email, chat, push or webhook", EXIT_USAGE)
    if number:
        with contextlib.suppress(ValueError):  # a service number, an address, the name of an endpoint: as it is
            number = str(fields.PHONE.parse(number))
    return Question(
        person_id=person, alert_id=alert, contact_id=contact, number=number, medium=medium, state=state,
        from_us=_time(from_, "--from"), to_us=_time(to, "--to"),
    )  # fmt: skip


def _time(text: str, option: str) -> int | None:
    """A date means its beginning in this machine's time zone."""
    from datetime import datetime  # noqa: PLC0415 - keeps `--help` quick

    from gateway.clock import to_us  # noqa: PLC0415

    if not text:
        return None
    try:
        return to_us(datetime.fromisoformat(text).astimezone())
    except (ValueError, OverflowError):
        fail(f"{option} {text}: write a date (2026-11-22) or a time (2026-11-22T01:02:03Z)", EXIT_USAGE)


def _older(question: Question, before: int) -> Question:
    import msgspec  # noqa: PLC0415 - keeps `--help` quick

    return msgspec.structs.replace(question, before=before)


def _serials(recordings: Sequence[dict[str, Any]]) -> str:
    return " ".join(str(each["serial"]) for each in recordings)
