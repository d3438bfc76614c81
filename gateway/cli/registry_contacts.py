"""``carebell contacts``: whom a person's alerts reach."""

from __future__ import annotations

from typing import Annotated, Any

import apsw
import typer

from gateway.cli.common import CLI_ACTOR, ConfigOption, DataDirOption, JsonOption, print_json
from gateway.cli.registry_shared import (
    PAGE,
    ReasonOption,
    SearchOption,
    SetOption,
    StateOption,
    given,
    now_us,
    transaction,
)
from gateway.cli.registry_sheets import Help, Sheet, View, add_commands, with_masks

contacts = typer.Typer(help="Whom a person's alerts reach.", no_args_is_help=True, add_completion=False)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The contact's id.")]
NameOption = Annotated[str | None, typer.Option("--name", metavar="TEXT", help="姓名 Name.")]
PhoneOption = Annotated[
    str | None, typer.Option("--phone", metavar="NUMBER", help="电话 Phone; without + it is Chinese.")
]
RelationOption = Annotated[str | None, typer.Option("--relation", metavar="TEXT", help="关系 Relation.")]
PositionOption = Annotated[str | None, typer.Option("--position", metavar="N", help="顺序 1 is told first.")]
LanguageOption = Annotated[str | None, typer.Option("--language", metavar="zh|en", help="语言 Language.")]
ChannelOption = Annotated[
    list[str] | None, typer.Option("--channel", metavar="voice|sms|...", help="渠道 A channel; may be given again.")
]
SeverityOption = Annotated[
    list[str] | None, typer.Option("--severity", metavar="P1..P4", help="级别 Told of these; may be given again.")
]
QuietOption = Annotated[
    str | None, typer.Option("--quiet", metavar="HH:MM-HH:MM", help="免打扰 Quiet hours; an emergency ignores them.")
]
PersonFilter = Annotated[str, typer.Option("--person", metavar="ID", help="Only this person's.")]


def _options(
    name: str | None,
    phone: str | None,
    relation: str | None,
    position: str | None,
    language: str | None,
    channel: list[str] | None,
    severity: list[str] | None,
    quiet: str | None,
) -> dict[str, Any]:
    options: dict[str, Any] = {"name": name, "phone": phone, "relation": relation, "position": position}
    options |= {"language": language, "channels": channel or None, "severities": severity or None}
    if quiet is not None:
        start, _, end = quiet.partition("-")
        options |= {"quiet_from": start, "quiet_to": end}
    return options


@contacts.command()
def add(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    contact_id: Annotated[str, typer.Option("--id", metavar="ID", help="编号 Id; without it one is made up.")] = "",
    person: Annotated[str, typer.Option("--person", metavar="ID", help="人员 Whose contact it is.")],
    name: NameOption = None,
    phone: PhoneOption = None,
    relation: RelationOption = None,
    position: PositionOption = None,
    language: LanguageOption = None,
    channel: ChannelOption = None,
    severity: SeverityOption = None,
    quiet: QuietOption = None,
    extra: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Add a contact. Example: carebell contacts add --person P-0001 --name 王芳 --phone 13900000001 --relation 女儿"""
    from gateway.registry.contacts import add_contact  # noqa: PLC0415 - keeps `--help` quick

    options = _options(name, phone, relation, position, language, channel, severity, quiet)
    values = given(options | {"person_id": person}, extra)
    with transaction(config, data_dir) as connection:
        view = add_contact(connection, contact_id, values, at_us=now_us(), actor=CLI_ACTOR)
    if json_output:
        print_json(view)
    else:
        print(f"contact {view['contact_id']} added")


@contacts.command()
def update(
    contact_id: IdArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    name: NameOption = None,
    phone: PhoneOption = None,
    relation: RelationOption = None,
    position: PositionOption = None,
    language: LanguageOption = None,
    channel: ChannelOption = None,
    severity: SeverityOption = None,
    quiet: QuietOption = None,
    state: Annotated[str | None, typer.Option("--state", metavar="active|removed", help="状态 State.")] = None,
    reason: ReasonOption = "",
    extra: SetOption = None,
    json_output: JsonOption = False,
) -> None:
    """Change what is given. Example: carebell contacts update P-0001.1 --state removed --reason 'her wish'"""
    from gateway.registry.contacts import update_contact  # noqa: PLC0415 - keeps `--help` quick

    options = _options(name, phone, relation, position, language, channel, severity, quiet)
    values = given(options | {"state": state}, extra)
    with transaction(config, data_dir) as connection:
        view = update_contact(connection, contact_id, values, at_us=now_us(), actor=CLI_ACTOR, reason=reason)
    if json_output:
        print_json(view)
    else:
        print(f"contact {contact_id} is at version {view['version']}")


def _exported(connection: apsw.Connection, after_id: str) -> list[View]:
    from gateway.registry.contacts import list_contacts  # noqa: PLC0415 - keeps `--help` quick

    return list_contacts(connection, state="", after_id=after_id, limit=PAGE)


SHEET = Sheet(
    table="contacts",
    help=Help(
        show="Everything about one contact. Example: carebell contacts show P-0001.1",
        list="Contacts; the table shows names and numbers in part. Example: carebell contacts list --person P-0001",
        import_="""Add the contacts of a file, and update those that exist: all of it or nothing.

    Columns: person_id, name, phone and, optionally, contact_id, relation, position and the others of 'contacts show'.
    Without contact_id, a person's contact with the same number is the same contact.
    Example: carebell contacts import contacts.csv --dry-run
    """,
        export="All contacts as CSV, as 'import' takes it. Example: carebell contacts export -o contacts.csv",
    ),
    filters={"person_id": (PersonFilter, ""), "state": (StateOption, "active"), "search": (SearchOption, "")},
    columns={
        "contact_id": "编号",
        "person_id": "人员",
        "position": "顺序",
        "name": "姓名",
        "phone": "电话",
        "relation": "关系",
    },
    masked=with_masks,
    exported=_exported,
    ordered_by_person=True,
)
add_commands(contacts, SHEET)
