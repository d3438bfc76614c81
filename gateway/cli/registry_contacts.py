"""``carebell contacts``: whom a person's alerts reach."""

from __future__ import annotations

from typing import Annotated, Any

import apsw
import typer

from gateway.cli.common import CLI_ACTOR, ConfigOption, DataDirOption, JsonOption, print_json
from gateway.cli.registry_shared import (
    PAGE,
    BomOption,
    CsvArgument,
    DryRunOption,
    OutputOption,
    ReasonOption,
    SearchOption,
    SetOption,
    StateOption,
    all_pages,
    export,
    given,
    import_file,
    now_us,
    print_table,
    print_view,
    reading,
    transaction,
)

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


@contacts.command()
def show(
    contact_id: IdArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    json_output: JsonOption = False,
) -> None:
    """Everything about one contact. Example: carebell contacts show P-0001.1"""
    from gateway.registry.contacts import SPEC, show_contact  # noqa: PLC0415 - keeps `--help` quick

    with reading(config, data_dir) as connection:
        view = show_contact(connection, contact_id)
    if json_output:
        print_json(view)
    else:
        print_view(view, {field.name: field.label for field in SPEC.fields})


@contacts.command("list")
def list_all(
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    person: PersonFilter = "",
    state: StateOption = "active",
    search: SearchOption = "",
    json_output: JsonOption = False,
) -> None:
    """Contacts; the table shows names and numbers in part. Example: carebell contacts list --person P-0001"""
    from gateway.registry.contacts import list_contacts  # noqa: PLC0415 - keeps `--help` quick
    from gateway.security import mask_name, mask_phone  # noqa: PLC0415

    def page(connection: apsw.Connection, after_id: str) -> list[dict[str, Any]]:
        return list_contacts(connection, state=state, search=search, after_id=after_id, limit=PAGE)

    with reading(config, data_dir) as connection:
        if person:  # in the order in which they are told; nobody has a page of contacts
            found = list_contacts(connection, person_id=person, state=state, search=search, limit=PAGE)
        else:
            found = list(all_pages(connection, page, "contact_id"))
    if json_output:
        print_json(found)
        return
    columns = {"contact_id": "编号", "person_id": "人员", "position": "顺序", "name": "姓名", "phone": "电话"}
    columns |= {"relation": "关系"}
    print_table(columns, (row | {"name": mask_name(row["name"]), "phone": mask_phone(row["phone"])} for row in found))


@contacts.command("import")
def import_csv(
    path: CsvArgument,
    config: ConfigOption = None,
    data_dir: DataDirOption = None,
    *,
    dry_run: DryRunOption = False,
    json_output: JsonOption = False,
) -> None:
    """Add the contacts of a file, and update those that exist: all of it or nothing.

    Columns: person_id, name, phone and, optionally, contact_id, relation, position and the others of 'contacts show'.
    Without contact_id, a person's contact with the same number is the same contact.
    Example: carebell contacts import contacts.csv --dry-run
    """
    import_file(config, data_dir, "contacts", path, dry_run=dry_run, json_output=json_output)


@contacts.command("export")
def export_all(
    config: ConfigOption = None, data_dir: DataDirOption = None, *, output: OutputOption = None, bom: BomOption = False
) -> None:
    """All contacts as CSV, as 'import' takes it. Example: carebell contacts export -o contacts.csv"""
    from gateway.registry.contacts import list_contacts  # noqa: PLC0415 - keeps `--help` quick

    def page(connection: apsw.Connection, after_id: str) -> list[dict[str, Any]]:
        return list_contacts(connection, state="", after_id=after_id, limit=PAGE)

    export(config, data_dir, "contacts", "contact_id", page, output, bom=bom)
